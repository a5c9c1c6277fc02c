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
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# The first post divides an unnormalised transform by 1000. For its 224x224 images that equals the orthonormal transform
# times 0.224; with the orthonormal transform the number no longer depends on the size of the image.
AMPLITUDE_SCALE = 0.224
SHARPNESS_SCALE = 1.0 / 1000.0


# ---------------------------------------------------------------------------------------------------------------------
# Spectra
# ---------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _half_plane_weights(height: int, width: int) -> Tensor:
    """(2, H, W//2 + 1): weights that turn a sum over `rfft2`'s half plane into a mean over the full plane.

    Row 0 holds each column's multiplicity / (H W). Row 1 holds that times the normalised distance from zero frequency,
    so that the emphasised mean is `row 0 + g * row 1`.
    """
    rows = torch.fft.fftfreq(height, d=1.0 / height, dtype=torch.float64)
    columns = torch.arange(width // 2 + 1, dtype=torch.float64)
    corner = math.hypot(height // 2, width // 2)
    distance = torch.hypot(rows[:, None], columns[None, :]) / max(corner, 1.0)
    multiplicity = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    multiplicity[0] = 1.0
    if width % 2 == 0:
        multiplicity[-1] = 1.0
    mean = (multiplicity / (height * width)).expand(height, -1)
    return torch.stack([mean, mean * distance])


def emphasis_map(height: int, width: int, high_frequency_emphasis: float = 0.0) -> Tensor:
    """The centred (H, W) map 1 + g d that weighs amplitude differences (first post, `_ensure_mask`).

    d is the distance from zero frequency over the distance of the corner, sqrt((H//2)^2 + (W//2)^2).
    """
    rows = torch.arange(height) - height // 2
    columns = torch.arange(width) - width // 2
    distance = torch.hypot(rows[:, None].float(), columns[None, :].float())
    return 1.0 + high_frequency_emphasis * distance / max(math.hypot(height // 2, width // 2), 1.0)


def _plane_mean(difference: Tensor, high_frequency_emphasis: float | Tensor, height: int, width: int) -> Tensor:
    """Mean of (1 + g d) * difference over the full H x W plane. (B, ..., H, W//2 + 1) -> (B,)."""
    weights = _half_plane_weights(height, width).to(difference)
    flat = difference.flatten(1, -3).mean(1)  # (B, H, W//2 + 1)
    plain, distance = torch.einsum("bhw,khw->kb", flat, weights)
    return plain + torch.as_tensor(high_frequency_emphasis, device=flat.device, dtype=flat.dtype) * distance


def _spectrum(image: Tensor) -> Tensor:
    return torch.fft.rfft2(image, norm="ortho")


def _amplitude(spectrum: Tensor) -> Tensor:
    # Twice as fast as `abs`, which guards against overflow. The constant keeps the gradient finite at zero amplitude.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-20).sqrt()


# ---------------------------------------------------------------------------------------------------------------------
# Terms. Each: prediction, target (B, C, H, W) in [0, 1] -> (B,)
# ---------------------------------------------------------------------------------------------------------------------


def pixel(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return (prediction - target).square().flatten(1).mean(1)


def amplitude(prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0) -> Tensor:
    """Mean absolute difference of the Fourier amplitudes, weighted by 1 + g d (first post). Blind to cyclic shifts."""
    difference = (_amplitude(_spectrum(prediction)) - _amplitude(_spectrum(target))).abs()
    return AMPLITUDE_SCALE * _plane_mean(difference, high_frequency_emphasis, *prediction.shape[-2:])


def amplitude_squared(prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0) -> Tensor:
    """Mean squared difference of the Fourier amplitudes (second post, its recommended partner of `pixel`)."""
    difference = (_amplitude(_spectrum(prediction)) - _amplitude(_spectrum(target))).square()
    return _plane_mean(difference, high_frequency_emphasis, *prediction.shape[-2:])


def windowed_amplitude(
    prediction: Tensor, target: Tensor, high_frequency_emphasis: float | Tensor = 0.0, window_size: int = 16
) -> Tensor:
    """Mean absolute difference of the amplitudes of half-overlapping Hann windows, a 2-D STFT (second post).

    Windows have unit mean energy, so that the number has the scale of `amplitude`. An image smaller than `window_size`
    (pixels) is one window of its own size.
    """
    height, width = (min(window_size, side) for side in prediction.shape[-2:])
    window = torch.outer(_hann(height), _hann(width))
    window = (window / window.square().mean().sqrt()).to(prediction)

    def spectra(image: Tensor) -> Tensor:
        tiles = image.unfold(-2, height, max(height // 2, 1)).unfold(-2, width, max(width // 2, 1))
        return _spectrum(tiles * window)  # (B, C, rows, columns, h, w//2 + 1)

    difference = (_amplitude(spectra(prediction)) - _amplitude(spectra(target))).abs()
    return AMPLITUDE_SCALE * _plane_mean(difference, high_frequency_emphasis, height, width)


def _hann(size: int) -> Tensor:
    # Half-sample offset: no tap is zero, and half-overlapping windows sum to a constant.
    return torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size).square()


def sharpness_scores(image: Tensor, window_size: int = 16) -> Tensor:
    """Local sharpness of half-overlapping windows: (B, C, H, W) -> (B, rows, columns).

    A score is the sum, inside the window, of the absolute differences to the right, lower, lower-right and lower-left
    neighbours, averaged over channels (first post). Average pooling of the four difference images, times the kernel's
    area, gives exactly this sum without unfolding a window.
    """
    side = min(window_size, *image.shape[-2:])
    if side < 2:  # a window of one pixel has no neighbours
        return image.flatten(1).sum(1)[:, None, None] * 0.0
    differences = (
        ((image[..., :, 1:] - image[..., :, :-1]), (side, side - 1)),
        ((image[..., 1:, :] - image[..., :-1, :]), (side - 1, side)),
        ((image[..., 1:, 1:] - image[..., :-1, :-1]), (side - 1, side - 1)),
        ((image[..., 1:, :-1] - image[..., :-1, 1:]), (side - 1, side - 1)),
    )
    return sum(
        F.avg_pool2d(difference.abs().mean(1, keepdim=True), kernel, stride=max(side // 2, 1)).squeeze(1)
        * (kernel[0] * kernel[1])
        for difference, kernel in differences
    )


def sorted_sharpness_scores(image: Tensor, window_size: int = 16) -> Tensor:
    """The scores of `sharpness_scores` in descending order: (B, C, H, W) -> (B, windows)."""
    return sharpness_scores(image, window_size).flatten(1).sort(dim=1, descending=True).values


def regional_sharpness(
    prediction: Tensor, target: Tensor, window_size: int = 16, target_scores: Tensor | None = None
) -> Tensor:
    """L1 between the sorted window scores: a 1-D Wasserstein distance between two distributions of local sharpness.

    `target_scores` (B, windows), where they are known, spare computing those of the target.
    """
    if target_scores is None:
        target_scores = sorted_sharpness_scores(target, window_size)
    predicted = sorted_sharpness_scores(prediction, window_size)
    if predicted.shape != target_scores.shape:
        raise ValueError(
            f"target_scores {tuple(target_scores.shape)} must be those of whole images of the prediction's size and of "
            f"windows of {window_size} pixels: {tuple(predicted.shape)}."
        )
    return SHARPNESS_SCALE * (predicted - target_scores).abs().mean(1)


# Low-pass taps of orthonormal wavelets (Daubechies 1992), to be divided by sqrt(2) for the undecimated transform.
_SQRT3 = math.sqrt(3.0)
WAVELET_FILTERS = {
    "haar": (1 / math.sqrt(2), 1 / math.sqrt(2)),
    "db2": tuple(tap / (4 * math.sqrt(2)) for tap in (1 + _SQRT3, 3 + _SQRT3, 3 - _SQRT3, 1 - _SQRT3)),
}


def wavelet_bands(image: Tensor, wavelet: str = "haar", levels: int = 3) -> list[Tensor]:
    """Detail bands of the undecimated (a trous) wavelet transform with periodic borders: `levels` of (B, 3C, H, W)."""
    low_pass = [tap / math.sqrt(2) for tap in WAVELET_FILTERS[wavelet]]
    high_pass = [(-1) ** index * tap for index, tap in enumerate(reversed(low_pass))]

    def split(signal: Tensor, dim: int, dilation: int) -> tuple[Tensor, Tensor]:
        """Low and high band along one axis, each over its first tap: one fused operation for every other tap."""
        low = high = signal
        for index in range(1, len(low_pass)):
            neighbour = signal.roll(-index * dilation, dim)
            low = torch.add(low, neighbour, alpha=low_pass[index] / low_pass[0])
            high = torch.add(high, neighbour, alpha=high_pass[index] / high_pass[0])
        return low, high

    bands = []
    for level in range(levels):
        low, high = split(image, -1, 2**level)
        low_low, low_high = split(low, -2, 2**level)
        high_low, high_high = split(high, -2, 2**level)
        cross, square = low_pass[0] * high_pass[0], high_pass[0] ** 2
        bands.append(torch.cat([low_high * cross, high_low * cross, high_high * square], dim=1))
        image = low_low * low_pass[0] ** 2
    return bands


def wavelet(prediction: Tensor, target: Tensor, wavelet: str = "haar", levels: int = 3) -> Tensor:
    """Mean absolute difference of the detail bands of an undecimated wavelet transform, averaged over levels."""
    # The transform is linear: the bands of the difference are the differences of the bands.
    bands = wavelet_bands(prediction - target, wavelet, levels)
    return sum(band.abs().flatten(1).mean(1) for band in bands) / levels


def complex_spectrum(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the complex spectra. Equal to `pixel` by Parseval's theorem: here to show it."""
    difference = (_spectrum(prediction) - _spectrum(target)).abs().square()
    return _plane_mean(difference, 0.0, *prediction.shape[-2:])


def phase(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared angular difference, wrapped to (-pi, pi]. Discontinuous at zero amplitude: a loss to avoid."""
    difference = torch.angle(_spectrum(prediction) * _spectrum(target).conj()).square()
    return _plane_mean(difference, 0.0, *prediction.shape[-2:])


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossTerm:
    """One row of the table of losses.

    `settings` maps the function's keywords to config fields. `floor` is added inside the logarithm of the "log"
    balance: below it an image counts as solved. `trainable` terms may carry a weight.
    """

    function: Callable[..., Tensor]
    label: str
    floor: float
    settings: Mapping[str, str]
    emphasised: bool = False
    trainable: bool = True


LOSS_TERMS: dict[str, LossTerm] = {
    "pixel": LossTerm(pixel, "Pixel (MSE)", 1e-5, {}),
    "amplitude": LossTerm(amplitude, "Frequency (amplitude)", 2e-4, {}, emphasised=True),
    "amplitude_squared": LossTerm(amplitude_squared, "Frequency (squared)", 1e-5, {}, emphasised=True),
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


def stack_loss_weights(
    loss_weights: Mapping[str, float | Tensor], names: tuple[str, ...], batch_size: int, device: torch.device | str
) -> Tensor:
    """Weights by name -> (B, K, h, w) in the order of `names`, summing to 1 over K. Absent terms weigh 0.

    A value is a number, a tensor (B,) or a map (B, 1, h, w); without maps h = w = 1.
    """
    unknown = sorted(set(loss_weights) - set(names))
    if unknown:
        raise ValueError(f"Unknown loss terms {unknown}: this network knows {list(names)}.")
    columns = []
    for name in names:
        value = torch.as_tensor(loss_weights.get(name, 0.0), dtype=torch.float32, device=device)
        columns.append(per_image_map(value, batch_size, f"loss weight {name!r}"))
    height = max(column.shape[-2] for column in columns)
    width = max(column.shape[-1] for column in columns)
    for name, column in zip(names, columns, strict=True):
        if column.shape[-2:] not in {(1, 1), (height, width)}:
            raise ValueError(f"The map of {name!r} is {tuple(column.shape[-2:])}, another is {(height, width)}.")
    stacked = torch.cat([column.expand(-1, -1, height, width) for column in columns], dim=1)
    total = stacked.sum(1, keepdim=True)
    if not bool(torch.isfinite(stacked).all()) or bool((stacked < 0).any()):
        raise ValueError(f"Loss weights must be finite and not negative, got {_described(loss_weights)}.")
    if bool((total <= 0).any()):
        raise ValueError(f"Loss weights sum to 0: give at least one of {list(names)} a positive weight.")
    return stacked / total


def per_image_map(value: Tensor, batch_size: int, what: str) -> Tensor:
    """A number, (B,) or (B, 1, h, w) -> (B, 1, h, w)."""
    if value.ndim == 4 and value.shape[1] == 1 and value.shape[0] in (1, batch_size):
        return value.expand(batch_size, -1, -1, -1)
    if value.ndim == 0 or value.shape in {(1,), (batch_size,)}:
        return value.reshape(-1, 1, 1, 1).expand(batch_size, -1, -1, -1)
    raise ValueError(
        f"The {what} must be a number, a tensor ({batch_size},) or a map ({batch_size}, 1, h, w), "
        f"got shape {tuple(value.shape)}."
    )


def _described(loss_weights: Mapping[str, float | Tensor]) -> dict:
    return {k: tuple(v.shape) if isinstance(v, Tensor) and v.ndim else float(v) for k, v in loss_weights.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The criterion
# ---------------------------------------------------------------------------------------------------------------------


class WeightedCriterion:
    """Weighs the loss terms of each image.

    `balance="sum"` is the posts' weighted sum; `"log"` the weighted sum of log(term + floor), which is free of every
    term's scale and of the noise level, so that no term and no noise level drowns another.
    """

    def __init__(self, config) -> None:
        self.balance = config.loss_balance
        self.settings = {
            name: {keyword: getattr(config, field) for keyword, field in term.settings.items()}
            for name, term in LOSS_TERMS.items()
        }

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
                extra = (known or {}).get(name, {})
                values[name] = term.function(prediction, target, **emphasis, **self.settings[name], **extra)
        return values

    def combine(self, terms: Mapping[str, Tensor], loss_weights: Mapping[str, Tensor]) -> Tensor:
        """Raw terms (B,) and weights (B,) by name -> one loss per image (B,)."""
        if self.balance == "log":
            return sum(loss_weights[name] * torch.log(value + LOSS_TERMS[name].floor) for name, value in terms.items())
        return sum(loss_weights[name] * value for name, value in terms.items())
