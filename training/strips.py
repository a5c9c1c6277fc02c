"""Picture strips of a run: one held-out image, noisy, restored at three settings of the sliders, and clean."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise

NOISE_LEVEL = 50  # of 255


def strip_settings(model: ViTUNetForImageDenoising) -> list[dict[str, float] | None]:
    """The fidelity corner, half way to full sharpness, and there."""
    terms = model.config.steerable_terms
    if len(terms) < 2:  # one loss, one setting
        return [None]
    other = "regional_sharpness" if "regional_sharpness" in terms else terms[1]
    return [{terms[0]: 1 - weight, other: weight} for weight in (0.0, 0.5, 1.0)]


@torch.no_grad()
def save_strip(model: ViTUNetForImageDenoising, clean: Tensor, noisy: Tensor | None, path: Path) -> None:
    """Images (3, h, w) in [0, 1]; without a noisy one, seeded Gaussian noise of sigma 50 is added."""
    model.eval()
    noisy = indexed_gaussian_noise(clean, NOISE_LEVEL / 255, 0) if noisy is None else noisy
    encoded = model.encode(noisy[None].to(model.device))
    restored = [model.decode(encoded, setting)[0].float().cpu() for setting in strip_settings(model)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")  # a page may be watching
    save_image(
        [image.clamp(0, 1) for image in (noisy, *restored, clean)],
        unfinished,
        nrow=len(restored) + 2,
        padding=4,
        pad_value=1,
    )
    unfinished.replace(path)
