"""The page in a real browser: a photograph goes in, a slider is dragged, the picture changes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

from app import build_app
from benchmarks.browser import slider_moved
from benchmarks.screenshot import HEIGHT, WIDTH
from interface.denoise_tab import build_denoise_tab
from interface.loss_lab_tab import build_loss_lab_tab
from interface.painting import PAINTED, PLACES
from interface.pictures import PUT_AWAY
from modeling import ViTUNetForImageDenoising

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "vit-unet-denoiser"
SECONDS = 20_000


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(60, 200, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def served(examples):
    app = build_app(ViTUNetForImageDenoising.from_pretrained(CHECKPOINT).eval(), examples)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(examples[0].parent)])
    yield app.local_url
    app.close()


@pytest.fixture
def page(context, served):
    page = context.new_page()
    page.goto(served)
    expect(page.locator("#measures")).to_contain_text("Price of your setting: +0.00 dB", timeout=SECONDS)
    yield page
    page.close()


def restored_picture(page: Page, other_than: str | None = None) -> str:
    """The address of the restored picture, once it is another one than that given."""
    picture = page.locator("#before-after img").last
    expect(picture).to_be_visible(timeout=SECONDS)
    if other_than:
        expect(picture).not_to_have_attribute("src", other_than, timeout=SECONDS)
    return picture.get_attribute("src")


def drag(page: Page, slider: str, share: float) -> None:
    page.locator(slider).scroll_into_view_if_needed()
    box = page.locator(f"{slider} input[type=range]").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()


def sharpen(page: Page) -> None:
    """A setting whose picture differs everywhere from that of the pixel loss."""
    drag(page, "#weight-wavelet", 0.95)
    drag(page, "#weight-pixel", 0.05)


def give(page: Page, file, place: str = "#photograph") -> None:
    page.locator(place).get_by_label("Remove Image").click()
    page.locator(f"{place} input[type=file]").set_input_files(file)


def test_dragging_a_slider_changes_the_picture_and_the_price(page):
    before = restored_picture(page)
    assert before.endswith(".bmp")  # which is quickest to write and to read, where nothing goes over a network
    drag(page, "#weight-regional_sharpness", 0.8)
    restored_picture(page, other_than=before)
    expect(page.locator("#measures")).not_to_contain_text("Price of your setting: +0.00 dB", timeout=SECONDS)


def test_on_a_phone_the_picture_stays_in_sight(page):
    page.set_viewport_size({"width": 390, "height": 844})
    picture, last = page.locator("#before-after"), page.locator("#emphasis")
    assert picture.bounding_box()["y"] < page.locator("#photograph").bounding_box()["y"]
    last.evaluate("slider => window.scrollBy(0, slider.getBoundingClientRect().top - 500)")
    page.wait_for_timeout(300)
    top, slider = picture.bounding_box(), last.bounding_box()
    assert -1 <= top["y"] < 1 and top["y"] + top["height"] < slider["y"] < 844


def test_measures_follow_when_the_hand_rests(page):
    """Of moves in a row only the last one's are asked for; and they come, though earlier chains of events ended."""
    restored_picture(page)
    asked, before = [], page.locator("#measures").inner_text()
    page.on("request", lambda request: asked.append(request.post_data or "") if "queue/join" in request.url else None)
    for value in (0.2, 0.4, 0.6, 0.9):
        slider_moved(page, "#weight-wavelet input[type=range]", value, ["#before-after img"])
    expect(page.locator("#measures")).not_to_have_text(before, timeout=SECONDS)
    page.wait_for_timeout(1000)
    counts = Counter(json.loads(data)["fn_index"] for data in asked)
    tables, figures, pictures = sorted(counts.values())
    assert pictures == 4 and tables == figures < 4


