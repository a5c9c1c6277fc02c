"""The loss terms, their one table, and the weighted criterion.

Every term is a pure function of two images and returns one value per image, so that each image of a batch can carry
its own weights. The table `LOSS_TERMS` names them: config fields, validators, log keys and slider labels derive from
it.

Two posts define the terms: "Denoising autoencoders, part 3" (M. Malek, 2025: amplitude with emphasis, regional
sharpness) and "Comparing images in the frequency domain" (B. Wronski, 2021: squared amplitude, windowed amplitude, and
why `complex_spectrum` and `phase` are no use as losses).

Letters in shapes: B images, C channels, H x W pixels, K loss terms, h x w a map of controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .sharpness import sorted_sharpness_scores
from .spectra import amplitude_spectrum, half_overlapping_tiles, hann_window, kept_beside, plane_mean, spectrum
from .wavelets import detail_magnitudes

# The first post divides an unnormalised transform by 1000. For its 224x224 images that equals the orthonormal transform
# times 0.224; with the orthonormal transform the number no longer depends on the size of the image.
AMPLITUDE_SCALE = 0.224
SHARPNESS_SCALE = 1.0 / 1000.0

_hann_window = kept_beside(hann_window)


# ---------------------------------------------------------------------------------------------------------------------
# Terms. Each: prediction (B, C, H, W), target the same or (1, C, H, W), in [0, 1] -> (B,)
# ---------------------------------------------------------------------------------------------------------------------


def pixel(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return (prediction - target).square().flatten(1).mean(1)


def amplitude(
    prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0, compat: bool = False
) -> Tensor:
    """Mean absolute difference of the Fourier amplitudes, weighted by 1 + g d (first post). Blind to cyclic shifts.

    `compat` gives the post's own number, of an unnormalised transform over 1000, which grows with the image.
    """
    height, width = prediction.shape[-2:]
    difference = (amplitude_spectrum(prediction) - amplitude_spectrum(target)).abs().mean(1)
    scale = math.sqrt(height * width) / 1000 if compat else AMPLITUDE_SCALE
    return scale * plane_mean(difference, high_frequency_emphasis, height, width)


def amplitude_squared(
    prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0, compat: bool = False
) -> Tensor:
    """Mean squared difference of the Fourier amplitudes (second post, its recommended partner of `pixel`).

    `compat` takes an unnormalised transform, as numerical libraries do by default.
    """
    height, width = prediction.shape[-2:]
    difference = (amplitude_spectrum(prediction) - amplitude_spectrum(target)).square().mean(1)
    scale = height * width if compat else 1.0
    return scale * plane_mean(difference, high_frequency_emphasis, height, width)


def windowed_amplitude(
    prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0, window_size: int = 16
) -> Tensor:
    """Mean absolute difference of the amplitudes of half-overlapping Hann windows, a 2-D STFT (second post).

    Windows have unit mean energy, so that the number has the scale of `amplitude`. An image smaller than `window_size`
    (pixels) is one window of its own size.
    """
    height, width = (min(window_size, side) for side in prediction.shape[-2:])
    window = _hann_window(prediction, height, width)
    total, count = 0.0, 0
    for predicted, true in zip(
        half_overlapping_tiles(prediction, height, width), half_overlapping_tiles(target, height, width), strict=True
    ):
        difference = amplitude_spectrum(predicted, window) - amplitude_spectrum(true, window)
        total = total + difference.abs().sum((1, 2, 3))
        count += math.prod(predicted.shape[1:4])
    return AMPLITUDE_SCALE * plane_mean(total / count, high_frequency_emphasis, height, width)


def regional_sharpness(
    prediction: Tensor, target: Tensor, window_size: int = 16, target_scores: Tensor | None = None
) -> Tensor:
    """L1 between the sorted window scores: a 1-D Wasserstein distance between two distributions of local sharpness.

    `target_scores` (B, windows), where they are known, spare computing those of the target.
    """
    if target_scores is None:
        target_scores = sorted_sharpness_scores(target, window_size)
    predicted = sorted_sharpness_scores(prediction, window_size)
    if predicted.shape[1:] != target_scores.shape[1:]:
        raise ValueError(
            f"target_scores {tuple(target_scores.shape)} must be those of whole images of the prediction's size and of "
            f"windows of {window_size} pixels: {tuple(predicted.shape)}."
        )
    return SHARPNESS_SCALE * (predicted - target_scores).abs().mean(1)


def wavelet(prediction: Tensor, target: Tensor, wavelet: str = "haar", levels: int = 3, window_size: int = 8) -> Tensor:
    """Mean absolute difference of local detail magnitudes: by scale and direction, how much detail is where.

    The magnitudes of each detail band of an undecimated wavelet transform are averaged in half-overlapping windows,
    `window_size` pixels a side at the finest level and twice as many at each coarser one. Comparing the coefficients
    one by one instead would reward a blurred image: what cannot be known is best guessed as zero.
    """
    total = 0.0
    pairs = (detail_magnitudes(image, wavelet, levels, max(window_size // 2, 1)) for image in (prediction, target))
    for predicted, true in zip(*pairs, strict=True):
        blocks = predicted - true
        windows = F.avg_pool2d(blocks, [min(2, length) for length in blocks.shape[-2:]], stride=1)
        total = total + windows.abs().flatten(1).mean(1)
    return total / (3 * levels)


def complex_spectrum(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the complex spectra. Equal to `pixel` by Parseval's theorem: here to show it."""
    difference = (spectrum(prediction) - spectrum(target)).abs().square().mean(1)
    return plane_mean(difference, 0.0, *prediction.shape[-2:])


