"""What varies most among the features of a layer: the maps of EigenCAM and KPCA-CAM. See `explain.py`.

Letters in shapes: C channels, h x w the cells of a layer, N = h w.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_CELLS = 40 * 40  # KPCA-CAM compares each cell with each: 20 MiB for so many. Larger maps are averaged first.


def principal_map(features: np.ndarray, towards: np.ndarray | None = None) -> np.ndarray:
    """Projection of the centred features (C, h, w) on their first principal component -> (h, w), float64.

    The component is an eigenvector of the C x C covariance, which equals that of a singular value decomposition of the
    N x C features; the library's full decomposition holds an N x N matrix. Its sign is the one with which the map
    correlates positively with `towards` (h, w), by default the features' part along their mean.
    """
    cells = features.reshape(len(features), -1).astype(np.float64)  # (C, N)
    cells -= cells.mean(axis=1, keepdims=True)
    component = np.linalg.eigh(cells @ cells.T)[1][:, -1]
    return _with_sign(
        (component @ cells).reshape(features.shape[1:]), _along_mean(features) if towards is None else towards
    )


def kernel_principal_map(features: np.ndarray) -> np.ndarray:
    """The same with the kernel tanh(x . y / C + 1) in place of x . y (kernel PCA, Schölkopf et al. 1998).

    The kernel is N x N: above `KERNEL_CELLS` the features are averaged over squares of cells, and the map is enlarged.
    """
    from sklearn.decomposition import KernelPCA  # as optional as the library above

    height, width = features.shape[1:]
    side = math.ceil(math.sqrt(height * width / KERNEL_CELLS))
    while -(-height // side) * -(-width // side) > KERNEL_CELLS:  # the last squares may be incomplete
        side += 1
    pooled = F.avg_pool2d(torch.from_numpy(features), side, ceil_mode=True).double().numpy()
    cells = pooled.reshape(len(pooled), -1).T  # (N, C)
    cells = cells - cells.mean(axis=0)
    if len(cells) < 2 or not cells.any():
        return np.zeros((height, width))
    # A seed, because the iteration starts from a random vector.
    projection = KernelPCA(1, kernel="sigmoid", random_state=0).fit_transform(cells)[:, 0].reshape(pooled.shape[1:])
    whole = enlarged(torch.from_numpy(projection), side, (height, width)).numpy()
    return _with_sign(whole, _along_mean(features))


def _along_mean(features: np.ndarray) -> np.ndarray:
    return np.tensordot(features.mean(axis=(1, 2)), features, axes=1)  # (h, w)


def _with_sign(projection: np.ndarray, towards: np.ndarray) -> np.ndarray:
    return -projection if (projection * (towards - towards.mean(dtype=np.float64))).sum() < 0 else projection


def enlarged(cells: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """(h, w), cells of `side` pixels from the upper left corner on -> (H, W), bilinear."""
    pixels = F.interpolate(cells[None, None], scale_factor=side, mode="bilinear", align_corners=False)[0, 0]
    return pixels[: size[0], : size[1]]
