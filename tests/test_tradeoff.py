"""The benchmark of the trade-off: what stands beside the sliders, and how it is compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import tradeoff
from benchmarks.tradeoff import COLUMNS, at_sharpness, blended, interpolated, unsharp
from modeling import ViTUNetForImageDenoising
from tests.conftest import randomised, tiny_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """Two networks of one architecture, and one of another."""
    names = []
    settings = [{"loss_weights": {"pixel": 1.0}}, {"loss_weights": {"pixel": 1.0, "amplitude": 3.0}}, {}]
    settings[1]["high_frequency_emphasis"] = 2.0
    settings[2]["hidden_sizes"] = (12, 16, 24)
    for index, fields in enumerate(settings):
        model = randomised(ViTUNetForImageDenoising(tiny_config(**fields)), seed=index)
        names.append(str(tmp_path_factory.mktemp("networks") / str(index)))
        model.save_pretrained(names[-1])
    return names


def test_interpolated_networks_lie_on_a_straight_line(folders):
    first, second = (ViTUNetForImageDenoising.from_pretrained(name).state_dict() for name in folders[:2])
    networks = interpolated(*folders[:2])
    assert list(networks) == ["0", "0.25", "0.5", "0.75", "1"]
    for share, network in networks.items():
        for name, value in network.state_dict().items():
            expected = (1 - float(share)) * first[name] + float(share) * second[name]
            torch.testing.assert_close(value.contiguous(), expected, msg=name)
    image = torch.rand(1, 3, 24, 24)
    for share, name in (("0", folders[0]), ("1", folders[1])):  # the ends are the two networks at their own losses
        end = ViTUNetForImageDenoising.from_pretrained(name)
        torch.testing.assert_close(networks[share](image).reconstruction, end(image).reconstruction)
    assert networks["0.5"].config.loss_weights == {"pixel": 0.625, "amplitude": 0.375}
    assert networks["0.5"].config.high_frequency_emphasis == 1.0
    with pytest.raises(ValueError, match="differ in architecture"):
        interpolated(folders[0], folders[2])


def test_rivals_start_from_what_they_improve():
    restored, noisy = torch.rand(2, 3, 16, 16).unbind()
    assert torch.equal(blended(restored, noisy, 0.0), restored) and torch.equal(blended(restored, noisy, 1.0), noisy)
    assert torch.equal(unsharp(restored, 0.0), restored)
    flat = torch.full((3, 16, 16), 0.3)
    torch.testing.assert_close(unsharp(flat, 1.0), flat)
    edge = torch.zeros(3, 16, 16)
    edge[..., 8:] = 1.0
    assert unsharp(edge, 1.0).max() > 1 and unsharp(edge, 1.0).min() < 0  # both sides are pushed apart


def test_curves_are_read_between_their_settings():
    def row(psnr: float, sharpness: float) -> np.ndarray:
        return np.array([psnr if name == "PSNR dB" else sharpness if name == "sharpness" else 0.0 for name in COLUMNS])

    curve = {"0": row(30, 0.6), "0.5": row(29, 0.8), "1": row(26, 1.0)}
    assert at_sharpness(curve, 0.7)[0] == pytest.approx(29.5) and at_sharpness(curve, 0.9)[0] == pytest.approx(27.5)
    assert at_sharpness(curve, 0.6)[0] == 30 and at_sharpness(curve, 1.0)[0] == 26
    assert at_sharpness(curve, 0.5) is None and at_sharpness(curve, 1.01) is None


def test_the_table_and_the_plot(folders, image_folder, tmp_path, monkeypatch, capsys):
    plot = tmp_path / "tradeoff.png"
    arguments = ["--model", folders[0], "--dataset", str(image_folder), "--limit", "2", "--terms", "wavelet"]
    arguments += ["--interpolate", *folders[:2], "--plot", str(plot)]
    monkeypatch.setattr("sys.argv", ["tradeoff", *arguments])
    tradeoff.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("noise level 50/255, 2 images")
    for start in ("slider wavelet, 1 ", "input blended back, 0.08", "unsharp mask, 0.5", "weights interpolated, 0.25"):
        assert sum(line.startswith(start) for line in lines) == 1, start
    first = next(line for line in lines if line.startswith("slider wavelet, 0 ")).split()[3:]
    assert first == next(line for line in lines if line.startswith("unsharp mask, 0 ")).split()[3:]
    assert sum(line.startswith("at sharpness") for line in lines) == len(tradeoff.MATCHED)
    with Image.open(plot) as picture:
        assert picture.width > 2 * picture.height
