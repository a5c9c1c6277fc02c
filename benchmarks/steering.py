"""Does it help to weigh a loss where the ViT is activated most? Maps of a weight beside uniform weights, on cracks.

    pip install -e '.[explain]'
    python -m benchmarks.steering --model checkpoints/vit-unet-denoiser --dataset FOLDER --masks FOLDER \
        --noise_level 25 50

The masks are images of the same names, bright where a crack is. The weight of one term follows a map from 0 to 1, and
the pixel loss has the rest. Four maps drive it: EigenCAM and KPCA-CAM of the ViT's last layer, the local sharpness of
what the pixel loss alone restores, and the true crack. Beside each stands the uniform weight of the same mean, image by
image, so that what differs is the place alone; and a few uniform weights, to see what sharpness costs elsewhere.

One line per setting, means over the images. PSNR and sharpness are those of the pixels of three regions: on cracks, up
to `RING` pixels from them, and the rest. The sharpness of a region is the mean of the gradient's magnitude over its
pixels, the restored image's over the clean one's: 1 is right, under 1 is blurred.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

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


def regions(crack: Tensor) -> dict[str, Tensor]:
    """The crack (H, W) -> three masks that share out the image."""
    wide = F.max_pool2d(crack[None].float(), 2 * RING + 1, stride=1, padding=RING)[0] > 0
    return {"crack": crack, "near": wide & ~crack, "rest": ~wide}


def measured(restored: Tensor, clean: Tensor, masks: dict[str, Tensor]) -> list[float]:
    """PSNR of the whole image in dB, then of each region; the sharpness ratio of each region."""
    restored = restored.clamp(0, 1)
    error = (restored - clean).square().mean(0)
    sharpness, true = gradient_magnitude(restored), gradient_magnitude(clean)
    decibels = [-10 * math.log10(error[mask].mean().item()) for mask in masks.values()]
    ratios = [(sharpness[mask].mean() / true[mask].mean()).item() for mask in masks.values()]
    return [psnr(restored, clean), *decibels, *ratios]


def settings(maps: dict[str, Tensor]) -> Iterator[tuple[str, float, dict[str, float | Tensor]]]:
    """Maps (H, W) in [0, 1] by name -> name, mean weight and loss weights of each line of the table."""
    yield "pixel loss alone", 0.0, {"pixel": 1.0}
    for term in TERMS:
        for name, values in maps.items():
            mean, weights = values.mean().item(), values[None, None]
            yield f"{term}, {name}", mean, {"pixel": 1 - weights, term: weights}
            yield f"{term}, uniform, as {name}", mean, {"pixel": 1 - mean, term: mean}
        for stop in STOPS:
            yield f"{term}, uniform {stop:g}", stop, {"pixel": 1 - stop, term: stop}


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
    masks = {path.stem: path for path in photographs(arguments.masks)}
    missing = [file.name for file in files if file.stem not in masks]
    if missing:
        raise ValueError(f"There are no masks of {missing} in {arguments.masks}: give each image one of its name.")

    names = [*(f"PSNR {name}" for name in ("all", "crack", "near", "rest")), *("crack", "near", "rest")]
    print(f"{len(files)} images of {arguments.dataset}\n{'':<50}{'weight':>8}" + "".join(f"{n:>12}" for n in names))
    for level in arguments.noise_level:
        rows: dict[str, list[list[float]]] = {}
        for index, file in enumerate(files):
            clean = read_photograph(file)
            crack = read_photograph(masks[file.stem]).mean(0) > 0.5
            parts = regions(crack)
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
            for name, weight, loss_weights in settings(maps):
                figures = measured(model.decode(encoded, loss_weights)[0], clean, parts)
                rows.setdefault(name, []).append([weight, *figures])
        print(f"noise level {level:g}/255")
        for name, values in rows.items():
            weight, *figures = torch.tensor(values).mean(0).tolist()
            cells = [f"{value:>12.2f}" for value in figures[:4]] + [f"{value:>12.3f}" for value in figures[4:]]
            print(f"{name:<50}{weight:>8.3f}" + "".join(cells))


if __name__ == "__main__":
    main()
