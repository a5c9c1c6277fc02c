"""Chooses the photograph that a tab looks at: a visitor's, that of the tab Denoise, or an example under added noise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from interface.pictures import (
    EXAMPLE_NOISE_LEVEL,
    HOUR,
    MAX_NOISE_LEVEL,
    PUT_AWAY,
    Photograph,
    example_gallery,
    example_photograph,
    on_page,
    opened,
)
from interface.sliders import slider

QUIET = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}


class Chooser:
    """Lays itself out where it is made.

    `seen` is the state of the `Photograph`, `events` are those after which it may be another one. An event that writes
    it, to keep it for another hour, takes `in_turn`: so an older one is never written back over a newer one.

    Args:
        tab: opening it chooses a photograph, where there is none.
        examples: clean photographs; the first is looked at where `elsewhere` holds none.
        elsewhere: state with the `Photograph` of another tab, which is the first to be looked at.
        name: of the tab, for its elements.
        info: beside the slider of the noise.
    """

    def __init__(
        self, tab: gr.Tab, examples: list[Path], elsewhere: gr.State | None, name: str, info: str | None = None
    ) -> None:
        others = [elsewhere] if elsewhere is not None else []
        with gr.Column(scale=1, min_width=180):
            upload = gr.UploadButton("Open a photograph", size="sm", elem_id=f"{name}-upload")
            same = gr.Button("That of the tab Denoise", size="sm", visible=bool(others))
        with gr.Column(scale=3, min_width=280):
            gallery = example_gallery(examples)
        added_noise = slider(
            0, MAX_NOISE_LEVEL, EXAMPLE_NOISE_LEVEL, step=1, label="Add noise (sigma, of 255)", info=info, scale=2
        )
        self.seen = gr.State(None, time_to_live=HOUR)
        self.in_turn = {**QUIET, "concurrency_id": f"{name}_photograph", "concurrency_limit": 1}

        def example(index: int) -> tuple[Photograph, float]:
            return example_photograph(str(examples[index])), EXAMPLE_NOISE_LEVEL

        def start(photograph: Photograph | None, other: Photograph | None = None):
            found = photograph or other
            if found is None:
                return example(0) if examples else (None, gr.skip())
            return found, found.noise

        def pick(event: gr.SelectData) -> tuple[Photograph, float]:
            return example(event.index)

        @on_page
        def add_noise(photograph: Photograph | None, noise: float) -> Photograph:
            if photograph is None:
                raise ValueError(PUT_AWAY)
            return photograph.with_noise(noise)

        both = [self.seen, added_noise]
        self.events = [
            tab.select(start, [self.seen, *others], both, **self.in_turn),
            gallery.select(pick, None, both, **self.in_turn),
            upload.upload(lambda path: (opened(path, 0), 0), upload, both, **self.in_turn),
            added_noise.input(add_noise, both, self.seen, **self.in_turn),
        ]
        if others:
            self.events.append(same.click(partial(start, None), others, both, **self.in_turn))
