"""A network opened at one layer, for what pytorch-grad-cam calls a target layer. See `explain.py`.

Letters in shapes: B images, C channels, H x W pixels, D the ViT's hidden size, h x w the cells of a layer, n tokens per
side of one of the ViT's windows, R x Q windows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vit_features import reflect_pad, square_side


class Seen(NamedTuple):
    """What has been seen of one image."""

    noisy: Tensor  # (C, H, W)
    restored: Tensor | None  # (C, H, W), not clipped
    tokens: Tensor | None  # (D, h, w), the ViT's last layer, blended over its windows


class OpenedNetwork(nn.Module):
    """The network with one layer's features (B, C, h, w) passing through `self.layer`, an identity.

    It is a twin of the user's model: it shares the weights in storage, but neither gradients nor hooks, so that the
    model stays as it is, and other threads may use it.

    Args:
        model: a `ViTUNetForImageDenoising`.
        name: the layer, one of `layer_names(model)`.
        controls: loss weights and emphasis, as `decode` takes them; `None` where nobody looks at what is decoded.
        noise_level: as `encode` takes it.
    """

    def __init__(self, model: nn.Module, name: str, controls: tuple | None, noise_level: float | Tensor | None) -> None:
        super().__init__()
        shared = {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in model.parameters()}
        shared |= {id(value): value for value in model.buffers()}
        self.network = copy.deepcopy(model, shared).float().eval()
        self.layer = nn.Identity()
        self.scale: Tensor | None = None  # (1, C, 1, 1) where channels are to be damped
        self.tokens: Tensor | None = None
        self.controls, self.noise_level = controls, noise_level
        self.part, _, index = name.partition(".")
        config = model.config
        if self.part == "vit":
            self.stride = square_side(config.vit_config, "patch_size")  # pixels per cell
        else:
            self.stride = config.stride if not index else config.pixel_unshuffle * 2 ** int(index)
            decoder = self.network.decoder
            blocks = getattr(self.network, self.part).stages[int(index)] if index else decoder.bottleneck
            blocks[-1].register_forward_hook(lambda block, inputs, features: self._through(features))
        if self.network.vit_features is not None:
            self._open_vit(self.network.vit_features, index)

    def forward(self, pixel_values: Tensor) -> list[Seen]:
        """(B, C, H, W) in [0, 1] -> one item per image."""
        restored = [None] * len(pixel_values)
        if self.controls is None and self.part == "vit":  # the U-Net has no part in it
            height, width = pixel_values.shape[-2:]
            stride = self.network.config.stride
            self.network.vit_features(reflect_pad(pixel_values, height + -height % stride, width + -width % stride))
            return [Seen(*image) for image in zip(pixel_values, restored, self.tokens, strict=True)]
        encoded = self.network.encode(pixel_values, self.noise_level)
        if self.controls is not None or self.part in ("bottleneck", "decoder"):
            restored = self.network.decode(encoded, *(self.controls or (None, None)))
        tokens = [None] * len(pixel_values) if self.tokens is None else self.tokens
        return [Seen(*image) for image in zip(pixel_values, restored, tokens, strict=True)]

    def _through(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same, now the beginning of the graph; channels are ablated where `scale` is set."""
        features = features.detach()
        if torch.is_grad_enabled():
            features.requires_grad_()
            # A map keeps only the gradient's direction (Grad-CAM++ chooses its scale by itself, see `explain.py`), but
            # gradients of a mean over pixels are so small that squares of them, and the library's guard of 1e-7 when
            # it scales a map, would matter.
            features.register_hook(lambda gradient: gradient / gradient.abs().max().clamp_min(1e-30))
        features = self.layer(features)
        return features if self.scale is None else features * self.scale

    def _open_vit(self, vit_features: nn.Module, index: str) -> None:
        vit_features.frozen = False  # gradients pass through a frozen ViT too
        blended, is_asked_for = vit_features.token_map, self.part == "vit" and not index
        if self.part == "vit" and index:
            blended = self._inner_layer(vit_features, int(index))

        def token_map(pixel_values: Tensor) -> Tensor:
            tokens = blended(pixel_values)
            self.tokens = self._through(tokens) if is_asked_for else tokens
            return self.tokens

        vit_features.token_map = token_map

    def _inner_layer(self, vit_features: nn.Module, index: int) -> Callable[[Tensor], Tensor]:
        """A `token_map` that lets the blended tokens of an inner layer pass, and adds what becomes of them.

        Windows go on with their own tokens, which differ where they overlap: what is added to each is the difference
        between the blended tokens before and after `self.layer`. It is 0, but carries the gradient, and an ablation.
        """
        vit, blended = vit_features.vit, vit_features.token_map
        side = vit_features.window_size // vit_features.patch_size
        added: list[Tensor] = []  # what the next windows get; the ViT sees them in portions

        def add(block: nn.Module, inputs: tuple, tokens: Tensor) -> Tensor | None:
            if not added:
                return None
            now, rest = added[0].tensor_split([len(tokens)])
            added[:] = [rest] if len(rest) else []
            return torch.cat([tokens[:, : -side * side], tokens[:, -side * side :] + now], dim=1)

        _transformer_layers(vit)[index].register_forward_hook(add)

        def token_map(pixel_values: Tensor) -> Tensor:
            vit_features.vit = _Inner(vit, index)
            with torch.no_grad():
                inner = blended(pixel_values)  # (B, D, h, w)
            vit_features.vit = vit
            added[:] = [_windows(self._through(inner) - inner, side)]
            return blended(pixel_values)

        return token_map


class _Inner(nn.Module):
    """A ViT whose last hidden state is that of an inner layer."""

    def __init__(self, vit: nn.Module, index: int) -> None:
        super().__init__()
        self.vit, self.index = vit, index

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        states = self.vit(pixel_values, output_hidden_states=True).hidden_states  # the first is the embedding's
        return SimpleNamespace(last_hidden_state=states[self.index + 1])


def _transformer_layers(vit: nn.Module) -> nn.ModuleList:
    count = vit.config.num_hidden_layers
    return next(part for part in vit.modules() if isinstance(part, nn.ModuleList) and len(part) == count)


def _windows(tokens: Tensor, side: int) -> Tensor:
    """(B, D, h, w) on the image's grid -> (B windows, side side, D), in the order of the ViT's windows."""
    step = side // 2
    bottom, right = (side + step * max(0, math.ceil((length - side) / step)) - length for length in tokens.shape[-2:])
    windows = F.pad(tokens, (0, right, 0, bottom)).unfold(2, side, step).unfold(3, side, step)  # (B, D, R, Q, n, n)
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(-1, side * side, tokens.shape[1])
