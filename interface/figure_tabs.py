"""The figures below the picture of the Denoise tab, of which one is open: only that one is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gradio as gr
from torch import Tensor

from interface.denoise_figures import (
    TRADE_OFF_SIDE,
    TradeOff,
    crop_box,
    overview,
    overview_scale,
    sharpest_place,
    spectrum_charts,
    zoomed,
)
from interface.pictures import HOUR, NO_REFERENCE, Photograph, Pictures
from interface.restorer import Restore

TRADE_OFF, ZOOM, SPECTRUM = "Trade-off", "Zoom", "Spectrum"
TRADE_OFF_NOTE = (
    f"Each curve is one slider's travel on the central {TRADE_OFF_SIDE} x {TRADE_OFF_SIDE} pixels, from the pixel loss "
    "to that term alone. **The dot is your setting.** Up is faithful, right is sharp."
)
NO_SLIDERS = "The loss of this network is fixed: it has no sliders whose travel could be shown."
ENERGY_NOTE = "Energy without correlation is noise, not detail: read the two side by side."


@dataclass(frozen=True)
class View:
    """What is on the page: a photograph, how it was restored, and with what.

    Without sliders `loss_weights` and `emphasis` are `None`. `area` is where they hold; `None` is everywhere.
    """

    photograph: Photograph
    restored: Tensor  # (3, H, W)
    network: str
    restore: Restore
    loss_weights: Mapping[str, float] | None
    emphasis: float | None
    noise_level: float | None
    area: Tensor | None  # (1, 1, h, w)


class FigureTabs:
    """Lays out the figures where it is made.

    Args:
        pictures: writes them.
        terms: label of each loss weight's slider, by term.
        max_emphasis: end of the emphasis slider.
    """

    def __init__(self, pictures: Pictures, terms: Mapping[str, str], max_emphasis: float) -> None:
        self.pictures, self.terms, self.max_emphasis = pictures, terms, max_emphasis
        shown = {"format": "png", "type": "filepath", "interactive": False, "buttons": []}
        with gr.Tabs(elem_id="figures"):
            with gr.Tab(TRADE_OFF) as trade_off_tab:
                self.note = gr.Markdown(elem_id="trade-off-note")
                self.chart = gr.Image(show_label=False, container=False, elem_id="trade-off", **shown)
            with gr.Tab(ZOOM) as zoom_tab, gr.Row():
                self.whole = gr.Image(label="Click a place", min_width=250, elem_id="whole", **shown)
                self.crops = {
                    name: gr.Image(label=name, min_width=250, elem_id=f"crop-{name}", **shown)
                    for name in ("noisy", "restored", "clean")
                }
            with gr.Tab(SPECTRUM) as spectrum_tab:
                gr.Markdown(ENERGY_NOTE)
                self.spectrum = gr.Image(show_label=False, container=False, elem_id="spectrum", **shown)
        self.opened = gr.State(TRADE_OFF)
        self.trade_off = gr.State(None, time_to_live=HOUR)  # what it was computed of, TradeOff
        self.place = gr.State(None)  # the picture's name, (x, y) in pixels
        self.tabs = {TRADE_OFF: trade_off_tab, ZOOM: zoom_tab, SPECTRUM: spectrum_tab}

    @property
    def inputs(self) -> list[gr.State]:
        """What `draw` takes beside the view."""
        return [self.opened, self.trade_off, self.place]

    @property
    def outputs(self) -> list:
        """What `draw` returns some of."""
        return [self.note, self.chart, self.trade_off, self.whole, *self.crops.values(), self.spectrum]

    def events(self, seen: gr.State, **options) -> list[Callable]:
        """What another figure is drawn after: a tab is opened, a place is clicked."""
        opening = [tab.select(lambda name=name: name, None, self.opened, **options) for name, tab in self.tabs.items()]
        return [event.success for event in (*opening, self.whole.select(self.look, seen, self.place, **options))]

    @staticmethod
    def look(photograph: Photograph | None, event: gr.SelectData) -> tuple[str, tuple[float, float]] | None:
        if photograph is None:
            return None
        scale = overview_scale(photograph.photo)
        return photograph.picture, (event.index[0] / scale, event.index[1] / scale)

    def draw(self, view: View, opened: str, trade_off, place) -> dict:
        """The figure that is open -> new values by component."""
        if opened == TRADE_OFF:
            return self.draw_trade_off(view, trade_off)
        return self.draw_zoom(view, place) if opened == ZOOM else self.draw_spectrum(view)

    def draw_trade_off(self, view: View, known) -> dict:
        if view.loss_weights is None or not view.photograph.noise:
            return {self.note: NO_REFERENCE if not view.photograph.noise else NO_SLIDERS, self.chart: None}
        key = (view.photograph.key, view.network, view.noise_level)
        if known is None or known[0] != key:
            curves = TradeOff(view.restore, view.photograph, self.terms, self.max_emphasis, view.noise_level)
            known = (key, curves)
        picture = known[1].marked(view.loss_weights, view.emphasis, view.area)
        return {self.note: TRADE_OFF_NOTE, self.chart: self.pictures.file(picture), self.trade_off: known}

    def draw_zoom(self, view: View, place) -> dict:
        photograph = view.photograph
        is_clicked = place is not None and place[0] == photograph.picture
        box = crop_box(place[1] if is_clicked else sharpest_place(photograph.photo), photograph.photo.shape[-2:])
        images = {"noisy": photograph.noisy, "restored": view.restored, "clean": photograph.photo}
        if not photograph.noise:
            images["clean"] = None
        updates = {
            self.crops[name]: None if image is None else self.pictures.file(zoomed(image, box))
            for name, image in images.items()
        }
        return {self.whole: self.pictures.file(overview(view.restored, box)), **updates}

    def draw_spectrum(self, view: View) -> dict:
        images = {"noisy": view.photograph.noisy, "restored": view.restored}
        clean = view.photograph.photo if view.photograph.noise else None
        return {self.spectrum: self.pictures.file(spectrum_charts(images, clean))}
