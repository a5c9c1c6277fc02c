"""Seeded noise models. Each is a pure function of an image and a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_noise(image: Tensor, noise_level: float, generator: torch.Generator) -> Tensor:
    """Adds white Gaussian noise: y = x + n, n ~ N(0, noise_level^2). Neither clipped nor quantised.

    Args:
        image: any shape, float in [0, 1].
        noise_level: standard deviation in units of the [0, 1] range (25 / 255, say), at least 0.
        generator: a CPU generator; the same one gives the same noise on any device.
    """
    if not noise_level >= 0:
        raise ValueError(f"noise_level={noise_level} must be at least 0, in units of the [0, 1] range.")
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return image + noise_level * noise.to(image)


def indexed_gaussian_noise(image: Tensor, noise_level: float, index: int) -> Tensor:
    """Gaussian noise of the measuring protocol: a function of the image's index in its set alone."""
    return gaussian_noise(image, noise_level, torch.Generator().manual_seed(index))


def seeded_generator(*seeds: int) -> torch.Generator:
    """A CPU generator that is a function of all the integers given, in order (at least 0 each)."""
    # Neighbouring seeds of the Mersenne twister start in neighbouring states, so the integers are hashed first
    # (splitmix64, Steele et al. 2014).
    state = 0
    for seed in seeds:
        state = (state ^ seed) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state)
