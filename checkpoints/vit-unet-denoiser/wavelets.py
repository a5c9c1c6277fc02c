"""The undecimated (a trous) wavelet transform with periodic borders, on orthonormal wavelets (Daubechies 1992)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Low-pass taps of orthonormal wavelets, to be divided by sqrt(2) for the undecimated transform.
_SQRT3 = math.sqrt(3.0)
WAVELET_FILTERS = {
    "haar": (1 / math.sqrt(2), 1 / math.sqrt(2)),
    "db2": tuple(tap / (4 * math.sqrt(2)) for tap in (1 + _SQRT3, 3 + _SQRT3, 3 - _SQRT3, 1 - _SQRT3)),
}


class _TwoBands(torch.autograd.Function):
    """Two filters along one axis, y[n] = sum_k a_k x[n + k d], periodic, a_0 = 1.

    They are linear, so nothing is kept for the gradient, and it is added up in place; autograd would keep a shifted
    copy for each tap, and add them one by one.
    """

    @staticmethod
    def forward(ctx, signal: Tensor, dim: int, dilation: int, low: list[float], high: list[float]):
        ctx.dim, ctx.dilation, ctx.filters = dim, dilation, (low, high)
        bands = tuple(torch.empty_like(signal) for _ in ctx.filters)
        for band, taps in zip(bands, ctx.filters, strict=True):
            source = signal
            for index, tap in enumerate(taps[1:], 1):
                _add_shifted(source, signal, index * dilation, dim, tap, band)
                source = band
        return bands

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        total = gradients[0] + gradients[1]
        for gradient, taps in zip(gradients, ctx.filters, strict=True):
            for index, tap in enumerate(taps[1:], 1):
                _add_shifted(total, gradient, -index * ctx.dilation, ctx.dim, tap, total)
        return total, None, None, None, None


def _add_shifted(source: Tensor, signal: Tensor, shift: int, dim: int, factor: float, result: Tensor) -> None:
    """result[n] = source[n] + factor * signal[n + shift], periodic, along one axis."""
    if torch.compiler.is_compiling():  # which makes one kernel of it all, but has no `out` for a part of a tensor
        result.copy_(source + factor * signal.roll(-shift, dim))
        return
    length = signal.shape[dim]
    shift %= length
    for start, other, count in ((0, shift, length - shift), (length - shift, 0, shift)):
        parts = source.narrow(dim, start, count), signal.narrow(dim, other, count)
        torch.add(*parts, alpha=factor, out=result.narrow(dim, start, count))


def wavelet_bands(image: Tensor, wavelet: str = "haar", levels: int = 3) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The detail bands level by level, finest first: details along y, along x and along both, (B, C, H, W) each.

    One level is a tight frame: the bands and the approximation together hold the image's energy.
    """
    for bands in unscaled_wavelet_bands(image, wavelet, levels):
        yield tuple(scale * band for band, scale in bands)


def unscaled_wavelet_bands(image: Tensor, wavelet: str, levels: int) -> Iterator[list[tuple[Tensor, float]]]:
    """The bands of `wavelet_bands` each with the factor that it lacks.

    The transform costs memory traffic and nothing else: with the factors taken out, each filter's first tap is 1 and
    every other tap is one operation in place.
    """
    low_pass = [tap / math.sqrt(2) for tap in WAVELET_FILTERS[wavelet]]
    high_pass = [(-1) ** index * tap for index, tap in enumerate(reversed(low_pass))]

    def split(signal: Tensor, dim: int, dilation: int) -> tuple[Tensor, Tensor]:
        """Low and high band along one axis, each over its first tap."""
        taps = ([tap / band[0] for tap in band] for band in (low_pass, high_pass))
        return _TwoBands.apply(signal, dim, dilation, *taps)

    scale = 1.0
    for level in range(levels):
        low, high = split(image, -1, 2**level)
        image, low_high = split(low, -2, 2**level)
        high_low, high_high = split(high, -2, 2**level)
        cross, square = scale * low_pass[0] * high_pass[0], scale * high_pass[0] ** 2
        yield [(low_high, cross), (high_low, cross), (high_high, square)]
        scale *= low_pass[0] ** 2
