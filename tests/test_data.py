"""Samples are a function of (seed, n); crops, levels and images are what they claim to be."""

from __future__ import annotations

import json
import shutil
from unittest.mock import patch

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling.degradations import Noise
from modeling.vit_features import symmetric_pad
from training.data import (
    ImageOrder,
    ImageStore,
    SampleMaker,
    TrainingSamples,
    collate,
    folder_repeats,
    load_images,
    validation_images,
)
from training.device_data import DeviceBatches
from training.loss_sampling import LossSampler
from training.streaming import StreamedSamples


def gaussian(low: float, high: float) -> Noise:
    return Noise([{"model": "gaussian", "noise_level": [low, high]}])


def maker(seed: int = 0, **overrides) -> SampleMaker:
    sampler = LossSampler(("pixel", "wavelet"), 4.0)
    settings = {"crop_sizes": {0: 40}, "noise": gaussian(0, 75), "blind_probability": 0.5, "loss_sampler": sampler}
    return SampleMaker(seed=seed, **{**settings, **overrides})


def samples(folder, seed: int = 0, **overrides) -> TrainingSamples:
    return TrainingSamples(maker(seed, **overrides), ImageStore(load_images(str(folder))), 60)


def test_a_sample_is_a_function_of_seed_and_number(image_folder):
    forwards = samples(image_folder)
    backwards = samples(image_folder)
    expected = [forwards[index] for index in range(20)]
    for index in reversed(range(20)):
        for name, value in backwards[index].items():
            assert torch.equal(value.nan_to_num(-1.0), expected[index][name].nan_to_num(-1.0)), name
    assert not torch.equal(samples(image_folder, seed=1)[0]["pixel_values"], expected[0]["pixel_values"])


