"""Where the cracks of a photograph are, from a mask of the same name."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from modeling.image_files import photographs, read_photograph

CRACK, BACKGROUND = 0.9, 0.1  # of white: above and below


def read_crack(folder: str | Path, image: str | Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The crack and the background of an image, each (H, W), bool. What is gray in the mask, as joints are, is neither.

    Args:
        folder: of the masks, white where a crack is, black where nothing is; one of them has the image's name, whatever
            its suffix.
        image: the image's file.
        size: (H, W) of the image.

    Raises `ValueError` where there is no such mask, more than one, or one of another size.
    """
    name = Path(image).name
    found = [path for path in photographs(folder) if path.stem == Path(image).stem]
    if len(found) != 1:
        given = f"there are {[path.name for path in found]}" if found else "there is none"
        raise ValueError(f"One mask of {name} is needed in {folder}, {given}: give it the image's name.")
    mask = read_photograph(found[0]).mean(0)
    if tuple(mask.shape) != tuple(size):
        raise ValueError(f"The mask of {name} is {tuple(mask.shape)}, the image {tuple(size)}: give one of its size.")
    return mask > CRACK, mask < BACKGROUND
