"""Restores images for the tabs, and looks at each image only once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from modeling import EncodedImage, ViTUNetForImageDenoising
from modeling.explain import activation_map
from modeling.memory import give_back_freed_memory
from modeling.pipeline_image_denoising import restore_in_tiles

# noisy image, loss weights by term, emphasis, noise level or `None` -> restored image
Restore = Callable[[Tensor, Mapping[str, float | Tensor] | None, float | Tensor | None, float | None], Tensor]
MEGAPIXEL = 10**6
LIVE_MEGAPIXELS = 4  # up to so many an image is encoded once, and larger ones at every move
AS_STARTED = "the app's own"  # name of the network that the app was started with
Attention = Callable[[Tensor], Tensor]  # noisy image -> (1, 1, h, w) in [0, 1]


class Restorer:
    """Encodes an image once and decodes it at every move of a slider. Large images are restored in tiles, each time,
    but the ViT looks only once at the newest one.

    Args:
        model: the denoiser, in eval mode.
        cached_pixels: encoded images to keep, the most recently used ones, up to so many pixels in all, and an eighth
            more, so that the crops of the figures fit beside the largest (the network that ships takes 50 to 100 bytes
            a pixel). An image of more pixels is restored in tiles.
    """

    def __init__(self, model: ViTUNetForImageDenoising, cached_pixels: int = LIVE_MEGAPIXELS * MEGAPIXEL) -> None:
        self.model, self.cached_pixels = model, cached_pixels
        self.terms = model.config.steerable_terms
        # Where the processor has bf16, a slider's move takes a quarter to two thirds of the time, and a large image
        # less than half. On photographs the difference is 0.04 to 0.2 of 255 (root mean square), of large ones 0.2 to
        # 0.4; rounding to 8 bits makes 0.3. A network that predicts the image itself is left alone: its values near
        # white would be steps of 1/256.
        processor = torch.cpu.get_capabilities()
        has_bf16 = processor.get("avx512_bf16") or processor.get("amx_bf16")
        self.in_bf16 = bool(has_bf16) and model.device.type == "cpu" and model.config.residual
        self.encoded: OrderedDict[tuple, EncodedImage] = OrderedDict()
        self.keys: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # image -> its key
        self.large: tuple[tuple, Tensor | None] = ((), None)  # the newest large image, and what the ViT says of it
        self.lock = threading.Lock()  # Gradio calls from several threads

    @torch.inference_mode()
    def __call__(
        self,
        noisy: Tensor,
        loss_weights: Mapping[str, float | Tensor] | None = None,
        high_frequency_emphasis: float | Tensor | None = None,
        noise_level: float | None = None,
    ) -> Tensor:
        """noisy (3, H, W) -> restored (3, H, W) in [0, 1], both on the CPU. The rest is as in the model's `forward`."""
        if not self.model.config.noise_conditioned:
            noise_level = None  # told to another network on the same page
        image_key = self._key(noisy)
        if noisy[0].numel() > self.cached_pixels:
            controls = loss_weights, high_frequency_emphasis, noise_level
            try:
                with self.lock, torch.autocast("cpu", torch.bfloat16, enabled=self.in_bf16):
                    image = noisy[None].to(self.model.device, memory_format=torch.channels_last)
                    if self.model.vit_features is not None and self.large[0] != image_key:
                        self.large = (image_key, self.model.vit_features(self.model.pad(image)))
                    restored = restore_in_tiles(self.model, image, *controls, vit_map=self.large[1])
            finally:
                give_back_freed_memory()
            return restored[0].clamp(0, 1).float().cpu()
        key = (*image_key, noise_level)
        with self.lock:
            if key not in self.encoded:
                image = noisy[None].to(self.model.device, memory_format=torch.channels_last)
                self.encoded[key] = self._kept(self.model.encode(image, noise_level))
                if noisy[0].numel() > MEGAPIXEL:
                    give_back_freed_memory()
            self.encoded.move_to_end(key)
            while self._pixels() > 9 * self.cached_pixels / 8:
                self.encoded.popitem(last=False)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bf16):
                restored = self.model.decode(self.encoded[key], loss_weights, high_frequency_emphasis)
        return restored[0].clamp(0, 1).float().cpu()

    def attention(self, noisy: Tensor) -> Tensor:
        """Where the ViT responds most, by EigenCAM: (3, H, W) -> (1, 1, H, W) in [0, 1], on the CPU."""
        return activation_map(self.model, noisy, "eigencam", "vit")[None, None].cpu()

    def _key(self, noisy: Tensor) -> tuple:
        """What tells an image from every other. Of one that comes again with each move, it is known."""
        with self.lock:
            if noisy not in self.keys:
                self.keys[noisy] = (hashlib.sha256(noisy.numpy()).hexdigest(), tuple(noisy.shape))
            return self.keys[noisy]

    def _kept(self, encoded: EncodedImage) -> EncodedImage:
        """The features as they are decoded: turning them into bf16 at every move would take half of its time."""
        if not self.in_bf16:
            return encoded
        skips = [features.bfloat16() for features in encoded.skips]
        return encoded._replace(skips=skips, bottleneck=encoded.bottleneck.bfloat16())

    def _pixels(self) -> int:
        return sum(encoded.size[0] * encoded.size[1] for encoded in self.encoded.values())


