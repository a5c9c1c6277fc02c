"""Local sharpness of an image in half-overlapping windows (first post), without unfolding a window.

Letters in shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _NeighbourDifferences(torch.autograd.Function):
    """Absolute differences to the right, lower, lower-right and lower-left neighbours, summed over channels.

    (B, C, H, W) -> the sum of all four at each pixel that has them (B, 1, H-1, W-1), the rightward ones of the rows
    `first`, `first + step`, ..., and the downward ones of those columns. Only the image is kept for the gradient, which
    is summed in place: autograd would keep each difference, and pad each of the eight slices with zeros to full size.

    A neighbour is so many places further on in a plane of pixels one row after the other. Taken over the plane as a
    whole, a difference is one long operation; what it gives at the end of a row is between two rows, and is cut off.
    """

    @staticmethod
    def neighbours(planes: Tensor, width: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """(B, C, H W) -> pairs of parts of it, (B, C, (H - 1) W - 1) each."""
        count = planes.shape[-1] - width - 1
        here, right, below, diagonal = (planes[..., place : place + count] for place in (0, 1, width, width + 1))
        return (diagonal, here), (below, right), (right, here), (below, here)

    @staticmethod
    def lines(image: Tensor, first: int, step: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """The neighbours along the rows, and along the columns, that are asked for."""
        rows, columns = image[..., first::step, :], image[..., first::step]
        return (rows[..., 1:], rows[..., :-1]), (columns[..., 1:, :], columns[..., :-1, :])

    @staticmethod
    def forward(ctx, image: Tensor, first: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        image = image.contiguous()
        ctx.save_for_backward(image)
        ctx.first, ctx.step = first, step
        height, width = image.shape[-2:]

        def over_channels(values: Tensor) -> Tensor:
            # One by one: `sum` over so few is several times slower, and makes 16-bit integers 64-bit.
            total = values[:, :1]
            for channel in values.split(1, dim=1)[1:]:
                total += channel
            return total

        first_pair, *pairs = _NeighbourDifferences.neighbours(image.flatten(2), width)
        total = torch.sub(*first_pair).abs_()
        for pair in pairs:
            total += torch.sub(*pair).abs_()
        all_four = F.pad(over_channels(total), (0, 1)).unflatten(-1, (height - 1, width))[..., :-1]
        rows, columns = _NeighbourDifferences.lines(image, first, step)
        return all_four, over_channels(torch.sub(*rows).abs_()), over_channels(torch.sub(*columns).abs_())

    @staticmethod
    @once_differentiable
    def backward(ctx, all_four: Tensor, *along_lines: Tensor) -> tuple[Tensor, None, None]:
        (image,) = ctx.saved_tensors
        total = torch.zeros_like(image)
        cells = F.pad(all_four, (0, 1)).flatten(2)[..., :-1]  # nothing comes back from between two rows
        pairs, sums = (
            (*_NeighbourDifferences.neighbours(values.flatten(2), values.shape[-1]), *lines)
            for values in (image, total)
            for lines in [_NeighbourDifferences.lines(values, ctx.first, ctx.step)]
        )
        gradients = (*[cells] * 4, *along_lines)
        for (a, b), (sum_a, sum_b), gradient in zip(pairs, sums, gradients, strict=True):
            change = (a - b).sign_().mul_(gradient)
            sum_a.add_(change)
            sum_b.sub_(change)
        return total, None, None


class _WindowSums(torch.autograd.Function):
    """Sums along one axis over windows of `length`, `step` apart, which overlap by no more than half.

    Each operation is long and in place: pooling counts one window after the other, in five times the time.
    """

    @staticmethod
    def forward(ctx, values: Tensor, dim: int, length: int, step: int) -> Tensor:
        ctx.size, ctx.window = values.shape, (dim, length, step)
        return values.unfold(dim, length, step).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        dim, length, step = ctx.window
        count, size = gradient.shape[dim], list(ctx.size)
        size[dim] = max(size[dim], (count + 1) * step)
        total = gradient.new_zeros(size)
        for first, part in ((0, step), (step, length - step)):  # of a window: what is its own, and the next one's
            blocks = total.narrow(dim, first, count * step).unflatten(dim, (count, step))
            blocks.narrow(dim + 1, 0, part).add_(gradient.unsqueeze(dim + 1))
        return total.narrow(dim, 0, ctx.size[dim]), None, None, None


def sharpness_scores(image: Tensor, window_size: int = 16) -> Tensor:
    """Local sharpness of half-overlapping windows: (B, C, H, W) -> (B, rows, columns).

    A score is the sum, inside the window, of the absolute differences to the right, lower, lower-right and lower-left
    neighbours, averaged over channels (first post): a window of side w holds (w-1) x (w-1) cells with all four
    differences at their upper left corner, a last column of downward ones, and a last row of rightward ones. 8-bit
    images may come as `int16`, for scores 255 times as large: exact, and in half the time.
    """
    side = min(window_size, *image.shape[-2:])
    if side < 2:  # a window of one pixel has no neighbours
        return image.flatten(1).sum(1)[:, None, None] * 0.0
    step, cells = max(side // 2, 1), side - 1
    all_four, last_row, last_column = _NeighbourDifferences.apply(image, cells, step)
    if not image.is_floating_point():
        all_four, last_row, last_column = all_four.float(), last_row.float(), last_column.float()

    def down(values: Tensor) -> Tensor:
        return _WindowSums.apply(values, 2, cells, step)

    def along(values: Tensor) -> Tensor:
        return _WindowSums.apply(values, 3, cells, step)

    # Two short sums are faster than one over the window, and more exact.
    return (along(down(all_four) + last_row) + down(last_column)).squeeze(1) / image.shape[1]


def sorted_sharpness_scores(image: Tensor, window_size: int = 16) -> Tensor:
    """The scores of `sharpness_scores` in descending order: (B, C, H, W) -> (B, windows)."""
    return sharpness_scores(image, window_size).flatten(1).sort(dim=1, descending=True).values
