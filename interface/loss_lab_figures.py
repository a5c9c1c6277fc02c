"""What the tab Loss lab shows of an image: its distortions, their spectra, and every loss of them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from threading import Barrier

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from interface.figures import (
    HALF_BAND,
    SPECTRUM_AXES,
    Panel,
    bars,
    curve,
    panels,
    round_number_above,
    thinned,
)
from interface.pictures import centre, on_page, read_small_enough
from modeling import LOSS_TERMS
from modeling.degradations import DISTORTIONS, Distorter
from modeling.losses import pixel
from modeling.metrics import ssim_per_image
from modeling.sharpness import sharpness_scores
from modeling.spectra import emphasis_map

POSTS_PSNR = 22.65  # dB, the second post's
MAX_SIDE = 512  # pixels: larger images are cut to their centre, so that every control answers at once
HYBRID = "pixel + amplitude_squared"  # what the second post recommends
REFERENCE = "blur"  # the distortion that the relative table divides by
SMALLEST_WINDOW, USUAL_WINDOW = 4, 16  # pixels
SCORE = "mean difference between neighbours"


@dataclass
class Specimen:
    """A gray image under examination, and what has been computed of it."""

    image: Tensor  # (1, 1, H, W), float32

    def __post_init__(self) -> None:
        self.distorter = lru_cache(lambda name: Distorter(self.image, name))
        self.distorted = lru_cache(maxsize=16)(lambda name, strength: self.distorter(name)(strength))
        self.batch = lru_cache(maxsize=2)(self._batch)
        self.strengths = lru_cache(maxsize=64)(self._strengths)
        self.window_scores = lru_cache(maxsize=16)(self._window_scores)
        self.loss = lru_cache(maxsize=256)(self._loss)
        self.measures = lru_cache(maxsize=256)(self._measures)

    def _strengths(self, common_psnr: float | None, share: float) -> dict[str, float]:
        """By distortion: calibrated to one PSNR, or a share of its maximum. Those that cannot reach it are left out."""
        if common_psnr is None:
            return {name: share * row.maximum for name, row in DISTORTIONS.items()}

        def calibrated(name: str) -> float | None:
            try:
                strength = self.distorter(name).strength(common_psnr)
            except ValueError:
                return None
            self.distorted(name, strength)  # and kept: whoever asks for the strength looks at it next
            return strength

        found = zip(DISTORTIONS, one_core_each().map(calibrated, DISTORTIONS), strict=True)
        return {name: strength for name, strength in found if strength is not None}

    def _batch(self, strengths: tuple[tuple[str, float], ...]) -> Tensor:
        """The image under each of the distortions: (B, 1, H, W)."""
        return torch.cat([self.distorted(name, strength) for name, strength in strengths])

    def _loss(self, term: str, strengths: tuple[tuple[str, float], ...], *emphasis: float) -> list[float]:
        """A loss of the image under each of the distortions; one target for all, so that it is looked at once."""
        return LOSS_TERMS[term].function(self.batch(strengths), self.image, *emphasis).tolist()

    def _measures(self, strengths: tuple[tuple[str, float], ...]) -> list[dict[str, float]]:
        """What the emphasis has no part in."""
        batch = self.batch(strengths)
        true_sharpness = sharpness_scores(self.image).mean().item()
        sharpness = sharpness_scores(batch.clamp(0, 1)).mean((1, 2))
        columns = {
            "strength": [strength for _, strength in strengths],
            "PSNR (dB)": [decibels(error) for error in pixel(batch, self.image).tolist()],
            "1 - SSIM": (1 - ssim_per_image(batch, self.image)).tolist(),
            "sharpness ratio": (sharpness / (true_sharpness or math.nan)).tolist(),
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _window_scores(self, side: int) -> Tensor:
        """Sharpness of windows of `side` pixels (rows, columns), over the number of differences that a score sums up.

        So windows of any two sizes compare.
        """
        inner = max(min(side, *self.image.shape[-2:]), 2) - 1
        return sharpness_scores(self.image, side)[0] / (4 * inner**2 + 2 * inner)

    @cached_property
    def sharpest(self) -> float:
        """A round number above the scores of all windows: one scale, so that a slider moves nothing but colours."""
        return round_number_above(self.window_scores(SMALLEST_WINDOW).max().item())


def decibels(error: float) -> float:
    """PSNR of a mean squared error; nothing is clipped, so that distortions of one PSNR have one error."""
    return -10 * math.log10(max(error, 1e-12))


@on_page
def specimen(path: str) -> Specimen:
    """A photograph's centre in gray."""
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
    return Specimen(centre((read_small_enough(path) * luma).sum(0), MAX_SIDE)[None, None])


