"""Sliders of another network: the default stays, and the controls act as they do there."""

from __future__ import annotations

import pytest
import torch

from modeling import ViTUNetForImageDenoising
from modeling.unet import FeatureModulation
from tests.conftest import randomised, tiny_config
from training.transplant import main, transplant_controls

FULL = {"loss_weights": {"wavelet": 1.0}, "high_frequency_emphasis": 1.0}


def restored(model: ViTUNetForImageDenoising, noisy: torch.Tensor, **controls) -> torch.Tensor:
    with torch.no_grad():
        return model(noisy, **controls).reconstruction


def deaf(model: ViTUNetForImageDenoising) -> ViTUNetForImageDenoising:
    """The same at the defaults, but nothing reaches it from its controls."""
    with torch.no_grad():
        model.condition[2].weight.zero_()
        model.condition[2].bias.fill_(0.3)
    return model


@pytest.fixture
def networks():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(randomised(ViTUNetForImageDenoising(tiny_config())).eval())
    return deaf(made[0]), made[1]


def test_the_default_stays_and_the_sliders_act(networks):
    model, donor = networks
    model.config.one_loss = True  # as a run of the pixel term alone leaves it
    noisy = torch.rand(1, 3, 40, 33)
    default = restored(model, noisy)
    assert torch.equal(restored(model, noisy, **FULL), default)
    transplant_controls(model, donor)
    torch.testing.assert_close(restored(model, noisy), default)
    assert (restored(model, noisy, **FULL) - default).abs().max() > 1e-3
    assert model.config.steerable_terms == donor.config.steerable_terms


def test_a_networks_own_sliders_change_nothing(networks):
    model = networks[1]
    noisy = torch.rand(1, 3, 16, 16)
    before = restored(model, noisy, **FULL)
    transplant_controls(model, model)
    torch.testing.assert_close(restored(model, noisy, **FULL), before)


def test_a_gain_moves_every_modulation_so_many_times_as_far(networks):
    """From the same place: by default nothing changes."""
    donor = networks[1]
    noisy = torch.rand(1, 3, 16, 16)
    default = restored(donor, noisy)
    modulations = [module for module in donor.modules() if isinstance(module, FeatureModulation)]
    controls = torch.rand(2, donor.config.condition_size, 1, 1)
    before = [module.projection(controls).diff(dim=0) for module in modulations]
    transplant_controls(donor, donor, gain=1.5)
    torch.testing.assert_close(restored(donor, noisy), default)
    for module, moved in zip(modulations, before, strict=True):
        torch.testing.assert_close(module.projection(controls).diff(dim=0), 1.5 * moved)


def test_networks_of_another_shape_are_refused(networks):
    model = networks[0]
    other = ViTUNetForImageDenoising(tiny_config(conditioned_terms=("pixel", "wavelet")))
    with pytest.raises(ValueError, match="terms"):
        transplant_controls(model, other)
    with pytest.raises(ValueError, match="conditioned_terms"):
        transplant_controls(model, ViTUNetForImageDenoising(tiny_config(conditioned_terms=())))


def test_from_the_command_line(networks, tmp_path):
    for name, network in zip(("model", "donor"), networks, strict=True):
        network.save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("model", "donor", "mended")]
    main(["--model", folders[0], "--controls", folders[1], "--output_dir", folders[2]])
    mended = ViTUNetForImageDenoising.from_pretrained(folders[2])
    noisy = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(restored(mended, noisy), restored(networks[0], noisy))
