"""The Train tab in a real browser: a run is started, watched, stopped; its network is chosen in the tab Denoise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from app import build_app
from interface.training_run import Training
from modeling import ViTUNetForImageDenoising
from tests.conftest import randomised, tiny_config
from tests.test_browser import SECONDS, restored_picture

START = 60_000  # a process, its imports, its first steps
FINISHED, ONE_LOSS = "20260101-000000", "20260101-000001"


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Two runs that have finished, with networks of their own."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate((FINISHED, ONE_LOSS), start=1):
        config = tiny_config(one_loss=name == ONE_LOSS)
        randomised(ViTUNetForImageDenoising(config), seed).save_pretrained(folder / name / "model")
        (folder / name / "model" / "preprocessor_config.json").write_text("{}")
        asked = {"recipe": "", "arguments": {"max_steps": 5}, "pid": 2**22}  # higher than any process's number
        (folder / name / "run.json").write_text(json.dumps(asked))
    with Training(folder, {"crop_size": 32, "batch_size": 2, "logging_steps": 1, "strip_steps": 5}) as training:
        yield training


@pytest.fixture(scope="module")
def served(training, image_folder, tmp_path_factory):
    torch.manual_seed(0)
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    randomised(ViTUNetForImageDenoising(tiny_config())).save_pretrained(checkpoint)
    app = build_app(ViTUNetForImageDenoising.from_pretrained(checkpoint).eval(), [image_folder / "4.png"], training)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=None, allowed_paths=[str(image_folder)])
    yield app.local_url
    app.close()


@pytest.fixture
def page(browser, served):
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.goto(served)
    expect(page.locator("#measures")).to_contain_text("Price of your setting", timeout=SECONDS)
    yield page
    page.close()


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page.locator("#start-training")).to_be_visible(timeout=SECONDS)


def choose_network(page: Page, name: str) -> None:
    page.locator("#network input").click()
    page.get_by_role("option", name=name).click()


def test_a_network_that_was_trained_here_is_chosen(page):
    own = restored_picture(page)
    choose_network(page, FINISHED)
    trained = restored_picture(page, other_than=own)
    expect(page.locator("#weight-wavelet")).to_be_visible()
    expect(page.locator("#measures")).to_contain_text("Price of your setting: +0.00 dB", timeout=SECONDS)
    choose_network(page, ONE_LOSS)
    restored_picture(page, other_than=trained)
    expect(page.locator("#weight-wavelet")).to_be_hidden()
    expect(page.locator("#measures")).to_contain_text("the app's own, pixel loss", timeout=SECONDS)
    choose_network(page, "the app's own")
    expect(page.locator("#weight-wavelet")).to_be_visible()


def test_what_is_missing_is_said(page):
    open_tab(page)
    page.locator("#start-training").click()
    expect(page.locator(".toast-wrap")).to_contain_text("no images to train on", timeout=SECONDS)


def test_the_losses_are_set_where_one_of_them_is_asked_for(page):
    open_tab(page)
    label = page.locator("#train-setting").get_by_text("High-frequency emphasis")
    expect(label).to_be_hidden()
    page.get_by_label("For one loss only").check()
    expect(label).to_be_visible()
    page.get_by_label("the app's own network").check()
    page.get_by_label("a fresh small network").check()
    expect(label).to_be_visible()
    page.get_by_label("the app's own network").check()
    expect(label).to_be_hidden()


def test_a_run_is_started_watched_and_stopped(page, training, image_folder):
    open_tab(page)
    photographs = [str(path) for path in sorted(image_folder.iterdir())]
    page.locator("#training-images input[type=file]").set_input_files(photographs)
    arrived = page.locator("#training-images").get_by_label("Remove this file")
    expect(arrived).to_have_count(len(photographs), timeout=SECONDS)
    page.locator("#training-steps input").fill("5000")
    page.locator("#start-training").click()
    expect(page.locator("#training-status")).to_contain_text("getting ready", timeout=SECONDS)
    expect(page.locator("#start-training")).to_be_disabled()

    page.reload()  # the run is the app's
    open_tab(page)
    expect(page.locator("#training-status")).to_contain_text("of 5000", timeout=START)
    for picture in ("#training-curves img", "#strip img"):
        expect(page.locator(picture)).to_be_visible(timeout=SECONDS)
    first = page.locator("#training-curves img").get_attribute("src")
    expect(page.locator("#training-curves img")).not_to_have_attribute("src", first, timeout=SECONDS)

    page.get_by_role("tab", name="Denoise", exact=True).click()  # which works meanwhile
    choose_network(page, FINISHED)
    expect(page.locator("#measures")).to_contain_text("Price of your setting", timeout=SECONDS)
    open_tab(page)
    page.locator("#stop-training").click()
    expect(page.locator("#training-status")).to_contain_text("stopped at step", timeout=SECONDS)
    expect(page.locator("#resume-training")).to_be_enabled()
    assert training.current().saved_step > 0
    with Image.open(training.current().strip) as strip:
        assert np.asarray(strip).std() > 0
