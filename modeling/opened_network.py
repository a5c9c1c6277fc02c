"""A network opened at some layers, for what pytorch-grad-cam calls target layers. See `explain.py`.

Letters in shapes: B images, C channels, H x W pixels, D the ViT's hidden size, h x w the cells of a layer, n tokens per
side of one of the ViT's windows, R x Q windows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vit_features import square_side


class Seen(NamedTuple):
    """What has been seen of one image."""

    noisy: Tensor  # (C, H, W)
    restored: Tensor | None  # (C, H, W), not clipped
    tokens: Tensor | None  # (D, h, w), the ViT's last layer, blended over its windows


class OpenedNetwork(nn.Module):
    """The network with the features (B, C, h, w) of some layers passing through identities, `self.layers` by name.

    It is a twin of the user's model: it shares the weights in storage, but neither gradients nor hooks, so that the
    model stays as it is, and other threads may use it.

    Args:
        model: a `ViTUNetForImageDenoising`.
        names: the layers, of `layer_names(model)`.
        controls: loss weights and emphasis, as `decode` takes them; `None` where nobody looks at what is decoded.
        noise_level: as `encode` takes it.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], controls: tuple | None, noise_level: float | Tensor | None
    ) -> None:
        super().__init__()
        shared = {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in model.parameters()}
        shared |= {id(value): value for value in model.buffers()}
        self.network = copy.deepcopy(model, shared).float().eval()
        # In the order in which the network runs them, which is the library's.
        self.layers = {name: nn.Identity() for name in sorted(set(names), key=_turn)}
        self.strides = {name: _stride(name, model.config) for name in self.layers}  # pixels per cell
        self.scale: Tensor | None = None  # (1, C, 1, 1) where channels of an only layer are to be damped
        self.gradients: dict[str, Tensor] = {}  # of the last run, by layer, their largest 1
        self.tokens: Tensor | None = None
        self.controls, self.noise_level = controls, noise_level
        self.parts = {name.partition(".")[0] for name in self.layers}
        for name in self.layers:
            part, _, index = name.partition(".")
            if part != "vit":
                decoder = self.network.decoder
                blocks = getattr(self.network, part).stages[int(index)] if index else decoder.bottleneck
                blocks[-1].register_forward_hook(
                    lambda block, inputs, features, name=name: self._through(name, features)
                )
        if self.network.vit_features is not None:
            self._open_vit(self.network.vit_features)

    def forward(self, pixel_values: Tensor) -> list[Seen]:
        """(B, C, H, W) in [0, 1] -> one item per image."""
        restored = [None] * len(pixel_values)
        if self.controls is None and self.parts == {"vit"}:  # the U-Net has no part in it
            self.network.vit_features(self.network.pad(pixel_values))
            return [Seen(*image) for image in zip(pixel_values, restored, self._take_tokens(), strict=True)]
        encoded = self.network.encode(pixel_values, self.noise_level)
        if self.controls is not None or self.parts & {"bottleneck", "decoder"}:
            restored = self.network.decode(encoded, *(self.controls or (None, None)))
        tokens = [None] * len(pixel_values) if self.tokens is None else self._take_tokens()
        return [Seen(*image) for image in zip(pixel_values, restored, tokens, strict=True)]

    def _take_tokens(self) -> Tensor:
        # Kept, they would keep their graph, whose hooks know this network: a circle that Python does not see through.
        tokens, self.tokens = self.tokens, None
        return tokens

    def _through(self, name: str, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same, with a gradient from here on; channels are ablated where `scale` is set."""
        if torch.is_grad_enabled():
            if not features.requires_grad:  # no layer before it is looked at
                features = features.detach().requires_grad_()
            features.register_hook(partial(self._keep, name))
        features = self.layers[name](features)
        return features if self.scale is None else features * self.scale

    def _keep(self, name: str, gradient: Tensor) -> None:
        # A map keeps only the gradient's direction (Grad-CAM++ chooses its scale by itself, see `explain.py`), but
        # gradients of a mean over pixels are so small that squares of them, and the library's guard of 1e-7 when it
        # scales a map, would matter.
        self.gradients[name] = gradient / gradient.abs().max().clamp_min(1e-30)

    def _open_vit(self, vit_features: nn.Module) -> None:
        vit_features.frozen = False  # gradients pass through a frozen ViT too
        inner = [int(name.partition(".")[2]) for name in self.layers if name.startswith("vit.")]
        blended = self._inner_layers(vit_features, inner) if inner else vit_features.token_map

        def token_map(pixel_values: Tensor) -> Tensor:
            tokens = blended(pixel_values)
            self.tokens = self._through("vit", tokens) if "vit" in self.layers else tokens
            return self.tokens

        vit_features.token_map = token_map

    def _inner_layers(self, vit_features: nn.Module, indices: list[int]) -> Callable[[Tensor], Tensor]:
        """A `token_map` that lets the blended tokens of inner layers pass, and adds what becomes of them.

        Windows go on with their own tokens, which differ where they overlap: what is added to each is the difference
        between the blended tokens before and after the layer's identity. It is 0, but carries the gradient, and an
        ablation.
        """
        vit, blended = vit_features.vit, vit_features.token_map
        side = vit_features.window_size // vit_features.patch_size
        added: dict[int, Tensor] = {}  # what the next windows get; the ViT sees them in portions

        def add(index: int, tokens: Tensor) -> Tensor | None:
            if index not in added:
                return None
            now, rest = added[index].tensor_split([len(tokens)])
            added[index] = rest
            if not len(rest):
                del added[index]
            return torch.cat([tokens[:, : -side * side], tokens[:, -side * side :] + now], dim=1)

        for index in indices:
            _transformer_layers(vit)[index].register_forward_hook(
                lambda block, inputs, tokens, index=index: add(index, tokens)
            )

        def token_map(pixel_values: Tensor) -> Tensor:
            looked_at = vit_features.layers
            vit_features.vit, vit_features.layers = _Inner(vit, indices), None
            with torch.no_grad():
                inner = blended(pixel_values).chunk(len(indices), dim=1)  # (B, D, h, w) each
            vit_features.vit, vit_features.layers = vit, looked_at
            for index, tokens in zip(indices, inner, strict=True):
                added[index] = _windows(self._through(f"vit.{index}", tokens) - tokens, side)
            return blended(pixel_values)

        return token_map


class _Inner(nn.Module):
    """A ViT whose last hidden state is those of inner layers, one behind the other along its channels."""

    def __init__(self, vit: nn.Module, indices: list[int]) -> None:
        super().__init__()
        self.vit, self.indices = vit, indices

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        states = self.vit(pixel_values, output_hidden_states=True).hidden_states  # the first is the embedding's
        return SimpleNamespace(last_hidden_state=torch.cat([states[index + 1] for index in self.indices], dim=-1))


def _turn(name: str) -> tuple[int, int]:
    """Sorts names of layers by when they run: the contracting path from the finest level, the ViT, the way back."""
    part, _, index = name.partition(".")
    order = ("encoder", "vit", "bottleneck", "decoder").index(part)
    if part == "decoder":
        return order, -int(index)
    return order, int(index) if index else 10**6  # "vit" without a number is its last normalisation


def _stride(name: str, config) -> int:
    part, _, index = name.partition(".")
    if part == "vit":
        return square_side(config.vit_config, "patch_size")
    return config.pixel_unshuffle * 2 ** int(index) if index else config.stride


def _transformer_layers(vit: nn.Module) -> nn.ModuleList:
    count = vit.config.num_hidden_layers
    return next(part for part in vit.modules() if isinstance(part, nn.ModuleList) and len(part) == count)


def _windows(tokens: Tensor, side: int) -> Tensor:
    """(B, D, h, w) on the image's grid -> (B windows, side side, D), in the order of the ViT's windows."""
    step = side // 2
    bottom, right = (side + step * max(0, math.ceil((length - side) / step)) - length for length in tokens.shape[-2:])
    windows = F.pad(tokens, (0, right, 0, bottom)).unfold(2, side, step).unfold(3, side, step)  # (B, D, R, Q, n, n)
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(-1, side * side, tokens.shape[1])
