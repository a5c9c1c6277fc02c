"""Photographs that visitors bring, and losslessly compressed files of the newest pictures, for the browser."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from PIL import Image
from torch import Tensor

from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import read_photograph

EXAMPLE_NOISE_LEVEL = 50  # of 255
MAX_NOISE_LEVEL = 75
MAX_MEGAPIXELS = 16


@dataclass(frozen=True)
class Photograph:
    """What one visitor looks at. Images are (3, H, W), float. `key` tells one noisy image from every other."""

    photo: Tensor
    noise: float  # added, of 255; without any there is no clean reference
    noisy: Tensor
    path: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def with_noise(self, noise: float) -> Photograph:
        """The same photograph under seeded white noise of another level, of 255."""
        return Photograph(self.photo, noise, indexed_gaussian_noise(self.photo, noise / 255, 0), self.path)


def opened(path: str, noise: float) -> Photograph:
    """Reads a file and adds seeded noise. What is wrong with it becomes a message on the page."""
    try:
        photo = read_photograph(path)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    megapixels = photo.shape[-1] * photo.shape[-2] / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise gr.Error(
            f"{Path(path).name} has {megapixels:.0f} megapixels, and this page takes {MAX_MEGAPIXELS}: "
            "crop or reduce it, or restore it in Python."
        )
    return Photograph(photo, noise, indexed_gaussian_noise(photo, noise / 255, 0), path)


def example_gallery(examples: list[Path]) -> gr.Gallery:
    """Thumbnails to choose from, all in one row, laid out where this is called."""
    columns = len(examples) or 1
    # Gradio's own columns are never narrower than 100 pixels.
    rule = f".examples .grid-container {{ grid-template-columns: repeat({columns}, minmax(0, 110px)); }}"
    gr.HTML(f"<style>{rule}</style>", visible="hidden")
    return gr.Gallery(
        [str(path) for path in examples],
        label="Examples",
        columns=columns,
        height=110,
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        format="png",
        buttons=[],
        elem_classes="examples",
    )


def to_image(image: Tensor) -> Image.Image:
    """(3, H, W), clipped to [0, 1] -> 8-bit RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


class Pictures:
    """Writes pictures to a folder of its own, which vanishes with it.

    Args:
        kept: files to keep, those asked for last; a removed one is written again when it is asked for.
    """

    def __init__(self, kept: int = 64) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="vit-unet-denoiser-")
        self.files: OrderedDict[str, Path] = OrderedDict()
        self.kept, self.lock = kept, threading.Lock()

    def file(self, image: Tensor | Image.Image, key: str | None = None) -> str:
        """(3, H, W) in [0, 1], or a picture -> a PNG file. One key is one picture; without a key it is a new one."""

        def save(path: Path) -> None:
            picture = to_image(image) if isinstance(image, Tensor) else image
            picture.save(path, compress_level=1)  # fast: a slider waits for it

        return self.written(f"{key or uuid.uuid4().hex}.png", save)

    def written(self, name: str, save: Callable[[Path], object]) -> str:
        """The file of this name, which `save` writes where it is not there yet."""
        path = Path(self.folder.name) / name
        with self.lock:
            if name not in self.files:
                save(path)
                self.files[name] = path
            self.files.move_to_end(name)
            while len(self.files) > self.kept:
                self.files.popitem(last=False)[1].unlink(missing_ok=True)
        return str(path)
