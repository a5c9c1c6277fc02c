"""The undecimated (a trous) wavelet transform with periodic borders, on orthonormal wavelets (Daubechies 1992)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Low-pass taps of orthonormal wavelets, to be divided by sqrt(2) for the undecimated transform.
_SQRT3 = math.sqrt(3.0)
WAVELET_FILTERS = {
    "haar": (1 / math.sqrt(2), 1 / math.sqrt(2)),
    "db2": tuple(tap / (4 * math.sqrt(2)) for tap in (1 + _SQRT3, 3 + _SQRT3, 3 - _SQRT3, 1 - _SQRT3)),
}


def wavelet_bands(image: Tensor, wavelet: str = "haar", levels: int = 3) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The detail bands level by level, finest first: details along y, along x and along both, (B, C, H, W) each.

    One level is a tight frame: the bands and the approximation together hold the image's energy.
    """
    for bands in unscaled_wavelet_bands(image, wavelet, levels):
        yield tuple(scale * band for band, scale in bands)


def unscaled_wavelet_bands(image: Tensor, wavelet: str, levels: int) -> Iterator[list[tuple[Tensor, float]]]:
    """The bands of `wavelet_bands` each with the factor that it lacks.

    The transform costs memory traffic and nothing else: with the factors taken out, each filter's first tap is 1 and
    every other tap is one fused operation.
    """
    low_pass = [tap / math.sqrt(2) for tap in WAVELET_FILTERS[wavelet]]
    high_pass = [(-1) ** index * tap for index, tap in enumerate(reversed(low_pass))]

    def split(signal: Tensor, dim: int, dilation: int) -> tuple[Tensor, Tensor]:
        """Low and high band along one axis, each over its first tap."""
        low = high = signal
        for index in range(1, len(low_pass)):
            neighbour = signal.roll(-index * dilation, dim)
            low = torch.add(low, neighbour, alpha=low_pass[index] / low_pass[0])
            high = torch.add(high, neighbour, alpha=high_pass[index] / high_pass[0])
        return low, high

    scale = 1.0
    for level in range(levels):
        low, high = split(image, -1, 2**level)
        image, low_high = split(low, -2, 2**level)
        high_low, high_high = split(high, -2, 2**level)
        cross, square = scale * low_pass[0] * high_pass[0], scale * high_pass[0] ** 2
        yield [(low_high, cross), (high_low, cross), (high_high, square)]
        scale *= low_pass[0] ** 2
