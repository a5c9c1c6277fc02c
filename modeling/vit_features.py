"""ViT features of an image of any size: fixed, half-overlapping windows at native scale, blended into one map.

A ViT with learned positions knows one image size. Resizing the image to it would hide the texture that a denoiser
needs to see, so the ViT looks through windows of its own `image_size`, laid on a grid that is fixed to the image. Their
tokens are averaged with a smooth window, so that the map has no seams.

Letters in shapes: B images, C channels, H x W pixels, S the window's side in pixels, P the patch's side in pixels,
n = S / P tokens per side of a window, D the ViT's hidden size (times the layers looked at), R x Q windows.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

WINDOWS_AT_ONCE = 256


def symmetric_pad(image: Tensor, height: int, width: int) -> Tensor:
    """Extends (..., H, W) at the bottom and right by its mirror image, edge included, however small the image is.

    The edge comes twice (NumPy's "symmetric"): an image of odd sides then ends in cells of a pixel unshuffle that hold
    its last pixels alone. Without it (PyTorch's "reflect") the network that ships restores the two outermost pixels of
    photographs of 481x321 0.2 dB worse.
    """
    for dim, size in ((-2, height), (-1, width)):
        length = image.shape[dim]
        if size > length:
            image = image.index_select(dim, _mirrored(length, size, image.device))
    return image


def _mirrored(length: int, size: int, device: torch.device) -> Tensor:
    """Positions (size,) among `length` pixels: there and back again."""
    position = torch.arange(size, device=device) % (2 * length)
    return torch.where(position < length, position, 2 * length - 1 - position)


def square_side(config, name: str) -> int:
    """The one side of a ViT's `image_size` or `patch_size`, in pixels."""
    value = getattr(config, name, None)
    sides = {value} if isinstance(value, int) else set(value or ())
    if len(sides) != 1:
        raise ValueError(f"The ViT's {name} is {value}: a ViT-like encoder with square images and patches is needed.")
    return sides.pop()


class ViTFeatures(nn.Module):
    """Runs a transformers ViT over an image and projects its tokens for the U-Net's bottleneck."""

    def __init__(self, config) -> None:
        super().__init__()
        self.vit = _encoder(config.vit_config)
        self.window_size = square_side(config.vit_config, "image_size")
        self.patch_size = square_side(config.vit_config, "patch_size")
        if self.window_size % self.patch_size or self.window_size < 2 * self.patch_size:
            raise ValueError(
                f"Windows of {self.window_size} pixels cannot overlap on a grid of {self.patch_size}-pixel patches: "
                "choose an image_size that is a multiple of patch_size, at least twice."
            )
        self.grid = config.stride
        self.frozen = config.freeze_vit
        self.image_mean, self.image_std = config.vit_image_mean, config.vit_image_std
        self.layers = config.vit_layers
        sizes = [config.vit_config.hidden_size * len(self.layers or [-1]), *config.vit_projection_sizes]
        layers = []
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Conv2d(size_in, size_out, 1), nn.ReLU()]
        self.projection = nn.Sequential(*layers[:-1])  # an MLP on each token
        self.out_channels = sizes[-1]
        self.train(self.training)

    def train(self, mode: bool = True) -> ViTFeatures:
        super().train(mode)
        # Here and not in the constructor alone, because `from_pretrained` puts new parameters in place, and calls this.
        for name, parameter in self.vit.named_parameters():
            if self.frozen or "mask_token" in name:  # masks are for pretraining alone
                parameter.requires_grad_(False)
        if self.frozen:
            self.vit.eval()
        return self

    def tokens(self, windows: Tensor) -> Tensor:
        """(windows, C, S, S) -> what the ViT says of them, of several layers side by side: (windows, 1 + n n, D)."""
        if self.layers is None:
            return self.vit(windows).last_hidden_state
        said = self.vit(windows, output_hidden_states=True)
        of_layers = (*said.hidden_states[:-1], said.last_hidden_state)  # which is normalised
        return torch.cat([of_layers[layer] for layer in self.layers], dim=-1)

    def token_map(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> the blended tokens (B, D, ceil(H / P), ceil(W / P))."""
        size, patch = self.window_size, self.patch_size
        batch, channels, height, width = pixel_values.shape
        side = size // patch
        step = side // 2 * patch  # half a window, on the grid of patches
        rows, columns = (max(1, math.ceil((length - size) / step) + 1) for length in (height, width))
        padded_height, padded_width = size + step * (rows - 1), size + step * (columns - 1)

        mean, std = (
            torch.cat([pixel_values.new_full((1, 1, 1), value) for value in values])
            for values in (self.image_mean, self.image_std)
        )
        blend = torch.sin(math.pi * (torch.arange(side, device=pixel_values.device) + 0.5) / side).square()
        blend = torch.outer(blend, blend).flatten().to(pixel_values)  # (n n,)
        lines, along = (
            _mirrored(*lengths, pixel_values.device) for lengths in ((height, padded_height), (width, padded_width))
        )

        def overlap_add(patches: Tensor, rows: int) -> Tensor:
            grid = (side + side // 2 * (rows - 1), padded_width // patch)
            return F.fold(patches, grid, kernel_size=side, stride=side // 2)

        def weighted(first: int, count: int) -> Tensor:
            """Sums of the tokens of a few rows of windows: (B, D, their height in patches, padded width / P)."""
            seen = lines[first * step : first * step + size + step * (count - 1)]
            image = (pixel_values.index_select(2, seen).index_select(3, along) - mean) / std
            windows = image.unfold(2, size, step).unfold(3, size, step)  # (B, C, count, Q, S, S)
            windows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size, size)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                tokens = self.tokens(windows)  # (B count Q, 1 + n n, D)
            tokens = tokens[:, -side * side :].transpose(1, 2)  # class and distillation tokens come first
            tokens = (tokens * blend).reshape(batch, count * columns, -1).transpose(1, 2)
            return overlap_add(tokens, count)

        # A few rows of windows after the other, so that a large photograph does not need memory for all at once.
        at_once = max(1, WINDOWS_AT_ONCE // (batch * columns))
        blended = weighted(0, min(at_once, rows))
        blended = F.pad(blended, (0, 0, 0, padded_height // patch - blended.shape[2]))
        for first in range(at_once, rows, at_once):
            more = weighted(first, min(at_once, rows - first))
            top = first * step // patch
            blended[:, :, top : top + more.shape[2]] += more
        blended = blended / overlap_add(blend.repeat(rows * columns, 1).t()[None], rows)
        return blended[..., : math.ceil(height / patch), : math.ceil(width / patch)]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W), H and W multiples of the stride -> (B, projected channels, H / stride, W / stride)."""
        tokens = self.token_map(pixel_values.to(self.projection[0].weight.dtype))
        height, width = (side // self.grid for side in pixel_values.shape[-2:])
        if self.patch_size != self.grid:
            # The scale is given, not the size, so that a cell's sampling points do not depend on the image's size.
            scale = self.patch_size / self.grid
            tokens = F.interpolate(tokens, scale_factor=scale, mode="bilinear", align_corners=False)
        return self.projection(tokens[..., :height, :width])


def _encoder(config) -> nn.Module:
    """The bare encoder. `add_pooling_layer` spares weights that nothing uses; not every ViT-like model has it."""
    dtype = torch.get_default_dtype()  # that of the whole network, which `from_pretrained` sets; not the config's own
    try:
        return AutoModel.from_config(config, add_pooling_layer=False, dtype=dtype)
    except TypeError:
        return AutoModel.from_config(config, dtype=dtype)
