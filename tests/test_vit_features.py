"""ViT features: fixed windows, blended; one window gives the ViT's own tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeling import ViTUNetForImageDenoising
from modeling.vit_features import symmetric_pad
from tests.conftest import TINY_VIT, randomised, tiny_config


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return randomised(ViTUNetForImageDenoising(tiny_config())).vit_features


def test_one_window_gives_the_vits_own_tokens(features):
    pixels = torch.rand(2, 3, 32, 32)
    tokens = features.vit((pixels - 0.5) / 0.5).last_hidden_state[:, 1:]
    expected = tokens.transpose(1, 2).reshape(2, 32, 4, 4)
    torch.testing.assert_close(features.token_map(pixels), expected)


def test_tokens_of_several_layers_stand_side_by_side():
    model = randomised(ViTUNetForImageDenoising(tiny_config(vit_layers=[1, 2])))
    pixels = torch.rand(2, 3, 32, 32)
    said = model.vit_features.vit((pixels - 0.5) / 0.5, output_hidden_states=True)
    tokens = torch.cat([said.hidden_states[1], said.last_hidden_state], dim=-1)[:, 1:]
    torch.testing.assert_close(model.vit_features.token_map(pixels), tokens.transpose(1, 2).reshape(2, 64, 4, 4))
    assert model(pixels).reconstruction.shape == pixels.shape


@pytest.mark.parametrize("size", [(8, 8), (32, 40), (72, 100)])
def test_map_covers_the_image(features, size):
    tokens = features.token_map(torch.rand(1, 3, *size))
    assert tokens.shape == (1, 32, -(-size[0] // 8), -(-size[1] // 8))
    assert tokens.isfinite().all()


def test_windows_are_fixed_to_the_image(features):
    """Shifting an image by one step of the windows shifts the features, away from the borders."""
    wide = torch.rand(1, 3, 64, 128)
    whole, part = features.token_map(wide), features.token_map(wide[..., 16:])
    torch.testing.assert_close(whole[..., 4:-4], part[..., 2:-4])


def test_distant_pixels_do_not_matter(features):
    image = torch.rand(1, 3, 32, 128)
    changed = image.clone()
    changed[..., 96:] = 0.0
    torch.testing.assert_close(features.token_map(image)[..., :8], features.token_map(changed)[..., :8])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_symmetric_pad_reaches_any_size(size):
    image = torch.rand(1, 1, size, size)
    padded = symmetric_pad(image, 7, 11)
    expected = np.pad(image[0, 0].numpy(), ((0, 7 - size), (0, 11 - size)), mode="symmetric")
    assert np.array_equal(padded[0, 0].numpy(), expected)
    assert torch.equal(symmetric_pad(image, size, size), image)


def test_windows_of_an_odd_number_of_patches():
    """DINOv2 sees 37 x 37 patches of 14 pixels: half a window is then 18 of them."""
    config = tiny_config(vit_config={**TINY_VIT, "image_size": 40})
    features = randomised(ViTUNetForImageDenoising(config)).vit_features
    image = torch.rand(1, 3, 56, 88)  # windows begin at 0, 16, 32, 48
    tokens = features.token_map(image)
    assert tokens.shape == (1, 32, 7, 11)
    alone = features.vit((image[..., :40, :40] - 0.5) / 0.5).last_hidden_state[:, 1:]
    torch.testing.assert_close(tokens[0, :, 0, 0], alone[0, 0])  # only the first window sees the first patch


def test_portions_of_windows_change_nothing(features, monkeypatch):
    image = torch.rand(2, 3, 64, 80)
    expected = features.token_map(image)
    monkeypatch.setattr("modeling.vit_features.WINDOWS_AT_ONCE", 5)
    torch.testing.assert_close(features.token_map(image), expected)
