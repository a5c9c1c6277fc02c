"""Does it help to weigh a loss where the ViT is activated most? Maps of a weight beside uniform weights, on cracks.

    pip install -e '.[explain]'
    python -m benchmarks.steering --model checkpoints/vit-unet-denoiser --dataset FOLDER --masks FOLDER \
        --noise_level 25 50

The masks are images of the same names: white is crack, black is not, and anything between belongs to no region. The
weight of one term follows a map from 0 to 1, and the pixel loss has the rest. Four maps drive it: EigenCAM and KPCA-CAM
of the ViT's last layer, the local sharpness of what the pixel loss alone restores, and the true crack. Beside each
stands a uniform weight, image by image, and a few uniform weights, to see what sharpness costs elsewhere.

The network receives a term's effective weight: its share as `balanced_weights` gives it, where the loss is a sum of
logarithms. That is no straight line, so the uniform weight beside a map is the one whose effective weight
is the mean of the map's effective weights: what the network receives differs in its place alone.

One line per setting, means over the images: the weight, the effective weight, then PSNR and sharpness. These are of the
pixels of three regions: on cracks, up to `RING` pixels from them, and the rest; means are over the images that have the
region. The sharpness of a region is the mean of the gradient's magnitude over its pixels, the restored image's over the
clean one's: 1 is right, under 1 is blurred.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cracks import read_crack
from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import photographs, read_photograph
from modeling.metrics import psnr

TERMS = ("wavelet", "regional_sharpness")
STOPS = (0.1, 0.25, 0.5, 1.0)
RING = 8  # pixels
SMOOTHING = 17  # pixels, side of the square over which the map of local sharpness is averaged


def gradient_magnitude(image: Tensor) -> Tensor:
    """(C, H, W) -> (H, W): length of the differences to the right and lower neighbours, averaged over channels."""
    padded = F.pad(image[None], (0, 1, 0, 1), mode="replicate")[0]
    across, down = padded[:, :-1, 1:] - image, padded[:, 1:, :-1] - image
    return torch.hypot(across, down).mean(0)


def regions(crack: Tensor, background: Tensor) -> dict[str, Tensor]:
    """The crack and the background (H, W) -> three masks that share them out."""
    wide = F.max_pool2d(crack[None].float(), 2 * RING + 1, stride=1, padding=RING)[0] > 0
    return {"crack": crack, "near": wide & background, "rest": ~wide & background}


def measured(restored: Tensor, clean: Tensor, masks: dict[str, Tensor]) -> list[float]:
    """PSNR of the whole image in dB, then of each region; the sharpness ratio of each region.

    A region without pixels has neither: NaN. Nor has one without any gradient in the clean image a ratio.
    """
    restored = restored.clamp(0, 1)
    error = (restored - clean).square().mean(0)
    sharpness, true = gradient_magnitude(restored), gradient_magnitude(clean)
    decibels = [(-10 * error[mask].mean().log10()).item() for mask in masks.values()]
    slopes = [(sharpness[mask].mean().item(), true[mask].mean().item()) for mask in masks.values()]
    ratios = [slope / true_slope if true_slope else math.nan for slope, true_slope in slopes]
    return [psnr(restored, clean), *decibels, *ratios]


@dataclass(frozen=True)
class Balance:
    """How `balanced_weights` weighs a term whose weight the pixel term has the rest of. Of a plain sum: (1, 0)."""

    strength: float
    fidelity_share: float

    def effective(self, weight: float | Tensor) -> float | Tensor:
        """The term's share of what the network receives."""
        fidelity = 1 - weight + self.fidelity_share * weight
        return weight / self.strength / (fidelity + weight / self.strength)

    def weight(self, effective: float) -> float:
        """The inverse."""
        return effective / ((1 - effective) / self.strength + effective * (1 - self.fidelity_share))


def settings(maps: dict[str, Tensor], balances: Mapping[str, Balance]) -> Iterator[tuple[str, str, float | Tensor]]:
    """Maps (H, W) in [0, 1] by name, balances by term -> label, term and its weight, of each line of the table."""
    yield "pixel loss alone", TERMS[0], 0.0
    for term in TERMS:
        for name, weights in maps.items():
            yield f"{term}, {name}", term, weights
            mean = balances[term].effective(weights).mean().item()
            yield f"{term}, uniform, as {name}", term, balances[term].weight(mean)
        for stop in STOPS:
            yield f"{term}, uniform {stop:g}", term, stop


def mean_of_known(rows: list[list[float]]) -> list[float]:
    """Column by column, without NaN; NaN where a column holds nothing else."""
    return torch.tensor(rows, dtype=torch.float64).nanmean(0).tolist()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--dataset", required=True, help="folder of clean images")
    parser.add_argument("--masks", required=True, help="folder of their masks, of the same names")
    parser.add_argument("--noise_level", type=float, nargs="+", default=[25, 50], help="of 255")
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    arguments = parser.parse_args()

    from modeling.explain import activation_map, rescaled  # needs pytorch-grad-cam

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    files = photographs(arguments.dataset)[: arguments.limit]
    # The sum of the posts weighs as it is told.
    config = model.config
    is_log = config.loss_balance == "log"
    balances = {
        term: Balance(config.loss_strengths.get(term, 1.0), config.fidelity_share) if is_log else Balance(1.0, 0.0)
        for term in TERMS
    }

    names = [*(f"PSNR {name}" for name in ("all", "crack", "near", "rest")), *("crack", "near", "rest")]
    print(f"{len(files)} images of {arguments.dataset}")
    print(f"{'':<50}{'weight':>8}{'effective':>11}" + "".join(f"{n:>12}" for n in names))
    for level in arguments.noise_level:
        rows: dict[str, list[list[float]]] = {}
        for index, file in enumerate(files):
            clean = read_photograph(file)
            crack, background = read_crack(arguments.masks, file, clean.shape[-2:])
            parts = regions(crack, background)
            noisy = indexed_gaussian_noise(clean, level / 255, index)
            encoded = model.encode(noisy[None])
            corner = model.decode(encoded, {"pixel": 1.0})[0]
            sharpness = gradient_magnitude(corner.clamp(0, 1))[None]
            sharpness = F.avg_pool2d(sharpness, SMOOTHING, stride=1, padding=SMOOTHING // 2, count_include_pad=False)
            maps = {
                "EigenCAM": activation_map(model, noisy, method="eigencam", layer="vit"),
                "KPCA-CAM": activation_map(model, noisy, method="kpca", layer="vit"),
                "local sharpness": rescaled(sharpness[0]),
                "true crack": crack.float(),
            }
            for name, term, weight in settings(maps, balances):
                weight = torch.as_tensor(weight)
                placed = weight[None, None] if weight.ndim else weight
                restored = model.decode(encoded, {"pixel": 1 - placed, term: placed})[0]
                weights = [weight.mean().item(), balances[term].effective(weight).mean().item()]
                rows.setdefault(name, []).append([*weights, *measured(restored, clean, parts)])
        print(f"noise level {level:g}/255")
        for name, values in rows.items():
            weight, share, *figures = mean_of_known(values)
            cells = [f"{value:>12.2f}" for value in figures[:4]] + [f"{value:>12.3f}" for value in figures[4:]]
            print(f"{name:<50}{weight:>8.3f}{share:>11.3f}" + "".join(cells))


if __name__ == "__main__":
    main()
