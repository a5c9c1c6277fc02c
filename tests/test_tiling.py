"""Tiles: what comes out is what the whole image gives, whatever the tiles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.pipeline_image_denoising import restore_in_tiles
from modeling.tiling import in_tiles
from tests.conftest import TINY_HYBRID, randomised, tiny_config

RADIUS = 5


def blurred(image: torch.Tensor) -> torch.Tensor:
    return F.conv2d(image, torch.ones(1, 1, 2 * RADIUS + 1, 2 * RADIUS + 1) / 121, padding=RADIUS)


@pytest.mark.parametrize("tile_size", [1, 4, 10, 24, 1000])
def test_tiles_make_the_whole(tile_size):
    image = torch.rand(2, 1, 36, 52)
    seen = []

    def function(rows: slice, columns: slice) -> torch.Tensor:
        seen.append((rows, columns))
        return blurred(image[..., rows, columns])

    torch.testing.assert_close(in_tiles(function, (36, 52), tile_size, RADIUS, stride=4), blurred(image))
    assert all(edge % 4 == 0 for rows, columns in seen for edge in (rows.start, rows.stop, columns.start, columns.stop))
    largest = -(-tile_size // 4) * 4 + 2 * 8  # on the grid, with its margin on the grid
    assert max(part.stop - part.start for pair in seen for part in pair) <= largest


def test_a_margin_short_of_the_receptive_field_shows():
    image = torch.rand(1, 1, 36, 52)
    tiled = in_tiles(lambda rows, columns: blurred(image[..., rows, columns]), (36, 52), 12, RADIUS - 1, stride=1)
    assert not torch.allclose(tiled, blurred(image), atol=1e-4)


@pytest.mark.parametrize(("size", "tile_size", "message"), [((8, 8), 0, "tile_size=0"), ((8, 9), 4, "off the grid")])
def test_bad_numbers_are_refused(size, tile_size, message):
    with pytest.raises(ValueError, match=message):
        in_tiles(lambda rows, columns: torch.zeros(1), size, tile_size, 0, stride=4)


CASES = {
    "ViT + U-Net": {},
    "U-Net": {"use_vit": False},
    "concatenation": {"vit_join": "concat", "skip_connection": "concat", "downsampling": "max_pool"},
    "gated blocks": {"block_type": "gated"},
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("size", "tile_size"), [((131, 157), 64), ((96, 200), 50), ((1, 70), 16), ((97, 33), 8)])
def test_tiled_and_whole_restorations_agree(overrides, size, tile_size):
    torch.manual_seed(0)
    model = randomised(ViTUNetForImageDenoising(tiny_config(**overrides)))
    image = torch.rand(2, 3, *size)
    controls = {"loss_weights": {"pixel": 0.6, "wavelet": 0.4}, "high_frequency_emphasis": 2.0, "noise_level": 0.1}
    with torch.no_grad():
        whole = model(image, **controls).reconstruction
    tiled = restore_in_tiles(model, image, **controls, tile_size=tile_size)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("grid", [(131, 157), (9, 14), (300, 3)])
def test_tiles_know_their_part_of_a_map(model, grid):
    image, ramp = torch.rand(1, 3, 131, 157), torch.linspace(0, 1, grid[0] * grid[1]).reshape(1, 1, *grid)
    controls = {
        "loss_weights": {"pixel": 1 - ramp, "regional_sharpness": ramp},
        "high_frequency_emphasis": 4 * ramp,
        "noise_level": 0.3 * ramp,
    }
    with torch.no_grad():
        whole = model(image, **controls).reconstruction
    tiled = restore_in_tiles(model, image, **controls, tile_size=40)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=2e-5)


def test_the_posts_network_in_tiles():
    model = randomised(ViTUNetForImageDenoising(ViTUNetConfig.hybrid_vit_base(**TINY_HYBRID)))
    image = torch.rand(1, 3, 90, 140)
    with torch.no_grad():
        whole = model(image).reconstruction
    torch.testing.assert_close(restore_in_tiles(model, image, tile_size=48), whole, rtol=1e-5, atol=2e-5)


def test_each_level_of_a_batch_stays_with_its_image(model):
    images, levels = torch.rand(2, 3, 60, 60), torch.tensor([0.05, 0.3])
    with torch.no_grad():
        whole = model(images, noise_level=levels).reconstruction
    torch.testing.assert_close(
        restore_in_tiles(model, images, noise_level=levels, tile_size=24), whole, rtol=1e-5, atol=2e-5
    )
