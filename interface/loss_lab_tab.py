"""The Loss lab tab: what each loss sees and what it is blind to ("Comparing images in the frequency domain").

An image is shifted, blurred, made noisy, its phases scrambled - all to the same PSNR if one likes - and every loss says
how far that is from the original.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import gradio as gr

from interface.loss_lab_figures import (
    POSTS_PSNR,
    SMALLEST_WINDOW,
    USUAL_WINDOW,
    Specimen,
    chart,
    gallery_panels,
    loss_table,
    one_core_each,
    ring_panels,
    sharpness_panels,
    sorted_chart,
    specimen,
    spectrum_panels,
    surface_panels,
    table_rows,
)
from interface.pictures import HOUR, PUT_AWAY, Pictures, on_page, uploaded
from interface.sliders import slider
from modeling.degradations import DISTORTIONS

VIEWS = ("Pictures", "Spectra", "Losses")  # of the distortions


def build_loss_lab_tab(lab: gr.Tab, example: Path) -> None:
    """Lays out the tab `lab`, inside whose context this is called.

    `example` is the image examined until another one is given. Nothing is computed before the tab is opened.
    """
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
    at_once = {**quiet, "queue": False}  # the queue takes longer than what these handlers have to do
    # What writes the image takes turns, so that an older one is never written back over a newer one.
    in_turn = {**quiet, "concurrency_id": "lab_image", "concurrency_limit": 1}
    seen = gr.State(None, time_to_live=HOUR)
    was_open = gr.State(False)  # whether there was an image; it has no hour
    view = gr.State(VIEWS[0])
    one_core_each()  # now, while no other thread begins
    turns = Lock()  # of visitors: together they would all be as slow as the slowest
    files = Pictures()
    shown = {"show_label": False, "format": "png", "interactive": False}

    with gr.Tab("Distortions"), gr.Row():
        with gr.Column(scale=1):
            kind = {"type": "filepath", "format": "png", "image_mode": None, "sources": ["upload", "clipboard"]}
            upload = gr.Image(str(example), label="Image", height=200, elem_id="lab-image", **kind)
            calibrate = gr.Checkbox(True, label="Calibrate all distortions to one PSNR")
            common_psnr = slider(12, 40, POSTS_PSNR, step=0.05, label="PSNR (dB)")
            share = slider(0.01, 1, 0.1, step=0.01, label="Strength (share of the largest)", visible=False)
            emphasis = slider(0, 4, 0, step=0.1, label="High-frequency emphasis g", visible=False)
        with gr.Column(scale=4):
            with gr.Tab(VIEWS[0]) as pictures_view:
                pictures = gr.Image(label="Distortions", elem_id="lab-pictures", **shown)
            with gr.Tab(VIEWS[1]) as spectra_view:
                names = [(row.label, name) for name, row in DISTORTIONS.items()]
                chosen = gr.Radio(names, value="blur", label="Spectrum of")
                spectra = gr.Image(label="Spectra", elem_id="lab-spectra", **shown)
            with gr.Tab(VIEWS[2]) as losses_view:
                relative = gr.Checkbox(False, label="Relative to the blur")
                headers = ["loss or measure", *(f"{row.label} ({row.unit})" for row in DISTORTIONS.values())]
                longest = [max(len(word) for word in header.split()) for header in headers[1:]]  # none is broken
                widths = ["22%", *(f"{78 * length / sum(longest):.1f}%" for length in longest)]
                table = {"column_widths": widths, "wrap": True, "max_height": 700, "elem_id": "lab-table"}
                numbers = gr.Dataframe(headers=headers, label="Losses and measures", interactive=False, **table)
                relation = gr.Image(label="Relative losses", elem_id="lab-chart", **shown)
    with gr.Tab("Loss surfaces") as surface_tab:
        phase_weight = slider(0, 1, 0.2, step=0.05, label="Weight of the phase")
        surfaces = gr.Image(label="Loss of one Fourier coefficient", elem_id="lab-surfaces", **shown)
    with gr.Tab("Ring") as ring_tab:
        with gr.Row():
            thickness = slider(1, 40, 8, step=1, label="Thickness (pixels)")
            kernel = slider(3, 31, 15, step=2, label="Blur kernel (pixels; sigma is a fifth)")
        ring_number = gr.Markdown()
        rings = gr.Image(label="Ring experiment", elem_id="lab-rings", **shown)
    with gr.Tab("Sharpness map"):
        window = slider(SMALLEST_WINDOW, 64, USUAL_WINDOW, step=2, label="Window (pixels)")
        with gr.Row():
            sharpness = gr.Image(label="Window scores", elem_id="lab-scores", **shown, scale=2)
            ordered = gr.Image(label="Sorted", elem_id="lab-sorted", **shown, scale=1)

    def there(current: Specimen | None) -> Specimen:
        if current is None:
            raise ValueError(PUT_AWAY)
        return current

    @on_page
    def draw_view(looked_at, current, opened, *settings):
        """The view of the distortions that is looked at; the others are drawn when they are opened."""
        drawn = dict.fromkeys((pictures, spectra, numbers, relation), gr.skip())
        if current is None and not opened:  # the tab's own event, which is on its way, will draw
            return drawn
        with turns:
            return drawn | new_figures(looked_at, there(current), *settings)

    def new_figures(looked_at, current, name, g, is_relative, is_common, psnr_value, share_value):
        strengths = current.strengths(psnr_value if is_common else None, share_value)
        if looked_at == VIEWS[0]:
            return {pictures: files.file(gallery_panels(current, strengths))}
        if looked_at == VIEWS[1]:
            strength = strengths.get(name)  # not every distortion reaches every PSNR
            figure = None if strength is None else files.file(spectrum_panels(current, name, strength, g))
            return {spectra: figure}
        rows = loss_table(current, strengths, g)
        bars = chart(rows)
        return {numbers: table_rows(rows, is_relative), relation: bars and files.file(bars)}

    @on_page
    def draw_sharpness(current, side):
        with turns:
            return [files.file(figure(there(current), side)) for figure in (sharpness_panels, sorted_chart)]

    def draw_surfaces(weight):
        return files.file(surface_panels(weight))

    def draw_rings(*settings):
        picture, number = ring_panels(*settings)
        return files.file(picture), number

    @on_page
    def open_lab(current, opened):
        return (there(current) if opened else specimen(str(example))), True

    def open_file(file: dict):
        return specimen(uploaded(file)), True

    figures = [pictures, spectra, numbers, relation]
    setting = [chosen, emphasis, relative, calibrate, common_psnr, share]

    def drawn_after(event: Callable, *call):
        """Only the queue tells the page of an error: a call that failed is made again through it."""
        drawn = event(*call, **at_once)
        drawn.failure(*call, **quiet)
        return drawn

    def draw_after(event: Callable) -> None:
        drawn = drawn_after(event, draw_view, [view, seen, was_open, *setting], figures)
        # An image's hour counts from when it was last written.
        drawn.success(lambda current: current or gr.skip(), seen, seen, **in_turn)

    for event in (
        lab.select(open_lab, [seen, was_open], [seen, was_open], **in_turn),
        upload.upload(open_file, upload, [seen, was_open], preprocess=False, **in_turn),
    ):
        draw_after(event.success)
        drawn_after(event.success, draw_sharpness, [seen, window], [sharpness, ordered])
    calibrate.input(
        lambda on: (gr.update(visible=on), gr.update(visible=not on)), calibrate, [common_psnr, share], **at_once
    )
    draw_after(partial(gr.on, [control.input for control in setting]))
    for name, tab in zip(VIEWS, (pictures_view, spectra_view, losses_view), strict=True):
        change = name, gr.update(visible=name != VIEWS[0])
        draw_after(tab.select(lambda change=change: change, None, [view, emphasis], **at_once).success)
    drawn_after(window.input, draw_sharpness, [seen, window], [sharpness, ordered])
    for tab, draw, inputs, outputs in (
        (surface_tab, draw_surfaces, [phase_weight], surfaces),
        (ring_tab, draw_rings, [thickness, kernel], [rings, ring_number]),
    ):
        gr.on([tab.select, *(control.input for control in inputs)], draw, inputs, outputs, **at_once)
