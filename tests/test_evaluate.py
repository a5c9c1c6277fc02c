"""The evaluation command."""

from __future__ import annotations

import json

import pytest
import torch

from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.metrics import psnr
from tests.conftest import tiny_config
from training.data import ImageStore, load_images
from training.evaluate import Setting, evaluate, main, means, sweep_settings


def test_the_identity_scores_the_noise(image_folder):
    """A fresh network returns its input: PSNR is that of the noisy image, by the stated protocol."""
    images = ImageStore(load_images(str(image_folder)))
    model = ViTUNetForImageDenoising(tiny_config()).eval()
    rows = evaluate(model, images, 25 / 255, [Setting("given")])
    assert [row["image"] for row in rows] == list(range(6))
    for index, row in enumerate(rows):
        clean = images[index].float() / 255
        assert row["psnr"] == pytest.approx(psnr(indexed_gaussian_noise(clean, 25 / 255, index), clean))
    assert means(rows, "given")["psnr"] == pytest.approx(sum(row["psnr"] for row in rows) / 6)


def test_a_sweep_goes_from_the_fidelity_corner_to_full_weight():
    settings = sweep_settings("wavelet", 2.0)
    assert len(settings) == 11
    assert settings[0].loss_weights == {"pixel": 1.0, "wavelet": 0.0}
    assert settings[-1].loss_weights == {"pixel": 0.0, "wavelet": 1.0}
    assert settings[5].high_frequency_emphasis == 2.0


def test_the_command(model, image_folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "results.json"
    common = ["--model", str(tmp_path / "model"), "--dataset", str(image_folder), "--noise_level", "15", "50"]
    main([*common, "--sweep", "wavelet", "--output", str(output), "--limit", "2"])
    assert "cost (dB)" in capsys.readouterr().out
    few = main([*common, "--measures", "sharpness_ratio", "--limit", "1"])
    assert set(few["15"][0]) == {"image", "setting", "sharpness_ratio"}
    main([*common, "--sweep", "wavelet", "--limit", "1"])
    results = json.loads(output.read_text())
    assert list(results) == ["15", "50"] and len(results["50"]) == 2 * 11
    assert "mean sharpness ratio rises at every stop" in capsys.readouterr().out
    blind = main([*common, "--loss_weights", '{"wavelet": 1}', "--limit", "1"])
    told = main([*common, "--loss_weights", '{"wavelet": 1}', "--limit", "1", "--tell_noise_level", "true"])
    assert blind["50"][0]["psnr"] != told["50"][0]["psnr"]
    torch.testing.assert_close(blind["50"][0]["psnr"], results["50"][10]["psnr"])


@pytest.mark.parametrize(
    "extra", [["--sweep", "pixel"], ["--sweep", "wavelet", "--loss_weights", '{"pixel": 1}'], ["--measures", "fid"]]
)
def test_bad_arguments_are_refused(extra):
    with pytest.raises(ValueError, match=extra[0]):
        main(["--model", "x", "--dataset", "y", *extra])
