"""The sliders of every tab."""

from __future__ import annotations

import gradio as gr


def slider(minimum: float, maximum: float, value: float, **options) -> gr.Slider:
    """A `gr.Slider` that always stands where what it stands for is.

    Gradio's button that goes back to the start would move it without the event that moves of a hand cause. And a number
    typed beyond an end would be refused, and then shown as that end: here it acts as that end, and none as the lower.
    """
    made = gr.Slider(minimum, maximum, value, buttons=[], **options)
    preprocess = made.preprocess

    def clamped(payload: float | None) -> float:
        return preprocess(minimum if payload is None else min(max(payload, minimum), maximum))

    made.preprocess = clamped
    return made
