"""The measures of `training.evaluate`, by name: predictions and clean images (3, H, W), float, nominally in [0, 1].

Those of `piq` and `flip-evaluator` import their library when they are first asked for: the others work without.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from torch import Tensor

from modeling.metrics import (
    fourier_ring_correlation,
    octave_spectrum_error,
    periodic_artefact_index,
    psnr,
    sharpness_ratio,
    ssim,
)

PACKAGES = {"piq": "piq", "flip_evaluator": "flip-evaluator", "matplotlib": "matplotlib"}  # module -> as pip knows it
PIQ_MINIMUM = 16  # pixels: HaarPSI's largest wavelet; smaller images are refused by the library or give nonsense


def library(module: str, wanted_by: str) -> ModuleType:
    """Imports an optional library. Raises `ValueError` naming the package where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.partition(".")[0]]
        raise ValueError(
            f"{wanted_by} needs the package {package}: run `pip install {package}`, or `pip install -e '.[train]'` "
            f"for all that training and evaluation use. ({error})"
        ) from error


def _piq(name: str) -> Callable[[Tensor, Tensor], float]:
    def measure(prediction: Tensor, target: Tensor) -> float:
        if min(target.shape[-2:]) < PIQ_MINIMUM:
            return math.nan
        function = getattr(library("piq", name), name)
        return function(prediction.clamp(0, 1)[None], target[None], data_range=1.0).item()

    return measure


def _flip(prediction: Tensor, target: Tensor) -> float:
    images = (np.ascontiguousarray(image.movedim(0, -1).cpu().numpy()) for image in (target, prediction.clamp(0, 1)))
    _, mean, _ = library("flip_evaluator", "flip").evaluate(*images, "LDR", applyMagma=False)
    return float(mean)


def _octaves(prediction: Tensor, target: Tensor) -> dict[str, float]:
    # Energy without correlation is noise, not detail: never the one without the other.
    errors, correlations = octave_spectrum_error(prediction, target), fourier_ring_correlation(prediction, target)
    columns = {f"octave_{octave}_dB": error for octave, error in enumerate(errors, 1)}
    return columns | {f"octave_{octave}_corr": correlation for octave, correlation in enumerate(correlations, 1)}


@dataclass(frozen=True)
class Measure:
    """A row of the table: a function to one value, or to several by column name, and what it says."""

    function: Callable[[Tensor, Tensor], float | dict[str, float]]
    meaning: str
    module: str | None = None  # the optional library that it needs
    quick: bool = False  # measured unless `--measures` says otherwise
    decimals: int = 4


MEASURES: dict[str, Measure] = {
    "psnr": Measure(psnr, "peak signal-to-noise ratio in dB, higher is better", quick=True, decimals=2),
    "mse": Measure(
        lambda prediction, target: (prediction.clamp(0, 1) - target).square().mean().item(),
        "mean squared error in [0, 1], 0 is best",
        decimals=6,
    ),
    "ssim": Measure(ssim, "structural similarity (Wang et al. 2004), 1 is best", quick=True),
    "haarpsi": Measure(_piq("haarpsi"), "Haar perceptual similarity (Reisenhofer et al. 2018), 1 is best", "piq"),
    "gmsd": Measure(_piq("gmsd"), "gradient magnitude similarity deviation (Xue et al. 2014), 0 is best", "piq"),
    "fsim": Measure(_piq("fsim"), "feature similarity with colour (Zhang et al. 2011), 1 is best", "piq"),
    "flip": Measure(_flip, "mean FLIP error at 67 pixels per degree (Andersson 2020), 0 is best", "flip_evaluator"),
    "sharpness_ratio": Measure(sharpness_ratio, "predicted over true local sharpness, 1 is right", quick=True),
    "top_octave_dB": Measure(
        lambda prediction, target: octave_spectrum_error(prediction, target, 1)[0],
        "predicted over true power above 1/4 cycle per pixel in dB, 0 is right",
        quick=True,
        decimals=2,
    ),
    "top_octave_corr": Measure(
        lambda prediction, target: fourier_ring_correlation(prediction, target, 1)[0],
        "correlation with the truth above 1/4 cycle per pixel, 1 is right",
        quick=True,
    ),
    "octaves": Measure(
        _octaves,
        "octave_N_dB: predicted over true power in dB, octave_N_corr: Fourier ring correlation; N = 1 is above 1/4 "
        "cycle per pixel, 2 from 1/8 to 1/4, and so on",
    ),
    "artefact_index": Measure(
        periodic_artefact_index, "peaks that a 16-pixel grid leaves, over those of the target: 1 is none", quick=True
    ),
}
QUICK_MEASURES = tuple(name for name, measure in MEASURES.items() if measure.quick)


def checked_measures(names: Sequence[str]) -> list[str]:
    """The names given, `all` spelt out; raises `ValueError` for unknown ones and where a library is missing."""
    names = list(MEASURES) if "all" in names else list(dict.fromkeys(names))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise ValueError(f"--measures {unknown} must be `all` or among {list(MEASURES)}.")
    for name in names:
        if MEASURES[name].module:
            library(MEASURES[name].module, f"--measures {name}")
    return names


def measured(names: Sequence[str], prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Values by column; NaN where a measure is not defined, as for images smaller than its window."""
    values: dict[str, float] = {}
    for name in names:
        value = MEASURES[name].function(prediction, target)
        values |= value if isinstance(value, dict) else {name: value}
    return values
