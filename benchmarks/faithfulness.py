"""Whether activation maps show what they are said to show.

    python -m benchmarks.faithfulness --dataset FOLDER --masks FOLDER --model checkpoints/vit-unet-denoiser

Cracks: does a layer respond to them? AUC is the probability that a crack's pixel has a higher value than another pixel
(0.5: the map knows nothing of cracks; below: it avoids them), correlation is Pearson's between map and mask. Masks have
the images' names; white is crack, black is not, and anything between is left out. The darkness of the noisy image
stands beside, and maps of random cells: a layer's map is as coarse as its cells, so compare it with cells of its size,
which stands behind its name in pixels. Mean over the images and its standard error.

Deletion and insertion: pixels of the noisy image are replaced by a strong blur of it, those that the map ranks highest
first (deletion), or they return in that order to an image that is all blurred (insertion). The score is how much of the
restored image's detail is there: 1 - error / error with everything blurred, the error taken to the restoration of the
whole image. A faithful map loses it sooner than random cells of its size do, and regains it sooner. Maps are cut off at
0: pixels of the same value go in an order that is drawn.

Shift: the map of an image that begins one step of the ViT's windows later, beside the same place of the first map.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from benchmarks.cracks import read_crack
from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.explain import METHODS, activation_map, layer_names
from modeling.image_files import photographs, read_photograph
from modeling.opened_network import OpenedNetwork

CRACK_METHODS = ("eigencam", "kpca", "gradcam")
CURVE_METHODS = ("eigencam", "gradcam")
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # of the pixels
BLUR_SIGMA = 8.0  # pixels


def area_under_curve(values: Tensor, positive: Tensor) -> float:
    """Probability that a value inside exceeds one outside; ties count half. Both (N,)."""
    ranks = torch.from_numpy(rankdata(values.numpy()))
    inside = int(positive.sum())
    return (ranks[positive].mean().item() - (inside + 1) / 2) / (len(values) - inside)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 where either is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return ((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30)).item()


def random_map(size: tuple[int, int], cell: int, seed: int) -> Tensor:
    """(H, W) in [0, 1], enlarged as activation maps are from cells of so many pixels."""
    cells = torch.rand(1, 1, *(math.ceil(side / cell) for side in size), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, scale_factor=cell, mode="bilinear")[0, 0, : size[0], : size[1]]


def shuffled_ranks(activation: Tensor, seed: int) -> Tensor:
    """(H, W) -> ranks from 1, the highest value first; equal values in an order drawn from the seed."""
    order = torch.randperm(activation.numel(), generator=torch.Generator().manual_seed(seed))
    ranks = torch.empty_like(order)
    ranks[order] = torch.from_numpy(rankdata(-activation.flatten()[order].numpy(), method="ordinal"))
    return ranks.reshape(activation.shape)


def deletion_insertion(
    restore: Callable[[Tensor], Tensor],
    noisy: Tensor,
    activation: Tensor,
    shares: tuple[float, ...] = SHARES,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean score over `shares` while pixels are deleted (less is better), and while they return (more is better).

    noisy (C, H, W), activation (H, W); the seed draws the order of equal values.
    """
    blurred = gaussian_blur(noisy, [int(6 * BLUR_SIGMA) | 1] * 2, [BLUR_SIGMA] * 2)
    whole = restore(noisy)
    worst = (restore(blurred) - whole).square().mean()
    rank = shuffled_ranks(activation, seed)

    def score(kept: Tensor) -> float:
        error = (restore(torch.where(kept, noisy, blurred)) - whole).square().mean()
        return (1 - error / worst).item()

    first = [rank <= share * rank.numel() for share in shares]
    return tuple(float(np.mean([score(kept) for kept in masks])) for masks in ([~part for part in first], first))


