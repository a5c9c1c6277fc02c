"""The Explain tab: its figures, what it says of a choice, and the page in a browser."""

from __future__ import annotations

from functools import partial

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from interface.explain_tab import (
    KEPT_MAPS,
    MAX_SIDE,
    Specimen,
    build_explain_tab,
    can_show,
    explanation,
    map_figure,
    overlay,
    region_edges,
    region_mask,
    strip_figure,
)
from interface.pictures import centre, on_page, opened
from modeling import ViTUNetForImageDenoising
from modeling.explain import METHODS, activation_map, activation_maps, layer_names
from tests.conftest import randomised, tiny_config

BOX, BAND = (0.5, 0.5, 0.25), (0.25, 0.5)
SECONDS = 20_000


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return randomised(ViTUNetForImageDenoising(tiny_config()))


@pytest.fixture(scope="module")
def specimen(network):
    noisy = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    return Specimen(noisy, partial(activation_maps, network))


def test_maps_are_those_of_the_network_and_made_once(specimen, network):
    first = specimen.maps("gradcam", ("decoder.0",), "region", BOX, BAND)["decoder.0"]
    region = region_mask((48, 64), BOX)
    expected = activation_map(network, specimen.noisy, "gradcam", "decoder.0", "region", region=region)
    assert torch.equal(first, expected)
    again = specimen.maps("gradcam", ("vit", "decoder.0"), "region", BOX, BAND)
    assert again["decoder.0"] is first and list(again) == ["vit", "decoder.0"]


def test_the_oldest_maps_are_forgotten(network):
    noisy, calls = torch.rand(3, 8, 8), []

    def explain(noisy, method, layers, target, **options):
        calls.append(layers)
        return {layer: torch.zeros(8, 8) for layer in layers}

    current = Specimen(noisy, explain)
    for index in range(KEPT_MAPS + 1):
        current.maps("eigencam", (str(index),), "sharpness", BOX, BAND)
    current.maps("eigencam", (str(KEPT_MAPS), "0"), "sharpness", BOX, BAND)
    assert len(current.made) == KEPT_MAPS and calls[-1] == ["0"]


def test_an_error_reaches_the_page(specimen):
    with pytest.raises(gr.Error, match="does not depend on the layer"):
        on_page(specimen.maps)("gradcam", ("decoder.0",), "token_mean", BOX, BAND)


def test_figures_are_made_anew_when_the_photograph_or_the_setting_is_another(network, tmp_path):
    pixels = np.random.default_rng(0).integers(60, 200, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    photograph, bands = opened(str(tmp_path / "0.png"), 25), []

    def explain(noisy, method, layers, target, band, **options):
        bands.append(band)
        return {layer: torch.rand(noisy.shape[-2:]) for layer in layers}

    with gr.Blocks(analytics_enabled=False) as app, gr.Tab("Explain") as tab:
        build_explain_tab(tab, explain, layer_names(network), [])
    page = {function.name: function.fn for function in app.fns.values()}
    current = page["examined"](photograph, None)
    assert page["examined"](photograph, current) is current
    assert page["examined"](photograph.with_noise(50), current) is not current
    setting = ["vit", "decoder.0", "gradcam", "band_energy", False, 0.4, 0.9, *BOX]
    picture, shown, *kept = page["draw"](photograph, current, None, *setting, 0.5, 0.25)
    assert picture.endswith(".png") and kept == [current, photograph] and bands == [BAND]
    assert page["draw"](photograph, current, shown, *setting, 0.5, 0.25)[0] == gr.skip() and len(bands) == 1
    page["draw"](photograph, current, shown, *setting, 0.3, 0.3)
    assert bands[1] == (0.3, 0.31)  # never empty
    assert page["draw"](None, None, None, *setting, *BAND) == (None, None, None, None)
    with pytest.raises(gr.Error, match="after an hour: open it again"):
        page["draw"](None, None, shown, *setting, *BAND)
    setting[4:7] = True, 0.9, 0.4
    with pytest.raises(gr.Error, match="must satisfy"):
        page["draw"](photograph, current, shown, *setting, *BAND)


def test_large_images_are_cut_to_their_centre():
    image = torch.arange(3 * 300 * 100.0).reshape(3, 300, 100)
    assert torch.equal(centre(image, MAX_SIDE), image[:, 38 : 38 + MAX_SIDE])
    assert torch.equal(centre(image[:, :50], MAX_SIDE), image[:, :50])


@pytest.mark.parametrize(
    ("box", "edges"),
    [
        ((0.5, 0.5, 0.5), (16, 12, 48, 36)),
        ((0.0, 0.0, 0.5), (0, 0, 16, 12)),
        ((1.0, 1.0, 0.0), (63, 47, 64, 48)),  # never empty
        ((0.5, 0.5, 1.0), (0, 0, 64, 48)),
    ],
)
def test_regions_lie_in_the_image(box, edges):
    assert region_edges((48, 64), box) == edges
    left, top, right, bottom = edges
    mask = region_mask((48, 64), box)
    assert mask.sum() == (right - left) * (bottom - top) and mask[top:bottom, left:right].all()


def test_what_is_said_of_a_choice():
    for name, row in METHODS.items():
        said = explanation(name, "restoration_change")
        assert row.label in said
        assert ("has no effect" in said) == (not row.uses_target)
        assert ("for each channel" in said) == row.runs_per_channel
    assert "only the ViT" in explanation("gradcam", "token_mean")
    assert can_show("eigencam", "token_mean", "decoder.0") and can_show("gradcam", "token_mean", "vit.0")
    assert not can_show("gradcam", "token_mean", "decoder.0")


def test_an_overlay_leaves_the_image_where_the_map_is_zero():
    noisy, activation = torch.rand(3, 8, 8), torch.zeros(8, 8)
    activation[2, 3] = 1
    shown = overlay(noisy, activation)
    image = noisy.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown[0], image[0])
    assert np.abs(shown[2, 3] - image[2, 3]).max() > 0.1 and shown.min() >= 0 and shown.max() <= 1


