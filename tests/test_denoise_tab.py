"""The Denoise tab behind a real server, a callable in the network's place: what it is asked, and what comes back."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from interface.denoise_tab import MAX_MEGAPIXELS, build_denoise_tab, opened, scores_table
from interface.pictures import Pictures
from interface.restorer import Restorer
from modeling.image_files import read_photograph

TERMS = {"pixel": "Pixel", "wavelet": "Wavelet"}


@pytest.fixture
def photo(tmp_path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def served(photo):
    """A client of the tab, and the list of what its network was asked."""
    asked = []

    def restore(noisy, loss_weights, emphasis, noise_level):
        asked.append((loss_weights, emphasis, noise_level))
        if sum(loss_weights.values()) == 0:
            raise ValueError("Loss weights sum to 0: give one a positive weight.")
        return noisy.clamp(0, 1)

    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, restore, TERMS, 4.0, [photo])
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
    for index in range(80):
        before, after = client.predict(1.0, index / 80, 0.0, True, 30, api_name="/denoise")
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
