"""Losslessly compressed files of the newest pictures, for the browser."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import OrderedDict
from pathlib import Path

from PIL import Image
from torch import Tensor


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
        key = key or uuid.uuid4().hex
        path = Path(self.folder.name) / f"{key}.png"
        with self.lock:
            if key not in self.files:
                if isinstance(image, Tensor):
                    image = Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
                image.save(path, compress_level=1)  # fast: a slider waits for it
                self.files[key] = path
            self.files.move_to_end(key)
            while len(self.files) > self.kept:
                self.files.popitem(last=False)[1].unlink(missing_ok=True)
        return str(path)
