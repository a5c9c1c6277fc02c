"""Self-ensemble: the mean of what is restored of an image and of its seven turned and mirrored copies.

Each copy is turned back before the mean is taken (Timofte et al. 2016, "Seven ways to improve example-based single
image super resolution"). What the eight restorations differ in is chance, which the mean takes out: fidelity for eight
times the time. Detail that a slider puts where it cannot be known is chance, too: a picture loses sharpness by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

SYMMETRIES = 8  # of a square: four turns, each with and without a mirror

Control = float | Tensor | None


def turn(images: Tensor, symmetry: int) -> Tensor:
    """(..., H, W) -> mirrored from the fifth symmetry on, then turned by quarters: (..., H, W) or (..., W, H)."""
    images = images.flip(-1) if symmetry >= SYMMETRIES // 2 else images
    return images.rot90(symmetry % 4, (-2, -1))


def turn_back(images: Tensor, symmetry: int) -> Tensor:
    """Undoes [`turn`]."""
    images = images.rot90(-(symmetry % 4), (-2, -1))
    return images.flip(-1) if symmetry >= SYMMETRIES // 2 else images


def self_ensemble(
    restore: Callable[..., Tensor], pixel_values: Tensor, **controls: Control | Mapping[str, Control]
) -> Tensor:
    """The mean over the eight symmetries of `restore` -> (B, C, H, W).

    Args:
        restore: images (B, C, H, W) and the controls as keywords -> restored images of the same shape.
        pixel_values: (B, C, H, W).
        controls: numbers, vectors (B,), maps (B, 1, h, w), which turn with the images, or mappings of these.
    """

    def turned(control, symmetry: int):
        if isinstance(control, Mapping):
            return {name: turned(value, symmetry) for name, value in control.items()}
        return turn(control, symmetry) if isinstance(control, Tensor) and control.ndim == 4 else control

    return mean_turned_back(
        restore(turn(pixel_values, symmetry), **{name: turned(control, symmetry) for name, control in controls.items()})
        for symmetry in range(SYMMETRIES)
    )


def mean_turned_back(restored: Iterable[Tensor]) -> Tensor:
    """The mean of images (B, C, H, W) that come in the order of the symmetries, each as it was turned."""
    total, dtype = 0.0, None
    for symmetry, images in enumerate(restored):
        dtype = images.dtype
        precise = torch.promote_types(dtype, torch.float32)  # a sum of eight needs the digits
        total = total + turn_back(images, symmetry).to(precise)
    return (total / SYMMETRIES).to(dtype)
