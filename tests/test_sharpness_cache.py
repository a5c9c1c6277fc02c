"""The offline cache of window scores gives the same loss as scores computed on the fly."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling import ViTUNetForImageDenoising
from modeling.degradations import Noise
from modeling.sharpness import sharpness_scores
from tests.conftest import tiny_config
from training.data import ImageStore, SampleMaker, TrainingSamples, load_images
from training.sharpness_cache import COLUMN, VERSION, with_sharpness_scores
from training.train import training_step


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> datasets.Dataset:
    """Four images of one size, which is not a multiple of the windows' step."""
    folder = tmp_path_factory.mktemp("whole")
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (50, 61, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return load_images(str(folder))


def whole_images(dataset: datasets.Dataset) -> TrainingSamples:
    maker = SampleMaker(0, {0: 0}, Noise([{"model": "gaussian", "noise_level": 25}]), 1.0)
    return TrainingSamples(maker, ImageStore(dataset), 8)


def test_the_column_holds_the_sorted_scores(dataset):
    cached = with_sharpness_scores(dataset)
    images = ImageStore(cached)
    for index in range(4):
        # The cache adds integers, which is exact; so is float64, but for the float32 in which the column is kept.
        expected = sharpness_scores(images[index][None].double() / 255).flatten().sort(descending=True).values.float()
        torch.testing.assert_close(torch.tensor(cached[COLUMN][index]), expected, rtol=2**-23, atol=0)


def test_training_from_the_cache_equals_training_on_the_fly(dataset):
    model = ViTUNetForImageDenoising(
        tiny_config(loss_weights={"pixel": 0.8, "regional_sharpness": 0.2}, loss_balance="sum")
    ).eval()
    losses = []
    for source in (dataset, with_sharpness_scores(dataset)):
        run = whole_images(source)
        batch = {name: torch.stack([run[index][name] for index in range(3)]) for name in run[0]}
        losses.append(training_step(model, batch, model.config, channels_last=False))
    assert "target_sharpness_scores" in batch
    assert abs(losses[0][0].item() - losses[1][0].item()) < 1e-6
    assert abs(losses[0][1]["regional_sharpness"].item() - losses[1][1]["regional_sharpness"].item()) < 1e-6


def test_another_version_or_window_is_another_cache(dataset):
    fingerprints = {
        with_sharpness_scores(dataset, **setting)._fingerprint
        for setting in ({}, {}, {"version": VERSION + 1}, {"window_size": 8})
    }
    assert len(fingerprints) == 3


def test_scores_of_another_window_are_refused(dataset):
    run = whole_images(with_sharpness_scores(dataset, window_size=8))
    model = ViTUNetForImageDenoising(tiny_config())
    batch = {name: value[None] for name, value in run[0].items()}
    with pytest.raises(ValueError, match="windows of 16 pixels"):
        training_step(model, batch, model.config, channels_last=False)


def test_an_image_that_cannot_be_decoded_has_no_scores(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "broken.png").write_bytes(b"no image")
    cached = with_sharpness_scores(load_images(str(tmp_path)))
    first, second, broken = cached[COLUMN]
    assert first == second and first and not broken
    with pytest.warns(UserWarning, match="cannot be decoded"):
        run = whole_images(cached)
        assert all(len(run[index]["target_sharpness_scores"]) == len(first) for index in range(6))
