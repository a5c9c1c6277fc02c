"""The Denoise tab: a photograph, the sliders of the loss, before and after, and what the setting costs in dB.

The picture comes first, then its measures, then the one figure below that is open. What is closed costs nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import gradio as gr
import torch

from interface.denoise_figures import FIDELITY_CORNER
from interface.figure_tabs import FigureTabs, View
from interface.hand import AT_REST, MOVED, Hand
from interface.layout import stand_on_a_phone
from interface.painting import (
    EVERYWHERE,
    LOOKED_AT,
    MASKED,
    PAINTED,
    PLACES,
    SHARP,
    backdrop,
    brush,
    held_where,
    mask_area,
    painted_area,
    sharp_area,
    small_area,
)
from interface.pictures import (
    EXAMPLE_NOISE_LEVEL,
    HOUR,
    MAX_NOISE_LEVEL,
    NO_REFERENCE,
    PUT_AWAY,
    Photograph,
    Pictures,
    example_gallery,
    example_photograph,
    keep_upload,
    on_page,
    opened,
    uploaded,
)
from interface.restorer import AS_STARTED, LIVE_MEGAPIXELS, Attention, Networks, Restore, TrainedHere
from interface.scores import scores, scores_table
from interface.sliders import preset_values, slider
from modeling import PRESETS
from modeling.image_files import is_float_file, save_restored


def preset_labels(terms: Mapping[str, str]) -> dict[str, str]:
    """Name of each preset that these terms can express -> what its button says."""

    def label(name: str) -> str:
        words = name.replace("_emphasis", " + emphasis").replace("_", " ")
        return words.upper() if len(words) == 3 else words.capitalize()

    return {name: label(name) for name, preset in PRESETS.items() if set(preset.loss_weights) <= set(terms)}


def build_denoise_tab(
    app: gr.Blocks,
    restore: Restore,
    terms: Mapping[str, str],
    max_emphasis: float,
    examples: list[Path],
    trained: TrainedHere | None = None,
    tab: gr.Tab | None = None,
    attention: Attention | None = None,
    takes_noise_level: bool = True,
    own_machine: bool = False,
) -> gr.State:
    """Lays out the tab, and returns the state that holds the `Photograph` which is open.

    Args:
        app: the page, inside whose context this is called.
        restore: noisy image, loss weights by term, emphasis, noise level or `None` -> restored image.
        terms: label of each loss weight's slider, by term; empty for a network whose loss is fixed.
        max_emphasis: end of the emphasis slider.
        examples: clean photographs; the first is shown when the page opens.
        trained: further networks to choose from, if there are any.
        tab: opening it looks for them again.
        attention: where this network's ViT looks, if it has one.
        takes_noise_level: whether this network can be told it.
        own_machine: whether visitors are on this machine.
    """
    pictures, hand = Pictures(near=own_machine), Hand()
    networks = Networks(restore, terms, max_emphasis, trained, attention)
    not_uploaded = {str(path) for path in examples}

    def places(name: str) -> list[tuple[str, str]]:
        """(label, place) that a network can be told."""
        has_vit = networks.attention(name) is not None
        return [(label, place) for place, label in PLACES.items() if place != LOOKED_AT or has_vit]

    stand_on_a_phone()
    with gr.Row(elem_id="denoise"):
        with gr.Column(scale=2):
            upload = gr.Image(
                label="Photograph",
                type="filepath",
                format="png",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=160,
                elem_id="photograph",
            )
            gallery = example_gallery(examples)
            chosen = gr.Dropdown([AS_STARTED], value=AS_STARTED, label="Network", visible=False, elem_id="network")
            added_noise = slider(
                0, MAX_NOISE_LEVEL, EXAMPLE_NOISE_LEVEL, step=1, label="Add noise (sigma, of 255)",
                info="0 for a photograph that is noisy as it is.",
            )  # fmt: skip
            with gr.Row(visible=bool(terms), equal_height=True, elem_id="presets") as presets:
                buttons = {
                    name: gr.Button(label, size="sm", min_width=90) for name, label in preset_labels(terms).items()
                }
            with gr.Row():  # wraps into pairs
                weights = [
                    slider(
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
            emphasis = slider(
                0, max_emphasis, 0, step=0.1, label="High-frequency emphasis", elem_id="emphasis", visible=bool(terms),
                info="Acts through the frequency terms.",
            )  # fmt: skip
            where = gr.Dropdown(
                places(AS_STARTED), value=EVERYWHERE, label="Where", elem_id="where",
                info="The setting holds there, the pixel loss alone elsewhere.", visible=bool(terms),
            )  # fmt: skip
            canvas = brush()
            mask = gr.UploadButton("Open a mask", file_types=["image"], visible=False, size="sm", elem_id="mask")
            with gr.Accordion("Noise level that the network is told", open=False, visible=takes_noise_level):
                automatic = gr.Checkbox(True, label="Automatic")
                level = slider(0, MAX_NOISE_LEVEL, 25, step=1, label="Noise level (sigma, of 255)")
        with gr.Column(scale=3):
            before_after = gr.ImageSlider(
                label="Before | after",
                type="filepath",
                format="png",
                height="min(620px, 90vw)",  # square on a phone
                max_height=620,
                elem_id="before-after",
                buttons=["fullscreen"],
            )
            with gr.Row():
                with gr.Column(min_width=320):
                    measures = gr.Markdown(elem_id="measures")
                save = gr.Button("Download PNG", size="sm", scale=0, min_width=140, elem_id="save")
            download = gr.DownloadButton(visible="hidden", elem_id="download")
            figures = FigureTabs(pictures, terms, max_emphasis)

    seen = gr.State(None, time_to_live=HOUR)  # Photograph
    is_open = gr.State(False)  # and stays so when the photograph is put away
    network = gr.State(AS_STARTED)  # name of the one in use
    result = gr.State(None, time_to_live=HOUR)  # photograph's key and network, restored image
    # Photograph's key, network and noise level, and the rows of measures that no slider of the loss changes.
    references = gr.State(None, time_to_live=HOUR)
    painted = gr.State(None)  # the picture's name, area
    area = gr.State((None, None), time_to_live=HOUR)  # what it was made of, area or None
    controls = [*weights, emphasis, automatic, level]

    def unpack(has_sliders: bool, values) -> tuple[Mapping[str, float] | None, float | None, float | None]:
        *weight_values, emphasis_value, is_automatic, level_value = values
        noise_level = None if is_automatic else level_value / 255
        if not has_sliders:
            return None, None, noise_level
        return dict(zip(terms, weight_values, strict=True)), emphasis_value, noise_level

    def area_of(photograph: Photograph, name: str, place: str, painting, known, noise_level: float | None):
        """-> what the area was made of, and the area; `known` is the last one."""
        if place == EVERYWHERE:
            return None, None
        if place in (PAINTED, MASKED):
            picture = painting and painting[0]
            return None, painting[1] if picture == photograph.picture else torch.zeros(1, 1, 1, 1)
        key = (place, photograph.key, name, noise_level if place == SHARP else None)
        if known[0] == key:
            return known
        if place == LOOKED_AT:
            attends = networks.attention(name)
            if attends is None:
                raise ValueError("This network has no ViT: choose another place for the setting.")
            return key, small_area(attends(photograph.noisy))
        return key, sharp_area(networks.in_use(name)[0](photograph.noisy, FIDELITY_CORNER, 0.0, noise_level))

    def there(photograph: Photograph | None, was_open: bool) -> bool:
        if photograph is None and was_open:
            raise ValueError(PUT_AWAY)
        return photograph is not None

    @on_page
    def redraw(photograph: Photograph | None, was_open: bool, name: str, painting, known, *values):
        """Writes the photograph, too: a state's hour counts from when it was last written."""
        if not there(photograph, was_open):
            return None, None, known, None, False
        hand.moved(photograph.key)
        keep_upload(photograph.path, not_uploaded)
        *values, place = values
        network_restores, has_sliders = networks.in_use(name)
        loss_weights, emphasis_value, noise_level = unpack(has_sliders, values)
        if has_sliders:
            known = area_of(photograph, name, place, painting, known, noise_level)
            loss_weights, emphasis_value = held_where(known[1], loss_weights, emphasis_value)
        restored = network_restores(photograph.noisy, loss_weights, emphasis_value, noise_level)
        shown = (
            pictures.file(photograph.noisy, photograph.key, only_shown=True),
            pictures.file(restored, only_shown=True),
        )
        return shown, ((photograph.key, name), restored), known, photograph, True

    @on_page
    def measure(photograph: Photograph | None, name: str, restored, known, *values):
        if photograph is None or restored is None:
            return "", None
        if restored[0] != (photograph.key, name) or not hand.rests(photograph.key):  # a newer picture is on its way
            return gr.skip(), gr.skip()
        if not photograph.noise:
            return NO_REFERENCE, None
        network_restores, has_sliders = networks.in_use(name)
        noise_level = unpack(has_sliders, values)[2]
        if known is None or known[0] != (photograph.key, name, noise_level):
            label = "pixel loss alone"
            if name != AS_STARTED and not has_sliders:  # one loss is all that it can: compare it with what was there
                network_restores, has_sliders = networks.in_use(AS_STARTED)
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

    @on_page
    def draw(photograph, was_open: bool, name: str, restored, held, opened_figure, known, place, *values):
        if not there(photograph, was_open):
            return dict.fromkeys(figures.outputs)
        if restored is None or restored[0] != (photograph.key, name):
            return gr.skip()
        if not hand.rests(photograph.key):
            return gr.skip()
        network_restores, has_sliders = networks.in_use(name)
        setting = unpack(has_sliders, values)
        view = View(photograph, restored[1], name, network_restores, *setting, held[1])
        return figures.draw(view, opened_figure, known, place)

    def choose_place(photograph: Photograph | None, place: str, restored):
        """The brush, or the button for a mask, appears where it is needed, with nothing painted."""
        return show_brush(photograph, place, restored), gr.update(visible=place == MASKED), None

    def show_brush(photograph: Photograph | None, place: str, restored):
        if place != PAINTED or photograph is None or restored is None:
            return gr.update(visible=False)
        return gr.update(visible=True, value=backdrop(restored[1]))

    def look_at_another(photograph: Photograph | None, place: str, restored, painting):
        """What was painted, or a mask, was another photograph's."""
        if place == MASKED and photograph and painting and painting[0] != photograph.picture:
            gr.Warning("The mask was another photograph's: open one for this. Until then the pixel loss holds.")
        return show_brush(photograph, place, restored)

    def paint(photograph: Photograph | None, event: gr.EventData):
        return photograph and (photograph.picture, painted_area(event.mask))

    @on_page
    def open_mask(photograph: Photograph | None, file: dict):
        return photograph and (photograph.picture, mask_area(uploaded(file)))

    @on_page
    def save_picture(photograph: Photograph | None, was_open: bool, name: str, restored) -> str:
        if not there(photograph, was_open) or restored is None:
            raise ValueError("There is no picture to download: open a photograph first.")
        if restored[0] != (photograph.key, name):  # that of another photograph is still there
            raise ValueError("The picture is not restored yet: wait for it, or choose another setting.")
        if not Path(photograph.path).is_file():  # Gradio deletes what was uploaded
            raise ValueError(PUT_AWAY)
        ending = ".tif" if is_float_file(photograph.path) else ".png"
        file_name = f"{Path(photograph.path).stem}-restored-{uuid.uuid4().hex[:6]}{ending}"
        return pictures.written(file_name, lambda path: save_restored(restored[1], photograph.path, path))

    def look_for_networks(name: str) -> dict:
        choices = networks.choices(name)
        return gr.update(choices=choices, visible=len(choices) > 1, value=name)

    @on_page
    def switch(name: str, current: str):
        if name == current:  # the list was opened and left
            return gr.skip()
        has_sliders = networks.in_use(name)[1]
        place = gr.update(choices=places(name), visible=has_sliders, value=EVERYWHERE)
        hidden = gr.update(visible=False)
        return [name, place, hidden, hidden, *[gr.update(visible=has_sliders)] * (len(weights) + 2)]

    def open_example(index: int) -> tuple[str, int, Photograph]:
        path = str(examples[index])
        return path, EXAMPLE_NOISE_LEVEL, example_photograph(path)

    def pick(event: gr.SelectData) -> tuple[str, int, Photograph]:
        return open_example(event.index)

    @on_page
    def open_upload(file: dict) -> tuple[int, Photograph]:
        photograph = opened(uploaded(file), 0)  # a visitor's own photograph is noisy as it is
        megapixels = photograph.photo[0].numel() / 1e6
        if megapixels > LIVE_MEGAPIXELS:
            gr.Info(f"{megapixels:.0f} megapixels: a move takes seconds. Up to {LIVE_MEGAPIXELS}, the picture is live.")
        return 0, photograph

    def add_noise(photograph: Photograph | None, noise: float) -> Photograph | None:
        return photograph and photograph.with_noise(noise)

    # "always_last": while a call runs, newer ones wait, and of those the last is made. None is lost, none piles up.
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last"}
    private = {**quiet, "api_visibility": "private"}
    # What writes the photograph takes turns, so that an older one is never written back over a newer one.
    in_turn = {"concurrency_id": "photograph", "concurrency_limit": 1}

    def draw_after(event: Callable) -> None:
        inputs = [seen, is_open, network, result, area, *figures.inputs, *controls]
        # One at a time, whatever asked for it: the next one finds the curves that this one computes.
        event(draw, inputs, figures.outputs, **private, concurrency_id="figures", concurrency_limit=1)

    def redraw_after(event: Callable, **options):
        """The picture first, the measures and the figure after it: the eye does not wait for them."""
        inputs = [seen, is_open, network, painted, area, *controls, where]
        outputs = [before_after, result, area, seen, is_open]
        drawn = event(redraw, inputs, outputs, js=MOVED, **quiet, **in_turn, **options)
        call = (measure, [seen, network, result, references, *controls], [measures, references])
        draw_after(drawn.success(*call, js=AT_REST, **private).success)
        drawn.failure(*call, js=AT_REST, **private)  # of the picture before, whose own turn this one may have taken
        return drawn

    # Not preprocessed: Gradio would open the file itself, and fail without a word on one that is no image.
    uploading = upload.upload(
        open_upload, upload, [added_noise, seen], preprocess=False, **quiet, **in_turn, api_name="open"
    )
    uploading.failure(lambda photograph: photograph and photograph.path, seen, upload, **private)  # not the refused one
    new_photograph = [
        uploading,
        gallery.select(pick, None, [upload, added_noise, seen], **private, **in_turn),
        upload.clear(lambda: (None, False), None, [seen, is_open], **private, **in_turn),
    ]
    if examples:
        new_photograph.append(
            app.load(lambda: open_example(0), None, [upload, added_noise, seen], **private, **in_turn)
        )
    new_setting = [
        added_noise.input(add_noise, [seen, added_noise], seen, **quiet, **in_turn, api_name="add_noise"),
        *(
            button.click(partial(preset_values, name, terms), None, [*weights, emphasis], **private)
            for name, button in buttons.items()
        ),
        where.change(choose_place, [seen, where, result], [canvas, mask, painted], **private),
        canvas.input(paint, seen, painted, **private),
        mask.upload(open_mask, [seen, mask], painted, preprocess=False, **private),
    ]
    if trained is not None:
        gr.on([app.load] + ([tab.select] if tab else []), look_for_networks, network, chosen, **private)
        outputs = [network, where, canvas, mask, *weights, emphasis, presets]
        switching = chosen.input(switch, [chosen, network], outputs, **private)
        switching.failure(look_for_networks, network, chosen, **private)  # back to the one in use
        new_setting.append(switching)
    for event in new_photograph:
        drawn = redraw_after(event.success, api_visibility="private")
        drawn.success(look_at_another, [seen, where, result, painted], canvas, **private)
    for event in new_setting:
        redraw_after(event.success, api_visibility="private")
    redraw_after(partial(gr.on, [control.input for control in controls]), api_name="denoise")
    for event in figures.events(seen, **private):
        draw_after(event)
    save.click(save_picture, [seen, is_open, network, result], download, **private).success(
        None, None, None, js="() => document.querySelector('#download').click()"
    )
    return seen
