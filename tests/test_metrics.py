"""PSNR, SSIM and sharpness ratio: known values, equal images, tiny images."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity

from modeling.metrics import psnr, sharpness_ratio, ssim


def test_psnr():
    target = torch.full((3, 8, 8), 0.5)
    assert psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
    assert psnr(target, target) == math.inf
    assert psnr(torch.full((3, 8, 8), 7.0), torch.ones(3, 8, 8)) == math.inf  # the prediction is clipped


def test_ssim_agrees_with_scikit_image():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 40, 40, generator=generator)
    prediction = (target + 0.1 * torch.randn(3, 40, 40, generator=generator)).clamp(0, 1)
    expected = structural_similarity(
        prediction.numpy(),
        target.numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(prediction, target) == pytest.approx(expected, abs=2e-3)  # the libraries treat borders differently
    assert ssim(target, target) == pytest.approx(1.0)
    assert math.isnan(ssim(target[..., :8, :8], target[..., :8, :8]))


def test_sharpness_ratio():
    target = torch.rand(3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(target, 3, 1, 1)
    assert sharpness_ratio(target, target) == 1.0
    assert sharpness_ratio(blurred, target) < 0.5
    assert sharpness_ratio(0.5 + 0.5 * (target - 0.5), target) == pytest.approx(0.5, abs=1e-5)
    assert math.isnan(sharpness_ratio(target, torch.zeros(3, 32, 32)))