def test_a_preset_sets_the_sliders(page):
    before = restored_picture(page)
    page.locator("#presets").get_by_role("button", name="Frequency + emphasis", exact=True).click()
    restored_picture(page, other_than=before)
    assert page.locator("#weight-amplitude input[type=number]").input_value() == "0.2"
    assert page.locator("#emphasis input[type=number]").input_value() == "2"


def shows(page: Page, condition: Callable[[np.ndarray], bool]) -> None:
    """Waits for a restored picture (H, W, 3) that meets the condition: others may come before it."""
    deadline = time.monotonic() + SECONDS / 1000
    while not condition(pixels(page)):
        assert time.monotonic() < deadline, "the picture has not come"
        page.wait_for_timeout(100)


def pixels(page: Page) -> np.ndarray:
    """(H, W, 3) of the restored picture, of 255."""
    return np.array(Image.open(io.BytesIO(page.request.get(restored_picture(page)).body())), dtype=float)


def paint(page: Page, share: float) -> None:
    """A stroke down the picture, at a share of its width."""
    canvas = page.locator("#brush canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    column = box["x"] + box["width"] * share
    page.mouse.move(column, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(column, box["y"] + box["height"] - 4, steps=6)
    page.mouse.up()


def test_a_setting_holds_where_it_is_painted(page):
    corner = pixels(page)

    def change(picture: np.ndarray) -> np.ndarray:
        """By column."""
        return np.abs(picture - corner).mean((0, 2))

    sharpen(page)
    shows(page, lambda picture: change(picture).min() > 0.5)
    page.locator("#where input").click()
    page.get_by_role("option", name="where I paint").click()
    page.locator("#brush canvas[width='80']").wait_for()  # a cell for each pixel of so small a picture
    shows(page, lambda picture: change(picture).max() < 0.1)  # nothing is painted yet
    paint(page, 0.9)
    shows(page, lambda picture: change(picture)[70:74].min() > 0.5 and change(picture)[:10].max() < 0.1)
    page.locator("#brush").get_by_role("button", name="Clear").click()
    shows(page, lambda picture: change(picture).max() < 0.1)
    # The same from a file: white in the last eighth.
    mask = Image.new("L", (80, 80))
    mask.paste(255, (70, 0, 80, 80))
    content = io.BytesIO()
    mask.save(content, "PNG")
    page.locator("#where input").click()
    page.get_by_role("option", name="where a mask is white").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#mask").click()
    chooser.value.set_files({"name": "mask.png", "mimeType": "image/png", "buffer": content.getvalue()})
    shows(page, lambda picture: change(picture)[74:].min() > 0.5 and change(picture)[:10].max() < 0.1)


def test_figures_follow_the_setting(page):
    def figure(selector: str, other_than: str | None = None) -> str:
        picture = page.locator(f"{selector} img")
        picture.scroll_into_view_if_needed(timeout=SECONDS)
        if other_than:
            expect(picture).not_to_have_attribute("src", other_than, timeout=SECONDS)
        return picture.get_attribute("src")

    before = figure("#trade-off")
    page.locator("#presets").get_by_role("button", name="Wavelet", exact=True).click()
    figure("#trade-off", other_than=before)
    page.get_by_role("tab", name="Zoom").click()
    before = figure("#crop-restored")
    page.locator("#whole img").click(position={"x": 5, "y": 5})
    figure("#crop-restored", other_than=before)
    page.get_by_role("tab", name="Spectrum").click()
    figure("#spectrum")


def test_a_figure_that_cannot_be_drawn_says_why(page):
    message = page.locator(".toast-wrap").get_by_text("Loss weights sum to 0", exact=False)
    page.get_by_role("tab", name="Zoom").click()
    page.locator("#weight-pixel input[type=number]").fill("0")
    page.locator("#weight-pixel input[type=number]").press("Enter")
    expect(message).to_have_count(1, timeout=SECONDS)
    page.get_by_role("tab", name="Trade-off").click()
    expect(message).to_have_count(2, timeout=SECONDS)


def test_noise_leaves_what_is_painted(page):
    corner = pixels(page)
    sharpen(page)
    page.locator("#where input").click()
    page.get_by_role("option", name="where I paint").click()
    page.locator("#brush canvas[width='80']").wait_for()
    paint(page, 0.9)
    shows(page, lambda picture: np.abs(picture - corner)[:, 70:74].mean() > 0.5)
    painted = pixels(page)
    page.get_by_label("number input for Add noise (sigma, of 255)").first.fill("5")
    page.get_by_label("number input for Add noise (sigma, of 255)").first.press("Enter")
    shows(page, lambda picture: np.abs(picture - painted)[:, :10].mean() > 0.5)  # the noise is another
    drawn = page.locator("#brush canvas").evaluate("c => c.getContext('2d').getImageData(72, 30, 1, 1).data[3]")
    assert drawn > 0


def test_the_picture_is_downloaded_as_what_it_was(page, tmp_path):
    before = restored_picture(page)
    values = np.random.default_rng(9).integers(0, 65535, (40, 56), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    give(page, tmp_path / "deep.png")
    restored_picture(page, other_than=before)
    with page.expect_download(timeout=SECONDS) as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "restored.png")
    assert download.value.suggested_filename.startswith("deep-restored")
    with Image.open(tmp_path / "restored.png") as restored:
        assert restored.mode == "I;16" and restored.size == (56, 40)


def test_another_example_then_a_photograph_then_none(page, tmp_path):
    before = restored_picture(page)
    page.locator("button.thumbnail-item").nth(1).click()
    before = restored_picture(page, other_than=before)
    expect(page.locator("#trade-off img")).to_be_visible(timeout=SECONDS)
    pixels = np.random.default_rng(9).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.jpg")
    give(page, tmp_path / "mine.jpg")
    restored_picture(page, other_than=before)
    expect(page.locator("#measures")).to_contain_text("No clean reference", timeout=SECONDS)
    page.get_by_role("tab", name="Zoom").click()
    expect(page.locator("#crop-restored img")).to_be_visible(timeout=SECONDS)
    page.locator("#photograph").get_by_label("Remove Image").click()
    expect(page.locator("#crop-restored img")).to_have_count(0, timeout=SECONDS)  # the figures go along


def test_no_other_file_of_the_machine_is_opened(served, tmp_path):
    """A caller may send a path without Gradio's mark of a file, which Gradio then does not look at."""
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    visitor = Client(served, verbose=False)
    with pytest.raises(AppError, match=r"not uploaded|not in the cache"):
        visitor.predict({"path": str(tmp_path / "private.png")}, api_name="/open")


def test_a_file_that_is_no_image_is_refused_with_one_clear_message(page, tmp_path):
    (tmp_path / "notes.png").write_text("this is no image")
    give(page, tmp_path / "notes.png")
    expect(page.locator(".toast-wrap")).to_contain_text("notes.png cannot be read as an image", timeout=SECONDS)
    expect(page.locator("#photograph img")).to_have_count(0, timeout=SECONDS)  # and is not left on show


def test_the_keyboard_chooses_too(page):
    page.locator("#where input").focus()
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#where input")).to_have_value(PLACES[PAINTED], timeout=SECONDS)
    expect(page.locator("#brush canvas")).to_be_visible(timeout=SECONDS)


def test_a_typed_number_beyond_the_end_is_the_end(page):
    before = restored_picture(page)
    noise = page.get_by_label("number input for Add noise").first
    noise.fill("100")
    noise.press("Tab")
    expect(noise).to_have_value("75", timeout=SECONDS)
    restored_picture(page, other_than=before)
    page.wait_for_timeout(500)
    expect(page.locator(".toast-wrap")).not_to_contain_text("75")


def test_the_last_move_of_a_fast_hand_is_what_is_shown(context, examples):
    """With a network that takes half a second, figures and picture still end at the slider's last position."""
    asked = []

    def slow(noisy, loss_weights, emphasis, noise_level):
        time.sleep(0.5)
        asked.append(loss_weights.get("wavelet", 0.0))
        return noisy.clamp(0, 1) * (1 - asked[-1])

    with gr.Blocks(analytics_enabled=False) as app:
        build_denoise_tab(app, slow, {"pixel": "Pixel", "wavelet": "Wavelet"}, 4.0, examples)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(examples[0].parent)])
    page = context.new_page()
    page.goto(app.local_url)
    expect(page.locator("#measures")).to_contain_text("+0.00 dB", timeout=SECONDS)
    for share in (0.2, 0.4, 0.6, 0.97):
        drag(page, "#weight-wavelet", share)
        page.wait_for_timeout(300)
    last = float(page.locator("#weight-wavelet input[type=number]").input_value())
    page.wait_for_timeout(4000)
    assert last > 0.9 and last in asked[-2:]  # the corner may be asked for after it
    black = np.array(Image.open(examples[0])).astype(float) / 255
    expected = -10 * np.log10(np.square(black).mean())  # of an almost black picture
    table = page.locator("#measures").inner_text()
    shown = float(table.split("your setting")[1].split("dB")[0].strip().strip("|"))
    assert abs(shown - expected) < 1.0
    page.close()
    app.close()


