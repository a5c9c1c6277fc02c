"""Image processor: PIL images, arrays, tensors or files -> float RGB tensors in [0, 1], and back.

Nothing is resized and nothing normalised: the network takes any size, pads by itself and normalises for its ViT by
itself. Alpha is left aside, since transparency carries no noise.

Letters in shapes: C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import ImageInput
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType

# Largest value of the integer types that hold images. PIL reads 16-bit gray as int32 ("I") or uint16 ("I;16").
_MAXIMUM = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.int32: 65535.0}


class ViTUNetImageProcessorKwargs(ImagesKwargs, total=False):
    """The processor has no settings of its own."""


class ViTUNetImageProcessor(TorchvisionBackend):
    """Constructs float RGB tensors in [0, 1] from images of 8 or 16 bits: gray, RGB, palette, with or without alpha."""

    valid_kwargs = ViTUNetImageProcessorKwargs
    model_input_names = ["pixel_values"]

    def process_image(self, image: ImageInput, *args, **kwargs) -> Tensor:
        """One image -> (3, H, W) float32 in [0, 1]."""
        if hasattr(image, "mode") and hasattr(image, "convert"):  # PIL
            image = _direct_mode(image)
        else:
            check_says_its_maximum(image)
        kwargs["do_convert_rgb"] = False  # it would lay transparent images on white
        return to_rgb(super().process_image(image, *args, **kwargs))

    def _preprocess(
        self, images: list[Tensor], return_tensors: str | TensorType | None = None, **kwargs
    ) -> BatchFeature:
        """Images of one size become one tensor (B, 3, H, W); images of several sizes stay a list."""
        if len({image.shape for image in images}) == 1:
            return BatchFeature({"pixel_values": torch.stack(images)}, tensor_type=return_tensors)
        return BatchFeature({"pixel_values": images})

    def post_process(self, reconstruction: Tensor) -> list:
        """(B, 3, H, W) restored images, as the model returns them -> a list of 8-bit RGB PIL images."""
        pixels = (reconstruction.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
        return [to_pil_image(image.cpu(), do_rescale=False) for image in pixels]


def check_says_its_maximum(image: ImageInput) -> None:
    """Raises `ValueError` for 32-bit integers: of a PIL image they hold 16 bits, of an array nobody knows."""
    if str(getattr(image, "dtype", "")).removeprefix("torch.") == "int32":
        raise ValueError(
            "32-bit integers do not say what is white: give the image as uint8, uint16 or float in [0, 1]."
        )


def to_rgb(image: Tensor) -> Tensor:
    """(C, H, W), C = 1 (gray), 2 (gray, alpha), 3 or 4 (RGB, alpha), of any type -> (3, H, W) float32 in [0, 1]."""
    channels = image.shape[0]
    if channels not in (1, 2, 3, 4) or 0 in image.shape:
        raise ValueError(f"An image must have 1 to 4 channels and at least one pixel, got shape {tuple(image.shape)}.")
    if image.is_floating_point():
        image = image.float()
        if not bool(((image >= -1.0) & (image <= 2.0)).all()):  # noise may leave [0, 1], but not by this much
            raise ValueError("A float image must lie in [0, 1]: divide by its maximum, and replace NaN.")
    elif image.dtype in _MAXIMUM:
        if image.dtype == torch.int32 and not bool(((image >= 0) & (image <= 65535)).all()):
            raise ValueError("An image of 32-bit integers must lie in [0, 65535]: scale it to 16 bits.")
        image = image.float() / _MAXIMUM[image.dtype]
    else:
        raise ValueError(f"An image of {image.dtype} is not understood: give 8-bit, 16-bit or float values.")
    colour = image[: 1 if channels < 3 else 3]
    return colour.expand(3, -1, -1).contiguous()


def _direct_mode(image):
    """A PIL image whose array holds gray or RGB values: palettes and other colour spaces are converted."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I", "I;16", "F"):
        return image
    if image.mode in ("I;16B", "I;16L"):
        return image.convert("I")
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")


__all__ = ["ViTUNetImageProcessor"]
