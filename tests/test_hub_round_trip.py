"""Saving and loading: by class, by auto class, and by somebody who has only the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageToImage

from modeling import ImageDenoisingPipeline, ViTUNetConfig, ViTUNetForImageDenoising, ViTUNetImageProcessor
from training.checkpoints import save_model

STRANGER = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForImageToImage, pipeline

model = AutoModelForImageToImage.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert not any(name == "modeling" or name.startswith("modeling.") for name in sys.modules), "not the copied code"
image = processor(torch.load(sys.argv[2]), return_tensors="pt")["pixel_values"]
with torch.no_grad():
    restored = model(image, loss_weights={"pixel": 0.5, "wavelet": 0.5}).reconstruction
pipe = pipeline(model=sys.argv[1], trust_remote_code=True)  # its task is the one that the folder brings
torch.save([restored, pipe(torch.load(sys.argv[2]), preset="wavelet", tile_size=16, return_tensors=True)], sys.argv[3])
"""


def test_round_trip_keeps_every_weight_and_setting(model, tmp_path):
    model.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 33, 40)
    for again in (
        ViTUNetForImageDenoising.from_pretrained(tmp_path),
        AutoModelForImageToImage.from_pretrained(tmp_path),
    ):
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name)), name
        # Loaded weights lie in memory at another alignment, which changes the last bit of a product.
        torch.testing.assert_close(again(image).reconstruction, model(image).reconstruction, rtol=0, atol=1e-4)
        for field in set(ViTUNetConfig.__annotations__) - {"vit_config", "model_type"}:
            expected = getattr(model.config, field)
            assert getattr(again.config, field) == (list(expected) if isinstance(expected, tuple) else expected), field


def test_a_stranger_loads_it_without_the_package(model, tmp_path):
    """What training saves, pipeline included: from another folder, offline, without the repository on the path."""
    folder = tmp_path / "downloaded"
    save_model(model, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = torch.rand(3, 33, 40)
    torch.save(image, elsewhere / "image.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), "image.pt", "restored.pt"],
        cwd=elsewhere,
        env=environment,
        check=True,
    )
    expected = model(image[None], loss_weights={"pixel": 0.5, "wavelet": 0.5}).reconstruction
    restored, piped = torch.load(elsewhere / "restored.pt")
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-4)
    pipe = ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())
    torch.testing.assert_close(piped, pipe(image, preset="wavelet", return_tensors=True), rtol=0, atol=1e-4)


def test_copied_code_needs_only_torch_transformers_and_the_hub(model, tmp_path):
    model.save_pretrained(tmp_path)
    ViTUNetImageProcessor().save_pretrained(tmp_path)
    copied = {path.name for path in tmp_path.glob("*.py")}
    assert {"configuration_vit_unet.py", "modeling_vit_unet.py", "losses.py", "unet.py", "vit_features.py"} < copied
    assert "image_processing_vit_unet.py" in copied
    allowed = {"__future__", "torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    for name in copied:
        for line in (tmp_path / name).read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and not words[1].startswith("."):
                assert words[1].split(".")[0] in allowed, f"{name}: {line}"


def test_weights_are_safetensors_only(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (tmp_path / "model.safetensors").is_file()


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        ViTUNetForImageDenoising.from_pretrained(tmp_path)


def test_config_round_trip():
    for config in (ViTUNetConfig(), ViTUNetConfig.hybrid_vit_base(), ViTUNetConfig(use_vit=False)):
        again = ViTUNetConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
        assert again.to_dict() == config.to_dict()
