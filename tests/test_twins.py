"""Twins: each is compared with the conditioned network at its own loss."""

from __future__ import annotations

import pytest
import torch

from modeling import ViTUNetForImageDenoising, ViTUNetImageProcessor
from tests.conftest import randomised, tiny_config
from tests.test_study import write
from training.study import Study
from training.twins import main, measured


def test_figures_are_those_of_each_network_at_the_loss_asked(image_folder):
    model = randomised(ViTUNetForImageDenoising(tiny_config()))
    settings = {"pixel": ({"pixel": 1.0}, 0.0), "wavelet": ({"wavelet": 1.0}, 0.0)}
    files = sorted(image_folder.glob("*.png"))[:2]
    together = measured(model, settings, files, 25)
    for name, setting in settings.items():
        assert torch.equal(together[name], measured(model, {name: setting}, files, 25)[name])
    assert not torch.equal(together["pixel"], together["wavelet"])


def test_a_twin_beside_the_conditioned_network(tmp_path, image_folder, capsys, monkeypatch):
    """Two networks that are known: the conditioned one does something, its twin is the identity."""
    loss = {"pixel": 0.5, "wavelet": 0.5}
    networks = {
        "conditioned": randomised(ViTUNetForImageDenoising(tiny_config())),
        "wavelet": ViTUNetForImageDenoising(tiny_config(loss_weights=loss)),
    }
    for name, network in networks.items():
        network.save_pretrained(tmp_path / name)
        ViTUNetImageProcessor().save_pretrained(tmp_path / name)
    monkeypatch.setattr(Study, "train", lambda study, name, dataset: tmp_path / name)
    study = write(tmp_path, variants={"conditioned": None, "wavelet": None})
    where = [str(study), "--dataset", "unused", "--test", str(image_folder), "--limit", "2", "--noise_level", "25"]
    ((level, name, own, ours),) = main(where)
    assert (level, name, own.shape) == (25, "wavelet", (2, 3))
    assert own[:, 0].mean().item() == pytest.approx(20.2, abs=0.3)  # the noise as it was
    files = sorted(image_folder.glob("*.png"))[:2]
    assert torch.equal(ours, measured(networks["conditioned"].eval(), {"": (loss, 0.0)}, files, 25)[""])
    assert "conditioned network at the twin's loss" in capsys.readouterr().out
