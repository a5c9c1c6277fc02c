"""The Compare tab in a real browser: four settings, and one view that moves all pictures."""

from __future__ import annotations

import re

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from interface.compare_tab import build_compare_tab

TERMS = {
    "pixel": "Pixel",
    "regional_sharpness": "Regional sharpness",
    "amplitude": "Frequency",
}
SECONDS = 20_000


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The tab, with a network that darkens a picture by its weights, and the list of what it was asked."""
    photo = tmp_path_factory.mktemp("examples") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(60, 200, (64, 80, 3), dtype=np.uint8)).save(photo)
    asked = []

    def restore(noisy, loss_weights, emphasis, noise_level):
        asked.append((dict(loss_weights), emphasis))
        return noisy.clamp(0, 1) * (1 - loss_weights.get("amplitude", 0.0))

    with gr.Blocks(analytics_enabled=False) as app:
        with gr.Tab("Other"):
            gr.Markdown("nothing")
        with gr.Tab("Compare") as tab:
            build_compare_tab(tab, restore, TERMS, 4.0, [photo])
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(photo.parent)])
    yield app.local_url, asked
    app.close()


@pytest.fixture
def page(context, served):
    page = context.new_page()
    page.goto(served[0])
    page.get_by_role("tab", name="Compare").click()
    for slot in range(4):
        expect(page.locator(f"#compare-numbers-{slot}")).to_contain_text("MSE 0.0", timeout=SECONDS)
    yield page
    page.close()


def views(page: Page) -> list[list[float]]:
    """Of each picture in its frame: left and top, in shares of the frame's sides, and the magnification."""
    return [
        page.locator(f"#compare-picture-{slot}").evaluate(
            """frame => {
                const [outer, inner] = [frame, frame.querySelector('img')].map(e => e.getBoundingClientRect());
                return [(inner.left - outer.left) / outer.width, (inner.top - outer.top) / outer.height,
                        inner.width / outer.width].map(value => Math.round(1000 * value) / 1000);
            }"""
        )
        for slot in range(4)
    ]


def choose(page: Page, slot: int, option: str) -> None:
    expect(page.get_by_role("option")).to_have_count(0)  # those of another list fade away
    page.locator(f"#compare-setting-{slot} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_keyboard_chooses_too(page):
    before = page.locator("#compare-numbers-0").inner_text()
    page.locator("#compare-setting-0 input").focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#compare-setting-0 input")).to_have_value("Frequency", timeout=SECONDS)
    expect(page.locator("#compare-numbers-0")).not_to_have_text(before, timeout=SECONDS)


def test_it_opens_with_the_figure_of_the_first_post(page, served):
    chosen = [page.locator(f"#compare-setting-{slot} input").input_value() for slot in range(4)]
    assert chosen == ["MSE", "Regional sharpness", "Frequency", "Frequency + emphasis"]
    asked = served[1]
    assert ({"pixel": 1.0}, 0.0) in asked and ({"pixel": 0.8, "amplitude": 0.2}, 2.0) in asked


def test_what_is_there_is_not_made_again_when_the_tab_is_opened_again(page, served):
    asked, sources = (
        len(served[1]),
        [page.locator(f"#compare-picture-{slot} img").get_attribute("src") for slot in (0, 3)],
    )
    page.get_by_role("tab", name="Other").click()
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_timeout(1000)
    assert len(served[1]) == asked
    assert [page.locator(f"#compare-picture-{slot} img").get_attribute("src") for slot in (0, 3)] == sources


def test_one_view_moves_all_pictures(page):
    assert views(page) == [[-1.0, -1.0, 3.0]] * 4
    frame = page.locator("#compare-picture-2").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * 0.25, frame["y"] + frame["height"] * 0.5)
    page.mouse.wheel(0, -400 * np.log(2))  # twice as large
    (left, top, zoom), *others = views(page)
    assert zoom == pytest.approx(6, rel=0.02) and others == [[left, top, zoom]] * 3
    # What was under the pointer has stayed there.
    assert (0.25 - left) / zoom == pytest.approx((0.25 + 1) / 3, abs=2e-3)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.75, frame["y"] + frame["height"] * 0.75, steps=4)
    page.mouse.up()
    moved, *others = views(page)
    assert others == [moved] * 3
    assert moved == pytest.approx([left + 0.5, top + 0.25, zoom], abs=5e-3)
    page.mouse.move(frame["x"], frame["y"])  # the button is up
    assert views(page) == [moved] * 4
    assert page.locator("#compare-picture-0 img").evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.locator("#glass").get_by_role("button", name="whole").click()
    assert views(page) == [[0.0, 0.0, 1.0]] * 4


def test_a_setting_changes_its_own_picture_and_is_seen_through_the_same_glass(page, served):
    page.locator("#glass").get_by_role("button", name="8x").click()
    sources = [page.locator(f"#compare-picture-{slot} img").get_attribute("src") for slot in range(4)]
    assert all(re.search(r"\.png$", source) for source in sources)
    choose(page, 3, "MSE, unsharp mask")
    picture = page.locator("#compare-picture-3 img")
    expect(picture).not_to_have_attribute("src", sources[3], timeout=SECONDS)
    assert served[1][-1] == ({"pixel": 1.0}, 0.0)
    page.get_by_label("number input for Amount").first.wait_for()
    assert [page.locator(f"#compare-picture-{slot} img").get_attribute("src") for slot in range(3)] == sources[:3]
    assert views(page) == [[-3.5, -3.5, 8.0]] * 4
    choose(page, 1, "Own weights")
    expect(page.locator("#compare-picture-1 img")).not_to_have_attribute("src", sources[1], timeout=SECONDS)
    assert served[1][-1] == ({"pixel": 1.0, "regional_sharpness": 0.0, "amplitude": 0.0}, 0.0)
    choose(page, 0, "Nothing")
    expect(page.locator("#compare-picture-0 img")).to_have_count(0, timeout=SECONDS)
