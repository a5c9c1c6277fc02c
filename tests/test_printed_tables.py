"""The benchmarks whose figures the README shows, run as commands on a tiny network."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling import ViTUNetForImageDenoising
from tests.conftest import randomised, tiny_config

SIDE = 96


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("network")
    randomised(ViTUNetForImageDenoising(tiny_config())).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def cracks(tmp_path_factory) -> Path:
    """Two walls, `images`, each with a dark line, and `masks` that say where it is."""
    folder = tmp_path_factory.mktemp("cracks")
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(2):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[:, 40 + 8 * index : 43 + 8 * index] = 255
        wall = generator.normal(140, 12, (SIDE, SIDE, 3)) - 90 * (mask[..., None] > 0)
        Image.fromarray(wall.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    return folder


def printed(name: str, capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    import_module(f"benchmarks.{name}").main()
    return capsys.readouterr().out


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d*\.\d+", line)]


def test_steering_says_what_each_map_does(network, cracks, capsys, monkeypatch):
    folders = ["--dataset", str(cracks / "images"), "--masks", str(cracks / "masks")]
    out = printed("steering", capsys, monkeypatch, "--model", network, *folders, "--noise_level", "50")
    lines = {line[:40].split("  ")[0]: numbers(line) for line in out.splitlines() if numbers(line)}
    assert {"pixel loss alone", "wavelet, true crack", "wavelet, uniform, as true crack"} <= set(lines)
    everywhere, crack = lines["pixel loss alone"], lines["wavelet, true crack"]
    assert len(everywhere) == len(crack) and everywhere[2:] != crack[2:]  # beside what each term weighs


def test_faithfulness_compares_maps_with_masks(network, cracks, capsys, monkeypatch):
    folders = ["--dataset", str(cracks / "images"), "--masks", str(cracks / "masks")]
    out = printed("faithfulness", capsys, monkeypatch, "--model", network, *folders)
    (darkness,) = (line for line in out.splitlines() if line.startswith("darkness"))
    assert numbers(darkness)[0] > 0.8  # the line is darker than the noise is strong


def test_which_loss_makes_its_pictures_and_numbers(network, cracks, tmp_path, capsys, monkeypatch):
    pictures = ["--picture", str(cracks / "images" / "0.png"), "--other", str(cracks / "images" / "1.png")]
    common = ["--model", network, "--dataset", str(cracks / "images"), "--crop", "8", "8", "40", "40"]
    out = printed("which_loss", capsys, monkeypatch, *common, *pictures, "--output", str(tmp_path))
    for term in tiny_config().conditioned_terms:
        assert (tmp_path / f"{term}.png").is_file()
        assert any(line.split()[:1] == [term] and numbers(line) for line in out.splitlines())


def test_the_teaser_is_a_row_of_pictures(network, cracks, tmp_path, capsys, monkeypatch):
    image, output = str(cracks / "images" / "0.png"), tmp_path / "teaser.png"
    crop = ["--crop", "8", "8", "40", "40"]
    printed("teaser", capsys, monkeypatch, "--model", network, "--image", image, *crop, "--output", str(output))
    with Image.open(output) as teaser:
        assert teaser.width > 3 * teaser.height


def test_explain_times_every_method_that_is_asked(network, capsys, monkeypatch):
    asked = ["--methods", "eigencam", "--layers", "vit", "--size", "64", "--repeats", "1"]
    out = printed("explain", capsys, monkeypatch, "--model", network, *asked)
    assert any("eigencam" in line.lower() and numbers(line) for line in out.splitlines())
