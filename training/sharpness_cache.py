"""The offline cache of window scores: a `datasets.map` column with the sorted sharpness scores of each clean image.

Training on whole images compares with the same scores in every epoch. The cache computes them once, and `datasets`
keeps them on disk. Random crops cannot use it: their windows are others each time, and their scores are computed on the
fly; both ways give the same loss.
"""

from __future__ import annotations

import datasets
import torch
from torch import Tensor

from modeling.image_files import UNREADABLE, to_uint8
from modeling.sharpness import sorted_sharpness_scores

COLUMN = "sharpness_scores"
# Part of the fingerprint of the cached column, because `datasets` does not see a change inside an imported function.
# Raise it whenever `sharpness_scores` gives other numbers.
VERSION = 3
AT_ONCE = 2  # images; more would take more memory than time they save


@torch.inference_mode()
def sorted_scores(images: list[Tensor], window_size: int) -> list[list[float]]:
    """The window scores of (3, H, W) uint8 images in descending order, from sums of integers: exact but for rounding.

    Images of one size go together, which spares half of the overhead of so small operations.
    """
    if len({image.shape for image in images}) > 1:
        return [scores for image in images for scores in sorted_scores([image], window_size)]
    return sorted_sharpness_scores(torch.stack(images).short(), window_size).div_(255).tolist()


def _with_scores(rows: dict, image_column: str, window_size: int, version: int) -> dict:
    images = [_decoded(source) for source in rows[image_column]]
    readable = [image for image in images if image is not None]
    scores = iter(sorted_scores(readable, window_size) if readable else [])
    return {COLUMN: [[] if image is None else next(scores) for image in images]}


def _decoded(source: dict) -> Tensor | None:
    """(3, H, W) uint8, or `None` for a file that training will warn of and pass over."""
    try:
        return to_uint8(datasets.Image().decode_example(source))
    except UNREADABLE:
        return None


def with_sharpness_scores(
    dataset: datasets.Dataset, image_column: str = "image", window_size: int = 16, version: int = VERSION
) -> datasets.Dataset:
    """The dataset with a column `sharpness_scores`, float32 lists; read from disk if it was made before.

    Of an image that cannot be decoded the list is empty.
    """
    undecoded = dataset.cast_column(image_column, datasets.Image(decode=False))
    scored = undecoded.map(
        _with_scores,
        batched=True,
        batch_size=AT_ONCE,
        fn_kwargs={"image_column": image_column, "window_size": window_size, "version": version},
        features=datasets.Features({**undecoded.features, COLUMN: datasets.List(datasets.Value("float32"))}),
        desc="sharpness scores",
    )
    return scored.cast_column(image_column, dataset.features[image_column])