def test_each_epoch_visits_every_image_once(image_folder):
    for epoch in range(3):
        indices = [ImageOrder(0, 6)[6 * epoch + position] for position in range(6)]
        assert sorted(indices) == list(range(6))
    order = ImageOrder(0, 3, [1, 3, 1])
    assert len(order) == 5
    epochs = [[order[5 * epoch + position] for position in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == [0, 1, 1, 1, 2] for epoch in epochs) and len(set(map(tuple, epochs))) > 1


def test_folders_are_repeated(tmp_path):
    for name in ("photos/a", "photos/deep/b", "cracks/c"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    dataset = load_images(str(tmp_path))
    assert folder_repeats(dataset, "image", {}) == [1, 1, 1]
    assert sorted(folder_repeats(dataset, "image", {"photos": 3, "deep": 2})) == [1, 3, 3]
    above = tmp_path.parent.name  # holds the whole dataset, and tells nothing of an image
    with pytest.raises(ValueError, match=above):
        folder_repeats(dataset, "image", {above: 2})
    with pytest.raises(ValueError, match="photographs"):
        folder_repeats(dataset, "image", {"photographs": 3})
    store = ImageStore(dataset)
    samples = TrainingSamples(maker(), store, 7, repeats=[3, 1, 3])
    made = DeviceBatches(maker(), store, (0.0, 0.1), 7, 0, 1, torch.device("cpu"), repeats=[3, 1, 3])
    for order in (samples.order, made.order):
        assert sorted(order[sample] for sample in range(7)) == [0, 0, 0, 1, 2, 2, 2]


def test_noise_has_the_level_that_is_told(image_folder):
    run = samples(image_folder, blind_probability=0.0)
    for index in range(10):
        item = run[index]
        noise = item["pixel_values"] - item["labels"]
        assert noise.std().item() == pytest.approx(item["noise_level"].item(), rel=0.05)
    assert all(samples(image_folder, blind_probability=1.0)[i]["noise_level"].isnan() for i in range(5))


def test_crops_are_cut_from_the_images(image_folder):
    run = samples(image_folder, noise=gaussian(0, 0))
    originals = [run.images[i].float() / 255 for i in range(6)]
    for index in range(12):
        crop = run[index]["labels"]
        assert crop.shape == (3, 40, 40) and crop.is_contiguous()
        original = originals[run.order[index]]
        turned = [crop, crop.flip(-1), crop.transpose(-1, -2), crop.transpose(-1, -2).flip(-1)]
        windows = original.unfold(1, 40, 1).unfold(2, 40, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 40, 40)
        assert any((windows == turn).flatten(1).all(1).any() for turn in turned)


def test_small_images_are_extended_by_reflection(image_folder):
    assert samples(image_folder, crop_sizes={0: 128})[0]["labels"].shape == (3, 128, 128)


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
    ((image, noisy),) = validation_images(ImageStore(load_images(str(tmp_path))))
    assert noisy is None
    assert image.shape == (3, 30, 20) and torch.allclose(image, torch.tensor(7 / 255))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        load_images(str(tmp_path))


def test_crop_sizes_follow_their_schedule(image_folder):
    run = samples(image_folder, crop_sizes={0: 16, 8: 24, 20: 32})
    assert [run[index]["labels"].shape[-1] for index in (0, 7, 8, 19, 20, 59)] == [16, 16, 24, 24, 32, 32]


def test_real_pairs_are_cut_alike(tmp_path):
    for index in range(3):
        clean = torch.randint(0, 200, (50, 60, 3), dtype=torch.uint8)
        Image.fromarray(clean.numpy()).save(tmp_path / f"clean_{index}.png")
        Image.fromarray((clean + 20).numpy()).save(tmp_path / f"noisy_{index}.png")
    rows = [{"clean_file_name": f"clean_{i}.png", "noisy_file_name": f"noisy_{i}.png"} for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_images(str(tmp_path), image_column="clean", noisy_column="noisy")
    assert len(dataset) == 3
    stores = [ImageStore(dataset, column) for column in ("clean", "noisy")]
    run = TrainingSamples(maker(noise=None), stores[0], 20, stores[1])
    for index in range(20):
        item = run[index]
        torch.testing.assert_close(item["pixel_values"], item["labels"] + 20 / 255)
        assert item["noise_level"].isnan()
    ((clean, noisy), *_) = validation_images(*stores)
    torch.testing.assert_close(noisy, clean + 20 / 255)


@pytest.mark.parametrize("name", ["part.parquet", ""])
def test_parquet_files_and_folders(tmp_path, image_folder, name):
    dataset = load_images(str(image_folder))
    datasets.Dataset.from_list(list(dataset), features=dataset.features).to_parquet(tmp_path / "part.parquet")
    again = load_images(str(tmp_path / name))
    assert len(again) == len(dataset)
    assert torch.equal(ImageStore(again)[2], ImageStore(dataset)[2])


def test_of_a_folder_of_parquet_files_the_split_is_read(tmp_path, image_folder):
    dataset = load_images(str(image_folder))
    rows = list(dataset)
    for name, part in (("train-00000-of-00001", rows[:3]), ("test-00000-of-00001", rows[3:5])):
        datasets.Dataset.from_list(part, features=dataset.features).to_parquet(tmp_path / f"{name}.parquet")
    assert [len(load_images(str(tmp_path), split)) for split in ("train", "test")] == [3, 2]
    with pytest.raises(ValueError, match=r"holds the splits \['test', 'train'\], and no 'validation'"):
        load_images(str(tmp_path), "validation")
    converted = tmp_path / "converted" / "default" / "test"
    converted.mkdir(parents=True)
    (tmp_path / "test-00000-of-00001.parquet").rename(converted / "0000.parquet")
    assert len(load_images(str(tmp_path / "converted"), "test")) == 2


def test_an_empty_cell_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # at the end of every epoch of a stream
    image = Image.new("RGB", (8, 8), "red")
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list([{"image": None}, {"image": image}], features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    store = ImageStore(load_images(str(tmp_path)))
    with pytest.warns(UserWarning, match="image 0 cannot be decoded"):
        assert store[0] is None and store[1] is not None
    stream = StreamedSamples(maker(), load_images(str(tmp_path), streaming=True), ("image",), 0, 4, buffer=2)
    with pytest.warns(UserWarning, match="cannot be decoded"):
        assert len(list(stream)) == 4
    assert stream.unreadable >= 1


def test_a_stream_whose_features_nobody_has_stated(image_folder):
    files = sorted(str(path) for path in image_folder.iterdir())[:2]
    untold = datasets.IterableDataset.from_generator(lambda: ({"image": file, "other": 1} for file in files))
    assert untold.features is None
    with patch("datasets.load_dataset", return_value=untold):
        stream = load_images("user/untold", streaming=True)
    assert [row["image"].mode for row in stream] == ["RGB", "RGB"]


@pytest.mark.filterwarnings("ignore:image . cannot be decoded")
def test_broken_files_among_good_ones_are_counted_and_stood_in_for(tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    store = ImageStore(load_images(str(tmp_path / "images")))
    run = TrainingSamples(maker(), store, 30)
    items = list(torch.utils.data.DataLoader(run, num_workers=2, collate_fn=collate))
    assert len(items) == 30 and store.unreadable.sum() == 1
    (only := tmp_path / "only").mkdir()
    (only / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="None of the 1 images"):
        samples(only)[0]


@pytest.mark.filterwarnings("ignore:image . cannot be decoded")
@pytest.mark.parametrize("keep", [True, False])
def test_decoding_ahead_changes_no_sample_and_holds_no_more_than_it_must(keep, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "3-broken.png").write_bytes(b"no image")
    dataset = load_images(str(tmp_path / "images"))
    stores = [ImageStore(dataset, keep=keep) for _ in range(2)]
    plain = TrainingSamples(maker(), stores[0], 20)
    ahead = TrainingSamples(maker(), stores[1], 20, ahead=3)
    for sample in range(20):
        assert torch.equal(ahead[sample]["pixel_values"], plain[sample]["pixel_values"])
        assert len(stores[1].coming) <= 3
    assert stores[1].decoder is not None and stores[0].decoder is None
    assert not stores[1].coming and stores[1].unreadable.equal(stores[0].unreadable)


def test_whole_images_of_two_sizes_do_not_fit_in_a_batch(tmp_path):
    for index, size in enumerate([(20, 30), (30, 20)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    run = samples(tmp_path, crop_sizes={0: 0})
    with pytest.raises(ValueError, match="batch_size 1"):
        collate([run[0], run[1]])


def test_maps_are_collated_with_settings_that_have_none(image_folder):
    run = samples(image_folder, loss_sampler=LossSampler(("pixel", "wavelet"), 4.0, map_probability=0.3))
    batch = collate([run[index] for index in range(20)])
    assert batch["loss_weights"].shape == (20, 2, 16, 16) and batch["high_frequency_emphasis"].shape == (20, 1, 16, 16)
    assert batch["labels"].shape == (20, 3, 40, 40) and batch["noise_level"].shape == (20,)


def test_a_stream_goes_on_where_it_stopped(image_folder):
    dataset = load_images(str(image_folder), streaming=True)
    whole = list(StreamedSamples(maker(), dataset, ("image",), 0, 15, buffer=3))
    rest = list(StreamedSamples(maker(), dataset, ("image",), 8, 15, buffer=3))
    assert len(whole) == 15 and len(rest) == 7
    for item, expected in zip(rest, whole[8:], strict=True):
        for name, value in item.items():
            assert torch.equal(value.nan_to_num(-1.0), expected[name].nan_to_num(-1.0)), name
    assert not torch.equal(whole[0]["labels"], whole[6]["labels"])


@pytest.mark.filterwarnings("ignore:.* cannot be decoded")
def test_a_broken_image_of_a_stream_is_passed_over_by_its_own_process_alone(tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "3-broken.png").write_bytes(b"no image")
    dataset = load_images(str(tmp_path / "images"), streaming=True)
    streams = [StreamedSamples(maker(), dataset, ("image",), 0, 16, 1, 2, process, 2) for process in (0, 1)]
    made = [list(stream) for stream in streams]
    assert [len(items) for items in made] == [8, 8]
    assert sum(stream.unreadable for stream in streams) == 2  # once in each of two epochs
    whole = list(StreamedSamples(maker(), load_images(str(image_folder), streaming=True), ("image",), 0, 4, 1))
    for item, expected in zip((made[0][0], made[0][1], made[1][0]), whole, strict=False):
        assert torch.equal(item["labels"], expected["labels"])


def test_a_streamed_pair_has_one_size(tmp_path):
    for name, side in (("a", 8), ("b", 9)):
        Image.new("RGB", (side, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text('{"clean_file_name": "a.png", "noisy_file_name": "b.png"}\n')
    pairs = load_images(str(tmp_path), image_column="clean", noisy_column="noisy", streaming=True)
    with pytest.raises(ValueError, match=r"A streamed pair: clean .* differ in size"):
        next(iter(StreamedSamples(maker(noise=None), pairs, ("clean", "noisy"), 0, 4, 1)))


def test_metadata_in_parquet_lies_beside_images(tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    rows = [{"file_name": path.name, "other": 1} for path in sorted(image_folder.iterdir())]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "images" / "metadata.parquet")
    assert len(load_images(str(tmp_path / "images"))) == len(rows)
    with pytest.raises(ValueError, match="has no configuration 'small'"):
        load_images(str(tmp_path / "images"), config="small")


def test_crops_on_the_device_are_cut_from_their_images(tmp_path):
    """Images of several sizes, one of them smaller than the crop, mirrored and transposed or not."""
    noise = np.random.default_rng(0)
    for index, (width, height) in enumerate([(50, 44), (41, 60), (20, 30)]):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    store = ImageStore(load_images(str(tmp_path)))
    made = DeviceBatches(maker(), store, (0.0, 0.1), 6, 0, 1, torch.device("cpu"))
    places = torch.tensor([[0.0, 0.0, 1, 1], [0.99, 0.5, 0, 1], [0.3, 0.99, 1, 0], [0.6, 0.2, 0, 0]]).repeat(3, 1)
    chosen = torch.arange(3).repeat_interleave(4)
    crops = made._crops(chosen, 40, places)
    for index, (down, along, mirror, transpose), crop in zip(chosen.tolist(), places.tolist(), crops, strict=True):
        image = symmetric_pad(store[index], max(40, store[index].shape[1]), max(40, store[index].shape[2]))
        top, left = int(down * (image.shape[1] - 39)), int(along * (image.shape[2] - 39))
        expected = image[:, top : top + 40, left : left + 40].float() / 255
        expected = expected.flip(-1) if mirror < 0.5 else expected
        assert torch.equal(crop, expected.transpose(1, 2) if transpose < 0.5 else expected)


def slope(crop: torch.Tensor) -> float:
    """255ths a pixel along a ramp (H, W) that may be transposed; a ramp that was shrunk is a steeper one."""
    return 255 * max((crop[12, 20] - crop[12, 3]).abs().item(), (crop[20, 12] - crop[3, 12]).abs().item()) / 17


def test_crops_are_shrunk():
    ramp = torch.arange(90, dtype=torch.uint8).expand(3, 60, 90)
    made = maker(scales=(1.0, 0.5), crop_sizes={0: 24})
    crops = [made(sample, ramp)["labels"] for sample in range(12)]
    assert all(crop.shape == (3, 24, 24) for crop in crops)
    assert {round(slope(crop[0]), 2) for crop in crops} == {1.0, 2.0}
    low = [made(sample, ramp[:, :36])["labels"] for sample in range(12)]  # a window of 48 does not fit
    assert {round(slope(crop[0]), 2) for crop in low} == {1.0, 1.5}


def test_copies_on_the_device_are_shrunk_to_no_less_than_a_crop(tmp_path):
    for height in (40, 60):
        ramp = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (height, 1, 3))
        Image.fromarray(ramp).save(tmp_path / f"{height}.png")
    store, device = ImageStore(load_images(str(tmp_path))), torch.device("cpu")
    batches = DeviceBatches(maker(scales=(1.0, 1.0, 0.5), crop_sizes={0: 24}), store, (0.0, 0.1), 40, 0, 1, device)
    assert batches.sizes.tolist() == [[24, 54], [40, 90], [30, 45], [60, 90]]
    thirds = {round(3 * slope(crop[0])) for crop in batches.batch(0)["labels"]}
    assert thirds == {3, 5, 6}  # 1, 90 / 54 and 2


def test_batches_made_on_the_device(image_folder):
    def batches(first: int, process: int = 0) -> list[dict[str, torch.Tensor]]:
        made = DeviceBatches(
            maker(),
            ImageStore(load_images(str(image_folder))),
            (0.0, 0.3),
            4,
            first,
            6,
            torch.device("cpu"),
            process,
            2,
        )
        assert len(made) == 6 - first
        return list(made)

    whole = batches(0)
    for batch, expected in zip(batches(4), whole[4:], strict=True):
        for name, value in batch.items():
            assert torch.equal(value.nan_to_num(-1.0), expected[name].nan_to_num(-1.0)), name
    assert not torch.equal(whole[0]["labels"], batches(0, process=1)[0]["labels"])
    for batch in whole:
        assert batch["labels"].shape == (4, 3, 40, 40) and batch["loss_weights"].shape == (4, 2, 1, 1)
        noise = batch["pixel_values"] - batch["labels"]
        told = batch["noise_level"].isfinite()
        torch.testing.assert_close(noise.std((1, 2, 3))[told], batch["noise_level"][told], rtol=0.06, atol=1e-6)


def test_sixteen_bits_are_not_cut_off_at_white(tmp_path):
    gray = np.linspace(0, 65535, 40 * 40).astype(np.uint16).reshape(40, 40)
    Image.fromarray(gray).save(tmp_path / "scan.png")
    expected = torch.from_numpy(gray.astype(np.int64)).div(257).round()
    assert torch.equal(ImageStore(load_images(str(tmp_path)))[0], expected.to(torch.uint8).expand(3, -1, -1))
    stream = load_images(str(tmp_path), streaming=True)
    (item,) = StreamedSamples(maker(crop_sizes={0: 0}), stream, ("image",), 0, 1, buffer=1)
    torch.testing.assert_close(255 * item["labels"], expected.float().expand(3, -1, -1))


def test_a_stream_of_images_that_cannot_be_decoded_ends(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    stream = load_images(str(tmp_path), streaming=True)
    with (
        pytest.warns(UserWarning, match="cannot be decoded"),
        pytest.raises(ValueError, match="None of the streamed images"),
    ):
        list(StreamedSamples(maker(), stream, ("image",), 0, 4, buffer=3))