def test_the_loss_lab_draws_its_figures(page):
    page.get_by_role("tab", name="Loss lab").click()
    page.locator("#lab-pictures img").wait_for(timeout=SECONDS)
    page.get_by_role("tab", name="Spectra", exact=True).click()
    page.locator("#lab-spectra img").wait_for()
    page.get_by_role("tab", name="Losses", exact=True).click()
    expect(page.get_by_text("amplitude_squared", exact=True).first).to_be_visible(timeout=SECONDS)
    page.get_by_role("tab", name="Ring").click()
    expect(page.get_by_text("14.8913")).to_be_visible(timeout=SECONDS)


def test_the_loss_lab_says_what_is_wrong(page, tmp_path):
    """Most of its calls do without the queue, and the page shows no error of such a one."""
    page.get_by_role("tab", name="Loss lab").click()
    page.locator("#lab-pictures img").wait_for(timeout=SECONDS)
    (tmp_path / "notes.png").write_text("this is no image")
    give(page, tmp_path / "notes.png", "#lab-image")
    expect(page.locator(".toast-wrap")).to_contain_text("notes.png cannot be read as an image", timeout=SECONDS)


def test_the_loss_lab_says_that_an_image_was_put_away(context, monkeypatch):
    monkeypatch.setattr("interface.loss_lab_tab.HOUR", 1.0)
    with gr.Blocks(analytics_enabled=False) as app, gr.Tab("Denoise"), gr.Tab("Loss lab") as lab:
        build_loss_lab_tab(lab, CHECKPOINT.parent.parent / "examples" / "ascent.png")
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    page = context.new_page()
    page.goto(app.local_url)
    page.get_by_role("tab", name="Loss lab").click()
    page.locator("#lab-pictures img").wait_for(timeout=SECONDS)
    page.wait_for_timeout(4000)
    page.get_by_role("tab", name="Spectra", exact=True).click()
    expect(page.locator(".toast-wrap")).to_contain_text(PUT_AWAY, timeout=SECONDS)
    page.close()
    app.close()


@pytest.mark.usefixtures("browser")
def test_the_picture_of_the_app(tmp_path):
    """That of the README, in a process of its own: Playwright does not run twice in one."""
    command = [sys.executable, "-m", "benchmarks.screenshot", "--weight", "0.9", "--output", str(tmp_path / "app.jpg")]
    subprocess.run(command, cwd=CHECKPOINT.parent.parent, check=True, capture_output=True)
    with Image.open(tmp_path / "app.jpg") as picture:
        assert picture.size == (WIDTH, HEIGHT)
