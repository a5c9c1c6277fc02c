"""The Denoise tab behind a real server, a callable in the network's place: what it is asked, and what comes back."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from interface.denoise_figures import (
    CROP_SIDE,
    CROP_ZOOM,
    TradeOff,
    centre,
    crop_box,
    radial_correlations,
    radial_spectra,
    sharpest_place,
    spectrum_charts,
    travels,
    zoomed,
)
from interface.denoise_tab import build_denoise_tab, preset_labels, scores_table
from interface.figures import Chart, MarkedChart
from interface.painting import backdrop, held_where, painted_area, sharp_area
from interface.pictures import MAX_MEGAPIXELS, Photograph, Pictures, opened
from interface.restorer import Networks, Restorer
from modeling import LOSS_TERMS, PRESETS
from modeling.image_files import read_photograph

TERMS = {"pixel": "Pixel", "wavelet": "Wavelet"}


@pytest.fixture
def photo(tmp_path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def served(photo, monkeypatch):
    """A client of the tab, which keeps few pictures, and the list of what its network was asked."""
    monkeypatch.setattr("interface.denoise_tab.Pictures", partial(Pictures, kept=3))
    asked = []

    def restore(noisy, loss_weights, emphasis, noise_level):
        asked.append((loss_weights, emphasis, noise_level))
        if not any(torch.as_tensor(weight).any() for weight in loss_weights.values()):
            raise ValueError("Loss weights sum to 0: give one a positive weight.")
        return noisy.clamp(0, 1)

    def attention(noisy, noise_level):
        return torch.arange(2.0)[None, None, None].expand(1, 1, 2, 2)  # the right half

    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, restore, TERMS, 4.0, [photo], attention=attention)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    yield Client(app.local_url, verbose=False), asked
    app.close()


def test_sliders_reach_the_network_and_the_picture_comes_back(served, photo):
    client, asked = served
    client.predict(handle_file(photo), api_name="/open")
    before, after = client.predict(0.25, 0.75, 2.0, True, 30, api_name="/denoise")
    assert asked[-1] == ({"pixel": 0.25, "wavelet": 0.75}, 2.0, None)
    for file in (before, after):
        assert file.endswith(".png")
        assert np.array_equal(np.array(Image.open(file)), np.array(Image.open(photo)))
    client.predict(1.0, 0.0, 0.0, False, 51, api_name="/denoise")
    assert asked[-1] == ({"pixel": 1.0, "wavelet": 0.0}, 0.0, 0.2)


def test_a_setting_holds_in_an_area(served, photo):
    client, asked = served
    client.predict(handle_file(photo), api_name="/open")
    client.predict(0.25, 0.75, 2.0, True, 30, "looked at", api_name="/denoise")
    weights, emphasis, _ = asked[-1]
    assert weights["wavelet"][0, 0, 0].tolist() == [0.0, 0.75]
    assert weights["pixel"][0, 0, 0].tolist() == [1.0, 0.25]
    assert emphasis[0, 0, 0].tolist() == [0.0, 2.0]
    client.predict(0.25, 0.75, 2.0, True, 30, "sharp", api_name="/denoise")
    assert asked[-1][0]["wavelet"].shape == (1, 1, 2, 2)  # windows of 16 pixels on 24 x 31
    client.predict(0.25, 0.75, 2.0, True, 30, "painted", api_name="/denoise")  # nothing is
    assert asked[-1][0]["wavelet"].max() == 0 and asked[-1][0]["pixel"].min() == 1


def test_noise_is_added_to_the_photograph_that_is_open(served, photo):
    client, _ = served
    client.predict(handle_file(photo), api_name="/open")
    client.predict(50, api_name="/add_noise")
    before, _ = client.predict(1.0, 0.0, 0.0, True, 30, api_name="/denoise")
    difference = np.array(Image.open(before)).astype(float) - np.array(Image.open(photo))
    assert 25 < difference.std() < 55  # clipped to what a picture can show


def test_both_pictures_outlive_many_moves(served, photo):
    client, _ = served
    client.predict(handle_file(photo), api_name="/open")
    for index in range(6):
        before, after = client.predict(1.0, index / 6, 0.0, True, 30, api_name="/denoise")
    assert Image.open(before).size == Image.open(after).size == (31, 24)


def test_the_app_survives_bad_input(served, photo, tmp_path):
    client, _ = served
    client.predict(handle_file(photo), api_name="/open")
    with pytest.raises(AppError, match="sum to 0"):
        client.predict(0.0, 0.0, 0.0, True, 30, api_name="/denoise")
    text = tmp_path / "notes.png"
    text.write_text("this is no image")
    with pytest.raises(AppError, match=r"notes\.png cannot be read as an image"):
        client.predict(handle_file(text), api_name="/open")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    client.predict(handle_file(tmp_path / "dot.png"), api_name="/open")
    _, after = client.predict(1.0, 0.0, 0.0, True, 30, api_name="/denoise")
    assert Image.open(after).size == (1, 1)


def test_reading_a_file_that_is_no_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("this is no image")
    with pytest.raises(ValueError, match=r"notes\.jpg cannot be read as an image"):
        read_photograph(path)
    with pytest.raises(ValueError, match=r"absent\.png cannot be read"):
        read_photograph(tmp_path / "absent.png")


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_photograph(tmp_path / "turned.png").shape == (3, 3, 2)


def test_photographs_that_do_not_fit_are_refused(tmp_path):
    side = int((MAX_MEGAPIXELS * 1e6) ** 0.5) + 100
    Image.new("L", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(gr.Error, match=r"large\.png has 17 megapixels"):
        opened(str(tmp_path / "large.png"), 0)


def test_the_table_shows_the_price():
    rows = {"noisy": (14.0, 0.2, 3.0), "pixel loss alone": (26.0, 0.71, 0.83), "yours": (25.75, 0.7, float("nan"))}
    table = scores_table(rows)
    assert "| yours | 25.75 dB | 0.700 | nan |" in table
    assert "Price of your setting: +0.25 dB" in table
    assert "Price of your setting: +0.00 dB" in scores_table({"a": (26.0, 1, 1), "b": (26.000001, 1, 1)})


def test_pictures_are_lossless_and_do_not_pile_up():
    pictures = Pictures(kept=3)
    image = torch.randint(0, 256, (3, 9, 7)) / 255
    named = pictures.file(image, "mine")
    files = [Path(pictures.file(image)) for _ in range(5)]
    assert [file.exists() for file in files] == [False, False, True, True, True]
    assert not Path(named).exists()
    again = Path(pictures.file(image, "mine"))
    assert str(again) == named and len(list(again.parent.iterdir())) == 3
    assert torch.equal(torch.from_numpy(np.array(Image.open(again))).permute(2, 0, 1) / 255, image)


def test_the_restorer_encodes_an_image_once(model):
    images = [torch.rand(3, 20, 24) for _ in range(3)]
    expected = model(images[0][None], loss_weights={"wavelet": 1.0}).reconstruction[0].clamp(0, 1)
    restorer, encode, calls = Restorer(model, cached_pixels=2 * 20 * 24), model.encode, []
    model.encode = lambda *arguments: calls.append(1) or encode(*arguments)
    first = restorer(images[0], {"pixel": 1.0}, 0.0, None)
    second = restorer(images[0], {"wavelet": 1.0}, 0.0, None)
    assert len(calls) == 1 and not torch.equal(first, second)
    torch.testing.assert_close(second, expected)
    restorer(images[0], None, None, 0.1)  # another noise level is another encoding
    restorer(images[1])
    restorer(images[2])
    assert len(calls) == 4 and len(restorer.encoded) == 2
    restorer(torch.rand(3, 90, 90))  # larger than the cache
    assert len(restorer.encoded) == 1


def test_what_the_brush_paints_is_what_the_page_is_asked_for(tmp_path):
    picture = Image.new("RGBA", (5, 3))
    picture.putpixel((4, 1), (255, 100, 0, 255))
    picture.save(tmp_path / "mask.png")
    encoded = base64.b64encode((tmp_path / "mask.png").read_bytes()).decode()
    area = painted_area(f"data:image/png;base64,{encoded}")
    assert area.shape == (1, 1, 3, 5) and area.sum() == area[0, 0, 1, 4] == 1
    for nonsense in ("", "data:image/png;base64,AAAA", "data:image/png;base64,*"):
        with pytest.raises(gr.Error, match="paint again"):
            painted_area(nonsense)
    Image.new("RGBA", (300, 1)).save(tmp_path / "wide.png")
    with pytest.raises(gr.Error, match="300"):
        painted_area("data:image/png;base64," + base64.b64encode((tmp_path / "wide.png").read_bytes()).decode())
    assert backdrop(torch.rand(3, 900, 30)).startswith("data:image/png;base64,")


def test_weights_in_an_area_sum_to_one_everywhere():
    area = torch.rand(1, 1, 4, 6)
    weights, emphasis = held_where(area, {"pixel": 0.2, "wavelet": 0.6}, 3.0)
    torch.testing.assert_close(sum(weights.values()), torch.ones(1, 1, 4, 6))
    torch.testing.assert_close(weights["wavelet"], 0.75 * area)
    torch.testing.assert_close(emphasis, 3 * area)
    assert held_where(None, {"pixel": 0.2}, 1.0) == ({"pixel": 0.2}, 1.0)
    assert held_where(area, {"pixel": 0.0}, 1.0) == ({"pixel": 0.0}, 1.0)  # for the network to refuse


def test_the_network_sharpens_where_it_is_told_to(model):
    noisy, area = torch.rand(3, 64, 64), torch.zeros(1, 1, 64, 64)
    area[..., :, 48:] = 1
    restorer = Restorer(model)
    corner = restorer(noisy, {"pixel": 1.0}, 0.0)
    held = restorer(noisy, *held_where(area, {"wavelet": 1.0}, 0.0))
    difference = (held - corner).abs().amax((0, 1))
    assert difference[56:].min() > 0
    assert difference[:8].max() < 1e-3 * difference[56:].min()  # rounding, further away than the decoder sees


def test_the_sharp_area_is_bright_where_the_detail_is():
    image = torch.full((3, 64, 64), 0.5)
    image[..., 32:] = torch.rand(3, 64, 32)
    area = sharp_area(image)
    assert area.shape == (1, 1, 7, 7) and area.min() == 0 and area.max() == 1
    assert area[..., :3].max() == 0 and area[..., 5:].min() > 0.5
    assert sharp_area(torch.zeros(3, 1, 1)).tolist() == [[[[0.0]]]]


def test_where_the_vit_looks(model):
    area = Restorer(model).attention(torch.rand(3, 40, 56))
    assert area.shape == (1, 1, 40, 56) and 0 <= area.min() < area.max() <= 1


def test_presets_are_buttons_whose_labels_say_what_they_are():
    terms = {name: term.label for name, term in LOSS_TERMS.items()}
    labels = preset_labels(terms)
    assert list(labels) == list(PRESETS)
    assert labels["mse"] == "MSE" and labels["frequency_emphasis"] == "Frequency + emphasis"
    assert list(preset_labels(TERMS)) == ["mse", "wavelet"]  # what such a network can do


def test_networks_are_chosen_by_name(model):
    networks = Networks(Restorer(model), model.config.conditioned_terms)
    assert networks.in_use("the app's own")[1]
    assert networks.choices("gone") == [("the app's own", "the app's own"), ("trained here, gone", "gone")]


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
