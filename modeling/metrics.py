"""Full-reference measures. Images are (C, H, W) or (B, C, H, W), float, nominally in [0, 1]; results are floats."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from .losses import sharpness_scores

SSIM_WINDOW = 11  # pixels, Wang et al. 2004


def psnr(prediction: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the whole image, prediction clipped to [0, 1]; infinite for equal images."""
    error = (prediction.clamp(0, 1) - target).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def ssim(prediction: Tensor, target: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), prediction clipped; NaN for images smaller than its 11-pixel window."""
    if min(prediction.shape[-2:]) < SSIM_WINDOW:
        return math.nan
    shape = (-1, *prediction.shape[-3:])
    return structural_similarity_index_measure(
        prediction.clamp(0, 1).reshape(shape), target.reshape(shape), data_range=1.0
    ).item()


def sharpness_ratio(prediction: Tensor, target: Tensor, window_size: int = 16) -> float:
    """Mean window score of the clipped prediction over the target's: 1 is right, under 1 is blurred.

    A constant target has no sharpness to compare with: NaN.
    """
    shape = (-1, *prediction.shape[-3:])
    predicted = sharpness_scores(prediction.clamp(0, 1).reshape(shape), window_size).mean().item()
    true = sharpness_scores(target.reshape(shape), window_size).mean().item()
    return predicted / true if true else math.nan
