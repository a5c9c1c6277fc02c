"""The model that ships: within its budget, with the code of this repository, and restoring."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from app import EXAMPLES
from modeling import ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import read_photograph
from modeling.metrics import psnr, sharpness_ratio

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "checkpoints" / "vit-unet-denoiser"


@pytest.fixture(scope="module")
def shipped() -> ViTUNetForImageDenoising:
    return ViTUNetForImageDenoising.from_pretrained(FOLDER).eval()


def test_budget(shipped):
    assert sum(parameter.numel() for parameter in shipped.parameters()) <= 8_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 20_000_000
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shipped(torch.rand(1, 3, 256, 256))
    assert counter.get_total_flops() / 2 <= 10e9


def test_code_beside_the_weights_is_that_of_the_repository():
    """`make checkpoint-code` copies it after a change."""
    copies = list(FOLDER.glob("*.py"))
    assert len(copies) == 14
    for copy in copies:
        assert copy.read_text() == (ROOT / "modeling" / copy.name).read_text(), copy.name


def test_it_restores_a_photograph_and_its_slider_sharpens(shipped):
    clean = read_photograph(str(EXAMPLES[0]))[:, :256, :256]
    noisy = indexed_gaussian_noise(clean, 50 / 255, 0)
    with torch.no_grad():
        encoded = shipped.encode(noisy[None])
        stops = [
            shipped.decode(encoded, {"pixel": 1 - t, "regional_sharpness": t})[0] for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    assert psnr(stops[0], clean) > psnr(noisy, clean) + 6
    ratios = [sharpness_ratio(stop, clean) for stop in stops]
    assert ratios == sorted(ratios) and ratios[-1] > ratios[0] + 0.05
    assert psnr(stops[-1], clean) < psnr(stops[0], clean)  # detail has its price
