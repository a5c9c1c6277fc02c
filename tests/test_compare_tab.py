"""The Compare tab: what each setting shows, and its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interface.compare_tab import numbers, unsharp_mask
from interface.pictures import Photograph

TERMS = {"pixel": "Pixel", "regional_sharpness": "Regional sharpness", "amplitude": "Frequency"}


def photograph(noise: float = 25.0) -> Photograph:
    clean = torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(0))
    return Photograph(clean, noise, clean + 0.1, "photo.png")


def test_unsharp_masking_sharpens_edges_and_leaves_flat_areas():
    image = torch.full((3, 32, 32), 0.4)
    torch.testing.assert_close(unsharp_mask(image, 1.0), image)
    image[..., 16:] = 0.6
    sharpened = unsharp_mask(image, 1.0)
    assert sharpened[0, 16, 15] < 0.4 and sharpened[0, 16, 16] > 0.6
    torch.testing.assert_close(unsharp_mask(image, 0.0), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9)])
def test_unsharp_masking_of_tiny_images(size):
    assert unsharp_mask(torch.rand(3, *size), 0.5).shape == (3, *size)


def test_numbers_are_those_of_what_is_shown():
    seen = photograph()
    text = numbers(seen.photo + 0.1, seen)
    error = ((seen.photo + 0.1).clamp(0, 1) - seen.photo).square().mean().item()
    assert f"{-10 * np.log10(error):.2f} dB" in text and f"MSE {error:.5f}" in text
    assert "No clean reference" in numbers(seen.photo, photograph(0))
