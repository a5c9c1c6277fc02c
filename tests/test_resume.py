"""A run that is killed goes on as if nothing had been: real processes, killed at any time."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.test_training import ROOT, SMOKE, metrics, run, run_here
from training.checkpoints import checkpoints

TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
COMMON = ("--checkpoint_steps", "3", "--validation_size", "0", "--map_probability", "0.3", "--optimizer", "muon")


def start(output_dir: Path, folder: Path, *arguments: str, launcher=(sys.executable,)) -> subprocess.Popen:
    command = [*launcher, "-m", "training.train", str(SMOKE), "--dataset", str(folder), "--output_dir", str(output_dir)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / "printed.txt").open("w") as printed:
        return subprocess.Popen(
            [*command, *COMMON, *arguments],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=printed,
            stderr=subprocess.DEVNULL,
        )


def kill_when(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines(output_dir: Path) -> int:
    log = output_dir / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def assert_same(output_dir: Path, expected_dir: Path) -> None:
    """Weights, average, optimiser, log: bit for bit."""
    for file in ("model/model", "checkpoint-0000010/model", "checkpoint-0000010/ema"):
        expected = load_file(expected_dir / f"{file}.safetensors")
        for name, value in load_file(output_dir / f"{file}.safetensors").items():
            assert torch.equal(value, expected[name]), (file, name)
    moments, expected_moments = (
        torch.load(folder / "checkpoint-0000010" / "optimizer.bin", weights_only=True)["state"]
        for folder in (output_dir, expected_dir)
    )
    for index, state in moments.items():
        assert all(torch.equal(value, expected_moments[index][name]) for name, value in state.items()), index
    timing = {"images_per_second", "waiting_share"}
    for line, expected in zip(metrics(output_dir), metrics(expected_dir), strict=True):
        assert {k: v for k, v in line.items() if k not in timing} == {
            k: v for k, v in expected.items() if k not in timing
        }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, image_folder) -> dict[int, Path]:
    """One process, and two."""
    folders = {count: tmp_path_factory.mktemp(f"unbroken{count}") for count in (1, 2)}
    run(folders[1], image_folder, *COMMON)
    run(folders[2], image_folder, *COMMON, launcher=TWO_PROCESSES)
    return folders


@pytest.mark.parametrize(("processes", "workers", "seed"), [(1, 2, 2), (2, 0, 3)])
def test_killed_at_random_and_resumed_is_bit_identical(processes, workers, seed, unbroken, tmp_path, image_folder):
    launcher = (sys.executable,) if processes == 1 else TWO_PROCESSES
    last_words = random.Random(seed).randint(4, 9)  # lines of the log, one a step
    arguments = ("--num_workers", str(workers))
    kill_when(start(tmp_path, image_folder, *arguments, launcher=launcher), lambda: lines(tmp_path) >= last_words)
    assert checkpoints(tmp_path) and not (tmp_path / "model").exists()
    run(tmp_path, image_folder, *COMMON, *arguments, "--resume", "true", launcher=launcher)
    assert_same(tmp_path, unbroken[processes])


def test_killed_while_saving_leaves_the_last_whole_checkpoint(unbroken, tmp_path, image_folder):
    second = tmp_path / "unfinished-checkpoint-0000006"
    kill_when(start(tmp_path, image_folder), second.exists)
    assert checkpoints(tmp_path)[0].name == "checkpoint-0000003"
    run(tmp_path, image_folder, *COMMON, "--resume", "true")
    assert_same(tmp_path, unbroken[1])


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_says_how_to_go_on(processes, unbroken, tmp_path, image_folder):
    launcher = (sys.executable,) if processes == 1 else TWO_PROCESSES
    process = start(tmp_path, image_folder, "--max_steps", "100000", "--checkpoint_steps", "90000", launcher=launcher)
    while lines(tmp_path) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    if processes == 1:
        os.killpg(process.pid, signal.SIGINT)
    else:  # torchrun passes a termination on to its processes, and gives them time
        process.terminate()
    process.wait(60)
    (saved,) = checkpoints(tmp_path)
    assert int(saved.name.split("-")[1]) >= 4
    assert not (tmp_path / "model").exists()
    assert "--resume true goes on from there" in (tmp_path / "printed.txt").read_text()


def test_nobody_goes_on_past_the_end(tmp_path, image_folder):
    run_here(tmp_path, image_folder, "--max_steps", "3")
    with pytest.raises(ValueError, match="past max_steps=2"):
        run_here(tmp_path, image_folder, "--max_steps", "2", "--resume", "true")


def test_a_run_goes_on_with_the_same_images(tmp_path, image_folder):
    """One more, and others would be held out."""
    shutil.copytree(image_folder, tmp_path / "images")
    common = (tmp_path / "run", tmp_path / "images", "--max_steps", "3")
    run_here(*common, "--stop_at_step", "2")
    shutil.copy(tmp_path / "images" / "0.png", tmp_path / "images" / "more.png")
    with pytest.raises(ValueError, match="holds 7 images and held 6"):
        run_here(*common, "--resume", "true")


def test_a_run_goes_on_with_as_many_processes(tmp_path, image_folder):
    run_here(tmp_path, image_folder, "--max_steps", "3", "--stop_at_step", "2")
    progress = tmp_path / "checkpoint-0000002" / "progress.json"
    assert json.loads(progress.read_text())["processes"] == 1
    progress.write_text(progress.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(ValueError, match="of 2 processes, here are 1"):
        run_here(tmp_path, image_folder, "--max_steps", "3", "--resume", "true")