def shift_correlation(model, noisy: Tensor, method: str, layer: str) -> float:
    """Correlation of the maps of two parts of an image, one step apart, where neither is near a border."""
    vit = model.vit_features
    window = vit.window_size if vit else model.config.stride
    step = math.lcm(window // vit.patch_size // 2 * vit.patch_size if vit else window, model.config.stride)
    parts = noisy[..., :-step], noisy[..., step:]
    first, second = (activation_map(model, part, method, layer) for part in parts)
    margin = window if noisy.shape[-1] > 2 * window + 2 * step else 0
    return correlation(first[:, step + margin : -margin or None], second[:, margin : -step - margin])


def row(name: str, *columns: list[float]) -> str:
    """Mean and standard error of each column."""
    cells = []
    for values in columns:
        error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        cells.append(f"{np.mean(values):>12.3f} +- {error:.3f}")
    return f"{name:<28}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/vit-unet-denoiser")
    parser.add_argument("--dataset", required=True, help="folder of clean images")
    parser.add_argument("--masks", required=True, help="folder of their crack masks")
    parser.add_argument("--noise_level", type=float, default=50, help="of 255")
    parser.add_argument("--limit", type=int, default=None, help="only so many images")
    arguments = parser.parse_args()

    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    layers = layer_names(model)
    cells = OpenedNetwork(model, layers, None, None).strides  # pixels
    files = photographs(arguments.dataset)[: arguments.limit]
    cracks: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    shifts: dict[str, list[float]] = {}
    repeated = 0.0

    def label(method: str, layer: str) -> str:
        return f"{METHODS[method].label} {layer} ({cells[layer]})" if method else layer

    def random_maps(size: tuple[int, int], seed: int) -> dict[tuple[str, str], Tensor]:
        return {("", f"random cells ({cell})"): random_map(size, cell, seed) for cell in sorted(set(cells.values()))}

    @torch.inference_mode()
    def restore(noisy: Tensor) -> Tensor:
        return model(noisy[None]).reconstruction[0]

    for index, file in enumerate(files):
        noisy = indexed_gaussian_noise(read_photograph(file), arguments.noise_level / 255, index)
        crack, background = read_crack(arguments.masks, file, noisy.shape[-2:])
        known = crack | background
        maps = {
            (method, layer): activation_map(model, noisy, method, layer) for method in CRACK_METHODS for layer in layers
        }
        others = random_maps(crack.shape, index) | {("", "darkness"): -noisy.mean(0)}
        if crack.any() and background.any():
            for key, activation in (others | maps).items():
                aucs, correlations = cracks.setdefault(key, ([], []))
                aucs.append(area_under_curve(activation[known], crack[known]))
                correlations.append(correlation(activation[known], crack[known]))
        again = {layer: activation_map(model, noisy, "eigencam", layer) for layer in ("bottleneck", "decoder.0")}
        repeated = max(repeated, *((again[layer] - maps["eigencam", layer]).abs().max().item() for layer in again))
        for layer in layers:
            shifts.setdefault(layer, []).append(shift_correlation(model, noisy, "eigencam", layer))

        top, left = (max(0, (side - 224) // 2) for side in crack.shape)
        part = noisy[:, top : top + 224, left : left + 224]
        compared = random_maps(part.shape[-2:], index)
        for method in CURVE_METHODS:
            for layer in ("vit", "encoder.0", "bottleneck", "decoder.0"):
                if layer in layers:
                    compared[method, layer] = activation_map(model, part, method, layer)
        for key, activation in compared.items():
            for values, value in zip(
                curves.setdefault(key, ([], [])), deletion_insertion(restore, part, activation, seed=index), strict=True
            ):
                values.append(value)
        print(f"{index + 1} of {len(files)}", end="\r", flush=True)

    print(f"noise level {arguments.noise_level:g}/255, {len(files)} images, {arguments.model}")
    if cracks:
        print(f"\n{'cracks':<28}{'AUC':>12}{'correlation':>21}")
        for key, columns in cracks.items():
            print(row(label(*key), *columns))
        if "vit" in layers:
            print("\nAUC of the ViT (its final layer) less that of a stage of the U-Net, image by image")
            for method in CRACK_METHODS:
                vit = np.array(cracks[method, "vit"][0])
                for layer in layers:
                    if not layer.startswith("vit"):
                        print(row(f"{METHODS[method].label} {layer}", list(vit - np.array(cracks[method, layer][0]))))
    print(f"\n{'centre of 224 x 224':<28}{'deletion':>12}{'insertion':>21}")
    for key, columns in curves.items():
        print(row(label(*key), *columns))
    print(f"\n{'EigenCAM, image shifted':<28}{'correlation':>12}")
    for layer, values in shifts.items():
        print(row(layer, values))
    print(f"\nlargest difference of a map made twice: {repeated:g}")


if __name__ == "__main__":
    main()
