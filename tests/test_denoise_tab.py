"""The Denoise tab behind a real server, a callable in the network's place: what it is asked, and what comes back."""

from __future__ import annotations

import base64
import os
import shutil
import time
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from interface.denoise_tab import build_denoise_tab, preset_labels
from interface.painting import backdrop, held_where, mask_area, painted_area, sharp_area, small_area
from interface.pictures import PUT_AWAY, Pictures, opened
from interface.restorer import AS_STARTED, Networks, Restorer, TrainedHere
from interface.scores import scores_table
from modeling import LOSS_TERMS, PRESETS, ViTUNetForImageDenoising
from modeling.image_files import read_photograph
from tests.conftest import randomised, tiny_config

ROOT = Path(__file__).parent.parent

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
    monkeypatch.setattr("interface.denoise_tab.Pictures", partial(Pictures, kept=3, seconds=0))
    asked = []

    def restore(noisy, loss_weights, emphasis, noise_level):
        asked.append((loss_weights, emphasis, noise_level))
        if not any(torch.as_tensor(weight).any() for weight in loss_weights.values()):
            raise ValueError("Loss weights sum to 0: give one a positive weight.")
        return noisy.clamp(0, 1)

    def attention(noisy):
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


def test_a_photograph_is_kept_while_it_is_looked_at(photo, monkeypatch):
    monkeypatch.setattr("interface.denoise_tab.HOUR", 1.2)
    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, lambda noisy, *_: noisy, TERMS, 4.0, [])
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    client = Client(app.local_url, verbose=False)
    setting = (1.0, 0.0, 0.0, True, 30)
    assert client.predict(*setting, api_name="/denoise") is None  # nothing was opened yet
    client.predict(handle_file(photo), api_name="/open")
    for _ in range(5):
        before, _ = client.predict(*setting, api_name="/denoise")
        assert before
        time.sleep(0.5)
    time.sleep(2.5)
    with pytest.raises(AppError, match=PUT_AWAY):
        client.predict(*setting, api_name="/denoise")
    client.predict(handle_file(photo), api_name="/open")
    assert client.predict(*setting, api_name="/denoise")[0]
    app.close()


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


def test_the_table_shows_the_price():
    rows = {"noisy": (14.0, 0.2, 3.0), "pixel loss alone": (26.0, 0.71, 0.83), "yours": (25.75, 0.7, float("nan"))}
    table = scores_table(rows)
    assert "| yours | 25.75 dB | 0.700 | nan |" in table
    assert "Price of your setting: +0.25 dB" in table
    assert "Price of your setting: +0.00 dB" in scores_table({"a": (26.0, 1, 1), "b": (26.000001, 1, 1)})


def test_the_restorer_takes_large_images_in_tiles_and_keeps_no_features_but_the_vits(model):
    whole, restorer = Restorer(model), Restorer(model, cached_pixels=64 * 64)
    whole.in_bf16 = restorer.in_bf16 = False
    looks = []
    for noisy in torch.rand(2, 3, 70, 66):
        for level in (None, 0.1):
            expected = whole(noisy, {"wavelet": 1.0}, 0.0, level)
            hook = model.vit_features.register_forward_hook(lambda *_: looks.append(1))
            torch.testing.assert_close(restorer(noisy, {"wavelet": 1.0}, 0.0, level), expected)
            hook.remove()
    assert len(looks) == 2 and not restorer.encoded


def test_the_restorer_encodes_an_image_once(model):
    images = [torch.rand(3, 20, 24) for _ in range(3)]
    expected = model(images[0][None], loss_weights={"wavelet": 1.0}).reconstruction[0].clamp(0, 1)
    restorer, encode, calls = Restorer(model, cached_pixels=2 * 20 * 24), model.encode, []
    restorer.in_bf16 = False
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
    assert len(restorer.encoded) == 2


def test_a_crop_for_a_figure_does_not_put_the_largest_photograph_away(model):
    restorer, encode, calls = Restorer(model, cached_pixels=80 * 80), model.encode, []
    model.encode = lambda *arguments: calls.append(1) or encode(*arguments)
    photo = torch.rand(3, 80, 80)
    for _ in range(3):
        restorer(photo)
        restorer(photo[:, :20, :20].contiguous())
    assert len(calls) == 2