def test_figures_are_drawn(specimen, network):
    maps = specimen.maps("eigencam", layer_names(network), "restoration_change", BOX, BAND)
    one = map_figure(specimen.noisy, {"ViT, vit": maps["vit"]}, None)
    two = map_figure(specimen.noisy, {"ViT, vit": maps["vit"], "U-Net, decoder.0": maps["decoder.0"]}, (5, 6, 30, 40))
    assert two.height == 2 * one.height and two.width == one.width
    assert strip_figure(maps).height > strip_figure({"vit": maps["vit"]}).height
    for figure in (one, two, strip_figure(maps)):
        assert torch.tensor(figure.getextrema()).diff().min() > 50


@pytest.fixture(scope="module")
def page(browser, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    pixels = np.random.default_rng(0).integers(60, 200, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    with gr.Blocks() as app:
        gr.Tab("Other")
        with gr.Tab("Explain") as tab:
            build_explain_tab(tab, partial(activation_maps, network), layer_names(network), [folder / "0.png"])
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(folder)])
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(app.local_url)
    page.get_by_role("tab", name="Explain", exact=True).click()
    yield page
    page.close()
    app.close()


def test_the_page_in_a_browser(page):
    """EigenCAM asks for no target; a gradient method does, and its maps follow it. Figures can be downloaded."""
    figure, strip = (page.locator(f"#explain-{name} img") for name in ("figure", "strip"))
    target, note = page.locator("#explain-target input"), page.locator("#explain-note")
    for picture in (figure, strip):
        expect(picture).to_be_visible(timeout=SECONDS)
    expect(target).to_be_disabled()
    expect(note).to_contain_text("The target has no effect on EigenCAM")

    def choose(control: str, option: str) -> None:
        source = figure.get_attribute("src")
        page.locator(f"#explain-{control} input").click()
        page.get_by_role("option", name=option, exact=True).click()
        expect(figure).not_to_have_attribute("src", source, timeout=SECONDS)

    choose("method", "Grad-CAM")
    expect(target).to_be_enabled(timeout=SECONDS)
    choose("target", "mean squared change inside a region")
    expect(page.locator("#explain-region")).to_be_visible(timeout=SECONDS)
    choose("stage", "bottleneck")
    choose("method", "Ablation-CAM")
    expect(strip).to_be_hidden(timeout=SECONDS)
    with page.expect_download() as download:
        page.locator("#explain-figure").get_by_label("Download").click()
    assert download.value.suggested_filename.endswith(".png")
