"""The Train tab behind a real server, with real training processes of a tiny network."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from interface.figures import Chart, charts
from interface.restorer import TrainedHere
from interface.train_tab import FINE_TUNE, FRESH, NOTHING_YET, build_train_tab, duration, run_arguments, status
from interface.training_run import ROOT, UNKNOWN_TO_DATASETS, Run, Training, chosen_images, image_count, trainable
from modeling import TRAINABLE_TERMS, ViTUNetForImageDenoising
from modeling.image_files import readable_endings
from tests.conftest import randomised, tiny_config
from training.data import load_images

MANY_STEPS = 5000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks only wait for each other's threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    del os.environ["OMP_NUM_THREADS"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    randomised(ViTUNetForImageDenoising(tiny_config())).save_pretrained(folder)
    return folder


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def process_of(run: Run) -> int:
    return json.loads((run.folder / "run.json").read_text())["pid"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def app(checkpoint, tmp_path):
    """app.py as people start it, and a client of its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["app.py", "--model", str(checkpoint), "--port", str(port), "--runs", str(tmp_path / "runs")]
    with (tmp_path / "app.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def client() -> Client | None:
        assert process.poll() is None, (tmp_path / "app.txt").read_text()
        try:
            return Client(f"http://127.0.0.1:{port}", verbose=False)
        except (OSError, httpx.HTTPError, ValueError):  # not yet
            return None

    yield process, wait_for(client)
    process.kill()
    process.wait()


def test_a_run_ends_with_the_app_and_goes_on_with_the_next(app, checkpoint, image_folder, tmp_path):
    process, client = app
    photographs = [handle_file(path) for path in sorted(image_folder.iterdir())]
    asked = (photographs, "", FINE_TUNE, True, MANY_STEPS, 1e-3, 2.0, 0.8, 0.2, 0, 0, 0, 0)
    for api_name in ("/stop_training", "/resume_training"):
        with pytest.raises(AppError, match=r"No run is on|no run that was stopped"):
            client.predict(api_name=api_name)
    sentence, *_ = client.predict(*asked, api_name="/train")
    assert "getting ready" in sentence
    with pytest.raises(AppError, match="is on: stop it, or wait"):
        client.predict(*asked, api_name="/train")

    another = Training(tmp_path / "runs")
    run = another.current()
    assert run.state == "running" and is_alive(process_of(run))
    another.close()  # ends nothing that it has not started
    wait_for(lambda: run.step)
    process.terminate()
    process.wait(60)
    assert not is_alive(process_of(run))
    assert another.current().state == "stopped"
    assert 0 < run.step <= run.saved_step < MANY_STEPS
    assert len(list((run.folder / "images").iterdir())) == len(photographs)  # the app's own copies are gone
    assert another.results() == {}

    last = run.saved_step + 10
    with Training(tmp_path / "runs", {"max_steps": last}) as training:
        training.go_on()
        with pytest.raises(ValueError, match="is on"):
            another.go_on()
        finished = wait_for(lambda: (run := training.current()).state != "running" and run)
    assert finished.state == "finished", finished.log()
    steps = [line["step"] for line in finished.lines if "loss" in line]
    assert steps == sorted(set(steps)) and steps[0] < steps[-1] == last
    assert finished.strip.name == f"step-{last:07d}.png"

    trained = TrainedHere(training.results)
    (name,) = trained.names()
    restorer = trained.restorer(name)
    assert restorer.model.config.loss_weights == {"pixel": 0.8, "amplitude": 0.2}
    assert restorer.model.config.high_frequency_emphasis == 2.0
    assert restorer.terms == ()  # trained for one loss
    noisy, before = torch.rand(3, 20, 24), ViTUNetForImageDenoising.from_pretrained(checkpoint).eval()
    assert not torch.equal(restorer(noisy), before(noisy[None]).reconstruction[0].clamp(0, 1))
    with pytest.raises(ValueError, match="is gone"):
        trained.restorer("absent")


def in_place_of_a_run(training: Training, code: str) -> subprocess.Popen:
    """Another process under a run's folder, when training itself is not what is tested."""
    folder = training.folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        training.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code], start_new_session=True, stdout=log, stderr=log
        )
    asked = {"recipe": "", "arguments": {"max_steps": 10}, "pid": training.process.pid}
    (folder / "run.json").write_text(json.dumps(asked))
    return training.process


