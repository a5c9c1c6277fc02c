"""Restores images for the tabs, and looks at each image only once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from modeling import EncodedImage, ViTUNetForImageDenoising


class Restorer:
    """Encodes an image once and decodes it at every move of a slider.

    Args:
        model: the denoiser, in eval mode.
        cached_pixels: encoded images to keep, the most recently used ones, up to so many pixels in all (the network
            that ships takes about 300 bytes a pixel); the last one is always kept.
    """

    def __init__(self, model: ViTUNetForImageDenoising, cached_pixels: int = 16_000_000) -> None:
        self.model, self.cached_pixels = model, cached_pixels
        self.encoded: OrderedDict[tuple, EncodedImage] = OrderedDict()
        self.lock = threading.Lock()  # Gradio calls from several threads

    @torch.inference_mode()
    def __call__(
        self,
        noisy: Tensor,
        loss_weights: Mapping[str, float] | None = None,
        high_frequency_emphasis: float | None = None,
        noise_level: float | None = None,
    ) -> Tensor:
        """noisy (3, H, W) -> restored (3, H, W) in [0, 1], both on the CPU. The rest is as in the model's `forward`."""
        key = (hashlib.sha256(noisy.numpy()).hexdigest(), tuple(noisy.shape), noise_level)
        with self.lock:
            if key not in self.encoded:
                image = noisy[None].to(self.model.device, memory_format=torch.channels_last)
                self.encoded[key] = self.model.encode(image, noise_level)
            self.encoded.move_to_end(key)
            while len(self.encoded) > 1 and self._pixels() > self.cached_pixels:
                self.encoded.popitem(last=False)
            restored = self.model.decode(self.encoded[key], loss_weights, high_frequency_emphasis)
        return restored[0].clamp(0, 1).float().cpu()

    def _pixels(self) -> int:
        return sum(encoded.size[0] * encoded.size[1] for encoded in self.encoded.values())
