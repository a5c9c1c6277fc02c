"""The undecimated (a trous) wavelet transform with periodic borders, on orthonormal wavelets (Daubechies 1992).

Letters in shapes: B images, C channels, H x W pixels.
"""

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


def _taps(wavelet: str) -> tuple[list[float], list[float]]:
    """Low-pass and high-pass filter of the undecimated transform."""
    low = [tap / math.sqrt(2) for tap in WAVELET_FILTERS[wavelet]]
    return low, [(-1) ** index * tap for index, tap in enumerate(reversed(low))]


def wavelet_bands(image: Tensor, wavelet: str = "haar", levels: int = 3) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The detail bands level by level, finest first: details along y, along x and along both, (B, C, H, W) each.

    One level is a tight frame: the bands and the approximation together hold the image's energy.
    """
    low, high = _taps(wavelet)

    def filtered(signal: Tensor, taps: list[float], dim: int, dilation: int) -> Tensor:
        return sum(tap * signal.roll(-index * dilation, dim) for index, tap in enumerate(taps))

    for level in range(levels):
        rows_low, rows_high = (filtered(image, taps, -1, 2**level) for taps in (low, high))
        yield (
            filtered(rows_low, high, -2, 2**level),
            filtered(rows_high, low, -2, 2**level),
            filtered(rows_high, high, -2, 2**level),
        )
        image = filtered(rows_low, low, -2, 2**level)


def detail_magnitudes(image: Tensor, wavelet: str = "haar", levels: int = 3, block_size: int = 4) -> list[Tensor]:
    """Mean magnitudes of every band of [`wavelet_bands`] in blocks without overlap: (B, C, rows, columns) each.

    Blocks have `block_size` pixels a side at the finest level and twice as many at each coarser one, or the image's
    where it is smaller. What is over at the right and lower border is left out.
    """
    if torch.compiler.is_compiling():  # which makes a few kernels of the definition
        return [
            _block_means(band.abs(), *_block(band, block_size, level))
            for level, bands in enumerate(wavelet_bands(image, wavelet, levels))
            for band in bands
        ]
    return list(_DetailMagnitudes.apply(image, wavelet, levels, block_size))


class _DetailMagnitudes(torch.autograd.Function):
    """The definition of [`detail_magnitudes`] in few buffers, each written again and again while the cache holds it.

    The transform costs memory traffic and nothing else: a tensor for each operation takes two to three times as long.
    A filter's first tap is taken out of it, into a factor of the small result, so that each further tap is one
    operation. What is kept for the gradient is the bands, for their signs.
    """

    @staticmethod
    def forward(ctx, image: Tensor, wavelet: str, levels: int, block_size: int) -> tuple[Tensor, ...]:
        ctx.filters, ctx.levels, ctx.block_size = _unit_filters(wavelet), levels, block_size
        kept, approximation, results = [], image.contiguous(), []
        low, high, scratch, *following = (torch.empty_like(approximation) for _ in range(5))
        (low_taps, high_taps), _ = ctx.filters
        for level in range(levels):
            dilation, block = 2**level, _block(image, block_size, level)
            for taps, result in ((low_taps, low), (high_taps, high)):
                _filter(approximation, taps, -1, dilation, result)
            for (source, taps), factor in zip(
                ((low, high_taps), (high, low_taps), (high, high_taps)), _factors(ctx.filters, level), strict=True
            ):
                band = torch.empty_like(scratch) if ctx.needs_input_grad[0] else scratch
                kept.append(_filter(source, taps, -2, dilation, band))
                results.append(_block_means(torch.abs(band, out=scratch), *block).mul_(factor))
            if level + 1 < levels:
                approximation = _filter(low, low_taps, -2, dilation, following[level % 2])
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*kept)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        bands, total = ctx.saved_tensors, None
        low, high, scratch, *following = (torch.empty_like(bands[0]) for _ in range(5))
        (low_taps, high_taps), _ = ctx.filters
        for level in reversed(range(ctx.levels)):
            back, block = -(2**level), _block(low, ctx.block_size, level)
            for index, (result, taps, add) in enumerate(
                ((low, high_taps, False), (high, low_taps, False), (high, high_taps, True)), 3 * level
            ):
                gradient = gradients[index] * _factors(ctx.filters, level)[index % 3]
                _gradient_of_magnitudes(gradient, bands[index], block, scratch)
                _filter(scratch, taps, -2, back, result, add)
            if total is not None:
                _filter(total, low_taps, -2, back, low, add=True)
            total = _filter(low, low_taps, -1, back, following[level % 2])
            _filter(high, high_taps, -1, back, total, add=True)
        return total, None, None, None


def _unit_filters(wavelet: str) -> tuple[tuple[list[float], list[float]], tuple[float, float]]:
    """Both filters over their first tap, and those taps."""
    filters = _taps(wavelet)
    return tuple([tap / taps[0] for tap in taps] for taps in filters), tuple(taps[0] for taps in filters)


def _factors(filters, level: int) -> tuple[float, float, float]:
    """What the magnitudes of a level's three bands lack after filters whose first tap is 1."""
    _, (low, high) = filters
    scale = low ** (2 * level)
    return abs(scale * low * high), abs(scale * high * low), scale * high**2


def _filter(signal: Tensor, taps: list[float], dim: int, dilation: int, result: Tensor, add: bool = False) -> Tensor:
    """result[n] = sum_k taps[k] signal[n + k dilation], periodic, taps[0] = 1; or that added to it.

    A negative dilation is the transpose.
    """
    source = result.add_(signal) if add else signal
    for index, tap in enumerate(taps[1:], 1):
        length = signal.shape[dim]
        shift = index * dilation % length
        for start, other, count in ((0, shift, length - shift), (length - shift, 0, shift)):
            parts = source.narrow(dim, start, count), signal.narrow(dim, other, count)
            torch.add(*parts, alpha=tap, out=result.narrow(dim, start, count))
        source = result
    return result


def _block(image: Tensor, block_size: int, level: int) -> tuple[int, int]:
    """Height and width of a level's blocks."""
    return tuple(min(block_size * 2**level, max(length // 2, 1)) for length in image.shape[-2:])


def _block_means(values: Tensor, height: int, width: int) -> Tensor:
    """Means of blocks of h x w without overlap, what is over at the border left out. In half of `avg_pool2d`'s time."""
    rows, columns = values.shape[-2] // height, values.shape[-1] // width
    whole = values[..., : rows * height, : columns * width]
    sums = whole.unflatten(-2, (rows, height)).sum(-2).unflatten(-1, (columns, width))
    with torch.autocast(values.device.type, enabled=False):  # which would round a product, and no pooling
        return (sums @ values.new_full((width, 1), 1 / (height * width))).squeeze(-1)


def _gradient_of_magnitudes(gradient: Tensor, band: Tensor, block: tuple[int, int], result: Tensor) -> None:
    """That of `_block_means(band.abs(), *block)`: (B, C, rows, columns) -> `result`, (B, C, H, W)."""
    height, width = block
    rows, columns = gradient.shape[-2:]
    torch.sign(band, out=result)
    lines = (gradient / (height * width)).repeat_interleave(width, -1).unsqueeze(-2)
    result[..., : rows * height, : columns * width].unflatten(-2, (rows, height)).mul_(lines)
    result[..., rows * height :, :] = 0
    result[..., columns * width :] = 0
