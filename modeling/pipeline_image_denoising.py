"""The transformers pipeline "image-denoising": an image in, the same image out without its noise.

    from transformers import pipeline

    denoise = pipeline("image-denoising", model="checkpoints/vit-unet-denoiser", trust_remote_code=True)
    denoise("photo.jpg", preset="wavelet").save("restored.jpg")

Letters in shapes: B images, C channels, H x W pixels, h x w a map of a control.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Pipeline

from .image_files import open_image
from .image_processing_vit_unet import to_rgb
from .losses import PRESETS
from .self_ensemble import self_ensemble as mean_of_symmetries
from .tiling import TILE_SIZE, in_tiles
from .unet import on_finest_grid

Control = float | Tensor | np.ndarray | Image.Image


class ImageDenoisingPipeline(Pipeline):
    """Restores images of any size and mode; each comes back as what it was.

    Called with an image or a list of them: a file's path, a PIL image, or an array or tensor as
    [`~image_files.open_image`] takes them. Each result is a PIL image of the same size, mode, depth, alpha, profile and
    EXIF, with its pixels lying as they lay. Palettes become RGB and one bit eight; colours of 16 bits, which PIL cannot
    hold, come back as a `uint16` array (H, W, 2, 3 or 4): read such files by their path, since PIL cuts them to 8 bits.
    PIL's `save` drops EXIF unless it is told: `image_files.save_image` keeps it.

    On a processor with bf16 instructions, or a GPU, `pipeline(..., dtype=torch.bfloat16)` takes half of the time, for
    0.01 dB: half precision is for features, and pictures keep their own.

    Args, here or in a call:
        loss_weights: term -> weight, a number or a map (h, w) of any size, laid over the upright image: an array, a
            tensor, or a PIL mask (black is 0, white is 1). Weights are normalised to sum 1 in each place. In a call
            they replace the constructor's setting, its emphasis included.
        preset: name of a setting of loss weights and emphasis, instead of `loss_weights`.
        high_frequency_emphasis: g, a number or a map. Default: the preset's, or the model's.
        noise_level: standard deviation of the noise in units of the [0, 1] range, a number or a map. Default: unknown.
        self_ensemble: `True` takes the mean over eight turned and mirrored copies, in eight times the time: a little
            more fidelity, a little less sharpness.
        tile_size: images of more than `tile_size`^2 pixels are restored in tiles of that side, with the same result.
        return_tensors: `True` returns the restored image (3, H, W) instead, upright, float, not clipped.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.to(memory_format=torch.channels_last)  # a third less time on CPUs, and more in half precision

    def _sanitize_parameters(
        self,
        loss_weights: Mapping[str, Control] | None = None,
        preset: str | None = None,
        high_frequency_emphasis: Control | None = None,
        noise_level: Control | None = None,
        self_ensemble: bool | None = None,
        tile_size: int | None = None,
        return_tensors: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        forward: dict[str, Any] = {}
        if preset is not None:
            if loss_weights is not None:
                raise ValueError(f"preset={preset!r} sets the loss weights: give it or loss_weights.")
            if preset not in PRESETS:
                raise ValueError(f"preset={preset!r} is unknown: choose from {list(PRESETS)}.")
            forward["loss_weights"] = dict(PRESETS[preset].loss_weights)
            forward["high_frequency_emphasis"] = PRESETS[preset].high_frequency_emphasis
        if loss_weights is not None:
            forward["loss_weights"] = {name: as_control(value, name) for name, value in loss_weights.items()}
            forward["high_frequency_emphasis"] = None  # the model's default, and not that of a preset given before
        if high_frequency_emphasis is not None:
            forward["high_frequency_emphasis"] = as_control(high_frequency_emphasis, "high_frequency_emphasis")
        if noise_level is not None:
            level = torch.as_tensor(as_control(noise_level, "noise_level"))
            if not bool(((level >= 0) & (level <= 1)).all()):  # and not NaN, which tiles could not share
                raise ValueError(f"noise_level={noise_level} must lie in [0, 1]: divide levels of 255 by 255.")
            forward["noise_level"] = level
        if self_ensemble is not None:
            forward["self_ensemble"] = self_ensemble
        if tile_size is not None:
            if tile_size < 1:
                raise ValueError(f"tile_size={tile_size} must be at least 1 pixel.")
            forward["tile_size"] = tile_size
        return {}, forward, {} if return_tensors is None else {"return_tensors": return_tensors}

    def preprocess(self, image: str | Path | Image.Image | np.ndarray | Tensor) -> dict[str, Any]:
        samples, original = open_image(image)
        processed = self.image_processor(to_rgb(samples), input_data_format="channels_first", return_tensors="pt")
        return {"pixel_values": processed["pixel_values"], "original": original}

    def _forward(
        self,
        model_inputs: dict[str, Any],
        loss_weights: Mapping[str, float | Tensor] | None = None,
        high_frequency_emphasis: float | Tensor | None = None,
        noise_level: Tensor | None = None,
        self_ensemble: bool = False,
        tile_size: int = TILE_SIZE,
    ) -> dict[str, Any]:
        if self.model.config.one_loss and (loss_weights is not None or high_frequency_emphasis is not None):
            raise ValueError(
                "This network was trained for its default loss alone, and knows no other: leave out loss_weights, "
                "preset and high_frequency_emphasis."
            )
        pixel_values = model_inputs["pixel_values"]
        controls = {
            "loss_weights": loss_weights,
            "high_frequency_emphasis": high_frequency_emphasis,
            "noise_level": noise_level,
        }

        def restore(pixel_values: Tensor, **controls: Any) -> Tensor:
            if pixel_values.shape[-2] * pixel_values.shape[-1] > tile_size**2:
                return restore_in_tiles(self.model, pixel_values, **controls, tile_size=tile_size)
            return self.model(pixel_values, **controls).reconstruction

        restored = (
            mean_of_symmetries(restore, pixel_values, **controls)
            if self_ensemble
            else restore(pixel_values, **controls)
        )
        return {"restored": restored, "original": model_inputs["original"]}

    def postprocess(self, model_outputs: dict[str, Any], return_tensors: bool = False) -> Any:
        restored = model_outputs["restored"][0]
        return restored.float() if return_tensors else model_outputs["original"].like(restored)


def as_control(value: Control, name: str) -> float | Tensor:
    """A number, or a map (h, w) as an array, a tensor or a PIL mask -> a number or (1, 1, h, w).

    Raises `ValueError` for any other shape, and for integers, which do not say what is 1.
    """
    if isinstance(value, int | float):
        return value
    if isinstance(value, Image.Image):
        value = to_rgb(open_image(value)[0]).mean(0)
    control = torch.as_tensor(value).detach()
    if control.ndim == 0:
        return control.item()
    if control.ndim != 2 or 0 in control.shape:
        raise ValueError(f"{name} must be a number or a map (height, width), got shape {tuple(control.shape)}.")
    if not control.is_floating_point() and control.dtype != torch.bool:
        raise ValueError(f"{name} is a map of {control.dtype}, which do not say what is 1: give floats or booleans.")
    return control.float()[None, None]


@torch.no_grad()
def restore_in_tiles(
    model,
    pixel_values: Tensor,
    loss_weights: Mapping[str, float | Tensor] | None = None,
    high_frequency_emphasis: float | Tensor | None = None,
    noise_level: float | Tensor | None = None,
    tile_size: int = TILE_SIZE,
    vit_map: Tensor | None = None,
) -> Tensor:
    """The model's reconstruction of a large image, to rounding, without the memory for all of its features at once.

    The ViT's features and the controls come first, for the whole image, since they do not know of tiles. Then the U-Net
    restores it in tiles, each with a margin of its receptive field.

    Args:
        model: a [`ViTUNetForImageDenoising`].
        pixel_values: (B, C, H, W), float in [0, 1].
        loss_weights, high_frequency_emphasis, noise_level: as in the model's `forward`; maps of the noise level must
            not hold NaN.
        tile_size: largest side of a tile in pixels, without its margin of half the receptive field, which is restored
            twice: the smaller the tiles, the more of the work.
        vit_map: the model's `vit_features` of its `pad`ded image, where they are known.

    Returns (B, C, H, W), not clipped.
    """
    padded = model.pad(pixel_values)
    size, padded_size = tuple(pixel_values.shape[-2:]), tuple(padded.shape[-2:])
    stride, unshuffle = model.config.stride, model.config.pixel_unshuffle
    controls = model.control_input(padded, size, loss_weights, high_frequency_emphasis)
    if vit_map is None and model.vit_features is not None:
        vit_map = model.vit_features(padded)
    if isinstance(noise_level, Tensor) and noise_level.ndim == 4:
        noise_level = on_finest_grid(noise_level, size, padded_size, unshuffle)

    def restore(rows: slice, columns: slice) -> Tensor:
        def cut(values: Any, cell: int) -> Any:
            """The tile's part of what has the image's extent; the rest holds everywhere."""
            if not isinstance(values, Tensor) or tuple(cell * side for side in values.shape[-2:]) != padded_size:
                return values
            return values[..., *(slice(part.start // cell, part.stop // cell) for part in (rows, columns))]

        encoded = model.encode(padded[..., rows, columns], cut(noise_level, unshuffle), cut(vit_map, stride))
        return model.expand(encoded, cut(controls, unshuffle))

    restored = in_tiles(restore, padded_size, tile_size, model.receptive_field // 2, stride)
    return restored[..., : size[0], : size[1]]
