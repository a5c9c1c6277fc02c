"""Seeded noise models, and the distortions on which losses are compared. Pure functions of an image and a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def gaussian_noise(image: Tensor, noise_level: float, generator: torch.Generator) -> Tensor:
    """Adds white Gaussian noise: y = x + n, n ~ N(0, noise_level^2). Neither clipped nor quantised.

    Args:
        image: any shape, float in [0, 1].
        noise_level: standard deviation in units of the [0, 1] range (25 / 255, say), at least 0.
        generator: a CPU generator; the same one gives the same noise on any device.
    """
    if not noise_level >= 0:
        raise ValueError(f"noise_level={noise_level} must be at least 0, in units of the [0, 1] range.")
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    return image + noise_level * noise.to(image)


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
    row = _known_distortion(name, strength)
    if row.pattern:
        return image + strength * row.pattern(tuple(image.shape), seed).to(image)
    size = tuple(image.shape[-2:])
    spectrum = torch.fft.rfft2(image.double())
    if row.phase:
        spectrum = spectrum * torch.exp(1j * strength * row.phase(spectrum, size, seed))
    else:
        spectrum = spectrum * torch.exp(-(strength**2) * row.damping(size))
    return torch.fft.irfft2(spectrum, s=size).to(image.dtype)


def calibrated_strength(image: Tensor, name: str, psnr: float, seed: int = 0) -> float:
    """The smallest strength at which a distortion of the image has the PSNR given, in dB, not clipped.

    Raises `ValueError` where the distortion cannot reach it.
    """
    row = _known_distortion(name, 0.0)
    wanted = 10 ** (-psnr / 10)
    if row.pattern:
        return math.sqrt(wanted)
    size = tuple(image.shape[-2:])
    spectrum = torch.fft.rfft2(image.double(), norm="ortho")
    power = spectrum.abs().square() / image.numel()
    power[..., 1 : (size[1] + 1) // 2] *= 2  # the columns that stand for two
    phase = row.phase(spectrum, size, seed) if row.phase else None
    damping = row.damping(size) if row.damping else None

    def error(strength: float) -> float:
        if phase is not None:
            return float((power * (2 - 2 * torch.cos(strength * phase))).sum())
        return float((power * (1 - torch.exp(-(strength**2) * damping)).square()).sum())

    steps = 24
    low = high = 0.0
    for step in range(1, steps + 1):  # to the first strength that is enough: beyond it the error need not grow
        low, high = high, row.maximum * (step / steps) ** 2
        if error(high) >= wanted:
            break
    else:
        raise ValueError(f"The distortion {row.label!r} cannot bring this image down to {psnr} dB.")
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) < wanted else (low, middle)
    return (low + high) / 2


def _known_distortion(name: str, strength: float) -> Distortion:
    if name not in DISTORTIONS:
        raise ValueError(f"There is no distortion {name!r}: choose from {list(DISTORTIONS)}.")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength={strength} must be finite and at least 0.")
    return DISTORTIONS[name]
