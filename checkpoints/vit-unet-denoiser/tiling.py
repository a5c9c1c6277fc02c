"""Runs a function of finite receptive field over an image in tiles, exactly.

Each tile is computed with a margin that covers the receptive field, cut at the image's own border, and the margin is
dropped: every pixel sees what it would see in the whole image, so tiles need no blending and leave no seams.

Letters in shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor

TILE_SIZE = 2048  # pixels; with the margin of the network that ships, 2 gigabytes of features in float32


def in_tiles(
    function: Callable[[slice, slice], Tensor], size: tuple[int, int], tile_size: int, halo: int, stride: int
) -> Tensor:
    """Assembles `function` of the whole image from `function` of its parts -> (B, C, H, W).

    Args:
        function: rows and columns of the image, which begin and end on the grid -> their result (B, C, rows, columns).
        size: H, W in pixels, multiples of `stride`.
        tile_size: largest side of a tile in pixels, without its margin; rounded up to the grid.
        halo: pixels to either side of a pixel that its result may depend on; rounded up to the grid.
        stride: pixels per cell of the grid that `function` is bound to.

    Raises `ValueError` for a tile without pixels and for a size off the grid.
    """
    if tile_size < 1:
        raise ValueError(f"tile_size={tile_size} must be at least 1 pixel.")
    if any(side % stride for side in size):
        raise ValueError(f"An image of {size[0]} x {size[1]} is off the grid of {stride} pixels: pad it first.")
    margin = math.ceil(halo / stride) * stride
    whole = None
    for rows, columns in itertools.product(*(_parts(side, tile_size, stride) for side in size)):
        outer = [
            slice(max(part.start - margin, 0), min(part.stop + margin, side))
            for part, side in zip((rows, columns), size, strict=True)
        ]
        inner = [
            slice(part.start - wide.start, part.stop - wide.start)
            for part, wide in zip((rows, columns), outer, strict=True)
        ]
        tile = function(*outer)
        if whole is None:
            whole = tile.new_empty(*tile.shape[:-2], *size)
        whole[..., rows, columns] = tile[..., *inner]
    return whole


def _parts(side: int, tile_size: int, stride: int) -> list[slice]:
    """Cuts a side into the fewest parts of at most `tile_size` pixels on the grid, as equal as it allows."""
    cells = side // stride
    count = math.ceil(cells / math.ceil(tile_size / stride))
    edges = [stride * (cells * index // count) for index in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
