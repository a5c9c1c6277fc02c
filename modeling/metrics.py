"""Full-reference measures. Images are (C, H, W) or (B, C, H, W), float, nominally in [0, 1]; results are floats."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .sharpness import sharpness_scores
from .spectra import multiplicity

SSIM_WINDOW = 11  # pixels, of a Gaussian of standard deviation 1.5 (Wang et al. 2004)
SSIM_STRIP = 64  # rows or columns of means that are computed together


def psnr(prediction: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the whole image, prediction clipped to [0, 1]; infinite for equal images."""
    error = (prediction.clamp(0, 1) - target).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def ssim(prediction: Tensor, target: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), prediction clipped; NaN for images smaller than its 11-pixel window."""
    shape = (-1, *prediction.shape[-3:])
    return ssim_per_image(prediction.reshape(shape), target.reshape(shape)).mean().item()


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def ssim_per_image(prediction: Tensor, target: Tensor) -> Tensor:
    """`ssim` of each image: (B, C, H, W) twice, or one target (1, C, H, W) for all -> (B,). Never in bf16."""
    if min(prediction.shape[-2:]) < SSIM_WINDOW:
        return prediction.new_full((len(prediction),), math.nan)
    if prediction.dtype != torch.float64:
        prediction, target = prediction.float(), target.float()
    luminance, contrast, reach = 0.01**2, 0.03**2, SSIM_WINDOW - 1
    height, width = (side - reach for side in prediction.shape[-2:])
    band, total = _band(prediction), 0.0
    for top in range(0, height, SSIM_STRIP):  # a strip at a time, which the processor's cache holds
        rows = slice(top, top + SSIM_STRIP + reach)
        x, y = prediction[..., rows, :].clamp(0, 1), target[..., rows, :]
        mean_x, mean_y = _gaussian_means(x, band), _gaussian_means(y, band)
        product, squares = mean_x * mean_y, mean_x.square_().add_(mean_y.square_())
        covariance = _gaussian_means(x * y, band).sub_(product)
        variances = _gaussian_means(x.square_().add_(y.square()), band).sub_(squares)
        numerator = product.mul_(2).add_(luminance).mul_(covariance.mul_(2).add_(contrast))
        total = total + numerator.div_(squares.add_(luminance).mul_(variances.add_(contrast))).sum((-3, -2, -1))
    return total / (prediction.shape[1] * height * width)


def _band(like: Tensor) -> Tensor:
    """A banded matrix (strip + 10, strip), whose columns are SSIM's window, each one place further down."""
    taps = torch.exp(-((torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2))
    band = like.new_zeros(SSIM_STRIP + SSIM_WINDOW - 1, SSIM_STRIP)
    for place, tap in enumerate((taps / taps.sum()).tolist()):
        band.diagonal(-place).fill_(tap)
    return band


def _gaussian_means(strip: Tensor, band: Tensor) -> Tensor:
    """Means under SSIM's window wherever it fits in a strip of rows: (B, C, h, W) -> (B, C, h - 10, W - 10).

    As products with a banded matrix: a convolution of one channel takes ten times as long.
    """
    reach = SSIM_WINDOW - 1

    def part(count: int) -> Tensor:
        return band[: count + reach, :count]

    batch, channels, height, width = strip.shape
    down = torch.matmul(part(height - reach).t(), strip).flatten(0, 1)
    means = strip.new_empty(batch * channels, height - reach, width - reach)
    for start in range(0, width - reach, SSIM_STRIP):
        columns = down[..., start : start + SSIM_STRIP + reach]
        count = columns.shape[2] - reach
        # `matmul` would first copy the columns.
        means[..., start : start + count] = torch.bmm(columns, part(count).expand(batch * channels, -1, -1))
    return means.unflatten(0, (batch, channels))


def sharpness_ratio(prediction: Tensor, target: Tensor, window_size: int = 16) -> float:
    """Mean window score of the clipped prediction over the target's: 1 is right, under 1 is blurred.

    A constant target has no sharpness to compare with: NaN.
    """
    shape = (-1, *prediction.shape[-3:])
    predicted = sharpness_scores(prediction.clamp(0, 1).reshape(shape), window_size).mean().item()
    true = sharpness_scores(target.reshape(shape), window_size).mean().item()
    return predicted / true if true else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# Spectral measures, per octave of radial frequency, finest first: above 1/4 cycle per pixel, 1/8 to 1/4, ...
# Energy without correlation is noise, not detail: read the two side by side.
# ---------------------------------------------------------------------------------------------------------------------

OCTAVES = 4


def octave_spectrum_error(prediction: Tensor, target: Tensor, octaves: int = OCTAVES) -> list[float]:
    """10 log10 of the predicted over the true power in each octave, in dB: 0 is right, under 0 is blurred."""
    predicted, true = _windowed_spectrum(prediction.clamp(0, 1)), _windowed_spectrum(target)
    errors = []
    for band in _octave_bands(target, octaves):
        power = [(spectrum.abs().square() * band).sum().item() for spectrum in (predicted, true)]
        errors.append(10 * math.log10(power[0] / power[1]) if min(power) > 0 else math.nan)
    return errors


def fourier_ring_correlation(prediction: Tensor, target: Tensor, octaves: int = OCTAVES) -> list[float]:
    """Correlation of the two spectra in each octave (Saxton & Baumeister 1982): 1 is right, 0 is unrelated."""
    predicted, true = _windowed_spectrum(prediction.clamp(0, 1)), _windowed_spectrum(target)
    correlations = []
    for band in _octave_bands(target, octaves):
        cross = ((predicted * true.conj()).real * band).sum().item()
        power = [(spectrum.abs().square() * band).sum().item() for spectrum in (predicted, true)]
        correlations.append(cross / math.sqrt(power[0] * power[1]) if min(power) > 0 else math.nan)
    return correlations


def periodic_artefact_index(prediction: Tensor, target: Tensor, period: int = 16) -> float:
    """How much a network's grids show in what it got wrong: 1 is no more than in the target itself.

    The largest ratio of a peak to its local median in the power spectrum of (prediction - target), at the multiples of
    1 / period cycles per pixel along both axes, which strides, patches and tiles could imprint; over the same for the
    target. NaN for images smaller than 4 periods, and for a perfect prediction.
    """
    height, width = (side - side % period for side in target.shape[-2:])
    if min(height, width) < 4 * period:
        return math.nan
    difference = (prediction.clamp(0, 1) - target)[..., :height, :width]
    found, natural = (_largest_peak(image, period) for image in (difference, target[..., :height, :width]))
    return found / natural if natural else math.nan


def _windowed_spectrum(image: Tensor) -> Tensor:
    """`rfft2` of the image without its mean, under a Hann window that keeps its border from leaking. Float64."""
    image = image.double()
    window = [
        torch.hann_window(side, periodic=True, dtype=image.dtype, device=image.device) for side in image.shape[-2:]
    ]
    centred = image - image.mean((-2, -1), keepdim=True)
    return torch.fft.rfft2(centred * torch.outer(*window), norm="ortho")


def _octave_bands(image: Tensor, octaves: int) -> list[Tensor]:
    """Weights (H, W//2 + 1) of each octave on `rfft2`'s half plane; the columns that stand for two weigh 2."""
    height, width = image.shape[-2:]
    kind = {"dtype": torch.float64, "device": image.device}
    rows, columns = torch.fft.fftfreq(height, **kind), torch.fft.rfftfreq(width, **kind)
    radius = torch.hypot(rows[:, None], columns[None, :])
    weight = multiplicity(width).to(image.device)
    edges = [math.inf, *(0.25 / 2**octave for octave in range(octaves))]
    return [((radius > low) & (radius <= high)) * weight for high, low in itertools.pairwise(edges)]


def _largest_peak(image: Tensor, period: int) -> float:
    """Largest power at the multiples of 1 / period, zero frequency aside, over the median of its surroundings."""
    power = torch.fft.fft2(image.double()).abs().square().reshape(-1, *image.shape[-2:]).mean(0)
    height, width = power.shape
    reach = min(height, width) // (2 * period) - 1  # short of the next multiple's half way
    largest = 0.0
    for row in range(period):
        for column in range(period // 2 + 1):
            if row == column == 0:
                continue
            top, left = row * height // period, column * width // period
            rows = torch.arange(top - reach, top + reach + 1) % height
            columns = torch.arange(left - reach, left + reach + 1) % width
            surroundings = power[rows][:, columns].median().item()
            if surroundings > 0:
                largest = max(largest, power[top, left].item() / surroundings)
    return largest
