"""Configuration of the ViT + U-Net denoiser: every field with its unit and range, validated on construction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .losses import TRAINABLE_TERMS
from .wavelets import WAVELET_FILTERS

SMALL_VIT = {
    "model_type": "vit",
    "image_size": 96,
    "patch_size": 16,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}


@strict
class ViTUNetConfig(PreTrainedConfig):
    """Settings of [`ViTUNetForImageDenoising`].

    The defaults are a conditioned network of three levels; [`ViTUNetConfig.hybrid_vit_base`] is the network of
    "Denoising autoencoders, part 3".

    Args:
        hidden_sizes: channels of the U-Net's levels, finest first; the last is the bottleneck.
        encoder_blocks: blocks per level of the contracting path, as many entries as `hidden_sizes`; at least 1 each,
            the last, at the bottleneck's resolution, may be 0.
        bottleneck_blocks: blocks after the ViT's features have joined (at least 1).
        decoder_blocks: blocks per level of the expanding path, finest first, one entry fewer (at least 1 each).
        block_type: `"residual"` (x + conv ReLU conv) or `"double_conv"` (conv ReLU conv ReLU), 3x3 convolutions; or
            `"gated"` (NAFNet's: a depthwise convolution, gates, and the rest on each pixel).
        downsampling: `"conv"` (2x2, stride 2) or `"max_pool"` (2x2).
        skip_connection: `"add"` or `"concat"`.
        pixel_unshuffle: side in pixels of the blocks that become channels before the first convolution (1 = none).
        residual: predict the noise, and subtract it (`True`), or predict the image (`False`).
        vit_config: any ViT-like encoder of transformers; its `image_size` is the side of the windows in pixels.
        use_vit: `False` leaves the U-Net alone.
        freeze_vit: keep the ViT's weights fixed and its dropout off.
        vit_image_mean, vit_image_std: normalisation that the ViT expects, per channel.
        vit_projection_sizes: layer sizes of the MLP on the ViT's tokens; the last is the number of joined channels.
        vit_layers: layers of the ViT whose tokens are looked at side by side, 1 the first; `None`: the last alone.
        vit_join: how they join the bottleneck's input, `"add"` or `"concat"`.
        conditioned_terms: loss terms whose weights the network takes as inputs, `"pixel"` first; empty = an
            unconditioned network.
        one_loss: the network takes these controls, but was trained for its default loss alone: to it they mean nothing.
        condition_size: channels of the embedding of the controls.
        modulated_levels: levels of the decoder whose features the embedding modulates, 0 the finest, the last one the
            bottleneck's; `None`: all.
        max_high_frequency_emphasis: the largest emphasis g of training and of the sliders (g >= 0).
        noise_conditioned: whether a noise level may be given; without one the network is blind.
        loss_weights: the weights that hold when none are given, by term.
        high_frequency_emphasis: the emphasis g that holds when none is given.
        loss_balance: `"log"` (weighted sum of logarithms) or `"sum"` (weighted sum).
        loss_strengths: of the "log" balance, by term: how soon it has its way with a picture. Its weight is divided by
            that, so that the whole travel of its slider is of use. 1 for terms that are not named.
        fidelity_share: of the "log" balance: the share of every other weight that the pixel term gets as well. Without
            it nothing ties sharpness to its place, and the last stretch of a slider turns back.
        sharpness_window_size, spectrum_window_size: window sides in pixels of `regional_sharpness` and
            `windowed_amplitude`.
        loss_compat: amplitude terms in their sources' own numbers, of an unnormalised transform: they grow with the
            image.
        wavelet, wavelet_levels: filter bank and number of levels of the `wavelet` term.
    """

    model_type = "vit_unet"
    sub_configs_defaults = {
        "vit_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", init_kwargs=SMALL_VIT, optional=True)
    }

    # U-Net
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (48, 96, 160)
    encoder_blocks: list[int] | tuple[int, ...] = (2, 2, 2)
    bottleneck_blocks: int = 2
    decoder_blocks: list[int] | tuple[int, ...] = (2, 2)
    block_type: Literal["residual", "gated", "double_conv"] = "residual"
    downsampling: Literal["conv", "max_pool"] = "conv"
    skip_connection: Literal["add", "concat"] = "add"
    pixel_unshuffle: int = 2
    residual: bool = True

    # ViT
    vit_config: dict | PreTrainedConfig | None = None
    use_vit: bool = True
    freeze_vit: bool = False
    vit_image_mean: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)
    vit_image_std: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)
    vit_projection_sizes: list[int] | tuple[int, ...] = (160,)
    vit_layers: list[int] | tuple[int, ...] | None = None
    vit_join: Literal["add", "concat"] = "add"

    # Controls
    conditioned_terms: list[str] | tuple[str, ...] = TRAINABLE_TERMS
    one_loss: bool = False
    condition_size: int = 64
    modulated_levels: list[int] | tuple[int, ...] | None = None
    max_high_frequency_emphasis: float | int = 4.0
    noise_conditioned: bool = True

    # Loss
    loss_weights: dict[str, float | int] | None = None
    high_frequency_emphasis: float | int = 0.0
    loss_balance: Literal["log", "sum"] = "log"
    loss_strengths: dict[str, float | int] | None = None
    fidelity_share: float | int = 0.1
    sharpness_window_size: int = 16
    spectrum_window_size: int = 16
    loss_compat: bool = False
    wavelet: str = "haar"
    wavelet_levels: int = 3

    def __post_init__(self, **kwargs):
        if self.use_vit:
            self.vit_config, kwargs = self.sub_configs_defaults["vit_config"].create_subconfig(
                "vit_config", self.vit_config, **kwargs
            )
        else:
            self.vit_config = None
        if self.loss_weights is None:
            self.loss_weights = {"pixel": 1.0}
        if self.loss_strengths is None:
            self.loss_strengths = {"regional_sharpness": 4.0, "wavelet": 2.0}
        super().__post_init__(**kwargs)
        # The decorator validates too, but wraps what it catches: here a plain ValueError reaches the user.
        self.validate_unet()
        self.validate_vit()
        self.validate_loss()

    @classmethod
    def hybrid_vit_base(cls, **overrides) -> ViTUNetConfig:
        """The network of "Denoising autoencoders, part 3": U-Net 64-128-256-512 beside a frozen ViT-Base/16 at 224."""
        settings = {
            "hidden_sizes": (64, 128, 256, 512),
            "encoder_blocks": (1, 1, 1, 0),
            "bottleneck_blocks": 1,
            "decoder_blocks": (1, 1, 1),
            "block_type": "double_conv",
            "downsampling": "max_pool",
            "skip_connection": "concat",
            "pixel_unshuffle": 1,
            "residual": False,
            "vit_config": {"model_type": "vit"},  # transformers' defaults are ViT-Base/16 at 224
            "freeze_vit": True,
            "vit_projection_sizes": (512, 512),
            "vit_join": "concat",
            "conditioned_terms": (),
            "noise_conditioned": False,
            "loss_weights": {"pixel": 0.8, "regional_sharpness": 0.2},
            "loss_balance": "sum",
        }
        return cls(**{**settings, **overrides})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        # transformers loads the default config in silence from a local folder that has none.
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not (folder / kwargs.get("subfolder", "") / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json: name a folder that `save_pretrained` has written.")
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def steerable_terms(self) -> tuple[str, ...]:
        """The conditioned terms whose weights steer the trained network."""
        return () if self.one_loss else tuple(self.conditioned_terms)

    @property
    def stride(self) -> int:
        """Pixels per cell of the bottleneck grid; images are padded to a multiple of it."""
        return self.pixel_unshuffle * 2 ** (len(self.hidden_sizes) - 1)

    def validate_unet(self):
        """Lengths and ranges of the U-Net's fields. Runs by itself on construction and on assignment."""
        levels = len(self.hidden_sizes)
        if levels < 2 or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes={self.hidden_sizes}: give at least two positive channel counts.")
        if len(self.encoder_blocks) != levels or len(self.decoder_blocks) != levels - 1:
            raise ValueError(
                f"hidden_sizes has {levels} levels: encoder_blocks={self.encoder_blocks} must have {levels} entries "
                f"and decoder_blocks={self.decoder_blocks} {levels - 1}."
            )
        if (
            min(*self.encoder_blocks[:-1], *self.decoder_blocks, self.bottleneck_blocks, self.encoder_blocks[-1] + 1)
            < 1
        ):
            raise ValueError(
                f"encoder_blocks={self.encoder_blocks}, bottleneck_blocks={self.bottleneck_blocks} and "
                f"decoder_blocks={self.decoder_blocks} must be at least 1; only the last encoder_blocks may be 0."
            )
        for name in ("num_channels", "pixel_unshuffle", "condition_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        joins = (self.skip_connection, self.vit_join if self.use_vit else "add", self.downsampling)
        if self.block_type == "gated" and joins != ("add", "add", "conv"):
            raise ValueError(
                f"block_type='gated' keeps its input's channels: skip_connection={self.skip_connection!r} and "
                f"vit_join={self.vit_join!r} must be 'add', downsampling={self.downsampling!r} 'conv'."
            )
        if self.modulated_levels is not None and not set() < set(self.modulated_levels) <= set(range(levels)):
            raise ValueError(f"modulated_levels={self.modulated_levels} must be some of the levels 0 to {levels - 1}.")

    def validate_vit(self):
        """The ViT's normalisation and projection must fit the image and the bottleneck."""
        for name in ("vit_image_mean", "vit_image_std"):
            if len(getattr(self, name)) != self.num_channels:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs one value for each of {self.num_channels} channels."
                )
        if min(self.vit_image_std) <= 0:
            raise ValueError(f"vit_image_std={self.vit_image_std} must be positive.")
        if not self.vit_projection_sizes:
            raise ValueError("vit_projection_sizes must name at least one layer size.")
        if self.use_vit and getattr(self.vit_config, "num_channels", self.num_channels) != self.num_channels:
            raise ValueError(
                f"The ViT sees {self.vit_config.num_channels} channels, the network num_channels={self.num_channels}: "
                "give them the same number."
            )
        if self.use_vit and self.vit_layers is not None:
            depth = self.vit_config.num_hidden_layers
            if not set(self.vit_layers) <= set(range(1, depth + 1)) or depth not in self.vit_layers:
                raise ValueError(
                    f"vit_layers={self.vit_layers} must be some of the ViT's layers 1 to {depth}, the last among them: "
                    "leave off further layers in vit_config, as num_hidden_layers."
                )

    def validate_loss(self):
        """Names and ranges of everything that concerns losses and controls."""
        named = (*self.conditioned_terms, *self.loss_weights, *self.loss_strengths)
        unknown = [name for name in named if name not in TRAINABLE_TERMS]
        if unknown:
            raise ValueError(f"{unknown} are no losses to train with: choose from {list(TRAINABLE_TERMS)}.")
        if self.conditioned_terms:
            if self.conditioned_terms[0] != "pixel":
                raise ValueError(f"conditioned_terms={self.conditioned_terms} must begin with 'pixel'.")
            if not set(self.loss_weights) <= set(self.conditioned_terms):
                raise ValueError(
                    f"loss_weights={self.loss_weights} name terms that are not among "
                    f"conditioned_terms={self.conditioned_terms}: add them there."
                )
        weights = list(self.loss_weights.values())
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) <= 0:
            raise ValueError(f"loss_weights={self.loss_weights} must be finite, not negative, and not all 0.")
        strengths = self.loss_strengths.values()
        if not all(math.isfinite(strength) and strength > 0 for strength in strengths):
            raise ValueError(f"loss_strengths={self.loss_strengths} must be finite and positive.")
        if not 0 <= self.fidelity_share <= 1:
            raise ValueError(f"fidelity_share={self.fidelity_share} must lie in [0, 1].")
        if not 0 <= self.high_frequency_emphasis <= self.max_high_frequency_emphasis:
            raise ValueError(
                f"high_frequency_emphasis={self.high_frequency_emphasis} must lie in "
                f"[0, max_high_frequency_emphasis={self.max_high_frequency_emphasis}]."
            )
        if self.wavelet not in WAVELET_FILTERS or self.wavelet_levels < 1:
            raise ValueError(
                f"wavelet={self.wavelet!r} must be one of {list(WAVELET_FILTERS)}, "
                f"wavelet_levels={self.wavelet_levels} at least 1."
            )
        if min(self.sharpness_window_size, self.spectrum_window_size) < 2:
            raise ValueError("sharpness_window_size and spectrum_window_size must be at least 2 pixels.")
