"""The Loss lab tab: what each loss sees and what it is blind to ("Comparing images in the frequency domain").

An image is shifted, blurred, made noisy, its phases scrambled - all to the same PSNR if one likes - and every loss says
how far that is from the original.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from interface.loss_lab_figures import (
    POSTS_PSNR,
    SMALLEST_WINDOW,
    Specimen,
    chart,
    gallery_panels,
    loss_table,
    ring_panels,
    sharpness_panels,
    sorted_chart,
    specimen,
    spectrum_panels,
    surface_panels,
    table_rows,
)
from interface.pictures import HOUR, PUT_AWAY, Pictures, on_page
from modeling.degradations import DISTORTIONS

VIEWS = ("Pictures", "Spectra", "Losses")  # of the distortions


def build_loss_lab_tab(lab: gr.Tab, example: Path) -> None:
    """Lays out the tab `lab`, inside whose context this is called.

    `example` is the image examined until another one is given. Nothing is computed before the tab is opened.
    """
    # Without the queue, which takes longer than what these handlers have to do.
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private", "queue": False}
    seen = gr.State(None, time_to_live=HOUR)
    view = gr.State(VIEWS[0])
    files = Pictures()
    shown = {"show_label": False, "format": "png", "interactive": False}

    with gr.Tab("Distortions"), gr.Row():
        with gr.Column(scale=1):
            upload = gr.Image(str(example), label="Image", type="filepath", format="png", image_mode=None, height=200)
            calibrate = gr.Checkbox(True, label="Calibrate all distortions to one PSNR")
            common_psnr = gr.Slider(12, 40, POSTS_PSNR, step=0.05, label="PSNR (dB)")
            share = gr.Slider(0.01, 1, 0.1, step=0.01, label="Strength (share of the largest)", visible=False)
            emphasis = gr.Slider(0, 4, 0, step=0.1, label="High-frequency emphasis g", visible=False)
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
                widths = ["22%"] + [f"{78 / len(DISTORTIONS):g}%"] * len(DISTORTIONS)
                table = {"column_widths": widths, "wrap": True, "max_height": 700, "elem_id": "lab-table"}
                numbers = gr.Dataframe(headers=headers, label="Losses and measures", interactive=False, **table)
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
        window = gr.Slider(SMALLEST_WINDOW, 64, 16, step=2, label="Window (pixels)")
        with gr.Row():
            sharpness = gr.Image(label="Window scores", elem_id="lab-scores", **shown, scale=2)
            ordered = gr.Image(label="Sorted", elem_id="lab-sorted", **shown, scale=1)

    def there(current: Specimen | None) -> Specimen:
        if current is None:
            raise ValueError(PUT_AWAY)
        return current

    @on_page
    def draw_view(looked_at, current, name, g, is_relative, is_common, psnr_value, share_value):
        """The view of the distortions that is looked at; the others are drawn when they are opened."""
        strengths = there(current).strengths(psnr_value if is_common else None, share_value)
        drawn = dict.fromkeys((pictures, spectra, numbers, relation), gr.skip())
        if looked_at == VIEWS[0]:
            drawn[pictures] = files.file(gallery_panels(current, strengths))
        elif looked_at == VIEWS[1]:
            drawn[spectra] = None
            if name in strengths:
                drawn[spectra] = files.file(spectrum_panels(current, name, strengths[name], g))
        else:
            rows = loss_table(current, strengths, g)
            bars = chart(rows)
            drawn[numbers], drawn[relation] = table_rows(rows, is_relative), bars and files.file(bars)
        return drawn

    @on_page
    def draw_sharpness(current, side):
        return [files.file(draw(there(current), side)) for draw in (sharpness_panels, sorted_chart)]

    def draw_surfaces(weight):
        return files.file(surface_panels(weight))

    def draw_rings(*settings):
        picture, number = ring_panels(*settings)
        return files.file(picture), number

    def open_view(looked_at, current, *settings):
        # Without an image the lab has just been opened, and will draw the view once it has one.
        drawn = draw_view(looked_at, current, *settings) if current else {}
        return {view: looked_at, emphasis: gr.update(visible=looked_at != VIEWS[0]), **drawn}

    def open_file(file: dict | None) -> Specimen | None:
        return specimen(file["path"]) if file else None

    figures = [pictures, spectra, numbers, relation]
    scores = [sharpness, ordered]
    setting = [chosen, emphasis, relative, calibrate, common_psnr, share]
    for event in (
        lab.select(lambda current: current or specimen(str(example)), seen, seen, **quiet),
        upload.upload(open_file, upload, seen, preprocess=False, **quiet),
    ):
        event.success(draw_view, [view, seen, *setting], figures, **quiet)
        event.success(draw_sharpness, [seen, window], scores, **quiet)
    calibrate.input(
        lambda on: (gr.update(visible=on), gr.update(visible=not on)), calibrate, [common_psnr, share], **quiet
    )
    looks = [
        gr.on([control.input for control in setting], draw_view, [view, seen, *setting], figures, **quiet),
        window.input(draw_sharpness, [seen, window], scores, **quiet),
    ]
    for name, tab in zip(VIEWS, (pictures_view, spectra_view, losses_view), strict=True):
        looks.append(tab.select(partial(open_view, name), [seen, *setting], [view, emphasis, *figures], **quiet))
    for look in looks:  # an image's hour counts from when it was last written
        look.success(lambda current: current, seen, seen, **quiet)
    for tab, draw, inputs, outputs in (
        (surface_tab, draw_surfaces, [phase_weight], surfaces),
        (ring_tab, draw_rings, [thickness, kernel], [rings, ring_number]),
    ):
        gr.on([tab.select, *(control.input for control in inputs)], draw, inputs, outputs, **quiet)
