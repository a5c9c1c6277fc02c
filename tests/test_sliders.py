"""Sliders of the tabs: where one stands is what it stands for."""

from __future__ import annotations

import gradio as gr
import pytest

from app import build_app
from interface.sliders import slider


@pytest.mark.parametrize(("typed", "meant"), [(0.5, 0.5), (7, 1), (-2, 0.25), (None, 0.25), (0.999, 1.0)])
def test_a_number_beyond_an_end_is_that_end(typed, meant):
    with gr.Blocks():
        made = slider(0.25, 1, 0.5, step=0.01, precision=2)
        updated = made.__class__(**made.constructor_args)  # as Gradio makes it anew
    assert made.preprocess(typed) == updated.preprocess(typed) == meant
    assert made.get_block_name() == "slider"


def test_no_slider_of_the_app_has_a_button_that_moves_it_alone(model):
    app = build_app(model)
    sliders = [block for block in app.blocks.values() if isinstance(block, gr.Slider)]
    assert len(sliders) > 20
    assert all(made.get_config()["buttons"] == [] for made in sliders)


def test_no_move_is_written_into_the_browser(model):
    app = build_app(model)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    assert app.run_history is False
    app.close()