class TrainedHere:
    """Networks that runs of this app have left, loaded when they are asked for.

    Args:
        results: the folders of models that finished runs left, by name.
        device: where the networks work.
        kept: networks to keep loaded, those asked for last.
    """

    def __init__(
        self, results: Callable[[], Mapping[str, Path]], device: torch.device | str = "cpu", kept: int = 2
    ) -> None:
        self.results, self.device, self.kept = results, device, kept
        self.loaded: OrderedDict[str, Restorer] = OrderedDict()
        self.lock = threading.Lock()

    def names(self) -> list[str]:
        return list(self.results())

    def restorer(self, name: str) -> Restorer:
        """Raises `ValueError` where there is no such network any more, or none that can be loaded."""
        with self.lock:
            if name not in self.loaded:
                found = self.results().get(name)
                if found is None:
                    raise ValueError(f"The network of the run {name} is gone: choose another one.")
                try:
                    model = ViTUNetForImageDenoising.from_pretrained(found, dtype=torch.float32).eval()
                except (OSError, ValueError) as error:
                    raise ValueError(
                        f"The network of the run {name} cannot be loaded: choose another one. ({error})"
                    ) from error
                model = model.to(self.device, memory_format=torch.channels_last)
                self.loaded[name] = Restorer(model)
            self.loaded.move_to_end(name)
            while len(self.loaded) > self.kept:
                self.loaded.popitem(last=False)
            return self.loaded[name]


class Networks:
    """The network that the app was started with, and those trained here, by name.

    Args:
        restore: the first.
        terms: the loss terms that its sliders weigh; empty for a network whose loss is fixed.
        max_emphasis: end of the emphasis slider.
        trained: the others, if there are any.
        attention: where the first one's ViT looks, if it has one.
    """

    def __init__(
        self,
        restore: Restore,
        terms: Sequence[str],
        max_emphasis: float,
        trained: TrainedHere | None = None,
        attention: Attention | None = None,
    ) -> None:
        self.restore, self.terms, self.max_emphasis = restore, tuple(terms), max_emphasis
        self.trained, self.own_attention = trained, attention

    def in_use(self, name: str) -> tuple[Restore, bool]:
        """The network of this name, and whether the sliders act on it. Raises `ValueError` if it is gone."""
        if name == AS_STARTED or self.trained is None:
            return self.restore, bool(self.terms)
        found = self.trained.restorer(name)
        reaches = found.model.config.max_high_frequency_emphasis >= self.max_emphasis
        return found, bool(self.terms) and found.terms == self.terms and reaches

    def attention(self, name: str) -> Attention | None:
        """Where the ViT of this network looks, or `None` where it has none. Raises `ValueError` if it is gone."""
        if name == AS_STARTED or self.trained is None:
            return self.own_attention
        found = self.trained.restorer(name)
        return found.attention if found.model.config.use_vit else None

    def choices(self, *chosen: str) -> list[tuple[str, str]]:
        """(label, name). Those chosen stay, though their folders be gone."""
        names = dict.fromkeys((AS_STARTED, *chosen, *(self.trained.names() if self.trained else ())))
        return [(name if name == AS_STARTED else f"trained here, {name}", name) for name in names]
