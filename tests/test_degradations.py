"""Noise is what it says, and a function of its seeds alone."""

from __future__ import annotations

import pytest
import torch

from modeling.degradations import gaussian_noise, indexed_gaussian_noise, seeded_generator


def test_gaussian_noise_has_the_level_it_is_given():
    image = torch.full((3, 128, 128), 0.5)
    noise = gaussian_noise(image, 50 / 255, seeded_generator(0)) - image
    assert noise.std().item() == pytest.approx(50 / 255, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    bright = gaussian_noise(torch.ones(3, 64, 64), 0.2, seeded_generator(0))
    assert bright.max() > 1.2  # not clipped


def test_noise_is_a_function_of_its_seeds():
    image = torch.rand(3, 16, 16)
    for make in (lambda *s: gaussian_noise(image, 0.1, seeded_generator(*s)),):
        assert torch.equal(make(1, 2), make(1, 2))
        assert not torch.equal(make(1, 2), make(2, 1))
        assert not torch.equal(make(0, 0), make(0))
    assert torch.equal(indexed_gaussian_noise(image, 0.1, 3), indexed_gaussian_noise(image, 0.1, 3))


def test_neighbouring_seeds_give_unrelated_noise():
    draws = torch.stack([torch.randn(1000, generator=seeded_generator(7, index)) for index in range(20)])
    correlations = torch.corrcoef(draws) - torch.eye(20)
    assert correlations.abs().max() < 0.2


def test_negative_levels_are_refused():
    for level in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="noise_level"):
            gaussian_noise(torch.zeros(3, 4, 4), level, seeded_generator(0))
