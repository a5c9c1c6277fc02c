"""The benchmark of a training run's speed: it runs, and reads the log at the right places."""

from __future__ import annotations

import re

from training import throughput
from training.arguments import parse_arguments


def test_a_run_is_compared_with_the_bare_network(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "ROUNDS", 1)
    monkeypatch.setattr(throughput, "STEPS", 2)
    recipe = ["training/recipes/smoke.yaml", "--dataset", str(image_folder), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["throughput", *recipe])
    throughput.main()
    printed = capsys.readouterr().out
    for name in ("bare network", "first epoch", "after it"):
        line = next(line for line in printed.splitlines() if line.startswith(name))
        assert float(re.search(r"([\d.]+) steps/s", line)[1]) > 0
    assert not (tmp_path / "run").exists()  # it leaves nothing behind


def test_an_epoch_is_counted_in_batches(image_folder, monkeypatch):
    arguments = parse_arguments(["--dataset", str(image_folder), "--output_dir", "unused", "--batch_size", "4"])
    assert throughput.steps_of_an_epoch(arguments) == 2  # six images
    monkeypatch.setattr(throughput, "LONGEST", 1)
    assert throughput.steps_of_an_epoch(arguments) == 1
