"""The stripe that a network's biases leave is found, and taken out of every picture."""

from __future__ import annotations

import pytest
import torch

from modeling import ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.image_files import photographs, read_photograph
from tests.conftest import tiny_config
from training.calibrate import main, remove_stripe, stripe


@pytest.mark.parametrize("residual", [True, False])
def test_a_stripe_in_the_biases_is_found_and_removed(residual):
    torch.manual_seed(0)
    model = ViTUNetForImageDenoising(tiny_config(residual=residual)).eval()
    with torch.no_grad():  # what is restored differs by the biases alone
        model.decoder.output.weight.zero_()
        model.decoder.output.bias.copy_(0.01 * torch.randn(12))
    clean = torch.rand(2, 3, 33, 42)
    images = [image if residual else torch.full_like(image, 0.5) for image in clean]
    found = stripe(model, images, [0.0])
    places = model.decoder.output.bias.detach().view(3, 2, 2)
    expected = (places.mean((1, 2), keepdim=True) - places) * (1 if residual else -1)
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-6)
    colour = model.decoder.output.bias.detach().view(3, 4).mean(1)
    remove_stripe(model, found)
    assert stripe(model, images, [0.0]).abs().max() < 1e-6
    torch.testing.assert_close(model.decoder.output.bias.detach().view(3, 4).mean(1), colour)  # no colour is shifted


def test_a_network_without_blocks_is_refused():
    model = ViTUNetForImageDenoising(tiny_config(pixel_unshuffle=1))
    with pytest.raises(ValueError, match="pixel_unshuffle=1"):
        remove_stripe(model, torch.zeros(3, 1, 1))


def test_the_command(image_folder, tmp_path, capsys):
    torch.manual_seed(0)
    model = ViTUNetForImageDenoising(tiny_config())
    with torch.no_grad():
        model.decoder.output.bias.copy_(0.01 * torch.randn(12))
    model.save_pretrained(tmp_path / "model")
    ViTUNetImageProcessor().save_pretrained(tmp_path / "model")
    command = ["--model", str(tmp_path / "model"), "--dataset", str(image_folder)]
    with pytest.raises(ValueError, match="finite and positive"):
        main([*command, "--output", str(tmp_path / "refused"), "--loss_strengths", '{"wavelet": 0}'])
    assert not (tmp_path / "refused").exists()
    main(
        [
            *command,
            "--output",
            str(tmp_path / "calibrated"),
            "--loss_strengths",
            '{"wavelet": 3}',
            "--fidelity_share",
            "0.2",
        ]
    )
    assert "6 images; stripe" in capsys.readouterr().out
    assert (tmp_path / "calibrated" / "preprocessor_config.json").is_file()
    calibrated = ViTUNetForImageDenoising.from_pretrained(tmp_path / "calibrated").eval()
    assert calibrated.config.loss_strengths == {"wavelet": 3} and calibrated.config.fidelity_share == 0.2
    images = [read_photograph(file) for file in photographs(image_folder)]
    before, after = (stripe(network.eval(), images, [0.1]).abs().max() for network in (model, calibrated))
    assert after < 0.05 * before