def gallery_panels(seen: Specimen, strengths: dict[str, float]) -> Image.Image:
    items = [Panel("original", thinned(seen.image[0, 0]), limits=(0, 1))]
    for name, strength in strengths.items():
        distorted = seen.distorted(name, strength)
        items.append(Panel(DISTORTIONS[name].label, thinned(distorted[0, 0]), limits=(0, 1)))
    return panels(items, columns=4)


def spectrum_panels(seen: Specimen, name: str, strength: float, emphasis: float) -> Image.Image:
    """Amplitude and phase of both spectra, centred, and their amplitude difference under the emphasis map."""
    pair = torch.cat([seen.image, seen.distorted(name, strength)])[:, 0]
    spectra = torch.fft.fftshift(torch.fft.fft2(pair, norm="ortho"), dim=(-2, -1))
    weights = emphasis_map(*spectra[0].shape, emphasis)
    difference = (spectra[0].abs() - spectra[1].abs()).abs() * weights

    def logarithmic(title: str, values: Tensor) -> Panel:
        shown = thinned((values.abs() + 1e-6).log10())
        return Panel(title, shown, "log10 |F|", "magma", (-3.0, 2.0), HALF_BAND, SPECTRUM_AXES)

    def angular(title: str, values: Tensor) -> Panel:
        limits = (-math.pi, math.pi)
        return Panel(title, thinned(values.angle()), "radians", "twilight", limits, HALF_BAND, SPECTRUM_AXES)

    label = DISTORTIONS[name].label
    return panels(
        [
            logarithmic("amplitude, original", spectra[0]),
            logarithmic(f"amplitude, {label}", spectra[1]),
            logarithmic("difference x (1 + g d)", difference),
            angular("phase, original", spectra[0]),
            angular(f"phase, {label}", spectra[1]),
            Panel("emphasis map", thinned(weights), "1 + g d", "viridis", (1, 5), HALF_BAND, SPECTRUM_AXES),
        ],
        columns=3,
    )


@cache
def one_core_each() -> ThreadPoolExecutor:
    """As many threads as torch uses, each of which computes on one core.

    Losses of a few small images are done sooner beside each other than one after the other on all cores.
    """
    cores = torch.get_num_threads()
    pool, met = ThreadPoolExecutor(cores), Barrier(cores)

    def restrict() -> None:
        met.wait()  # so that every thread comes here once
        torch.get_num_threads()  # on its first use a thread takes over what was said last, even if it knew better
        torch.set_num_threads(1)

    for done in [pool.submit(restrict) for _ in range(cores)]:
        done.result()
    torch.set_num_threads(cores)  # a thread that begins later does as the last one said
    return pool


def loss_table(seen: Specimen, strengths: dict[str, float], emphasis: float) -> dict[str, dict[str, float]]:
    """Distortion -> loss or measure -> value."""
    items, pool = tuple(strengths.items()), one_core_each()
    seen.batch(items)  # once, for all
    measures = pool.submit(seen.measures, items)
    columns = {
        term: pool.submit(seen.loss, term, items, *([emphasis] if row.emphasised else []))
        for term, row in reversed(LOSS_TERMS.items())  # short ones at the end
    }
    table = {}
    for index, (name, values) in enumerate(zip(strengths, measures.result(), strict=True)):
        losses = {term: columns[term].result()[index] for term in LOSS_TERMS}
        table[name] = {**losses, HYBRID: losses["pixel"] + losses["amplitude_squared"], **values}
    return table


def table_rows(table: dict[str, dict[str, float]], relative: bool) -> list[list[str]]:
    """Rows of the table shown: a loss or measure, then its value for each distortion, over the blur's if `relative`."""
    rows = []
    for term in next(iter(table.values())):
        values = [table[name][term] if name in table else math.nan for name in DISTORTIONS]
        if relative:
            reference = table.get(REFERENCE, {}).get(term, math.nan)
            values = [value / reference if reference else math.nan for value in values]
        rows.append([term, *("-" if math.isnan(value) else f"{value:.4g}" for value in values)])
    return rows


def chart(table: dict[str, dict[str, float]]) -> Image.Image | None:
    """`None` where the reference is missing: not every blur can bring every image down to every PSNR."""
    names = [name for name in (*LOSS_TERMS, HYBRID) if REFERENCE in table and table[REFERENCE][name] > 0]
    if not names:
        return None
    series = {
        DISTORTIONS[name].label: [values[term] / table[REFERENCE][term] for term in names]
        for name, values in table.items()
        if name in ("shift", "blur", "noise", "scrambled_phase")
    }
    # A fixed scale, since the blur has next to no phase to divide by, and so that a slider moves nothing but bars.
    return bars(names, series, "Loss of each distortion relative to that of the blur", "relative to blur", top=4.0)


