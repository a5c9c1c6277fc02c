"""Figures of the Denoise tab: what each slider costs and brings, energy by frequency, crops to look at closely.

They are computed of a photograph's centre, so that they follow a slider on any photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from interface.figures import Chart, MarkedChart, charts
from interface.painting import held_where
from interface.pictures import Photograph, centre, to_image
from interface.restorer import Restore
from modeling import LOSS_TERMS
from modeling.metrics import psnr, sharpness_ratio
from modeling.sharpness import sharpness_scores
from modeling.spectra import hann_window, multiplicity
from modeling.unet import on_finest_grid

FIDELITY_CORNER = {"pixel": 1.0}
TRADE_OFF_SIDE = 224  # pixels: all curves in about a second on one core
SPECTRUM_SIDE = 512
STOPS = (0.1, 0.25, 0.5, 1.0)  # of a slider's travel
RINGS = 48  # of the radial spectra
CROP_SIDE, CROP_ZOOM = 96, 3
OVERVIEW_SIDE = 416
FREQUENCY = "frequency (cycles per pixel)"


# ---------------------------------------------------------------------------------------------------------------------
# Trade-off
# ---------------------------------------------------------------------------------------------------------------------


def travels(terms: Mapping[str, str], max_emphasis: float) -> dict[str, list[tuple[dict[str, float], float]]]:
    """The settings (weights, emphasis) along each slider: from the pixel loss to one term alone, and its emphasis."""
    found = {
        label: [(FIDELITY_CORNER, 0.0), *(({"pixel": 1 - stop, term: stop}, 0.0) for stop in STOPS)]
        for term, label in terms.items()
        if term != "pixel"
    }
    emphasised = next((term for term in terms if LOSS_TERMS[term].emphasised), None)
    if emphasised and max_emphasis:
        label = f"{terms[emphasised]}, emphasis 0 to {max_emphasis:g}"
        found[label] = [({emphasised: 1.0}, max_emphasis * stop) for stop in (0.0, *STOPS)]
    return found


def reached(restored: Tensor, clean: Tensor) -> tuple[float, float]:
    """Sharpness ratio, PSNR in dB: a place in the trade-off."""
    return sharpness_ratio(restored, clean), psnr(restored, clean)


class TradeOff:
    """What the sliders can do with one photograph: PSNR against the sharpness ratio along the travel of each.

    Args:
        restore: the network.
        photograph: with added noise.
        terms: label of each loss weight's slider, by term.
        max_emphasis: end of the emphasis slider.
        noise_level: that the network is told.
    """

    def __init__(
        self,
        restore: Restore,
        photograph: Photograph,
        terms: Mapping[str, str],
        max_emphasis: float,
        noise_level: float | None,
    ) -> None:
        self.restore, self.noise_level, self.size = restore, noise_level, photograph.photo.shape[-2:]
        self.noisy, self.clean = (centre(image, TRADE_OFF_SIDE) for image in (photograph.noisy, photograph.photo))
        corner = self.place(FIDELITY_CORNER, 0.0)
        series = {}
        for label, settings in travels(terms, max_emphasis).items():
            places = [corner if weights is FIDELITY_CORNER else self.place(weights, g) for weights, g in settings]
            series[label] = tuple(zip(*places, strict=True))
        axes = ("sharpness ratio (1 is right, under 1 is blurred)", "PSNR (dB)")
        self.chart = MarkedChart(Chart("What each slider costs, and what it brings", series, axes))

    def place(self, loss_weights: Mapping[str, float], emphasis: float, area: Tensor | None = None) -> tuple:
        """What a setting reaches where it holds in an area (1, 1, h, w) of the whole photograph."""
        if area is not None:
            area = centre(on_finest_grid(area, self.size, self.size, unshuffle=1), TRADE_OFF_SIDE)
        setting = held_where(area, loss_weights, emphasis)
        return reached(self.restore(self.noisy, *setting, self.noise_level), self.clean)

    def marked(self, loss_weights: Mapping[str, float], emphasis: float, area: Tensor | None = None) -> Image.Image:
        """The curves, and a dot where this setting lies."""
        return self.chart.marked(*self.place(loss_weights, emphasis, area))


# ---------------------------------------------------------------------------------------------------------------------
# Spectra
# ---------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Of `rfft2`'s half plane: the ring of each bin and its weight; a Hann window (H, W); the number of rings.

    One more ring takes the corners, above half a cycle per pixel. The window keeps the image's borders from leaking.
    """
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    count = max(1, min(RINGS, min(height, width) // 2))
    ring = (torch.hypot(rows[:, None], columns[None, :]) * 2 * count).long().clamp(max=count)
    weight = multiplicity(width).float().expand(height, -1)
    return ring.flatten(), weight.flatten(), hann_window(height, width).float(), count


def _over_rings(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over each ring below half a cycle per pixel: (H, W//2 + 1) -> (rings,)."""
    ring, weight, _, count = _rings(*size)
    sums = torch.bincount(ring, weight * values.flatten(), minlength=count + 1)
    return (sums / torch.bincount(ring, weight, minlength=count + 1).clamp(min=1.0))[:count]


def radial_spectra(images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean power of each ring of frequencies, by name: (3, H, W) -> (rings,), of the orthonormal transform.

    The mean is removed. Rings are equally wide, from zero frequency to half a cycle per pixel.
    """
    return {name: _power(_spectrum(image), image) for name, image in images.items()}


def radial_correlations(images: Mapping[str, Tensor], clean: Tensor) -> dict[str, Tensor]:
    """Fourier ring correlation with the clean image, by name: 1 is right, 0 is unrelated."""
    true = _spectrum(clean)
    correlations = {}
    for name, image in images.items():
        found = _spectrum(image)
        cross = _over_rings((found * true.conj()).real.sum(0), image.shape[-2:])
        correlations[name] = cross / (_power(found, image) * _power(true, clean)).clamp(min=1e-20).sqrt()
    return correlations


def _spectrum(image: Tensor) -> Tensor:
    window = _rings(*image.shape[-2:])[2]
    return torch.fft.rfft2((image - image.mean((-2, -1), keepdim=True)) * window, norm="ortho")


def _power(spectrum: Tensor, image: Tensor) -> Tensor:
    return _over_rings(spectrum.abs().square().sum(0), image.shape[-2:])


def spectrum_charts(images: Mapping[str, Tensor], clean: Tensor | None) -> Image.Image:
    """Energy by frequency and, beside a clean image, how much of it is true: noise has energy, too.

    `images` are (3, H, W) by name, the clean one not among them.
    """
    images = {name: centre(image, SPECTRUM_SIDE) for name, image in images.items()}
    clean = None if clean is None else centre(clean, SPECTRUM_SIDE)

    def curves(values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: ((torch.arange(len(row)) + 0.5) / (2 * len(row)), row) for name, row in values.items()}

    power = radial_spectra(images if clean is None else {**images, "clean": clean})
    items = [Chart("Energy by frequency", curves(power), (FREQUENCY, "mean power"), logarithmic=True)]
    if clean is not None:
        correlations = curves(radial_correlations(images, clean))
        items.append(Chart("Correlation with the clean photograph", correlations, (FREQUENCY, "correlation")))
    return charts(items, width=3.8)


# ---------------------------------------------------------------------------------------------------------------------
# Zoom
# ---------------------------------------------------------------------------------------------------------------------


def sharpest_place(photo: Tensor) -> tuple[int, int]:
    """Centre (x, y) of the window with the most detail: where a loss shows first."""
    scores = sharpness_scores(photo[None], CROP_SIDE)[0]
    row, column = divmod(scores.argmax().item(), scores.shape[1])
    half = max(min(CROP_SIDE, *photo.shape[-2:]) // 2, 1)
    return (column + 1) * half, (row + 1) * half


def crop_box(place: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the crop around (x, y), moved into the image of (H, W) pixels."""
    left, top = (
        max(0, min(round(at) - CROP_SIDE // 2, length - CROP_SIDE))
        for at, length in zip(place, size[::-1], strict=True)
    )
    return left, top, min(left + CROP_SIDE, size[1]), min(top + CROP_SIDE, size[0])


def zoomed(image: Tensor, box: tuple[int, int, int, int]) -> Image.Image:
    """The pixels of a crop, each as a square of `CROP_ZOOM` a side."""
    left, top, right, bottom = box
    crop = to_image(image[:, top:bottom, left:right])
    return crop.resize((crop.width * CROP_ZOOM, crop.height * CROP_ZOOM), Image.Resampling.NEAREST)


def overview(image: Tensor, box: tuple[int, int, int, int]) -> Image.Image:
    """The whole picture, small, with a frame around the crop."""
    picture = to_image(image)
    scale = overview_scale(image)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    ImageDraw.Draw(picture).rectangle([round(edge * scale) for edge in box], outline="red", width=2)
    return picture


def overview_scale(image: Tensor) -> float:
    """Of the overview's pixels to the image's."""
    return min(1.0, OVERVIEW_SIDE / max(image.shape[-2:]))
