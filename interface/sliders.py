"""The sliders of every tab."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from modeling import PRESETS


class ClampedSlider(gr.Slider):
    """A number typed beyond an end acts as that end, and none as the lower: Gradio would refuse it, and show the end.

    A class, because Gradio makes a component anew, with the arguments of its first time, when it is updated.
    """

    is_template = True  # in the page it is a gr.Slider

    def preprocess(self, payload: float | None) -> float:
        return super().preprocess(self.minimum if payload is None else min(max(payload, self.minimum), self.maximum))


def slider(minimum: float, maximum: float, value: float, **options) -> ClampedSlider:
    """A slider that always stands where what it stands for is.

    Gradio's button that goes back to the start would move it without the event that moves of a hand cause.
    """
    return ClampedSlider(minimum, maximum, value, buttons=[], **options)


def preset_values(name: str, terms: Iterable[str]) -> list[float]:
    """Where a preset puts the sliders of these terms' weights, and that of the emphasis."""
    preset = PRESETS[name]
    return [*(preset.loss_weights.get(term, 0.0) for term in terms), preset.high_frequency_emphasis]
