"""ViT + U-Net denoiser whose training loss is an input.

A U-Net restores pixels; a Vision Transformer tells it what it is looking at. Trained over a whole range of loss weights
and of high-frequency emphasis (loss-conditional training, Dosovitskiy & Djolonga 2020), the network takes them as
inputs: `encode` looks at the image and knows nothing of them, `decode` restores it for one setting of the controls.

Letters in shapes: B images, C channels, H x W pixels, K conditioned loss terms, E the embedding of the controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageSuperResolutionOutput

from .configuration_vit_unet import ViTUNetConfig
from .loss_weights import balanced_weights, holds, on_one_grid, per_image_map, stack_loss_weights
from .losses import TRAINABLE_TERMS, WeightedCriterion
from .unet import UNetDecoder, UNetEncoder, finest_grid, no_finer, on_finest_grid, receptive_field
from .vit_features import ViTFeatures, symmetric_pad


@dataclass
class ImageDenoisingOutput(ImageSuperResolutionOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given): the balanced, weighted
            loss, averaged over the batch.
        reconstruction (`torch.FloatTensor` of shape `(B, C, H, W)`): the restored image, not clipped.
        loss_terms (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` is given): the raw terms by name,
            averaged over the batch, without weights.
    """

    loss_terms: dict[str, Tensor] | None = None


class EncodedImage(NamedTuple):
    """What `encode` knows of an image, and all that `decode` needs."""

    padded: Tensor  # (B, C, H', W'), the images extended to the stride, in the precision in which they came
    skips: list[Tensor]  # per level, finest first: (B, hidden_sizes[level], H' / s, W' / s)
    bottleneck: Tensor  # (B, C_bottleneck, H' / stride, W' / stride), the ViT's features joined
    size: tuple[int, int]  # H, W before padding


