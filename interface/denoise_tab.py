"""The Denoise tab: a photograph, the sliders of the loss, before and after, and what the setting costs in dB."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import gradio as gr
from torch import Tensor

from interface.pictures import Pictures
from interface.restorer import TrainedHere
from modeling import PRESETS
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import read_photograph
from modeling.metrics import psnr, sharpness_ratio, ssim

Restore = Callable[[Tensor, Mapping[str, float] | None, float | None, float | None], Tensor]
EXAMPLE_NOISE_LEVEL = 50  # of 255
MAX_NOISE_LEVEL = 75
MAX_MEGAPIXELS = 16
FIDELITY_CORNER = {"pixel": 1.0}
AS_STARTED = "the app's own"  # name of the network that the app was started with
NO_REFERENCE = "No reference: add noise to a clean photograph to see PSNR, SSIM and the sharpness ratio."


@dataclass(frozen=True)
class Photograph:
    """What one visitor looks at. Images are (3, H, W), float. `key` tells one noisy image from every other."""

    photo: Tensor
    noise: float  # added, of 255; without any there is no clean reference
    noisy: Tensor
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


def opened(path: str, noise: float) -> Photograph:
    """Reads a file and adds seeded noise. What is wrong with it becomes a message on the page."""
    try:
        photo = read_photograph(path)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    megapixels = photo.shape[-1] * photo.shape[-2] / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise gr.Error(
            f"{Path(path).name} has {megapixels:.0f} megapixels, and this page takes {MAX_MEGAPIXELS}: "
            "crop or reduce it, or restore it in Python."
        )
    return Photograph(photo, noise, indexed_gaussian_noise(photo, noise / 255, 0))


def scores(image: Tensor, clean: Tensor) -> tuple[float, float, float]:
    """PSNR in dB, SSIM, sharpness ratio."""
    return psnr(image, clean), ssim(image, clean), sharpness_ratio(image, clean)


def scores_table(rows: Mapping[str, tuple[float, float, float]]) -> str:
    """Markdown. The last row is the present setting, the one before it the fidelity corner, which sets the price."""
    lines = ["| | PSNR | SSIM | sharpness ratio |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {p:.2f} dB | {s:.3f} | {r:.3f} |" for name, (p, s, r) in rows.items()]
    *_, corner, setting = rows.values()
    price = round(corner[0] - setting[0], 2) + 0.0  # + 0.0: no "-0.00"
    lines.append(f"\n**Price of your setting: {price:+.2f} dB.** A sharpness ratio of 1 is right, under 1 is blurred.")
    return "\n".join(lines)


def build_denoise_tab(
    app: gr.Blocks,
    restore: Restore,
    terms: Mapping[str, str],
    max_emphasis: float,
    examples: list[Path],
    trained: TrainedHere | None = None,
    tab: gr.Tab | None = None,
) -> None:
    """Lays out the tab.

    Args:
        app: the page, inside whose context this is called.
        restore: noisy image, loss weights by term, emphasis, noise level or `None` -> restored image.
        terms: label of each loss weight's slider, by term; empty for a network whose loss is fixed.
        max_emphasis: end of the emphasis slider.
        examples: clean photographs; the first is shown when the page opens.
        trained: further networks to choose from, if there are any.
        tab: opening it looks for them again.
    """
    pictures = Pictures()

    with gr.Row():
        with gr.Column(scale=2):
            upload = gr.Image(
                label="Photograph",
                type="filepath",
                format="png",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=200,
                elem_id="photograph",
            )
            gallery = gr.Gallery(
                [str(path) for path in examples],
                label="Examples",
                columns=len(examples) or 1,
                height=90,
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                format="png",
            )
            chosen = gr.Dropdown([], label="Network", visible=False, elem_id="network")
            added_noise = gr.Slider(
                0, MAX_NOISE_LEVEL, EXAMPLE_NOISE_LEVEL, step=1, label="Add noise (sigma, of 255)",
                info="0 for a photograph that is noisy as it is.",
            )  # fmt: skip
            with gr.Row():  # wraps into pairs
                weights = [
                    gr.Slider(
                        0,
                        1,
                        FIDELITY_CORNER.get(name, 0.0),
                        step=0.01,
                        label=label,
                        min_width=200,
                        elem_id=f"weight-{name}",
                    )
                    for name, label in terms.items()
                ]
            emphasis = gr.Slider(
                0, max_emphasis, 0, step=0.1, label="High-frequency emphasis", elem_id="emphasis", visible=bool(terms),
                info="Acts through the frequency terms.",
            )  # fmt: skip
            with gr.Row():
                automatic = gr.Checkbox(True, label="Noise level: automatic", scale=1)
                level = gr.Slider(0, MAX_NOISE_LEVEL, 25, step=1, label="Noise level (sigma, of 255)", scale=2)
        with gr.Column(scale=3):
            before_after = gr.ImageSlider(
                label="Before | after",
                type="filepath",
                format="png",
                height=620,
                max_height=620,
                elem_id="before-after",
            )
            measures = gr.Markdown(elem_id="measures")
            preset = gr.Radio(list(PRESETS), value="mse", label="Loss", visible=bool(terms), elem_id="preset")

    seen = gr.State(None, time_to_live=3600)  # Photograph
    network = gr.State(AS_STARTED)  # name of the one in use
    result = gr.State(None, time_to_live=3600)  # photograph's key and network, restored image
    # Photograph's key, network and noise level, and the rows of measures that no slider of the loss changes.
    references = gr.State(None, time_to_live=3600)
    controls = [*weights, emphasis, automatic, level]

    def in_use(name: str) -> tuple[Restore, bool]:
        """The network of this name, and whether the sliders of the loss act on it."""
        if name == AS_STARTED:
            return restore, bool(terms)
        found = trained.restorer(name)
        return found, bool(terms) and found.terms == tuple(terms)

    def unpack(has_sliders: bool, values) -> tuple[Mapping[str, float] | None, float | None, float | None]:
        *weight_values, emphasis_value, is_automatic, level_value = values
        noise_level = None if is_automatic else level_value / 255
        if not has_sliders:
            return None, None, noise_level
        return dict(zip(terms, weight_values, strict=True)), emphasis_value, noise_level

    def redraw(photograph: Photograph | None, name: str, *values):
        if photograph is None:
            return None, None
        try:
            network_restores, has_sliders = in_use(name)
            restored = network_restores(photograph.noisy, *unpack(has_sliders, values))
        except ValueError as error:
            raise gr.Error(str(error)) from error
        before = pictures.file(photograph.noisy, photograph.key)
        return (before, pictures.file(restored)), ((photograph.key, name), restored)

    def measure(photograph: Photograph | None, name: str, restored, known, *values):
        if photograph is None or restored is None:
            return "", None
        if restored[0] != (photograph.key, name):  # a newer picture is on its way
            return gr.skip(), gr.skip()
        if not photograph.noise:
            return NO_REFERENCE, None
        network_restores, has_sliders = in_use(name)
        noise_level = unpack(has_sliders, values)[2]
        if known is None or known[0] != (photograph.key, name, noise_level):
            label = "pixel loss alone"
            if name != AS_STARTED and not has_sliders:  # one loss is all that it can: compare it with what was there
                network_restores, has_sliders = in_use(AS_STARTED)
                label = f"{AS_STARTED}, pixel loss"
            setting = (FIDELITY_CORNER, 0.0) if has_sliders else (None, None)
            images = {
                "noisy": photograph.noisy,
                label: network_restores(photograph.noisy, *setting, noise_level),
            }
            rows = {row: scores(image, photograph.photo) for row, image in images.items()}
            known = ((photograph.key, name, noise_level), rows)
        table = scores_table({**known[1], "**your setting**": scores(restored[1], photograph.photo)})
        return table, known

    def look_for_networks(name: str) -> dict:
        names = dict.fromkeys((AS_STARTED, name, *trained.names()))  # one in use stays, though its folder be gone
        choices = [(found if found == AS_STARTED else f"trained here, {found}", found) for found in names]
        return gr.update(choices=choices, visible=len(choices) > 1, value=name)

    def switch(name: str):
        try:
            has_sliders = in_use(name)[1]
        except ValueError as error:
            raise gr.Error(str(error)) from error
        return [name, *[gr.update(visible=has_sliders)] * (len(weights) + 2)]

    def open_example(index: int) -> tuple[str, int, Photograph]:
        path = str(examples[index])
        return path, EXAMPLE_NOISE_LEVEL, opened(path, EXAMPLE_NOISE_LEVEL)

    def pick(event: gr.SelectData) -> tuple[str, int, Photograph]:
        return open_example(event.index)

    def open_upload(file: dict) -> tuple[int, Photograph]:
        return 0, opened(file["path"], 0)  # a visitor's own photograph is noisy as it is

    def add_noise(photograph: Photograph | None, noise: float) -> Photograph | None:
        if photograph is None:
            return None
        return Photograph(photograph.photo, noise, indexed_gaussian_noise(photograph.photo, noise / 255, 0))

    def choose(name: str) -> list[float]:
        chosen = PRESETS[name]
        return [*(chosen.loss_weights.get(term, 0.0) for term in terms), chosen.high_frequency_emphasis]

    # "always_last": while a call runs, newer ones wait, and of those the last is made. None is lost, none piles up.
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last"}

    def redraw_then_measure(event: Callable, **options) -> None:
        """The picture first, the figures after it: the eye does not wait for them."""
        event(redraw, [seen, network, *controls], [before_after, result], **quiet, **options).success(
            measure,
            [seen, network, result, references, *controls],
            [measures, references],
            **quiet,
            api_visibility="private",
        )

    private = {**quiet, "api_visibility": "private"}
    events = [
        gallery.select(pick, None, [upload, added_noise, seen], **private),
        # Not preprocessed: Gradio would open the file itself, and fail without a word on one that is no image.
        upload.upload(open_upload, upload, [added_noise, seen], preprocess=False, **quiet, api_name="open"),
        upload.clear(lambda: None, None, seen, **private),
        added_noise.input(add_noise, [seen, added_noise], seen, **quiet, api_name="add_noise"),
        preset.input(choose, preset, [*weights, emphasis], **private),
    ]
    if trained is not None:
        opened_page = [app.load] + ([tab.select] if tab else [])
        gr.on(opened_page, look_for_networks, network, chosen, **private)
        events.append(chosen.input(switch, chosen, [network, *weights, emphasis, preset], **private))
    if examples:
        events.append(app.load(lambda: open_example(0), None, [upload, added_noise, seen], **private))
    for event in events:
        redraw_then_measure(event.success, api_visibility="private")
    redraw_then_measure(partial(gr.on, [control.input for control in controls]), api_name="denoise")