def surface_panels(phase_weight: float, side: int = 121) -> Image.Image:
    """Losses of one Fourier coefficient z around its reference 1 + 0i (second post)."""
    axis = torch.linspace(-2, 2, side)
    real, imaginary = axis[None, :].expand(side, side), -axis[:, None].expand(side, side)
    squared = (real - 1).square() + imaginary.square()
    amplitude = (torch.hypot(real, imaginary) - 1).square()
    phase = torch.atan2(imaginary, real).square()
    surfaces = {
        "L2: |z - 1|²": squared,
        "amplitude: (|z| - 1)²": amplitude,
        "phase: arg(z)²": phase,
        "amplitude + weight x phase": amplitude + phase_weight * phase,
        "hybrid: L2 + amplitude": squared + amplitude,
    }
    frame = {
        "bar": "loss",
        "colours": "viridis",
        "limits": (0, 10),
        "extent": (-2, 2, -2, 2),
        "axes": ("real part", "imaginary part"),
        "marks": (("reference", 1.0, 0.0), ("origin", 0.0, 0.0)),
        "contours": 20,
    }
    return panels([Panel(title, values, **frame) for title, values in surfaces.items()], columns=3)


def ring(thickness: float) -> Tensor:
    """The first post's picture (1, 1, 256, 256): a white ring of radius 60 on black."""
    side = torch.arange(256.0) - 128
    distance = torch.hypot(side[:, None], side[None, :])
    return ((distance - 60).abs() <= thickness / 2).float()[None, None]


def ring_difference(thickness: float, kernel: int) -> tuple[Tensor, Tensor, float]:
    """-> the ring, its blurred version, and the mean absolute difference of their unnormalised amplitudes.

    The kernel's standard deviation is a fifth of its side, as in the post (15 and 3.0, 5 and 1.0).
    """
    sharp = ring(thickness)
    blurred = gaussian_blur(sharp, [kernel, kernel], [kernel / 5, kernel / 5])
    difference = (torch.fft.fft2(sharp).abs() - torch.fft.fft2(blurred).abs()).abs().mean().item()
    return sharp, blurred, difference


def ring_panels(thickness: float, kernel: float) -> tuple[Image.Image, str]:
    sharp, blurred, difference = ring_difference(thickness, int(kernel))
    logs = [
        thinned((torch.fft.fftshift(torch.fft.fft2(image[0, 0])).abs() + 1e-6).log10()) for image in (sharp, blurred)
    ]
    # One frame for all settings, so that it is drawn once: 4.5 is above the sum of the thickest ring's pixels.
    frame = {"limits": (-2, 4.5), "extent": HALF_BAND, "axes": SPECTRUM_AXES}
    picture = panels(
        [
            Panel("ring", sharp[0, 0], limits=(0, 1)),
            Panel("blurred ring", blurred[0, 0], limits=(0, 1)),
            Panel("amplitude of the ring", logs[0], "log10 |F|", "magma", **frame),
            Panel("amplitude of the blurred ring", logs[1], "log10 |F|", "magma", **frame),
        ],
        columns=4,
    )
    return picture, f"Mean absolute difference of the unnormalised amplitudes: **{difference:.4f}**"


def sharpness_panels(seen: Specimen, window: float) -> Image.Image:
    """The scores of its windows over the image."""
    height, width = seen.image.shape[-2:]
    spread = F.interpolate(seen.window_scores(int(window))[None, None], size=(height, width), mode="nearest")[0, 0]
    brightest = round_number_above(seen.window_scores(USUAL_WINDOW).max().item())  # one scale here, too
    frame = {"extent": (0, width, height, 0), "axes": ("pixels", "pixels"), "limits": (0.0, brightest)}
    return panels(
        [
            Panel("image", thinned(seen.image[0, 0]), limits=(0, 1)),
            Panel("sharpness of each window", thinned(spread), SCORE, "inferno", **frame),
        ],
        columns=2,
        size=4.2,
    )


def sorted_chart(seen: Specimen, window: float) -> Image.Image:
    """What `regional_sharpness` compares."""
    ranked = seen.window_scores(int(window)).flatten().sort(descending=True).values
    return curve(ranked, seen.sharpest, "Scores in descending order", ("share of the windows", SCORE))
