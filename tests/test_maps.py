"""Maps of the controls: uniform ones are numbers, and a painted region reaches as far as the network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modeling import ImageDenoisingPipeline, ViTUNetForImageDenoising, ViTUNetImageProcessor
from tests.conftest import randomised, tiny_config

SIZES = [(48, 48), (31, 37), (65, 101)]


@pytest.fixture
def pipe(model) -> ImageDenoisingPipeline:
    return ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())


def uniform(value: float, grid: tuple[int, int]) -> Tensor:
    return torch.full((1, 1, *grid), value)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", ["image", (5, 7), (70, 2), (1, 3)])
def test_a_uniform_map_is_its_vector_to_the_last_bit(model, size, grid):
    grid = size if grid == "image" else grid
    image = torch.rand(2, 3, *size)
    weights = {"pixel": 0.37, "amplitude": 0.11, "regional_sharpness": 0.29, "wavelet": 0.23}
    vector = model(image, None, weights, 1.7, 0.123).reconstruction
    maps = {name: uniform(value, grid) for name, value in weights.items()}
    mapped = model(image, None, maps, uniform(1.7, grid), uniform(0.123, grid)).reconstruction
    assert torch.equal(mapped, vector)
    assert torch.equal(model(image, None, maps, 1.7, 0.123).reconstruction, vector)


def test_a_uniform_map_gives_the_loss_of_its_vector_to_the_last_bit(model):
    noisy, clean = torch.rand(2, 2, 3, 40, 48)
    weights = {"pixel": 0.6, "wavelet": 0.3, "regional_sharpness": 0.1}
    vector = model(noisy, clean, weights, 2.0).loss
    maps = {name: uniform(value, (4, 5)) for name, value in weights.items()}
    assert torch.equal(model(noisy, clean, maps, uniform(2.0, (3, 3))).loss, vector)


def painted(size: tuple[int, int], rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """A ramp of weights, and the same with a patch of its own."""
    before = torch.linspace(0.1, 0.4, size[1]).expand(1, 1, *size).clone()
    after = before.clone()
    after[..., rows, columns] = 0.9
    return before, after


@torch.no_grad()
@pytest.mark.parametrize("use_vit", [True, False])
@pytest.mark.parametrize("size", [(96, 160), (101, 171)])
def test_beyond_the_receptive_field_no_bit_changes(use_vit, size):
    torch.manual_seed(0)
    model = randomised(ViTUNetForImageDenoising(tiny_config(use_vit=use_vit)))
    reach = model.receptive_field // 2
    rows, columns = slice(10, 22), slice(4, 20)
    assert columns.stop + reach < size[1] - 8, "nothing lies beyond"
    encoded = model.encode(torch.rand(1, 3, *size))

    def restored(sharp: Tensor) -> Tensor:
        return model.decode(encoded, {"pixel": 1 - sharp, "regional_sharpness": sharp}, 1.0)

    before, after = (restored(sharp) for sharp in painted(size, rows, columns))
    assert not torch.allclose(after[..., rows, columns], before[..., rows, columns], atol=1e-4)
    beyond = torch.ones(size, dtype=torch.bool)
    beyond[: rows.stop + reach, : columns.stop + reach] = False
    assert beyond.any()
    assert torch.equal(after[..., beyond], before[..., beyond])


@torch.no_grad()
def test_what_is_not_painted_stays_as_the_number_has_it(model):
    """From a number to a map other products are summed in another order: the last bits differ, and no more."""
    image = torch.rand(1, 3, 65, 201)
    sharp = torch.zeros(1, 1, 65, 201)
    sharp[..., :20] = 1.0
    plain = model(image, loss_weights={"pixel": 1.0}).reconstruction
    mapped = model(image, loss_weights={"pixel": 1 - sharp, "regional_sharpness": sharp}).reconstruction
    reach = 20 + model.receptive_field // 2
    assert not torch.allclose(mapped[..., :20], plain[..., :20], atol=1e-4)
    torch.testing.assert_close(mapped[..., reach:], plain[..., reach:], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["array", "tensor", "mask"])
def test_uniform_maps_through_the_pipeline(pipe, size, kind):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    make = {
        "array": lambda value: np.full((6, 5), value, dtype=np.float32),
        "tensor": lambda value: torch.full(size, value),
        "mask": lambda value: Image.new("L", (9, 4), round(255 * value)),
    }[kind]
    expected = pipe(image, loss_weights={"pixel": 0.2, "wavelet": 0.8}, return_tensors=True)
    restored = pipe(image, loss_weights={"pixel": make(0.2), "wavelet": make(0.8)}, return_tensors=True)
    assert torch.equal(restored, expected)


def test_a_mask_acts_inside_and_not_beyond_through_the_pipeline(pipe):
    size = (65, 201)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    before, after = (sharp[0, 0] for sharp in painted(size, slice(0, 65), slice(0, 20)))

    def restored(sharp: Tensor, **options) -> np.ndarray:
        return np.asarray(pipe(image, loss_weights={"pixel": 1 - sharp, "regional_sharpness": sharp}, **options))

    reach = 20 + pipe.model.receptive_field // 2
    for options in ({}, {"tile_size": 40}):
        changed = restored(after, **options) != restored(before, **options)
        assert changed[:, :20].any() and not changed[:, reach:].any()
