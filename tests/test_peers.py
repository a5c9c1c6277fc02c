"""The rivals' networks, from weights whose answer is known."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import peers
from benchmarks.peers import CDnCNN, FFDNet
from training.evaluate import main as evaluate


@pytest.fixture
def folder(tmp_path):
    """A CDnCNN that finds 0.1 of noise everywhere, an FFDNet that adds the noise level to what it is given."""
    folder = tmp_path / "peers"
    folder.mkdir()
    cdncnn = {"conv.0.weight": torch.zeros(4, 3, 3, 3), "conv.0.bias": torch.ones(4)}
    cdncnn |= {"conv.1.weight": torch.zeros(3, 4, 3, 3), "conv.1.bias": torch.full((3,), 0.1)}
    save_file(cdncnn, folder / "cdncnn_blind.safetensors")
    weight = torch.zeros(12, 13, 3, 3)
    weight[torch.arange(12), torch.arange(12), 1, 1] = 1.0
    weight[:, 12, 1, 1] = 1.0
    save_file({"conv.0.weight": weight, "conv.0.bias": torch.zeros(12)}, folder / "ffdnet_color.safetensors")
    return folder


@pytest.mark.parametrize("size", [(32, 32), (31, 37), (1, 8)])
def test_the_plain_stacks(folder, size):
    image = torch.rand(3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(CDnCNN(str(folder))(image, 0.5), image - 0.1)
        torch.testing.assert_close(FFDNet(str(folder))(image, 0.25), image + 0.25)


def test_missing_weights(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cdncnn_blind\.safetensors"):
        CDnCNN(str(tmp_path))
    monkeypatch.delenv("PEERS", raising=False)
    peers._from_environment.cache_clear()
    with pytest.raises(ValueError, match="PEERS"):
        peers.ffdnet_color(torch.rand(3, 8, 8), 0.1)


def test_the_table(folder, model, image_folder, tmp_path, capsys, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    common = ["--model", str(tmp_path / "model"), "--noise_level", "25"]
    sets = ["--peers", str(folder), "--datasets", str(image_folder), "--limit", "2"]
    results = peers.main([*common, *sets, "--side", "16", "--repeats", "1", "--tell_noise_level", "--self_ensemble"])
    (values,) = results.values()
    assert list(values) == ["ours", "CDnCNN-B", "FFDNet", "ours, told", "ours x 8"]
    assert values["ours x 8"] != values["ours"]
    printed = capsys.readouterr().out
    assert f"{image_folder.name}, sigma 25 (2 images)" in printed
    assert "seconds per megapixel, 16x16" in printed and "times CDnCNN-B's" in printed

    # `training.evaluate` measures the same, ours and theirs.
    common = ["--dataset", str(image_folder), "--noise_level", "25", "--limit", "2", "--measures", "psnr"]
    monkeypatch.setenv("PEERS", str(folder))
    peers._from_environment.cache_clear()
    for name, denoiser in (
        ("ours", ["--model", str(tmp_path / "model")]),
        ("ours x 8", ["--model", str(tmp_path / "model"), "--self_ensemble"]),
        ("CDnCNN-B", ["--function", "benchmarks.peers:cdncnn_blind"]),
        ("FFDNet", ["--function", "benchmarks.peers:ffdnet_color"]),
    ):
        rows = evaluate([*denoiser, *common])["sets"][image_folder.name]["25"]
        assert values[name] == pytest.approx(sum(row["psnr"] for row in rows) / 2, abs=1e-3)
