"""PSNR, SSIM and sharpness ratio: known values, equal images, tiny images."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from modeling.degradations import distort
from modeling.metrics import (
    fourier_ring_correlation,
    octave_spectrum_error,
    periodic_artefact_index,
    psnr,
    sharpness_ratio,
    ssim,
    ssim_per_image,
)


def test_psnr():
    target = torch.full((3, 8, 8), 0.5)
    assert psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
    assert psnr(target, target) == math.inf
    assert psnr(torch.full((3, 8, 8), 7.0), torch.ones(3, 8, 8)) == math.inf  # the prediction is clipped


def test_ssim_agrees_with_scikit_image():
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(1, 3, 40, 53, generator=generator)
    prediction = target + torch.tensor([0.1, 0.5])[:, None, None, None] * torch.randn(2, 3, 40, 53, generator=generator)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [
        structural_similarity(image.clamp(0, 1).numpy(), target[0].numpy(), channel_axis=0, **settings)
        for image in prediction
    ]
    assert ssim_per_image(prediction, target).tolist() == pytest.approx(expected, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert ssim_per_image(prediction, target).tolist() == pytest.approx(expected, abs=1e-6)
    half = ssim_per_image(prediction.bfloat16(), target)  # as a network of that type restores
    assert half.dtype == torch.float32 and half.tolist() == pytest.approx(expected, abs=1e-2)
    assert ssim_per_image(prediction[..., :10], target[..., :10]).isnan().tolist() == [True, True]


def test_ssim_agrees_with_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 40, 40, generator=generator)
    prediction = (target + 0.1 * torch.randn(2, 3, 40, 40, generator=generator)).clamp(0, 1)
    expected = structural_similarity_index_measure(prediction, target, data_range=1.0).item()
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


def test_octave_spectrum_error_sees_which_octave_lost_its_power(ascent):
    image = ascent[0].float()
    assert octave_spectrum_error(image, image) == pytest.approx([0.0] * 4)
    blurred = octave_spectrum_error(distort(image, "blur", 1.0), image)
    assert blurred == sorted(blurred) and blurred[0] < -10 and blurred[3] > -1
    halved = octave_spectrum_error(0.5 * image, image)
    assert halved == pytest.approx([-6.0206] * 4, abs=1e-3)


def test_added_noise_has_energy_but_no_correlation(ascent):
    image = ascent[0].float() * 0.5 + 0.25
    noisy = distort(image, "noise", 0.05)
    assert octave_spectrum_error(noisy, image)[0] > 3
    correlations = fourier_ring_correlation(noisy, image)
    assert correlations[0] < 0.6 < 0.95 < correlations[3]
    assert fourier_ring_correlation(image, image) == pytest.approx([1.0] * 4)
    assert fourier_ring_correlation(distort(image, "blur", 1.0), image)[1] > 0.9  # less energy, but the right one


def test_periodic_artefacts_are_found(ascent):
    generator = torch.Generator().manual_seed(0)
    image = ascent[0, :, :200, :300].float() * 0.5 + 0.25
    error = 0.02 * torch.randn(image.shape, generator=generator)
    assert periodic_artefact_index(image + error, image) < 1.0
    for period in (2, 4, 8, 16):
        grid = torch.zeros_like(image)
        grid[..., ::period, ::period] = 0.02 * period
        assert periodic_artefact_index(image + error + grid, image) > 2.0, period
    assert math.isnan(periodic_artefact_index(image[..., :40, :40], image[..., :40, :40]))
