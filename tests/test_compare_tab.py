"""The Compare tab: what each setting shows, and its numbers."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest
import torch

from interface.compare_tab import ONE_LOSS, build_compare_tab, numbers, unsharp_mask
from interface.pictures import NO_REFERENCE, Photograph


def photograph(noise: float = 25.0) -> Photograph:
    clean = torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(0))
    return Photograph(clean, noise, clean + 0.1, "photo.png")


def test_unsharp_masking_sharpens_edges_and_leaves_flat_areas():
    image = torch.full((3, 32, 32), 0.4)
    torch.testing.assert_close(unsharp_mask(image, 1.0), image)
    image[..., 16:] = 0.6
    sharpened = unsharp_mask(image, 1.0)
    assert sharpened[0, 16, 15] < 0.4 and sharpened[0, 16, 16] > 0.6
    torch.testing.assert_close(unsharp_mask(image, 0.0), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9)])
def test_unsharp_masking_of_tiny_images(size):
    assert unsharp_mask(torch.rand(3, *size), 0.5).shape == (3, *size)


def test_numbers_are_those_of_what_is_shown():
    seen = photograph()
    text = numbers(seen.photo + 0.1, seen)
    error = ((seen.photo + 0.1).clamp(0, 1) - seen.photo).square().mean().item()
    assert f"{-10 * np.log10(error):.2f} dB" in text and f"MSE {error:.5f}" in text
    assert "No clean reference" in numbers(seen.photo, photograph(0))


def test_a_slot_is_made_anew_when_its_photograph_or_setting_is_another():
    asked = []

    def restore(noisy, loss_weights, emphasis, noise_level):
        asked.append(loss_weights)
        return noisy.clamp(0, 1)

    with gr.Blocks(analytics_enabled=False) as app, gr.Tab("Compare") as tab:
        build_compare_tab(tab, restore, {"pixel": "Pixel", "wavelet": "Wavelet"}, 4.0, [])
    redraw = next(function.fn for function in app.fns.values() if function.name == "redraw")
    seen, setting = photograph(), ("mse", "the app's own", 0.5, 1.0, 0.0, 0.0)
    picture, _, shown, kept = redraw(seen, None, *setting)
    assert picture.endswith(".png") and kept is seen and len(asked) == 1
    assert redraw(seen, shown, *setting) == (gr.skip(), gr.skip(), shown, seen) and len(asked) == 1
    redraw(seen, shown, "wavelet", *setting[1:])
    redraw(seen.with_noise(50), shown, *setting)
    assert len(asked) == 3
    assert redraw(photograph(0), shown, "clean", *setting[1:])[:2] == (None, NO_REFERENCE)
    assert redraw(None, None, *setting) == (None, "", None, None)
    with pytest.raises(gr.Error, match="after an hour: open it again"):
        redraw(None, shown, *setting)


def test_a_setting_that_cannot_act_says_so(monkeypatch):
    def in_use(networks, name: str):
        return (lambda noisy, *_: noisy), name == "of all losses"

    monkeypatch.setattr("interface.compare_tab.Networks.in_use", in_use)
    with gr.Blocks(analytics_enabled=False) as app, gr.Tab("Compare") as tab:
        build_compare_tab(tab, None, {"pixel": "Pixel", "wavelet": "Wavelet"}, 4.0, [])
    redraw = next(function.fn for function in app.fns.values() if function.name == "redraw")
    for setting, network, told in (
        ("wavelet", "of one loss", True),
        ("wavelet", "of all losses", False),
        ("noisy", "of one loss", False),
    ):
        text = redraw(photograph(), None, setting, network, 0.5, 1.0, 0.0, 0.0)[1]
        assert text.endswith(ONE_LOSS) == told, setting
