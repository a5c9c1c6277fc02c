"""Photographs that visitors bring, and files without loss of the newest pictures, for the browser."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from pathlib import Path

import gradio as gr
from gradio.processing_utils import check_all_files_in_cache
from PIL import Image
from torch import Tensor

from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import UNREADABLE, read_photograph

EXAMPLE_NOISE_LEVEL = 50  # of 255
MAX_NOISE_LEVEL = 75
MAX_MEGAPIXELS = 25  # of a camera with 24; they take four gigabytes of memory
HOUR = 3600  # seconds that a photograph is kept after it was last looked at
PUT_AWAY = "The photograph was put away after an hour: open it again."
NO_REFERENCE = "No clean reference: add noise to a clean photograph to see what a setting costs."


def on_page(handler: Callable) -> Callable:
    """A handler whose errors about what it was given become messages on the page."""

    @wraps(handler)
    def handled(*arguments, **options):
        try:
            return handler(*arguments, **options)
        except (ValueError, ImportError, OSError, RuntimeError, MemoryError) as error:
            # Activation maps need a library of their own, and large photographs memory.
            raise gr.Error(str(error) or "There is not enough memory: crop or reduce the photograph.") from error

    return handled


@dataclass(frozen=True)
class Photograph:
    """What one visitor looks at. Images are (3, H, W), float.

    `key` tells one noisy image from every other; `picture` is the same under any noise.
    """

    photo: Tensor
    noise: float  # added, of 255; without any there is no clean reference
    noisy: Tensor
    path: str
    picture: str = field(default_factory=lambda: uuid.uuid4().hex)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def with_noise(self, noise: float) -> Photograph:
        """The same photograph under seeded white noise of another level, of 255."""
        return replace(self, noise=noise, noisy=_noisy(self.photo, noise), key=uuid.uuid4().hex)


@on_page
def opened(path: str, noise: float) -> Photograph:
    """Reads a file and adds seeded noise. What is wrong with it becomes a message on the page."""
    photo = read_small_enough(path)
    return Photograph(photo, noise, _noisy(photo, noise), path)


@lru_cache(maxsize=16)
def _example(path: str) -> Photograph:
    return opened(path, EXAMPLE_NOISE_LEVEL)


def example_photograph(path: str) -> Photograph:
    """An example under its noise. Visitors share its pixels, and no key."""
    return replace(_example(path), picture=uuid.uuid4().hex, key=uuid.uuid4().hex)


def uploaded(file: dict) -> str:
    """The path of an upload that Gradio did not preprocess. Raises `ValueError` for any other file of this machine."""
    try:
        check_all_files_in_cache(file)
    except gr.Error as error:
        raise ValueError(f"{Path(file['path']).name} was not uploaded: upload it.") from error
    return file["path"]


def read_small_enough(path: str) -> Tensor:
    """A file -> (3, H, W) float in [0, 1]. Raises `ValueError` for one that is too large, before it is decoded."""
    try:
        with Image.open(path) as image:
            megapixels = image.width * image.height / 1e6
    except UNREADABLE:
        megapixels = 0.0  # what is wrong with it is told by who reads it
    if megapixels > MAX_MEGAPIXELS:
        raise ValueError(
            f"{Path(path).name} has {megapixels:.0f} megapixels, and this page takes {MAX_MEGAPIXELS}: "
            "crop or reduce it, or restore it in Python."
        )
    return read_photograph(path)


def keep_upload(path: str, not_uploaded: Container[str]) -> None:
    """Gradio deletes an upload an hour after its file was last changed: it is in use."""
    if path not in not_uploaded:
        with suppress(OSError):
            os.utime(path)


def _noisy(photo: Tensor, noise: float) -> Tensor:
    return indexed_gaussian_noise(photo, noise / 255, 0) if noise else photo


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


def centre(image: Tensor, side: int) -> Tensor:
    """The middle of (..., H, W), at most `side` pixels high and wide."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side].contiguous()


def to_image(image: Tensor) -> Image.Image:
    """(3, H, W), clipped to [0, 1] -> 8-bit RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


WEBP_MAX_SIDE = 16383  # pixels, of the format
LOSSLESS = {
    ".bmp": {},
    ".webp": {"lossless": True, "method": 0, "quality": 0},  # the quality of a lossless file is its effort
    ".png": {"compress_level": 1, "compress_type": zlib.Z_RLE},
}


class Pictures:
    """Writes pictures to a folder of its own, which vanishes with it, and from which the page takes them.

    Args:
        kept: files to keep, those asked for last; a removed one is written again when it is asked for. A page may show
            an old one, and take it again to download it.
        kept_bytes: so many bytes of them in all.
        seconds: files asked for within them stay in any case: a browser may not have taken them yet.
        near: whether the browser is on this machine, so that what is only shown need not be compressed.
    """

    def __init__(self, kept: int = 4096, kept_bytes: int = 2**30, seconds: float = 30, near: bool = False) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="vit-unet-denoiser-")
        # Otherwise Gradio hashes and copies each of them, and forgets to delete copies of components that it made anew.
        gr.set_static_paths(self.folder.name)
        self.files: OrderedDict[str, tuple[float, int]] = OrderedDict()  # name -> when it was asked for last, bytes
        self.kept, self.kept_bytes, self.seconds, self.near = kept, kept_bytes, seconds, near
        self.lock = threading.Lock()

    def file(self, image: Tensor | Image.Image, key: str | None = None, only_shown: bool = False) -> str:
        """(3, H, W) in [0, 1], or a picture -> a file without loss. One key is one picture; without one it is new.

        PNG; or, for an image (3, H, W) that is `only_shown`, not downloaded, WebP, in half of the time, and BMP, in no
        time, for a browser that is near.
        """
        ending = ".png"
        if only_shown:
            ending = ".bmp" if self.near else ".webp" if max(image.shape) <= WEBP_MAX_SIDE else ".png"

        def save(path: Path) -> None:  # fast: a slider waits for it
            picture = to_image(image) if isinstance(image, Tensor) else image
            picture.save(path, **LOSSLESS[ending])

        return self.written(f"{key or uuid.uuid4().hex}{ending}", save)

    def written(self, name: str, save: Callable[[Path], object]) -> str:
        """The file of this name, which `save` writes where it is not there yet."""
        path = Path(self.folder.name) / name
        if not self._is_kept(name):
            beside = path.with_name(f"{uuid.uuid4().hex}{path.suffix}")
            try:
                save(beside)  # outside the lock: nobody waits for another visitor's large picture
                with self.lock:
                    beside.replace(path)
                    self.files[name] = time.monotonic(), path.stat().st_size
                    self._make_room()
            finally:
                beside.unlink(missing_ok=True)
        return str(path)

    def _is_kept(self, name: str) -> bool:
        with self.lock:
            if name in self.files:
                self.files[name] = time.monotonic(), self.files[name][1]
                self.files.move_to_end(name)
            return name in self.files

    def _make_room(self) -> None:
        while len(self.files) > self.kept or sum(size for _, size in self.files.values()) > self.kept_bytes:
            name, (asked, _) = next(iter(self.files.items()))
            if time.monotonic() - asked < self.seconds:
                return
            del self.files[name]
            (Path(self.folder.name) / name).unlink(missing_ok=True)
