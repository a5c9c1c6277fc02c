"""The figures of the Denoise tab: what each slider costs, energy by frequency, crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interface.denoise_figures import (
    CROP_SIDE,
    CROP_ZOOM,
    TradeOff,
    crop_box,
    radial_correlations,
    radial_spectra,
    sharpest_place,
    spectrum_charts,
    travels,
    zoomed,
)
from interface.figures import Chart, MarkedChart
from interface.pictures import Photograph, centre
from interface.restorer import Restorer
from modeling import LOSS_TERMS


def photograph_of(clean: torch.Tensor) -> Photograph:
    return Photograph(clean, 25, clean + 0.1 * torch.randn(clean.shape), "photo.png")


def test_the_trade_off_follows_each_slider(model):
    terms = {name: LOSS_TERMS[name].label for name in model.config.conditioned_terms}
    settings = travels(terms, 4.0)
    assert len(settings) == len(terms)  # all but the pixel loss, and the emphasis
    assert settings["Wavelet"][0] == ({"pixel": 1.0}, 0.0) and settings["Wavelet"][-1][0]["wavelet"] == 1.0
    photograph, restorer = photograph_of(torch.rand(3, 50, 300)), Restorer(model)
    curves = TradeOff(restorer, photograph, terms, 4.0, None)
    assert curves.clean.shape == (3, 50, 224)
    whole = curves.place({"wavelet": 1.0}, 0.0)
    assert curves.place({"wavelet": 1.0}, 0.0, torch.ones(1, 1, 5, 30)) == pytest.approx(whole, rel=1e-3)
    assert curves.place({"wavelet": 1.0}, 0.0, torch.zeros(1, 1, 1, 1)) == curves.place({"pixel": 1.0}, 0.0)
    first, second = (np.asarray(curves.marked(weights, 0.0)) for weights in ({"pixel": 1.0}, {"wavelet": 1.0}))
    assert first.shape == second.shape and (first != second).any()


def test_a_point_is_marked_where_it_lies():
    chart = MarkedChart(Chart("", {"a": ([0, 1], [0, 1])}, ("x", "y")))
    dark = [np.argwhere(np.asarray(chart.marked(x, x).convert("L")) < 5) for x in (0.25, 0.75)]
    difference = dark[1].mean(0) - dark[0].mean(0)
    assert difference[0] < 0 < difference[1]  # up and to the right
    assert chart.marked(9, -9).size == chart.picture.size  # outside: at the border


def test_radial_spectra_of_noise_and_of_a_wave():
    noise = torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(0))
    power = radial_spectra({"noise": noise})["noise"]
    assert power[4:].mean().item() == pytest.approx(3.0, rel=0.05)  # three channels of unit variance, flat
    assert power[4:].std() < 0.4
    wave = torch.sin(2 * torch.pi * 0.25 * torch.arange(128.0)).expand(3, 96, 128)
    assert radial_spectra({"wave": wave})["wave"].argmax() == 24  # of 48 rings up to half a cycle per pixel
    correlations = radial_correlations({"same": noise, "other": noise.flip(1)}, noise)
    torch.testing.assert_close(correlations["same"], torch.ones(48))
    assert correlations["other"][8:].abs().max() < 0.3


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (31, 37), (600, 40)])
def test_figures_of_any_size(size):
    image = torch.rand(3, *size)
    assert spectrum_charts({"noisy": image, "restored": image}, image).width > 700
    box = crop_box(sharpest_place(image), size)
    crop = zoomed(image, box)
    assert crop.size == tuple(min(CROP_SIDE, side) * CROP_ZOOM for side in reversed(size))


def test_the_crop_shows_the_pixels_of_its_place():
    image = torch.zeros(3, 300, 400)
    image[:, 200:210, 100:110] = torch.rand(3, 10, 10)
    left, top, right, bottom = crop_box(sharpest_place(image), (300, 400))
    assert left <= 100 < 110 <= right and top <= 200 < 210 <= bottom
    assert crop_box((0, 299), (300, 400)) == (0, 300 - CROP_SIDE, CROP_SIDE, 300)
    expected = image[:, top:bottom, left:right].mul(255).round().byte().permute(1, 2, 0)
    assert np.array_equal(np.asarray(zoomed(image, (left, top, right, bottom)))[::CROP_ZOOM, ::CROP_ZOOM], expected)
    assert centre(image, 100).shape == (3, 100, 100)
