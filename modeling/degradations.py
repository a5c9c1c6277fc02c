"""Seeded noise models, and the distortions on which losses are compared. Pure functions of an image and a seed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import brentq
from torch import Tensor

from .spectra import multiplicity


def gaussian_noise(image: Tensor, noise_level: float, generator: torch.Generator) -> Tensor:
    """Adds white Gaussian noise: y = x + n, n ~ N(0, noise_level^2). Neither clipped nor quantised.

    Args:
        image: any shape, float in [0, 1].
        noise_level: standard deviation in units of the [0, 1] range (25 / 255, say), at least 0.
        generator: a CPU generator; the same one gives the same noise on any device.
    """
    _check_level("noise_level", noise_level)
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return image + noise_level * noise.to(image)


def poisson_gaussian_noise(image: Tensor, shot: float, read: float, generator: torch.Generator) -> Tensor:
    """Photons and electronics: y = a P(x / a) + read n, a = shot^2, P Poisson, n ~ N(0, 1) (Foi et al. 2008).

    The variance is shot^2 x + read^2: `shot` is the standard deviation of the photon noise at white, `read` that of the
    electronics, both in units of the [0, 1] range. Values under 0 emit no photons.
    """
    _check_level("shot", shot)
    _check_level("read", read)
    counted = image
    if shot:
        rates = (image.clamp(min=0) / shot**2).float().cpu()
        counted = (shot**2 * torch.poisson(rates, generator=generator)).to(image)
    return gaussian_noise(counted, read, generator)


def correlated_noise(image: Tensor, level: float, correlation: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise with grain: y = x + level (k * n) / ||k||, k a Gaussian kernel, n ~ N(0, 1).

    Args:
        image: (..., H, W), float in [0, 1].
        level: standard deviation in units of the [0, 1] range.
        correlation: standard deviation of the kernel in pixels, greater than 0.
    """
    _check_level("level", level)
    if not 0 < correlation < math.inf:
        raise ValueError(f"correlation={correlation} must be a positive number of pixels.")
    reach = math.ceil(3 * correlation)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / correlation).square())
    taps = taps / taps.square().sum().sqrt()  # unit norm keeps unit variance
    height, width = image.shape[-2:]
    shape = (math.prod(image.shape[:-2]), 1, height + 2 * reach, width + 2 * reach)
    noise = torch.randn(shape, generator=generator)
    noise = F.conv2d(F.conv2d(noise, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return image + level * noise.view(image.shape).to(image)


def salt_and_pepper_noise(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Dead pixels: each is 0 with probability share / 2, 1 with probability share / 2, in all channels at once."""
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} must lie in [0, 1].")
    chance = torch.rand(image.shape[-2:], generator=generator).to(image.device)
    return torch.where(chance < share / 2, 0.0, torch.where(chance < share, 1.0, image))


def jpeg_compression(image: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """y = JPEG(x), clipped and in 8 bits, colours at half resolution. (3, H, W) or (1, H, W).

    `quality` is libjpeg's, from 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} must lie in [1, 100].")
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().movedim(0, -1).squeeze(-1)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=round(quality))
    compressed = torch.from_numpy(np.array(Image.open(file)))
    return compressed.reshape(*image.shape[-2:], -1).movedim(-1, 0).to(image) / 255


def quantisation(image: Tensor, bits: float, generator: torch.Generator) -> Tensor:
    """y = round((2^bits - 1) x) / (2^bits - 1), clipped."""
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits} must lie in [1, 16].")
    steps = 2 ** round(bits) - 1
    return (image.clamp(0, 1) * steps).round() / steps


def _check_level(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value} must be at least 0, in units of the [0, 1] range.")


@dataclass(frozen=True)
class NoiseModel:
    """A row of the table of noise models: its function and, by parameter, the unit in which recipes write it."""

    function: Callable[..., Tensor]
    units: Mapping[str, float]


# Levels are written in 255ths, as the field does; everything else in its own unit.
NOISE_MODELS: dict[str, NoiseModel] = {
    "gaussian": NoiseModel(gaussian_noise, {"noise_level": 1 / 255}),
    "poisson_gaussian": NoiseModel(poisson_gaussian_noise, {"shot": 1 / 255, "read": 1 / 255}),
    "correlated": NoiseModel(correlated_noise, {"level": 1 / 255, "correlation": 1.0}),
    "salt_and_pepper": NoiseModel(salt_and_pepper_noise, {"share": 1.0}),
    "jpeg": NoiseModel(jpeg_compression, {"quality": 1.0}),
    "quantisation": NoiseModel(quantisation, {"bits": 1.0}),
}


class Noise:
    """Noise models applied one after the other, as a recipe writes them.

        [{"model": "gaussian", "noise_level": [0, 75]}, {"model": "jpeg", "quality": [60, 95], "probability": 0.3}]

    A parameter is a number, or a range from which every image draws its own, uniformly. `probability` is that of the
    step being taken at all (default 1).
    """

    def __init__(self, steps: Sequence[Mapping]) -> None:
        if not steps:
            raise ValueError(f"noise={list(steps)} names no step: choose from {list(NOISE_MODELS)}.")
        self.steps: list[tuple[str, dict[str, tuple[float, float]], float]] = []
        for step in steps:
            parameters = dict(step)
            name, probability = parameters.pop("model", None), parameters.pop("probability", 1.0)
            if name not in NOISE_MODELS:
                raise ValueError(f"There is no noise model {name!r} in {dict(step)}: choose from {list(NOISE_MODELS)}.")
            units = NOISE_MODELS[name].units
            if set(parameters) != set(units):
                raise ValueError(f"{dict(step)}: the noise model {name!r} takes {list(units)}, and a probability.")
            if not 0 <= probability <= 1:
                raise ValueError(f"{dict(step)}: probability={probability} must lie in [0, 1].")
            ranges = {}
            for parameter, value in parameters.items():
                low, high = value if isinstance(value, list | tuple) else (value, value)
                if not low <= high:
                    raise ValueError(f"{dict(step)}: {parameter}={value} must be a number or [low, high].")
                ranges[parameter] = (low * units[parameter], high * units[parameter])
            self.steps.append((name, ranges, probability))
            # A range that the model refuses is refused here, and not hours later.
            tiny, generator = torch.zeros(3, 8, 8), torch.Generator()
            for end in (0, 1):
                NOISE_MODELS[name].function(tiny, **{k: v[end] for k, v in ranges.items()}, generator=generator)

    def __call__(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """(C, H, W) in [0, 1] -> the noisy image, and the noise level in units of the [0, 1] range.

        The level is the standard deviation of the noise: the one drawn where all of it is Gaussian, otherwise the root
        mean square of what has changed.
        """
        noisy, variance, gaussian = image, 0.0, True
        for name, ranges, probability in self.steps:
            draws = torch.rand(1 + len(ranges), generator=generator).tolist()
            if draws[0] >= probability:
                continue
            values = {
                k: low + draw * (high - low) for (k, (low, high)), draw in zip(ranges.items(), draws[1:], strict=True)
            }
            noisy = NOISE_MODELS[name].function(noisy, **values, generator=generator)
            gaussian = gaussian and name == "gaussian"
            variance += values.get("noise_level", 0.0) ** 2
        level = math.sqrt(variance) if gaussian else (noisy - image).square().mean().sqrt().item()
        return noisy, level


def indexed_gaussian_noise(image: Tensor, noise_level: float, index: int) -> Tensor:
    """Gaussian noise of the measuring protocol: a function of the image's index in its set alone."""
    return gaussian_noise(image, noise_level, torch.Generator().manual_seed(index))


def seeded_generator(*seeds: int) -> torch.Generator:
    """A CPU generator that is a function of all the integers given, in order (at least 0 each)."""
    # Neighbouring seeds of the Mersenne twister start in neighbouring states, so the integers are hashed first
    # (splitmix64, Steele et al. 2014).
    state = 0
    for seed in seeds:
        state = (state ^ seed) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state)


# ---------------------------------------------------------------------------------------------------------------------
# Distortions: what the losses are compared on. Periodic, so that their effect on the spectrum is exact and is stated
# there: turned phases, damped amplitudes, or an added pattern of unit power. Either way the mean squared error follows
# from the strength without making the picture (Parseval), which calibrates a distortion in milliseconds.
# ---------------------------------------------------------------------------------------------------------------------


def _shift_phase(spectrum: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    rows, columns = _frequencies(size)
    return 2 * math.pi * (rows + columns)


def _scrambling_phase(spectrum: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    noise = torch.randn(size, generator=seeded_generator(seed), dtype=torch.float64)
    phase = torch.fft.rfft2(noise).angle()
    phase[..., 0, 0] = 0.0  # the mean stays
    return phase


def _zeroing_phase(spectrum: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    return -spectrum.angle()


def _blur_damping(size: tuple[int, int]) -> Tensor:
    rows, columns = _frequencies(size)
    return 2 * math.pi**2 * (rows.square() + columns.square())


def _noise_pattern(size: tuple[int, ...], seed: int) -> Tensor:
    noise = torch.randn(size, generator=seeded_generator(seed), dtype=torch.float64)
    return noise / noise.square().mean().sqrt()


def _checkerboard_pattern(size: tuple[int, ...], seed: int) -> Tensor:
    rows, columns = torch.arange(size[-2])[:, None], torch.arange(size[-1])[None, :]
    return (1.0 - 2.0 * ((rows + columns) % 2)).double().expand(size)


def _frequencies(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column frequencies of `rfft2` in cycles per pixel: (H, 1) and (1, W//2 + 1)."""
    height, width = size
    return torch.fft.fftfreq(height, dtype=torch.float64)[:, None], torch.fft.rfftfreq(width, dtype=torch.float64)[None]


@dataclass(frozen=True)
class Distortion:
    """A row of the table of distortions: the range of its strength s with the unit, and one of its three forms.

    `phase` multiplies the spectrum by exp(i s phase), `damping` by exp(-s^2 damping), and `pattern` is added s times.
    """

    label: str
    unit: str
    maximum: float
    phase: Callable[[Tensor, tuple[int, int], int], Tensor] | None = None
    damping: Callable[[tuple[int, int]], Tensor] | None = None
    pattern: Callable[[tuple[int, ...], int], Tensor] | None = None


DISTORTIONS: dict[str, Distortion] = {
    "shift": Distortion("cyclic shift", "pixels", 8.0, phase=_shift_phase),
    "blur": Distortion("Gaussian blur", "sigma in pixels", 16.0, damping=_blur_damping),
    "noise": Distortion("white noise", "sigma", 0.5, pattern=_noise_pattern),
    "scrambled_phase": Distortion("phase scrambled", "share", 1.0, phase=_scrambling_phase),
    "zeroed_phase": Distortion("phase zeroed", "share", 1.0, phase=_zeroing_phase),
    "checkerboard": Distortion("checkerboard", "amplitude", 0.5, pattern=_checkerboard_pattern),
}


def distort(image: Tensor, name: str, strength: float, seed: int = 0) -> Tensor:
    """Applies a row of `DISTORTIONS`. (..., H, W) -> (..., H, W), neither clipped nor quantised.

    Strength 0 changes nothing. A shift by whole pixels, towards the upper left, is exact; amplitudes survive shifts and
    phases unchanged, but for those at half the sampling rate, which a fraction of a shift or of a phase dampens.
    """
    return Distorter(image, name, seed)(strength)


class Distorter:
    """One row of `DISTORTIONS` on one image, at any strength, and the strength at which it has a given PSNR, unclipped.

    What does not depend on the strength is computed once, so that a person can move it. Called with a strength it
    returns the distorted image, see [`distort`].
    """

    STEPS = 24  # coarse strengths, closer together near 0, between which the right one is sought

    def __init__(self, image: Tensor, name: str, seed: int = 0) -> None:
        if name not in DISTORTIONS:
            raise ValueError(f"There is no distortion {name!r}: choose from {list(DISTORTIONS)}.")
        self.row, self.image = DISTORTIONS[name], image
        if self.row.pattern:
            self.pattern = self.row.pattern(tuple(image.shape), seed).to(image)
            return
        size, precision = tuple(image.shape[-2:]), torch.promote_types(image.dtype, torch.float32)
        self.spectrum = torch.fft.rfft2(image.to(precision), norm="ortho")
        place = image.device, precision
        self.phase = self.row.phase(self.spectrum, size, seed).to(*place) if self.row.phase else None
        self.damping = self.row.damping(size).to(*place) if self.row.damping else None
        self.strengths = [self.row.maximum * (step / self.STEPS) ** 2 for step in range(self.STEPS + 1)]
        # Of these strengths, as they are asked for. Threads that fill in the same one write the same number.
        self.errors: list[float | None] = [0.0] + [None] * self.STEPS

    def __call__(self, strength: float) -> Tensor:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength={strength} must be finite and at least 0.")
        if self.row.pattern:
            return self.image + strength * self.pattern
        if self.phase is not None:
            factor = torch.polar(torch.ones_like(self.phase), strength * self.phase)
        else:
            factor = torch.exp(-(strength**2) * self.damping)
        size = self.image.shape[-2:]
        return torch.fft.irfft2(self.spectrum * factor, s=size, norm="ortho").to(self.image.dtype)

    @cached_property
    def power(self) -> Tensor:
        """Share of each coefficient in the mean square of the image."""
        power = self.spectrum.abs().square() / self.image.numel()
        return power * multiplicity(self.image.shape[-1]).to(power)

    def error(self, strength: float) -> float:
        """Mean squared error, by Parseval's theorem."""
        if self.phase is not None:
            changes = 2 * torch.sin(strength / 2 * self.phase)  # |exp(i x) - 1| = 2 |sin(x / 2)|
        else:
            changes = torch.expm1(-(strength**2) * self.damping)
        return float((changes.square_() * self.power).sum())

    def strength(self, psnr: float) -> float:
        """One that has the PSNR, in dB, in the first of the stops' intervals that reaches it.

        The error need not grow with the strength: that of a shift oscillates on periodic texture. So a smaller strength
        may reach the PSNR between two stops unseen. Raises `ValueError` where no stop reaches it.
        """
        wanted = 10 ** (-psnr / 10)
        if self.row.pattern:
            return math.sqrt(wanted)
        for step, high in enumerate(self.strengths[1:], 1):  # the first that is enough: beyond, it need not grow
            if self.errors[step] is None:
                self.errors[step] = self.error(high)
            if self.errors[step] >= wanted:
                low = self.strengths[step - 1]
                # In the square root, which is nearly a straight line.
                return brentq(lambda s: math.sqrt(self.error(s)) - math.sqrt(wanted), low, high, rtol=1e-6)
        raise ValueError(f"The distortion {self.row.label!r} cannot bring this image down to {psnr} dB.")
