"""Spectra of real images: amplitudes with a fast gradient, the emphasis map, half-overlapping windows.

Everything is the orthonormal 2-D DFT on `rfft2`'s half plane: the other half of a real image's spectrum is its mirror
image, so each column is weighed by the number of columns that it stands for.

Letters in shapes: B images, C channels, H x W pixels, h x w a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def kept_beside(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A constant that a few numbers determine -> `constant(like, *numbers)`: beside `like`, in its type, made once.

    Copying it from the CPU each time would make an accelerator finish all that it was given first.
    """

    @lru_cache(maxsize=32)
    def made(device: torch.device, dtype: torch.dtype, *numbers: float) -> Tensor:
        with torch.inference_mode(False):  # so that whoever asks next may need its gradient
            return function(*numbers).to(device, dtype)

    @wraps(function)
    def constant(like: Tensor, *numbers: float) -> Tensor:
        if torch.compiler.is_exporting():  # what is made now has no values, and must not be kept
            return made.__wrapped__(like.device, like.dtype, *numbers)
        return made(like.device, like.dtype, *numbers)

    return constant


def multiplicity(width: int) -> Tensor:
    """(W//2 + 1,): how many columns of the full plane each column of the half plane stands for."""
    columns = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    columns[0] = 1.0
    if width % 2 == 0:
        columns[-1] = 1.0
    return columns


_multiplicity = kept_beside(multiplicity)


def spectrum(image: Tensor) -> Tensor:
    """(..., H, W) -> (..., H, W//2 + 1), complex."""
    return torch.fft.rfft2(image, norm="ortho")


class _Amplitude(torch.autograd.Function):
    """abs(rfft2(image * window)), whose gradient is one inverse transform of a half plane.

    Autograd's own way back fills the other half plane with zeros, transforms it all and drops the imaginary part: twice
    the work and twice the memory.
    """

    @staticmethod
    def forward(ctx, image: Tensor, window: Tensor | None) -> Tensor:
        if window is not None:  # a product in the order of its axes: the transform would copy that of a view's
            image = torch.mul(image, window, out=image.new_empty(image.shape))
        transformed = spectrum(image)
        # Three times as fast as `abs`, which guards against overflow. The constant keeps the gradient finite at zero.
        squares = torch.view_as_real(transformed).square()
        amplitude = (squares[..., 0] + squares[..., 1]).add_(1e-20).sqrt_()
        ctx.save_for_backward(transformed, amplitude)
        ctx.size, ctx.window = image.shape[-2:], window
        return amplitude

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        transformed, amplitude = ctx.saved_tensors
        # The inverse transform counts a column as often as it stands for others; the gradient counts it once.
        once = gradient / (amplitude * _multiplicity(amplitude, ctx.size[-1]))
        total = torch.fft.irfft2(transformed * once, s=ctx.size, norm="ortho")
        return total if ctx.window is None else total.mul_(ctx.window), None


def amplitude_spectrum(image: Tensor, window: Tensor | None = None) -> Tensor:
    """abs(F image), or abs(F (image * window)): (..., H, W) -> (..., H, W//2 + 1).

    Differentiable once by the image, with gradient 0 at amplitude 0.
    """
    return _Amplitude.apply(image, window)


@kept_beside
def _half_plane_weights(height: int, width: int) -> Tensor:
    """(2, H, W//2 + 1): weights that turn a sum over the half plane into a mean over the full plane.

    Row 0 holds each column's multiplicity / (H W). Row 1 holds that times the normalised distance from zero frequency,
    so that the emphasised mean is `row 0 + g * row 1`.
    """
    rows = torch.fft.fftfreq(height, d=1.0 / height, dtype=torch.float64)
    columns = torch.arange(width // 2 + 1, dtype=torch.float64)
    corner = math.hypot(height // 2, width // 2)
    distance = torch.hypot(rows[:, None], columns[None, :]) / max(corner, 1.0)
    mean = (multiplicity(width) / (height * width)).expand(height, -1)
    return torch.stack([mean, mean * distance])


def plane_mean(values: Tensor, high_frequency_emphasis: float | Tensor, height: int, width: int) -> Tensor:
    """Mean of (1 + g d) * values over the full H x W plane. (B, H, W//2 + 1) -> (B,); g a number or (B,)."""
    weights = _half_plane_weights(values, height, width)
    plain, distance = torch.einsum("bhw,khw->kb", values, weights)
    return plain + torch.as_tensor(high_frequency_emphasis, device=values.device, dtype=values.dtype) * distance


def emphasis_map(height: int, width: int, high_frequency_emphasis: float = 0.0) -> Tensor:
    """The centred (H, W) map 1 + g d that weighs amplitude differences (first post, `_ensure_mask`).

    d is the distance from zero frequency over the distance of the corner, sqrt((H//2)^2 + (W//2)^2).
    """
    rows = torch.arange(height) - height // 2
    columns = torch.arange(width) - width // 2
    distance = torch.hypot(rows[:, None].float(), columns[None, :].float())
    return 1.0 + high_frequency_emphasis * distance / max(math.hypot(height // 2, width // 2), 1.0)


def hann_window(height: int, width: int) -> Tensor:
    """(h, w): a Hann window of unit mean energy, float64.

    With the half-sample offset no tap is zero, and half-overlapping windows sum to a constant.
    """
    rows, columns = (
        torch.sin(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side).square() for side in (height, width)
    )
    window = torch.outer(rows, columns)
    return window / window.square().mean().sqrt()


def half_overlapping_tiles(image: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Half-overlapping windows of h x w pixels, as four tilings without overlap.

    Each tiling is a view (B, C, rows, columns, h, w) of the image. Their gradients are plain copies, where those of
    `Tensor.unfold` are scattered sums.
    """
    for top in {0, height // 2}:
        for left in {0, width // 2}:
            rows, columns = (image.shape[-2] - top) // height, (image.shape[-1] - left) // width
            if rows and columns:
                part = image[..., top : top + rows * height, left : left + columns * width]
                yield part.unflatten(-1, (columns, width)).unflatten(-3, (rows, height)).transpose(-3, -2)
