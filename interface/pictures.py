"""Losslessly compressed files of the newest pictures, for the browser."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import OrderedDict
from pathlib import Path

import torch
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

    def file(self, image: Tensor, key: str | None = None) -> str:
        """(3, H, W) in [0, 1] -> a PNG file. Pictures of one key are the same; without one it is a new picture."""
        key = key or uuid.uuid4().hex
        path = Path(self.folder.name) / f"{key}.png"
        with self.lock:
            if key not in self.files:
                pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(path, compress_level=1)  # fast: a slider waits for it
                self.files[key] = path
            self.files.move_to_end(key)
            while len(self.files) > self.kept:
                self.files.popitem(last=False)[1].unlink(missing_ok=True)
        return str(path)