def test_a_run_that_fails_says_why(tmp_path):
    training = Training(tmp_path)
    for reason in ("crop_size=-1 must be positive.", "The dataset cannot be read: " + 100 * "reason, " + "all"):
        in_place_of_a_run(training, f"raise ValueError({reason!r})").wait()
        run = training.current()
        assert run.state == "failed"
        assert status(run) == f"**run**: failed: ValueError: {reason}"


def test_the_run_that_was_launched_last_is_the_current_one_whatever_its_name(tmp_path):
    training = Training(tmp_path)
    in_place_of_a_run(training, "pass").wait()
    (tmp_path / "run").rename(tmp_path / "wavelet-best")
    os.utime(tmp_path / "wavelet-best" / "run.json", (0, 0))  # some time ago
    in_place_of_a_run(training, "pass").wait()
    assert training.current().folder.name == "run"


def test_a_deleted_run_leaves_the_page(tmp_path):
    with gr.Blocks(analytics_enabled=False) as app:
        build_train_tab(app, Training(tmp_path), "network", True)
    look = next(function.fn for function in app.fns.values() if function.name == "look")
    assert look(None) == gr.skip()
    sentence, *_, start, stop, go_on, shown = look(("run", "running", None, None, None))
    assert sentence == NOTHING_YET and shown is None
    assert [button["interactive"] for button in (start, stop, go_on)] == [True, False, False]


def test_others_may_not_name_folders_of_this_machine(tmp_path):
    with gr.Blocks(analytics_enabled=False) as app:
        build_train_tab(app, Training(tmp_path), "network", True, own_machine=False)
    start = next(function.fn for function in app.fns.values() if function.name == "start_run")
    with pytest.raises(gr.Error, match="upload files"):
        start(None, str(tmp_path), FINE_TUNE, False, 100, 1e-3, 0.0, *[0.0] * len(TRAINABLE_TERMS))


def test_a_start_that_fails_leaves_nothing(tmp_path):
    training = Training(tmp_path)
    with pytest.raises(FileNotFoundError):
        training.start(Path("recipe.yaml"), [tmp_path / "gone.png"], {})
    assert not list(tmp_path.iterdir())


def test_only_what_datasets_finds_is_counted(tmp_path):
    for name in ("a.png", "b.avif", ".hidden.png", "__cache/c.png", "deep/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    assert sorted(path.name for path in trainable(tmp_path)) == ["a.png", "d.png"]
    assert len(load_images(str(tmp_path))) == image_count(tmp_path) == 2
    assert readable_endings() - set(ImageFolder.EXTENSIONS) == UNKNOWN_TO_DATASETS
    with pytest.raises(ValueError, match="There is no folder ~nobody-of-this-name"):
        chosen_images(None, "~nobody-of-this-name/photos")
    with pytest.raises(ValueError, match="put away after an hour: add them again"):
        chosen_images([str(tmp_path / "a.png"), str(tmp_path / "gone.png")], None)


@pytest.mark.parametrize("leaving", [False, True])
def test_a_run_that_does_not_answer_is_killed(leaving, tmp_path, monkeypatch):
    monkeypatch.setattr("interface.training_run.SECONDS_TO_SAVE", 0.3)
    training = Training(tmp_path)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    process = in_place_of_a_run(training, code)
    wait_for(lambda: training.current().log() == "deaf")
    if leaving:
        training.close()
        assert process.returncode == -signal.SIGKILL
    else:
        training.stop()
        assert training.current().state == "stopping"
        wait_for(lambda: training.current().state == "stopped", 5)
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "Steps = None: give a whole number"),
        ({"steps": 0}, "Steps = 0"),
        ({"steps": 1.5}, r"Steps = 1\.5"),
        ({"steps": float("nan")}, "Steps = nan"),
        ({"learning_rate": 0}, "Learning rate = 0"),
        ({"learning_rate": float("nan")}, "Learning rate = nan"),
        ({"learning_rate": None}, "Learning rate = None"),
        ({"loss_weights": {"pixel": 0}}, "All loss weights are 0"),
        (
            {"loss_weights": {"wavelet": 1.0}, "terms": ("pixel",)},
            r"does not know \['Wavelet.*start from a fresh network",
        ),
        ({"emphasis": 2.0, "max_emphasis": 1.0}, "an emphasis up to 1: lower it"),
    ],
)
def test_bad_numbers_are_refused(changes, message):
    good = {"start_from": FINE_TUNE, "network": "x", "one_loss": True, "loss_weights": {"pixel": 1.0}, "emphasis": 0.0}
    good |= {"steps": 100, "learning_rate": 1e-3, "images": 10}
    run_arguments(**good)
    with pytest.raises(ValueError, match=message):
        run_arguments(**{**good, **changes})


