"""Twins: each is compared with the conditioned network at its own loss."""

from __future__ import annotations

import pytest

from tests.test_study import TINY, write
from training.twins import main


def test_twins(tmp_path, image_folder, capsys):
    shared = {"model_config": TINY, "crop_size": 32, "log_with": "none", "max_steps": 1, "validation_size": 0}
    twin = {"sample_losses": False, "loss_weights": {"pixel": 0.5, "wavelet": 0.5}}
    study = write(tmp_path, arguments=shared, variants={"conditioned": None, "wavelet": twin})
    ((level, name, own, ours),) = main(
        [str(study), "--dataset", str(image_folder), "--test", str(image_folder), "--noise_level", "25", "--limit", "2"]
    )
    assert (level, name) == (25, "wavelet")
    # After one step both are nearly the identity, of a noise of 25 / 255.
    assert own[0] == pytest.approx(20.2, abs=1) and ours[0] == pytest.approx(own[0], abs=1)
    assert own != ours
    assert "conditioned network at the twin's loss" in capsys.readouterr().out
