"""Samples are a function of (seed, n); crops, levels and images are what they claim to be."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from training.data import ImageStore, TrainingSamples, load_images, validation_images
from training.loss_sampling import LossSampler

SETTINGS = {"crop_size": 40, "min_noise_level": 0.0, "max_noise_level": 0.3, "blind_probability": 0.5}


def samples(folder, seed: int = 0, **overrides) -> TrainingSamples:
    sampler = LossSampler(("pixel", "wavelet"), 4.0)
    settings = {**SETTINGS, "loss_sampler": sampler, "length": 60, **overrides}
    return TrainingSamples(ImageStore(load_images(str(folder))), seed=seed, **settings)


def test_a_sample_is_a_function_of_seed_and_number(image_folder):
    forwards = samples(image_folder)
    backwards = samples(image_folder)
    expected = [forwards[index] for index in range(20)]
    for index in reversed(range(20)):
        for name, value in backwards[index].items():
            assert torch.equal(value.nan_to_num(-1.0), expected[index][name].nan_to_num(-1.0)), name
    assert not torch.equal(samples(image_folder, seed=1)[0]["pixel_values"], expected[0]["pixel_values"])


def test_each_epoch_visits_every_image_once(image_folder):
    run = samples(image_folder)
    for epoch in range(3):
        indices = [run._image_index(6 * epoch + position) for position in range(6)]
        assert sorted(indices) == list(range(6))


def test_noise_has_the_level_that_is_told(image_folder):
    run = samples(image_folder, blind_probability=0.0)
    for index in range(10):
        item = run[index]
        noise = item["pixel_values"] - item["labels"]
        assert noise.std().item() == pytest.approx(item["noise_level"].item(), rel=0.05)
    assert all(samples(image_folder, blind_probability=1.0)[i]["noise_level"].isnan() for i in range(5))


def test_crops_are_cut_from_the_images(image_folder):
    run = samples(image_folder, max_noise_level=0.0)
    originals = [run.images[i].float() / 255 for i in range(6)]
    for index in range(12):
        crop = run[index]["labels"]
        assert crop.shape == (3, 40, 40) and crop.is_contiguous()
        original = originals[run._image_index(index)]
        turned = [crop, crop.flip(-1), crop.transpose(-1, -2), crop.transpose(-1, -2).flip(-1)]
        windows = original.unfold(1, 40, 1).unfold(2, 40, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 40, 40)
        assert any((windows == turn).flatten(1).all(1).any() for turn in turned)


def test_small_images_are_extended_by_reflection(image_folder):
    assert samples(image_folder, crop_size=128)[0]["labels"].shape == (3, 128, 128)


def test_every_file_of_a_folder_counts_whatever_its_name(tmp_path):
    for name in ("train/a", "test/b", "eval_1", "dev [2]"):
        path = tmp_path / "set [1]" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    assert len(load_images(str(tmp_path / "set [1]"))) == 4


def test_folder_errors_are_clear(tmp_path, image_folder):
    with pytest.raises(ValueError, match="no column 'photo'"):
        load_images(str(image_folder), image_column="photo")
    Image.new("L", (20, 30), 7).save(tmp_path / "gray.png")
    (image,) = validation_images(ImageStore(load_images(str(tmp_path))))
    assert image.shape == (3, 30, 20) and torch.allclose(image, torch.tensor(7 / 255))