@pytest.mark.parametrize("cached_pixels", [128 * 128, 0], ids=["whole", "in tiles"])
def test_bf16_is_less_than_a_step_of_8_bits_away(cached_pixels):
    shipped = ViTUNetForImageDenoising.from_pretrained(ROOT / "checkpoints" / "vit-unet-denoiser").eval()
    clean = read_photograph(str(ROOT / "examples" / "rock023.png"))[:, :128, :128]
    noisy, pictures = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), []
    for in_bf16 in (False, True):
        restorer = Restorer(shipped, cached_pixels)
        restorer.in_bf16 = in_bf16
        pictures.append(restorer(noisy, {"wavelet": 1.0}, 0.0, None))
    difference = (pictures[0] - pictures[1]).square().mean().sqrt().item()
    assert 0 < difference < 0.5 / 255 and pictures[1].dtype == torch.float32


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


def test_areas_are_no_larger_than_they_must_be(tmp_path):
    Image.new("L", (3000, 1), 255).save(tmp_path / "line.png")
    assert mask_area(str(tmp_path / "line.png")).shape == (1, 1, 1, 2048)
    area = torch.rand(1, 1, 9, 7)
    assert torch.equal(small_area(area), area)
    weights, emphasis = held_where(area, {"wavelet": 1.0, "amplitude": 0.0}, 2.0)
    assert set(weights) == {"wavelet", "pixel"} and torch.equal(emphasis, 2 * area)


def test_a_network_that_takes_no_noise_level_is_not_told_it(photo):
    model = randomised(ViTUNetForImageDenoising(tiny_config(noise_conditioned=False)))
    restorer, noisy = Restorer(model), torch.rand(3, 20, 24)
    assert torch.equal(restorer(noisy, None, None, 0.1), restorer(noisy))
    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, restorer, TERMS, 4.0, [photo], takes_noise_level=False)
    (told,) = (block for block in app.blocks.values() if isinstance(block, gr.Accordion))
    assert not told.visible


def test_presets_are_buttons_whose_labels_say_what_they_are():
    terms = {name: term.label for name, term in LOSS_TERMS.items()}
    labels = preset_labels(terms)
    assert list(labels) == list(PRESETS)
    assert labels["mse"] == "MSE" and labels["frequency_emphasis"] == "Frequency + emphasis"
    assert list(preset_labels(TERMS)) == ["mse", "wavelet"]  # what such a network can do


def test_networks_are_chosen_by_name(model):
    networks = Networks(Restorer(model), model.config.conditioned_terms, 4.0)
    assert networks.in_use("the app's own")[1]
    assert networks.choices("gone") == [("the app's own", "the app's own"), ("trained here, gone", "gone")]


@pytest.fixture
def trained(tmp_path) -> TrainedHere:
    """Networks by what sets them apart from the app's own; the folder of one has vanished."""
    found = {"gone": tmp_path / "gone"}
    for seed, (name, overrides) in enumerate(
        {"other": {}, "without a ViT": {"use_vit": False}, "emphasis": {"max_high_frequency_emphasis": 1.0}}.items(), 1
    ):
        torch.manual_seed(seed)
        randomised(ViTUNetForImageDenoising(tiny_config(**overrides)), seed).save_pretrained(tmp_path / name)
        found[name] = tmp_path / name
    return TrainedHere(lambda: found)


def test_a_network_trained_here_is_asked_where_its_own_vit_looks(model, trained):
    own = Restorer(model)
    networks = Networks(own, model.config.conditioned_terms, 4.0, trained, own.attention)
    noisy = torch.rand(3, 40, 56)
    looked = {name: networks.attention(name)(noisy) for name in (AS_STARTED, "other")}
    assert torch.equal(looked["other"], trained.restorer("other").attention(noisy))
    assert not torch.equal(looked["other"], looked[AS_STARTED])
    assert networks.attention("without a ViT") is None
    assert networks.in_use("other")[1] and not networks.in_use("emphasis")[1]
    with pytest.raises(ValueError, match="gone cannot be loaded: choose another one"):
        networks.in_use("gone")


