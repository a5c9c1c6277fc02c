"""Photographs on disk. Not part of what `save_pretrained` copies: a model needs no files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from .image_processing_vit_unet import ViTUNetImageProcessor


def read_photograph(path: str | Path) -> Tensor:
    """A file -> (3, H, W) float in [0, 1], upright. Raises `ValueError` with the file's name if it is no image."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            return ViTUNetImageProcessor()(upright, return_tensors="pt")["pixel_values"][0]
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        remedy = "give a PNG, JPEG, TIFF or WebP file"
        raise ValueError(f"{Path(path).name} cannot be read as an image: {remedy}. ({error})") from error


def photographs(folder: str | Path) -> list[Path]:
    """The image files below a folder, by name. Raises `ValueError` where there are none."""
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in Image.registered_extensions())
    if not files:
        raise ValueError(f"There are no images below {folder}.")
    return files
