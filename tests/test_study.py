"""Studies: variants are trained once, go on after a stop, and end in a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import training.study
from modeling import ViTUNetForImageDenoising
from tests.test_training import train_here
from training.study import Study, gigamacs, main

TINY = {"hidden_sizes": [4, 8], "encoder_blocks": [1, 1], "decoder_blocks": [1], "bottleneck_blocks": 1}
TINY |= {"use_vit": False}
ARGUMENTS = {"max_steps": 2, "validation_steps": 2, "checkpoint_steps": 1, "log_with": "none", "crop_size": 32}
VARIANTS = {"plain": None, "gated": {"model_config": {**TINY, "block_type": "gated"}}}


def write(folder: Path, **changes) -> Path:
    content = {"recipe": "training/recipes/smoke.yaml", "output_dir": str(folder / "runs"), "variants": VARIANTS}
    content["arguments"] = {**ARGUMENTS, "model_config": TINY}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """Training runs do not start an interpreter each."""

    def train(command: list[str], check: bool) -> None:
        assert command[:3] == [sys.executable, "-m", "training.train"] and check
        train_here(command[3:])

    monkeypatch.setattr(training.study, "subprocess", SimpleNamespace(run=train))


def test_a_study_publishes_nothing(tmp_path, image_folder):
    path = write(tmp_path, variants={"plain": {"push_to_hub": True, "hub_model_id": "user/name"}})
    with pytest.raises(ValueError, match="leave out push_to_hub"):
        main([str(path), "--dataset", str(image_folder)])


def test_a_study_ends_in_a_table(tmp_path, image_folder, capsys, in_this_process):
    path = write(tmp_path)
    study = Study.read(path)
    half = Study(study.recipe, study.output_dir, {**study.arguments, "stop_at_step": 1}, study.variants)
    half.train("plain", str(image_folder))
    assert not (study.folder("plain") / "model").exists()
    main([str(path), "--dataset", str(image_folder)])  # goes on with one, begins the other
    printed = capsys.readouterr().out
    header, *rows = printed[printed.index("variant ") :].strip().splitlines()
    assert "dB at 50" in header and [row.split()[0] for row in rows] == list(VARIANTS)
    before = (study.folder("gated") / "model" / "model.safetensors").stat().st_mtime_ns
    main([str(path), "--dataset", str(image_folder), "--only", "gated"])
    assert (study.folder("gated") / "model" / "model.safetensors").stat().st_mtime_ns == before
    model = ViTUNetForImageDenoising.from_pretrained(study.folder("gated") / "model")
    assert model.config.block_type == "gated"
    assert f"{gigamacs(model):.2f}" in capsys.readouterr().out
    kept = study.folder("gated") / "arguments.json"
    older = json.loads(kept.read_text())
    del older["cuda_graph"], older["git_commit"]  # a run from before they were there
    kept.write_text(json.dumps(older))
    assert study.train("gated", str(image_folder)) == study.folder("gated") / "model"
    other = Study(study.recipe, study.output_dir, {**study.arguments, "seed": 1}, study.variants)
    with pytest.raises(ValueError, match=r"other values of \['seed'\]"):
        other.train("plain", str(image_folder))
    lines = (study.folder("plain") / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2


def test_work_of_one_convolution():
    assert gigamacs(torch.nn.Conv2d(3, 8, 3, padding=1), side=16) == pytest.approx(16 * 16 * 8 * 27 / 1e9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"variant": {}}, "unknown fields \\['variant'\\]"), ({"variants": {"a/b": {}}}, "names of folders")],
)
def test_a_study_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Study.read(write(tmp_path, **changes))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no study"):
        Study.read(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="the study has"):
        main([str(write(tmp_path)), "--dataset", "x", "--only", "none"])
