"""Tiny real networks and images, made on the spot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from modeling import ViTUNetConfig, ViTUNetForImageDenoising

TINY_VIT = {
    "model_type": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TINY = {
    "hidden_sizes": (8, 16, 24),
    "encoder_blocks": (1, 1, 1),
    "bottleneck_blocks": 1,
    "decoder_blocks": (1, 1),
    "vit_projection_sizes": (24,),
    "condition_size": 8,
    "vit_config": TINY_VIT,
}
# The posts' architecture with every width divided by 16: the same classes, the same settings.
TINY_HYBRID = {
    "hidden_sizes": (4, 8, 16, 32),
    "vit_projection_sizes": (32, 32),
    "vit_config": TINY_VIT,
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ASCENT = Path(__file__).parent.parent / "examples" / "ascent.png"


def tiny_config(**overrides) -> ViTUNetConfig:
    return ViTUNetConfig(**{**TINY, **overrides})


def randomised(model: ViTUNetForImageDenoising, seed: int = 0) -> ViTUNetForImageDenoising:
    """A network that does something: a fresh one is the identity, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def browser():
    """Chromium for the tests that drive the page; without it they are skipped, but not in continuous integration."""
    if not CHROMIUM and not os.environ.get("CI"):
        pytest.skip("no Chromium: `make chromium` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser):
    """Pages of one context share a cache: the page's code is fetched once."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context
    context.close()


@pytest.fixture
def model() -> ViTUNetForImageDenoising:
    torch.manual_seed(0)
    return randomised(ViTUNetForImageDenoising(tiny_config()))


@pytest.fixture(scope="session")
def ascent() -> torch.Tensor:
    """(1, 1, 512, 512), float64 in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(ASCENT).convert("L"))).double()[None, None] / 255


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Six small photographs-to-be: smooth colour with texture, of different sizes."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index, (height, width) in enumerate([(64, 80), (80, 64), (48, 48), (65, 49), (96, 96), (50, 70)]):
        ramp = np.linspace(40, 200, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
        texture = generator.normal(0, 8, (height, width, 3))
        Image.fromarray((ramp + texture).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder
