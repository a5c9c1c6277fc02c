"""The Loss lab tab: what each loss sees and what it is blind to ("Comparing images in the frequency domain").

An image is shifted, blurred, made noisy, its phases scrambled - all to the same PSNR if one likes - and every loss says
how far that is from the original.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gradio as gr
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from interface.figures import (
    HALF_BAND,
    SPECTRUM_AXES,
    Chart,
    Panel,
    bars,
    charts,
    panels,
    round_number_above,
    thinned,
)
from interface.pictures import HOUR, PUT_AWAY, Pictures, centre, on_page
from modeling import LOSS_TERMS
from modeling.degradations import DISTORTIONS, Calibration, distort
from modeling.image_files import read_photograph
from modeling.losses import pixel, sharpness_scores
from modeling.metrics import ssim_per_image
from modeling.spectra import emphasis_map

POSTS_PSNR = 22.65  # dB, the second post's
MAX_SIDE = 512  # pixels: larger images are cut to their centre, so that every control answers at once
HYBRID = "pixel + amplitude_squared"  # what the second post recommends
REFERENCE = "blur"  # the distortion that the relative table divides by


@dataclass
class Specimen:
    """A gray image under examination, and what has been computed of it."""

    image: Tensor  # (1, 1, H, W), float32

    def __post_init__(self) -> None:
        self.distorted = lru_cache(maxsize=16)(lambda name, strength: distort(self.image, name, strength))
        self.batch = lru_cache(maxsize=2)(self._batch)
        self.calibration = lru_cache(lambda name: Calibration(self.image, name))
        self.strengths = lru_cache(maxsize=64)(self._strengths)
        self.losses = lru_cache(maxsize=256)(self._losses)
        self.measures = lru_cache(maxsize=256)(self._measures)

    def _strengths(self, common_psnr: float | None, share: float) -> dict[str, float]:
        """By distortion: calibrated to one PSNR, or a share of its maximum. Those that cannot reach it are left out."""
        if common_psnr is None:
            return {name: share * row.maximum for name, row in DISTORTIONS.items()}
        strengths = {}
        for name in DISTORTIONS:
            try:
                strengths[name] = self.calibration(name).strength(common_psnr)
            except ValueError:
                continue
        return strengths

    def _batch(self, strengths: tuple[tuple[str, float], ...]) -> Tensor:
        """The image under each of the distortions: (B, 1, H, W)."""
        return torch.cat([self.distorted(name, strength) for name, strength in strengths])

    def _losses(self, strengths: tuple[tuple[str, float], ...], emphasis: float) -> list[dict[str, float]]:
        """Each loss of the image under each of the distortions."""
        batch = self.batch(strengths)
        columns = {  # one target for all: what the losses ask of it is computed once
            term: row.function(batch, self.image, *([emphasis] if row.emphasised else [])).tolist()
            for term, row in LOSS_TERMS.items()
        }
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, HYBRID: row["pixel"] + row["amplitude_squared"]} for row in rows]

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


def decibels(error: float) -> float:
    """PSNR of a mean squared error; nothing is clipped, so that distortions of one PSNR have one error."""
    return -10 * math.log10(max(error, 1e-12))


@on_page
def specimen(path: str) -> Specimen:
    """A photograph's centre in gray."""
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
    return Specimen(centre((read_photograph(path) * luma).sum(0), MAX_SIDE)[None, None])


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
            logarithmic("amplitude difference x (1 + g d)", difference),
            angular("phase, original", spectra[0]),
            angular(f"phase, {label}", spectra[1]),
            Panel("emphasis map", thinned(weights), "1 + g d", "viridis", (1, 5), HALF_BAND, SPECTRUM_AXES),
        ],
        columns=3,
    )


