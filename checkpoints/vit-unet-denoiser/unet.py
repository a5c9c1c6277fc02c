"""The U-Net (Ronneberger et al. 2015) and its conditioning layer.

Contracting and expanding path are two modules, because only what comes after the join with the ViT is conditioned: an
app runs `UNetEncoder` once for an image and `UNetDecoder` at every move of a slider. There is no normalisation over
space and no global pooling, so the receptive field is finite (`receptive_field`).

Letters in shapes: B images, C channels, H x W pixels, E the embedding of the controls, h x w a map of controls.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureModulation(nn.Module):
    """Feature-wise affine modulation (FiLM, Perez et al. 2018): x * (1 + scale) + shift, both linear in an embedding.

    The embedding is (B, E, 1, 1), or a map (B, E, H, W) on the features' grid: the same 1x1 layer serves both.
    """

    def __init__(self, condition_size: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(condition_size, 2 * channels, 1)
        self.projection.init_gain = 0.0  # the identity at first

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.projection(condition).chunk(2, dim=1)  # (B, C, 1, 1) or (B, C, H, W)
        return torch.addcmul(shift, features, 1 + scale)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions. Residual: x + conv(ReLU(conv(x))). Otherwise: ReLU(conv(ReLU(conv(x)))).

    With a `condition_size` the features between the two convolutions are modulated.
    """

    def __init__(self, in_channels: int, out_channels: int, residual: bool, condition_size: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = FeatureModulation(condition_size, out_channels) if condition_size else None
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.residual = residual
        if residual:  # without normalisation, a stack of blocks must start near the identity (Zhang et al. 2019)
            self.conv2.init_gain = 0.1
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual and in_channels != out_channels else None

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = self.conv1(features)
        if self.modulation is not None:
            hidden = self.modulation(hidden, condition)
        hidden = self.conv2(F.relu(hidden))
        if not self.residual:
            return F.relu(hidden)
        return hidden + (features if self.shortcut is None else self.shortcut(features))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of each pixel over its channels: nothing is mixed over space."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GatedBlock(nn.Module):
    """NAFNet's block (Chen et al. 2022, figure 3c) without its attention over channels, which pools the whole image.

    A depthwise 3x3 convolution and a network on each pixel, either normalised before, gated (one half of the channels
    times the other), and added. With a `condition_size` the first gate's output is modulated.
    """

    def __init__(self, channels: int, condition_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.expand1, self.expand2 = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.modulation = FeatureModulation(condition_size, channels) if condition_size else None
        self.reduce1, self.reduce2 = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.reduce1.init_gain = self.reduce2.init_gain = 0.1

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        half, other = self.depthwise(self.expand1(self.norm1(features))).chunk(2, dim=1)
        hidden = half * other
        if self.modulation is not None:
            hidden = self.modulation(hidden, condition)
        features = features + self.reduce1(hidden)
        half, other = self.expand2(self.norm2(features)).chunk(2, dim=1)
        return features + self.reduce2(half * other)


def _stage(in_channels: int, out_channels: int, depth: int, kind: str, condition_size: int = 0) -> nn.ModuleList:
    if kind == "gated":
        return nn.ModuleList(GatedBlock(out_channels, condition_size) for _ in range(depth))
    residual = kind == "residual"
    sizes = [in_channels] + [out_channels] * depth
    return nn.ModuleList(ConvBlock(sizes[index], sizes[index + 1], residual, condition_size) for index in range(depth))


class UNetEncoder(nn.Module):
    """The contracting path: image -> skip features of each level, finest first, and the bottleneck's input."""

    def __init__(self, config) -> None:
        super().__init__()
        sizes, unshuffle = config.hidden_sizes, config.pixel_unshuffle
        kind, residual = config.block_type, config.block_type != "double_conv"
        in_channels = config.num_channels * unshuffle**2
        self.unshuffle = nn.PixelUnshuffle(unshuffle)
        # Residual blocks keep the width of their input, so a convolution lifts the pixels first. The double convolution
        # of the posts lifts them itself.
        self.stem = nn.Conv2d(in_channels, sizes[0], 3, padding=1) if residual else nn.Identity()
        channels = sizes[0] if residual else in_channels
        # (level, noise unknown): two inputs of one linear layer, so that "unknown" is an embedding of its own.
        self.noise_embedding = nn.Conv2d(2, channels, 1) if config.noise_conditioned else None

        self.stages, self.downsamples = nn.ModuleList(), nn.ModuleList()
        for level, depth in enumerate(config.encoder_blocks):
            if depth:
                self.stages.append(_stage(channels, sizes[level], depth, kind))
                channels = sizes[level]
            else:
                self.stages.append(nn.ModuleList())
            if level < len(sizes) - 1:
                if config.downsampling == "conv":
                    self.downsamples.append(nn.Conv2d(channels, sizes[level + 1], 2, stride=2))
                    channels = sizes[level + 1]
                else:
                    self.downsamples.append(nn.MaxPool2d(2))
        self.out_channels = channels

    def forward(self, pixel_values: Tensor, noise: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """pixel_values (B, C, H, W), H and W multiples of the stride; noise (B, 2, 1, 1) or on the finest grid."""
        features = self.stem(self.unshuffle(pixel_values))
        if self.noise_embedding is not None:
            features = features + self.noise_embedding(noise)
        skips = []
        for level, blocks in enumerate(self.stages):
            for block in blocks:
                features = block(features)
            if level < len(self.downsamples):
                skips.append(features)
                features = self.downsamples[level](features)
        return skips, features


class UNetDecoder(nn.Module):
    """Bottleneck and expanding path, conditioned on the embedding of the controls -> noise or image (B, C, H, W)."""

    def __init__(self, config, in_channels: int) -> None:
        super().__init__()
        sizes = config.hidden_sizes
        kind = config.block_type
        modulated = range(len(sizes)) if config.modulated_levels is None else config.modulated_levels
        condition_sizes = [
            config.condition_size if config.conditioned_terms and level in modulated else 0
            for level in range(len(sizes))
        ]
        self.concat = config.skip_connection == "concat"
        self.bottleneck = _stage(in_channels, sizes[-1], config.bottleneck_blocks, kind, condition_sizes[-1])
        self.upsamples, self.stages = nn.ModuleList(), nn.ModuleList()  # finest level first, like `hidden_sizes`
        for level, depth in enumerate(config.decoder_blocks):
            self.upsamples.append(nn.ConvTranspose2d(sizes[level + 1], sizes[level], 2, stride=2))
            channels = 2 * sizes[level] if self.concat else sizes[level]
            self.stages.append(_stage(channels, sizes[level], depth, kind, condition_sizes[level]))
        out_channels = config.num_channels * config.pixel_unshuffle**2
        # The posts end in a 1x1 convolution; behind a pixel unshuffle a 3x3 one sees its neighbours.
        self.output = nn.Conv2d(sizes[0], out_channels, 1 if config.pixel_unshuffle == 1 else 3, padding="same")
        if config.residual:  # a fresh network returns its input
            self.output.init_gain = 0.0
        self.shuffle = nn.PixelShuffle(config.pixel_unshuffle)

    def forward(self, skips: list[Tensor], features: Tensor, conditions: list[Tensor | None]) -> Tensor:
        """skips and conditions stand finest level first; the last condition is the bottleneck's."""
        for block in self.bottleneck:
            features = block(features, conditions[-1])
        for level in reversed(range(len(skips))):
            features = self.upsamples[level](features)
            features = torch.cat([skips[level], features], dim=1) if self.concat else features + skips[level]
            for block in self.stages[level]:
                features = block(features, conditions[level])
        return self.shuffle(self.output(features))


def finest_grid(size: tuple[int, int], unshuffle: int) -> list[int]:
    """Cells of the U-Net's finest level that an image of H x W pixels covers."""
    return [math.ceil(side / unshuffle) for side in size]


def no_finer(control: Tensor, grid: list[int]) -> Tensor:
    """A map (B, K, h, w), averaged where it is finer than the grid: a thin stroke must not fall between its cells."""
    return F.adaptive_avg_pool2d(control, [min(pair) for pair in zip(control.shape[-2:], grid, strict=True)])


def on_finest_grid(control: Tensor, size: tuple[int, int], padded: tuple[int, int], unshuffle: int) -> Tensor:
    """A map of a control over an image, on the grid of the U-Net's finest level.

    (B, K, h, w) over H x W pixels -> (B, K, H' / unshuffle, W' / unshuffle), where H' x W' is the padded image: the map
    covers the image alone, and its border is repeated over the padding. Without extent (h = w = 1) it stays as it is.
    """
    if control.shape[-2:] == (1, 1):
        return control
    grid = finest_grid(size, unshuffle)
    control = F.interpolate(no_finer(control, grid), grid, mode="bilinear", align_corners=False)
    bottom, right = (side // unshuffle - cells for side, cells in zip(padded, grid, strict=True))
    return F.pad(control, (0, right, 0, bottom), mode="replicate")


def receptive_field(config) -> int:
    """Side in pixels of the square that can influence an output pixel through the U-Net (an upper bound).

    A 3x3 convolution at a grid of s pixels adds 2 s; grids are aligned to the stride, which adds that much once more.
    """
    unshuffle, levels = config.pixel_unshuffle, len(config.hidden_sizes)
    grids = [unshuffle * 2**level for level in range(levels)]
    each = 1 if config.block_type == "gated" else 2
    convolutions = [each * depth for depth in config.encoder_blocks]
    for level, depth in enumerate(config.decoder_blocks):
        convolutions[level] += each * depth
    convolutions[-1] += each * config.bottleneck_blocks
    convolutions[0] += (config.block_type != "double_conv") + (unshuffle > 1)  # stem, output
    return 1 + 2 * (config.stride - 1) + sum(2 * grid * count for grid, count in zip(grids, convolutions, strict=True))