def test_what_a_run_is_asked_for(checkpoint):
    setting = (True, {"pixel": 0.8, "wavelet": 0.2, "amplitude": 0.0}, 2.0, 1000, 1e-3, 40)
    recipe, fresh = run_arguments(FRESH, str(checkpoint), *setting)
    assert recipe.is_file() and "model" not in fresh and fresh["model_config"] == {"conditioned_terms": []}
    assert fresh["sample_losses"] is False and fresh["loss_weights"] == {"pixel": 0.8, "wavelet": 0.2}
    recipe, tuned = run_arguments(FINE_TUNE, os.path.relpath(checkpoint), *setting)
    assert recipe.is_file() and tuned["model"] == str(checkpoint) and "model_config" not in tuned
    assert tuned["high_frequency_emphasis"] == 2.0 and tuned["validation_size"] == 4
    _, alive = run_arguments(FINE_TUNE, "user/name", False, *setting[1:])
    assert alive["model"] == "user/name" and not {"sample_losses", "loss_weights"} & set(alive)


def test_images_that_cannot_be_trained_on_are_refused(tmp_path, image_folder):
    good = [str(path) for path in sorted(image_folder.iterdir())]
    assert len(chosen_images(good, "")) == 6
    assert chosen_images(None, f" {image_folder} ") == image_folder
    notes = tmp_path / "notes.png"
    notes.write_text("this is no image")
    for files, folder, message in (
        (None, "", "no images to train on: add photographs"),
        ([], None, "no images to train on"),
        (good, str(image_folder), "remove one of them"),
        ([*good, str(notes)], "", r"notes\.png cannot be read as an image: remove it"),
        (good[:1], "", "1 of 1 files can be read as an image: give at least 2"),
        (None, str(tmp_path), "0 of 1 files can be read"),
        (None, str(tmp_path / "absent"), "no folder .*absent on this machine"),
    ):
        with pytest.raises(ValueError, match=message):
            chosen_images(files, folder)


def test_a_log_is_read_while_it_is_written(tmp_path):
    run = Run(tmp_path, "running", {"max_steps": 5})
    assert run.lines == () and run.step == 0 and run.log() == "" and run.strip is None and run.saved_step is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (tmp_path / "log.txt").write_text("begun\n 1/5\r 2/5\r 3/5\n")
    assert run.step == 1 and run.log() == "begun\n 3/5"
    version = run.version
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert run.step == 2 and run.version != version


def test_charts_are_drawn_of_many_points_and_of_none():
    many = Chart("many", {"a": (range(100_000), range(1, 100_001)), "b": ([1], [2.0])}, ("x", "y"), logarithmic=True)
    picture = np.asarray(charts([many, Chart("none", {}, ("x", "y"))]))
    assert picture.shape == (380, 920, 3)
    assert (np.ptp(picture, axis=-1) > 60).any()  # coloured


def test_durations_read_well():
    assert [duration(seconds) for seconds in (12, 600, 7200)] == ["12 seconds", "10 minutes", "2.0 hours"]