def loss_table(seen: Specimen, strengths: dict[str, float], emphasis: float) -> dict[str, dict[str, float]]:
    """Distortion -> loss or measure -> value."""
    items = tuple(strengths.items())
    rows = zip(seen.losses(items, emphasis), seen.measures(items), strict=True)
    return {name: {**losses, **measures} for name, (losses, measures) in zip(strengths, rows, strict=True)}


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
    return bars(names, series, "Loss of each distortion relative to that of the blur", "relative to blur")


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
    scores = sharpness_scores(seen.image, int(window))[0]
    height, width = seen.image.shape[-2:]
    spread = F.interpolate(scores[None, None], size=(height, width), mode="nearest")[0, 0]
    limits = (0.0, round_number_above(scores.max().item()))
    frame = {"extent": (0, width, height, 0), "axes": ("pixels", "pixels"), "limits": limits}
    return panels(
        [
            Panel("image", thinned(seen.image[0, 0]), limits=(0, 1)),
            Panel("sharpness of each window", thinned(spread), "score", "inferno", **frame),
        ],
        columns=2,
        size=4.2,
    )


def sorted_chart(seen: Specimen, window: float) -> Image.Image:
    """What `regional_sharpness` compares."""
    scores = sharpness_scores(seen.image, int(window))[0]
    curve = {"score": (range(scores.numel()), scores.flatten().sort(descending=True).values)}
    return charts([Chart("Scores in descending order", curve, ("rank of the window", "score"))])