class ViTUNetForImageDenoising(PreTrainedModel):
    """The denoiser. See [`ViTUNetConfig`] for its settings."""

    config: ViTUNetConfig
    config_class = ViTUNetConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    supports_gradient_checkpointing = True  # of the ViT's layers
    _no_split_modules = ["ConvBlock"]

    def __init__(self, config: ViTUNetConfig) -> None:
        super().__init__(config)
        self.vit_features = ViTFeatures(config) if config.use_vit else None
        self.encoder = UNetEncoder(config)
        channels = self.encoder.out_channels
        if config.use_vit and config.vit_join == "concat":
            channels += self.vit_features.out_channels
        elif config.use_vit and self.vit_features.out_channels != channels:
            raise ValueError(
                f"vit_join='add' needs as many projected channels ({self.vit_features.out_channels}, the last of "
                f"vit_projection_sizes) as the bottleneck has ({channels})."
            )
        controls = len(config.conditioned_terms) + 1  # the weights and the emphasis
        self.condition = (
            nn.Sequential(
                nn.Conv2d(controls, config.condition_size, 1),
                nn.ReLU(),
                nn.Conv2d(config.condition_size, config.condition_size, 1),
                nn.ReLU(),
            )
            if config.conditioned_terms
            else None
        )
        self.decoder = UNetDecoder(config, channels)
        self.criterion = WeightedCriterion(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # `init_gain` marks layers that start small or at zero. It is an attribute of the layer itself, because
            # transformers skips modules that hold no parameter of their own.
            fan_in = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight.shape[0]
            init.normal_(module.weight, std=getattr(module, "init_gain", 1.0) * (2.0 / fan_in) ** 0.5)
            if module.bias is not None:
                init.zeros_(module.bias)

    @classmethod
    def from_backbone_pretrained(
        cls, name_or_path: str, config: ViTUNetConfig | None = None, **overrides
    ) -> ViTUNetForImageDenoising:
        """A fresh denoiser around a pretrained ViT-like encoder of transformers (ViT, DeiT, DINOv2, ...).

        Args:
            name_or_path: Hub id or local folder of the encoder. Its preprocessor's mean and std are taken over where it
                has them.
            config: settings of the denoiser; its `vit_config` is replaced. Default: [`ViTUNetConfig`]'s.
            overrides: fields of the config to change.

        Raises `ValueError` for a config without a ViT.
        """
        settings = (config or ViTUNetConfig()).to_dict()
        settings.pop("model_type", None)
        settings |= _image_normalisation(name_or_path) | overrides
        if not settings["use_vit"]:
            raise ValueError("use_vit=False leaves no place for a backbone: set it to True.")
        settings["vit_config"] = AutoConfig.from_pretrained(name_or_path)
        model = cls(ViTUNetConfig(**settings))
        try:
            vit = AutoModel.from_pretrained(name_or_path, add_pooling_layer=False, dtype=torch.float32)
        except TypeError:  # not every ViT-like model has a pooler to leave out
            vit = AutoModel.from_pretrained(name_or_path, dtype=torch.float32)
        model.vit_features.vit = vit
        return model.eval()  # as from_pretrained does

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square that influences an output pixel through the U-Net, given the ViT's features."""
        return receptive_field(self.config)

    def encode(
        self, pixel_values: Tensor, noise_level: float | Tensor | None = None, vit_map: Tensor | None = None
    ) -> EncodedImage:
        """Runs the ViT and the contracting path.

        Args:
            pixel_values: (B, C, H, W), float in [0, 1], any size.
            noise_level: standard deviation of the noise in units of the [0, 1] range: a number, (B,) or a map
                (B, 1, h, w). NaN, or no level at all, means unknown.
            vit_map: `vit_features` of the padded image, where they are known.
        """
        padded = self.pad(pixel_values)
        size = tuple(pixel_values.shape[-2:])
        noise = self._noise_input(noise_level, pixel_values)
        if noise is not None:
            noise = on_finest_grid(noise, size, padded.shape[-2:], self.config.pixel_unshuffle)
        # Half precision is for features: what the noise is taken from keeps its own.
        skips, features = self.encoder(padded.to(self.dtype), noise)
        if self.vit_features is not None:
            tokens = self.vit_features(padded) if vit_map is None else vit_map
            features = torch.cat([features, tokens], 1) if self.config.vit_join == "concat" else features + tokens
        return EncodedImage(padded, skips, features, size)

    def decode(
        self,
        encoded: EncodedImage,
        loss_weights: Mapping[str, float | Tensor] | None = None,
        high_frequency_emphasis: float | Tensor | None = None,
    ) -> Tensor:
        """Runs the bottleneck and the expanding path for one setting of the controls -> (B, C, H, W), not clipped.

        Args:
            encoded: what `encode` returned.
            loss_weights: term name -> number, (B,) or map (B, 1, h, w). Absent terms weigh 0; weights are normalised to
                sum 1. Default: the config's. In a "log" balance the network was trained for, and receives, what
                [`balanced_weights`] makes of them: the pixel term keeps a share however high another one goes.
            high_frequency_emphasis: g >= 0, in the same forms. Default: the config's.
        """
        controls = self.control_input(encoded.padded, encoded.size, loss_weights, high_frequency_emphasis)
        return self.expand(encoded, controls)

    def expand(self, encoded: EncodedImage, controls: Tensor | None) -> Tensor:
        """`decode`, for controls that [`control_input`] has prepared -> (B, C, H, W)."""
        conditions = self._conditions(controls)
        output = self.decoder(encoded.skips, encoded.bottleneck, conditions)
        if self.config.residual:
            output = encoded.padded - output
        height, width = encoded.size
        return output[..., :height, :width]

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        loss_weights: Mapping[str, float | Tensor] | None = None,
        high_frequency_emphasis: float | Tensor | None = None,
        noise_level: float | Tensor | None = None,
        target_sharpness_scores: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageDenoisingOutput:
        """Restores `pixel_values`, and compares the result with the clean images `labels` where they are given.

        Args:
            pixel_values: noisy images (B, C, H, W), float in [0, 1], any size.
            labels: clean images (B, C, H, W).
            loss_weights, high_frequency_emphasis: the controls, see [`decode`]. With labels they weigh the loss too.
            noise_level: see [`encode`].
            target_sharpness_scores: the labels' sorted window scores (B, windows), where a cache holds them.
            return_dict: `False` returns a tuple.
        """
        controls = (loss_weights, high_frequency_emphasis)
        if labels is not None and self.condition is None:
            controls = (None, None)  # they weigh the loss of a network that does not take them as inputs
        reconstruction = self.decode(self.encode(pixel_values, noise_level), *controls)

        loss, loss_terms = None, None
        if labels is not None:
            loss, loss_terms = self.weighted_loss(
                reconstruction, labels, loss_weights, high_frequency_emphasis, target_sharpness_scores
            )
        output = ImageDenoisingOutput(loss=loss, reconstruction=reconstruction, loss_terms=loss_terms)
        return output.to_tuple() if return_dict is False else output

    def weighted_loss(
        self,
        reconstruction: Tensor,
        labels: Tensor,
        loss_weights: Mapping[str, float | Tensor] | None = None,
        high_frequency_emphasis: float | Tensor | None = None,
        target_sharpness_scores: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the balanced, weighted loss and the raw terms by name, all averaged over the batch. See [`forward`]."""
        if labels.shape != reconstruction.shape:
            raise ValueError(f"labels {tuple(labels.shape)} must have the images' shape {tuple(reconstruction.shape)}.")
        weights, emphasis = self._weights_and_emphasis(
            loss_weights, high_frequency_emphasis, TRAINABLE_TERMS, len(labels), labels.device
        )
        by_name = dict(zip(TRAINABLE_TERMS, weights.mean((-2, -1)).unbind(1), strict=True))
        known = {}
        if target_sharpness_scores is not None:
            known["regional_sharpness"] = {"target_scores": target_sharpness_scores}
        if weights.shape[-2:] == (1, 1):
            terms = seen = self.criterion.terms(reconstruction, labels, emphasis.flatten(), known=known)
        else:
            seen = self.criterion.mapped_terms(reconstruction, labels, weights, emphasis, known=known)
            with torch.no_grad():  # what is reported does not depend on where the terms weigh
                terms = self.criterion.terms(reconstruction, labels, emphasis.mean((1, 2, 3)), known=known)
        loss = self.criterion.combine(seen, by_name).mean()
        return loss, {name: value.detach().mean() for name, value in terms.items()}

    def pad(self, pixel_values: Tensor) -> Tensor:
        """Images (B, C, H, W) extended to the stride: (B, C, H', W'). Raises `ValueError` for anything else."""
        self._check_image(pixel_values)
        return symmetric_pad(pixel_values, *(side + -side % self.config.stride for side in pixel_values.shape[-2:]))

    def control_input(
        self, padded: Tensor, size: tuple[int, int], loss_weights=None, high_frequency_emphasis=None
    ) -> Tensor | None:
        """(B, K + 1, h, w): what the loss weighs, and the emphasis over its maximum; on the finest grid.

        `padded` are the images (B, C, H', W') as [`pad`] extends them from `size`; the rest is as in [`decode`]. Maps
        that are finer come to that grid first. An unconditioned network has no such input.
        """
        if self.condition is None:
            if loss_weights is None and high_frequency_emphasis is None:
                return None
            raise ValueError(
                "This network was built without conditioned_terms: its loss is fixed. Leave out loss_weights and "
                "high_frequency_emphasis, or load a conditioned network."
            )

        unshuffle = self.config.pixel_unshuffle
        grid = finest_grid(size, unshuffle)
        if loss_weights is not None:
            loss_weights = {name: _averaged(weight, grid) for name, weight in loss_weights.items()}
        emphasis, names = _averaged(high_frequency_emphasis, grid), tuple(self.config.conditioned_terms)
        weights, emphasis = self._weights_and_emphasis(loss_weights, emphasis, names, len(padded), padded.device)
        emphasis = emphasis / (self.config.max_high_frequency_emphasis or 1.0)
        parts = [on_finest_grid(part, size, padded.shape[-2:], unshuffle) for part in (weights, emphasis)]
        return torch.cat(parts, dim=1).to(self.dtype)

    def _conditions(self, controls: Tensor | None) -> list[Tensor | None]:
        """The controls' embedding (B, E, h, w) on the grid of each level, finest first."""
        levels = len(self.config.hidden_sizes)
        if controls is None:
            return [None] * levels
        if controls.shape[-2:] == (1, 1):
            return [self.condition(controls)] * levels
        pyramid = [controls]
        for _ in range(levels - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        return [self.condition(level) for level in pyramid]

    def _weights_and_emphasis(
        self, loss_weights, high_frequency_emphasis, names: tuple[str, ...], batch_size: int, device
    ) -> tuple[Tensor, Tensor]:
        """-> what the loss weighs (B, K, h, w), which sums to 1 over K, and the emphasis (B, 1, h, w)."""
        loss_weights = self.config.loss_weights if loss_weights is None else loss_weights
        if high_frequency_emphasis is None:
            high_frequency_emphasis = self.config.high_frequency_emphasis
        loss_weights = {name: _without_extent(weight) for name, weight in loss_weights.items()}
        weights = stack_loss_weights(loss_weights, names, batch_size)
        emphasis = torch.as_tensor(_without_extent(high_frequency_emphasis), dtype=torch.float32)
        emphasis = per_image_map(emphasis, batch_size, "high-frequency emphasis")
        maximum = self.config.max_high_frequency_emphasis
        if not holds((emphasis >= 0) & (emphasis <= maximum)):
            raise ValueError(f"high_frequency_emphasis must lie in [0, {maximum}], got {high_frequency_emphasis}.")
        weights, emphasis = on_one_grid(weights, emphasis.to(weights.device))
        if self.config.loss_balance == "log":
            weights = balanced_weights(weights, emphasis, names, self.config)
        return weights.to(device, non_blocking=True), emphasis.to(device, non_blocking=True)

    def _noise_input(self, noise_level: float | Tensor | None, pixel_values: Tensor) -> Tensor | None:
        """(B, 2, h, w): the level and 0, or 0 and 1 where it is unknown."""
        if not self.config.noise_conditioned:
            if noise_level is not None:
                raise ValueError("This network was built with noise_conditioned=False: it takes no noise_level.")
            return None
        level = float("nan") if noise_level is None else _without_extent(noise_level)
        level = per_image_map(torch.as_tensor(level, dtype=torch.float32), len(pixel_values), "noise_level")
        if not holds(level.isnan() | (level >= 0) & (level <= 1)):
            raise ValueError(f"noise_level={noise_level} must lie in [0, 1]: divide levels of 255 by 255.")
        unknown = level.isnan()
        known = torch.cat([level.nan_to_num(0.0), unknown.to(level.dtype)], dim=1)
        return known.to(pixel_values.device, self.dtype, non_blocking=True)

    def _check_image(self, pixel_values: Tensor) -> None:
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or 0 in pixel_values.shape:
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, height, width), got {tuple(pixel_values.shape)}."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be floats in [0, 1], got {pixel_values.dtype}: divide by the maximum.")


def _without_extent(control: float | Tensor) -> float | Tensor:
    """A map that is the same all over, without its extent: it must give the vector's picture to the last bit."""
    if isinstance(control, Tensor) and control.ndim == 4 and control[0, 0].numel() > 1:
        return control[..., :1, :1] if bool((control == control[..., :1, :1]).all()) else control
    return control


def _averaged(control: float | Tensor, grid: list[int]) -> float | Tensor:
    """A map that is finer than the grid on which it will act, averaged: its cells would cost time at every move."""
    control = _without_extent(control)
    if not isinstance(control, Tensor) or control.ndim != 4:
        return control
    if all(side <= cells for side, cells in zip(control.shape[-2:], grid, strict=True)):
        return control
    if not holds(control >= 0):
        raise ValueError("Maps of loss weights and of emphasis must be finite and not negative.")
    return no_finer(control.float(), grid)


def _image_normalisation(name_or_path: str) -> dict:
    """The mean and std that a backbone's image processor states, as config fields; empty where it has none."""
    from transformers import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
    except OSError:
        return {}
    return {f"vit_{key}": settings[key] for key in ("image_mean", "image_std") if settings.get(key)}


__all__ = ["EncodedImage", "ImageDenoisingOutput", "ViTUNetForImageDenoising"]
