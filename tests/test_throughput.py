"""The benchmark of a training run's speed: it runs, and reads the log at the right places."""

from __future__ import annotations

import re

import pytest

from training import throughput
from training.arguments import parse_arguments


@pytest.mark.parametrize(("steps", "rows"), [(1, ["first epoch", "after it"]), (2, ["after it"])])
def test_a_run_is_compared_with_the_bare_network(steps, rows, image_folder, tmp_path, monkeypatch, capsys):
    """The epoch takes two steps: of two, none is timed before it is over."""
    monkeypatch.setattr(throughput, "ROUNDS", 1)
    monkeypatch.setattr(throughput, "STEPS", steps)
    recipe = ["training/recipes/smoke.yaml", "--dataset", str(image_folder), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["throughput", *recipe])
    throughput.main()
    printed = capsys.readouterr().out
    speeds = re.findall(r"^(.+?)\s+([\d.]+) steps/s", printed, re.MULTILINE)
    assert [name for name, _ in speeds] == ["bare network", *rows]
    assert all(float(speed) > 0 for _, speed in speeds)
    assert not (tmp_path / "run").exists()  # it leaves nothing behind


def test_an_epoch_is_counted_in_batches(image_folder, monkeypatch):
    arguments = parse_arguments(["--dataset", str(image_folder), "--output_dir", "unused", "--batch_size", "4"])
    assert throughput.steps_of_an_epoch(arguments) == 2  # six images
    monkeypatch.setattr(throughput, "LONGEST", 1)
    assert throughput.steps_of_an_epoch(arguments) == 1