def build_loss_lab_tab(lab: gr.Tab, example: Path) -> None:
    """Lays out the tab `lab`, inside whose context this is called.

    `example` is the image examined until another one is given. Nothing is computed before the tab is opened.
    """
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
    # One after the other, in the order of the page: together they would all be as slow as the slowest.
    quiet |= {"concurrency_id": "loss_lab", "concurrency_limit": 1}
    seen = gr.State(None, time_to_live=HOUR)
    files = Pictures()
    beside = ThreadPoolExecutor(1)
    shown = {"show_label": False, "format": "png", "interactive": False}

    with gr.Tab("Distortions"):
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.Image(
                    str(example), label="Image", type="filepath", format="png", image_mode=None, height=200
                )
                calibrate = gr.Checkbox(True, label="Calibrate all distortions to one PSNR")
                common_psnr = gr.Slider(12, 40, POSTS_PSNR, step=0.05, label="PSNR (dB)")
                share = gr.Slider(0.01, 1, 0.1, step=0.01, label="Strength (share of the largest)", visible=False)
                chosen = gr.Radio(
                    [(row.label, name) for name, row in DISTORTIONS.items()], value="blur", label="Spectrum of"
                )
                emphasis = gr.Slider(0, 4, 0, step=0.1, label="High-frequency emphasis g")
            with gr.Column(scale=3):
                pictures = gr.Image(label="Distortions", elem_id="lab-pictures", **shown)
        spectra = gr.Image(label="Spectra", elem_id="lab-spectra", **shown)
        relative = gr.Checkbox(False, label="Relative to the blur")
        headers = ["loss or measure", *(f"{row.label} ({row.unit})" for row in DISTORTIONS.values())]
        numbers = gr.Dataframe(headers=headers, label="Losses and measures", interactive=False, elem_id="lab-table")
        relation = gr.Image(label="Relative losses", elem_id="lab-chart", **shown)
    with gr.Tab("Loss surfaces") as surface_tab:
        phase_weight = gr.Slider(0, 1, 0.2, step=0.05, label="Weight of the phase")
        surfaces = gr.Image(label="Loss of one Fourier coefficient", elem_id="lab-surfaces", **shown)
    with gr.Tab("Ring") as ring_tab:
        with gr.Row():
            thickness = gr.Slider(1, 40, 8, step=1, label="Thickness (pixels)")
            kernel = gr.Slider(3, 31, 15, step=2, label="Blur kernel (pixels; sigma is a fifth)")
        ring_number = gr.Markdown()
        rings = gr.Image(label="Ring experiment", elem_id="lab-rings", **shown)
    with gr.Tab("Sharpness map"):
        window = gr.Slider(4, 64, 16, step=2, label="Window (pixels)")
        with gr.Row():
            sharpness = gr.Image(label="Window scores", elem_id="lab-scores", **shown, scale=2)
            ordered = gr.Image(label="Sorted", elem_id="lab-sorted", **shown, scale=1)

    def strengths(current: Specimen, is_common: bool, psnr_value: float, share_value: float) -> dict[str, float]:
        return there(current).strengths(psnr_value if is_common else None, share_value)

    def there(current: Specimen | None) -> Specimen:
        if current is None:
            raise ValueError(PUT_AWAY)
        return current

    @on_page
    def draw_pictures(current, *settings):
        return files.file(gallery_panels(current, strengths(current, *settings)))

    @on_page
    def draw_spectra(current, name, g, *settings):
        known = strengths(current, *settings)
        return files.file(spectrum_panels(current, name, known[name], g)) if name in known else None

    @on_page
    def draw_sharpness(current, side):
        return files.file(sharpness_panels(there(current), side))

    @on_page
    def draw_sorted(current, side):
        return files.file(sorted_chart(there(current), side))

    def draw_surfaces(weight):
        return files.file(surface_panels(weight))

    def draw_rings(*settings):
        picture, number = ring_panels(*settings)
        return files.file(picture), number

    @on_page
    def fill_table(current, is_relative, g, *settings):
        table = loss_table(current, strengths(current, *settings), g)
        drawn = chart(table)
        return table_rows(table, is_relative), drawn and files.file(drawn)

    @on_page
    def distort_all(current, *settings):
        there(current).batch(tuple(strengths(current, *settings).items()))

    def draw_distortions(current, name, g, is_relative, *settings):
        """Figure by figure, in the order of the page; the table, which takes longest, is computed meanwhile."""
        distort_all(current, *settings)
        table = beside.submit(fill_table, current, is_relative, g, *settings)
        yield draw_pictures(current, *settings), gr.skip(), gr.skip(), gr.skip()
        yield gr.skip(), draw_spectra(current, name, g, *settings), gr.skip(), gr.skip()
        yield gr.skip(), gr.skip(), *table.result()

    def open_file(file: dict | None) -> Specimen | None:
        return specimen(file["path"]) if file else None

    setting = [calibrate, common_psnr, share]
    distortions = [seen, chosen, emphasis, relative, *setting]
    all_figures = [
        (draw_distortions, distortions, [pictures, spectra, numbers, relation], setting),
        (draw_sharpness, [seen, window], sharpness, [window]),
        (draw_sorted, [seen, window], ordered, [window]),
    ]
    parts = [
        (draw_spectra, [seen, chosen, emphasis, *setting], spectra, [chosen, emphasis]),
        (fill_table, [seen, relative, emphasis, *setting], [numbers, relation], [relative, emphasis]),
    ]
    for event in (
        lab.select(lambda current: current or specimen(str(example)), seen, seen, **quiet),
        upload.upload(open_file, upload, seen, preprocess=False, **quiet),
    ):
        for draw, inputs, outputs, _ in all_figures:
            event.success(draw, inputs, outputs, **quiet)
    calibrate.input(
        lambda on: (gr.update(visible=on), gr.update(visible=not on)), calibrate, [common_psnr, share], **quiet
    )
    for draw, inputs, outputs, moved in all_figures + parts:
        gr.on([control.input for control in moved], draw, inputs, outputs, **quiet)
    # A state's hour counts from when it was last written: whoever moves a slider keeps the image.
    gr.on([control.input for *_, moved in all_figures + parts for control in moved], lambda image: image, seen, seen,
          **quiet)  # fmt: skip
    for tab, draw, inputs, outputs in (
        (surface_tab, draw_surfaces, [phase_weight], surfaces),
        (ring_tab, draw_rings, [thickness, kernel], [rings, ring_number]),
    ):
        gr.on([tab.select, *(control.input for control in inputs)], draw, inputs, outputs, **quiet)