def handlers(restore, photo: Path, **options) -> dict:
    """What the page calls, by name, without a page."""
    terms = {name: LOSS_TERMS[name].label for name in restore.model.config.conditioned_terms}
    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, restore, terms, 4.0, [photo], **options)
    return {function.name: function.fn for function in app.fns.values()}


def test_the_setting_holds_where_the_chosen_network_looks(model, trained, photo):
    own = Restorer(model)
    page, photograph = handlers(own, photo, trained=trained, attention=own.attention), opened(str(photo), 25)
    setting = [*(0.5 for _ in own.terms), 0.0, True, 25, "looked at"]
    area = page["redraw"](photograph, False, "other", None, (None, None), *setting)[2][1]
    assert torch.equal(area, trained.restorer("other").attention(photograph.noisy))
    place = page["switch"]("without a ViT", "other")[1]
    assert "looked at" not in [value for _, value in place["choices"]]
    assert "looked at" in [value for _, value in page["switch"]("other", "without a ViT")[1]["choices"]]
    assert page["switch"]("other", "other") == gr.skip()  # the list was opened and left
    with pytest.raises(gr.Error, match="has no ViT"):
        page["redraw"](photograph, False, "without a ViT", None, (None, None), *setting)


def test_every_error_of_a_setting_is_told(model, photo):
    """All sliders at 0: the figures below the picture say so, too."""
    own = Restorer(model)
    page, photograph = handlers(own, photo), opened(str(photo), 25)
    restored = ((photograph.key, AS_STARTED), photograph.photo)
    nothing = [*(0.0 for _ in own.terms), 0.0, True, 25]
    with pytest.raises(gr.Error, match="sum to 0"):
        page["draw"](photograph, True, AS_STARTED, restored, (None, None), "Trade-off", None, None, *nothing)
    with pytest.raises(gr.Error, match="after an hour: open it again"):
        page["draw"](None, True, AS_STARTED, restored, (None, None), "Trade-off", None, None, *nothing)
    other = photograph.with_noise(30)  # its picture is on its way
    with pytest.raises(gr.Error, match="not restored yet"):
        page["save_picture"](other, True, AS_STARTED, restored)
    assert Path(page["save_picture"](photograph, True, AS_STARTED, restored)).is_file()
    photo.unlink()
    with pytest.raises(gr.Error, match="after an hour: open it again"):
        page["save_picture"](photograph, True, AS_STARTED, restored)


def test_noise_makes_another_image_of_the_same_picture(model, photo):
    photograph = opened(str(photo), 25)
    noisier = photograph.with_noise(50)
    assert noisier.picture == photograph.picture and noisier.key != photograph.key
    assert opened(str(photo), 25).picture != photograph.picture
    own, painted = Restorer(model), torch.rand(1, 1, 24, 31)
    setting = [*(0.5 for _ in own.terms), 0.0, True, 25, "painted"]
    redraw = handlers(own, photo)["redraw"]
    known = redraw(noisier, True, AS_STARTED, (photograph.picture, painted), (None, None), *setting)[2]
    assert known[1] is painted  # what is painted stays where it is


def test_a_float_photograph_is_downloaded_as_one(model, tmp_path):
    values = np.random.default_rng(0).random((24, 31), dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "measured.tif")
    photograph = opened(str(tmp_path / "measured.tif"), 0)
    page = handlers(Restorer(model), tmp_path / "measured.tif")
    restored = ((photograph.key, AS_STARTED), photograph.photo)
    with Image.open(page["save_picture"](photograph, True, AS_STARTED, restored)) as saved:
        assert saved.mode == "F" and np.allclose(np.array(saved), values, atol=1e-6)


def test_an_upload_that_is_in_use_is_kept(model, photo):
    """Gradio deletes what was changed an hour ago; an example's file is left as it is."""
    os.utime(photo, (0, 0))
    upload = photo.with_name("upload.png")
    shutil.copy2(photo, upload)
    redraw = handlers(Restorer(model), photo)["redraw"]
    weights = [1.0 for _ in model.config.conditioned_terms]
    for path in (photo, upload):
        redraw(opened(str(path), 0), True, AS_STARTED, None, (None, None), *weights, 0.0, True, 25, "everywhere")
    assert photo.stat().st_mtime == 0 and upload.stat().st_mtime > 0
