"""The command line: files and folders in, the same files without their noise out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling import ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.cli import destinations, main
from modeling.image_files import read_photograph
from tests.conftest import randomised, tiny_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    randomised(ViTUNetForImageDenoising(tiny_config())).save_pretrained(folder)
    ViTUNetImageProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "gray").mkdir(parents=True)
    samples = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = "a wall"  # ImageDescription
    Image.fromarray(samples).save(folder / "wall.jpg", exif=exif)
    Image.fromarray(samples[..., 0]).save(folder / "gray" / "wall.png")
    Image.fromarray(samples).save(folder / "old.bmp")
    return folder


def test_a_folder_keeps_its_names_modes_and_profiles(network, photos, tmp_path):
    output = tmp_path / "restored"
    assert main([str(photos), "--model", network, "--output", str(output), "--preset", "wavelet"]) == 0
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert found == ["gray/wall.png", "old.png", "wall.jpg"]
    with Image.open(output / "wall.jpg") as wall, Image.open(output / "gray" / "wall.png") as gray:
        assert wall.size == (28, 20) and wall.getexif()[0x010E] == "a wall" and gray.mode == "L"
    model = ViTUNetForImageDenoising.from_pretrained(network)
    expected = model(
        read_photograph(photos / "old.bmp")[None], loss_weights={"pixel": 0.8, "wavelet": 0.2}
    ).reconstruction[0]
    restored = read_photograph(output / "old.png")
    torch.testing.assert_close(restored, expected.clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert (restored - read_photograph(photos / "old.bmp")).abs().max() > 2 / 255  # it did something


def test_settings_reach_the_network(network, photos, tmp_path):
    source = str(photos / "wall.jpg")
    weights = [
        "--loss_weights",
        '{"pixel": 1, "amplitude": 3}',
        "--high_frequency_emphasis",
        "2",
        "--noise_level",
        "25",
    ]
    for name, options in (("plain", []), ("set", weights)):
        assert main([source, "--model", network, "--output", str(tmp_path / name), *options]) == 0
    plain, changed = (read_photograph(tmp_path / name / "wall.jpg") for name in ("plain", "set"))
    assert not torch.equal(plain, changed)


def test_half_precision_is_near(network, photos, tmp_path):
    found = []
    for dtype in ("float32", "bfloat16"):
        main([str(photos / "wall.jpg"), "--model", network, "--output", str(tmp_path / dtype), "--dtype", dtype])
        found.append(read_photograph(tmp_path / dtype / "wall.jpg"))
    change = (found[0] - read_photograph(photos / "wall.jpg")).abs().mean()
    assert 0 < (found[1] - found[0]).abs().mean() < 0.1 * change


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(network, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    assert main([str(photos), "--model", network, "--output", str(tmp_path / "restored")]) == 1
    assert "broken.png cannot be read" in capsys.readouterr().err
    assert (tmp_path / "restored" / "wall.jpg").is_file() and not (tmp_path / "restored" / "broken.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss_weights", "{pixel}"], "give JSON"),
        (["--loss_weights", '["pixel"]'], "give JSON"),
        (["--loss_weights", '{"phase": 1}'], "Unknown loss terms"),
        (["--high_frequency_emphasis", "-1"], "high_frequency_emphasis"),
        (["--noise_level", "500"], "noise_level"),
        (["--preset", "sharp"], "invalid choice"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_written(network, photos, tmp_path, options, message, capsys):
    arguments = [str(photos), "--model", network, "--output", str(tmp_path / "restored"), *options]
    try:
        status = main(arguments)
    except SystemExit as left:
        status = left.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "restored").exists()


def test_nothing_is_replaced_unasked(photos, tmp_path):
    output = tmp_path / "restored"
    (output / "gray").mkdir(parents=True)
    (output / "wall.jpg").write_bytes(b"there")
    with pytest.raises(ValueError, match="add --overwrite"):
        destinations([str(photos)], output, overwrite=False)
    assert len(destinations([str(photos)], output, overwrite=True)) == 3
    with pytest.raises(ValueError, match="replaced by its restored version"):
        destinations([str(photos / "wall.jpg")], photos, overwrite=True)
    with pytest.raises(ValueError, match="would both become"):
        destinations([str(photos / "old.bmp"), str(photos / "old.bmp")], output, overwrite=False)
    with pytest.raises(ValueError, match="There is no"):
        destinations([str(photos / "none.png")], output, overwrite=False)
    with pytest.raises(ValueError, match="replaced by its restored version"):
        destinations([str(photos / "wall.jpg"), str(photos / "old.bmp")], photos, overwrite=True)
    above = destinations([str(photos / "gray")], photos, overwrite=True)  # into the folder above
    assert [target for _, target in above] == [photos / "wall.png"]
    below = destinations(
        [str(tmp_path)], output, overwrite=True
    )  # what was restored before is no photograph to restore
    assert sorted(str(target.relative_to(output)) for _, target in below) == [
        "photos/gray/wall.png",
        "photos/old.png",
        "photos/wall.jpg",
    ]


def test_the_command(network, photos, tmp_path):
    command = [sys.executable, "-m", "modeling.cli", str(photos / "wall.jpg"), "--model", network, "--output", "out"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "out" / "wall.jpg").is_file()


def test_a_model_that_is_not_there(photos, tmp_path, capsys):
    missing = str(tmp_path / "nowhere")
    assert main([str(photos / "wall.jpg"), "--model", missing, "--output", str(tmp_path / "other")]) == 2
    assert "nowhere" in capsys.readouterr().err