def phase(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared angular difference, wrapped to (-pi, pi]. Discontinuous at zero amplitude: a loss to avoid."""
    difference = torch.angle(spectrum(prediction) * spectrum(target).conj()).square().mean(1)
    return plane_mean(difference, 0.0, *prediction.shape[-2:])


def grid_imprint(prediction: Tensor, target: Tensor, period: int = 2) -> Tensor:
    """Mean square of what an image's error repeats every `period` pixels, its mean aside: (B, C, H, W) twice -> (B,).

    No term of the table, but a fault to train away: a network that writes its pixels in blocks can raise every local
    sharpness by one faint stripe over the whole image, which no eye takes for detail.
    """
    error = prediction - target
    height, width = (side - side % period for side in error.shape[-2:])
    blocks = error[..., :height, :width].unflatten(-1, (-1, period)).unflatten(-3, (-1, period))
    pattern = blocks.mean((-4, -2))  # (B, C, period, period)
    return (pattern - pattern.mean((-2, -1), keepdim=True)).square().flatten(1).mean(1)


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossTerm:
    """One row of the table of losses.

    `settings` maps the function's keywords to config fields. `trainable` terms may carry a weight. `floor` is added
    inside the logarithm of the "log" balance: below it an image counts as solved.
    """

    function: Callable[..., Tensor]
    label: str
    floor: float
    settings: Mapping[str, str]
    emphasised: bool = False
    trainable: bool = True


LOSS_TERMS: dict[str, LossTerm] = {
    "pixel": LossTerm(pixel, "Pixel (MSE)", 1e-5, {}),
    "amplitude": LossTerm(amplitude, "Frequency (amplitude)", 2e-4, {"compat": "loss_compat"}, emphasised=True),
    "amplitude_squared": LossTerm(
        amplitude_squared, "Frequency (squared)", 1e-5, {"compat": "loss_compat"}, emphasised=True
    ),
    "windowed_amplitude": LossTerm(
        windowed_amplitude,
        "Frequency (windowed)",
        2e-4,
        {"window_size": "spectrum_window_size"},
        emphasised=True,
    ),
    "regional_sharpness": LossTerm(
        regional_sharpness, "Regional sharpness", 2e-4, {"window_size": "sharpness_window_size"}
    ),
    "wavelet": LossTerm(wavelet, "Wavelet", 2e-4, {"wavelet": "wavelet", "levels": "wavelet_levels"}),
    "complex_spectrum": LossTerm(complex_spectrum, "Complex spectrum", 1e-5, {}, trainable=False),
    "phase": LossTerm(phase, "Phase", 1e-2, {}, trainable=False),
}
TRAINABLE_TERMS = tuple(name for name, term in LOSS_TERMS.items() if term.trainable)


@dataclass(frozen=True)
class LossPreset:
    """Loss weights by term, and the high-frequency emphasis g, under a name that people know."""

    loss_weights: Mapping[str, float]
    high_frequency_emphasis: float = 0.0


PRESETS: dict[str, LossPreset] = {
    "mse": LossPreset({"pixel": 1.0}),
    "regional_sharpness": LossPreset({"pixel": 0.8, "regional_sharpness": 0.2}),
    "frequency": LossPreset({"pixel": 0.8, "amplitude": 0.2}),
    "frequency_emphasis": LossPreset({"pixel": 0.8, "amplitude": 0.2}, 2.0),
    "hybrid": LossPreset({"pixel": 0.5, "amplitude_squared": 0.5}),
    "windowed": LossPreset({"pixel": 0.8, "windowed_amplitude": 0.2}),
    "wavelet": LossPreset({"pixel": 0.8, "wavelet": 0.2}),
}


# ---------------------------------------------------------------------------------------------------------------------
# The criterion
# ---------------------------------------------------------------------------------------------------------------------


class WeightedCriterion:
    """Weighs the loss terms of each image.

    The config's `loss_balance` "sum" is the plain weighted sum; "log" the weighted sum of log(term + floor), which is
    free of every term's scale and of the noise level, so that no term and no noise level drowns another.
    """

    def __init__(self, config) -> None:
        self.config = config  # read when it is used: fields may be assigned
        self.functions = {name: term.function for name, term in LOSS_TERMS.items()}

    def compile(self, **options) -> None:
        """Compiles the terms that are long chains of short operations; `options` are those of `torch.compile`."""
        for name in ("regional_sharpness", "wavelet"):
            self.functions[name] = torch.compile(self.functions[name], **options)

    def terms(
        self,
        prediction: Tensor,
        target: Tensor,
        high_frequency_emphasis: float | Tensor = 0.0,
        names: tuple[str, ...] = TRAINABLE_TERMS,
        known: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """The raw terms by name, (B,) each, in float32 (float64 for float64 images) whatever the autocast.

        `known` holds further arguments of a term, by its name: what has been computed of the target before.
        """
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = prediction.to(dtype), target.to(dtype)
            values = {}
            for name in names:
                term = LOSS_TERMS[name]
                emphasis = {"high_frequency_emphasis": high_frequency_emphasis} if term.emphasised else {}
                settings = {keyword: getattr(self.config, field) for keyword, field in term.settings.items()}
                extra = (known or {}).get(name, {})
                values[name] = self.functions[name](prediction, target, **emphasis, **settings, **extra)
        return values

    def mapped_terms(
        self,
        prediction: Tensor,
        target: Tensor,
        weights: Tensor,
        high_frequency_emphasis: Tensor,
        names: tuple[str, ...] = TRAINABLE_TERMS,
        known: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """The terms under maps of weights (B, K, h, w) and of emphasis (B, 1, h, w): each sees where it weighs.

        A term that weighs nothing somewhere is shown the target there, and a share of the error where it weighs less
        than elsewhere. So any term takes a map, those that look at a whole image included; under a uniform map it is
        what it is without one.
        """
        size = prediction.shape[-2:]
        shares = weights / weights.amax((-2, -1), keepdim=True).clamp(min=1e-12)
        means = (weights * high_frequency_emphasis).mean((-2, -1)) / weights.mean((-2, -1)).clamp(min=1e-12)
        values = {}
        for index, name in enumerate(names):
            share = F.interpolate(shares[:, index : index + 1], size, mode="bilinear", align_corners=False)
            seen = torch.lerp(target.float(), prediction.float(), share)
            values |= self.terms(seen, target, means[:, index], (name,), known)
        return values

    def combine(self, terms: Mapping[str, Tensor], loss_weights: Mapping[str, Tensor]) -> Tensor:
        """Raw terms (B,) and weights (B,) by name -> one loss per image (B,)."""
        if self.config.loss_balance == "log":
            return sum(loss_weights[name] * torch.log(value + LOSS_TERMS[name].floor) for name, value in terms.items())
        return sum(loss_weights[name] * value for name, value in terms.items())
