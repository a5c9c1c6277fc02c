"""A `datasets` dataset -> training samples and validation images.

Training sample n is a pure function of (seed, n): which image, which crop, which noise, which loss. So a run that is
resumed goes on with exactly the samples that it would have seen, with any number of workers.
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from modeling.degradations import Noise, seeded_generator
from modeling.image_files import UNREADABLE, to_uint8
from modeling.vit_features import symmetric_pad
from training.loss_sampling import FixedLoss, LossSampler
from training.sharpness_cache import COLUMN

VALIDATION_CROP = 256  # pixels


def load_images(
    name_or_path: str,
    split: str = "train",
    image_column: str = "image",
    noisy_column: str | None = None,
    streaming: bool = False,
    config: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Images by name of their column, clean ones and perhaps noisy ones: what `datasets` can read.

    `name_or_path` is a Hub dataset, a folder of images (searched recursively; with a `metadata.jsonl`, pairs:
    `noisy_file_name` and `clean_file_name` give the columns `noisy` and `clean`), a Parquet file, or a folder of them,
    which may be named after their splits, as on the Hub. `config` names a configuration of a Hub dataset.
    """
    path = Path(name_or_path)
    if config and path.exists():
        raise ValueError(f"{name_or_path} lies on this machine and has no configuration {config!r}: leave it out.")
    if path.is_dir() and not any(file.name != "metadata.parquet" for file in path.rglob("*.parquet")):
        # Named as one split, because `data_dir` would sort files into splits by words such as "test" in their names.
        source = ("imagefolder", {"data_files": {split: [f"{glob.escape(name_or_path)}/**"]}, "drop_labels": True})
    elif path.is_dir():
        source = ("parquet", {"data_files": {split: _parquet_files(path, split)}})
    elif path.suffix == ".parquet":
        source = ("parquet", {"data_files": {split: [name_or_path]}})
    elif path.is_absolute() or path.exists():
        raise ValueError(f"{name_or_path} is no folder and no Parquet file: name one, or a dataset on the Hub.")
    else:
        source = (name_or_path, {"name": config})
    try:
        dataset = datasets.load_dataset(source[0], split=split, streaming=streaming, **source[1])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # each source says it in its own way
        raise ValueError(f"{name_or_path} holds no images, or cannot be reached: {error}") from error
    columns = [image_column, *([noisy_column] if noisy_column else [])]
    known = dataset.column_names or list(next(iter(dataset), {}))
    for column in columns:
        if column not in known:
            raise ValueError(f"{name_or_path} has no column {column!r}: name one of {known}.")
    if not streaming and not len(dataset):
        raise ValueError(f"{name_or_path} holds no images.")
    dataset = dataset.select_columns(columns)
    if dataset.features is None:  # of a stream whose features nobody has stated
        return dataset.cast(datasets.Features({column: datasets.Image() for column in columns}))
    for column in columns:
        dataset = dataset.cast_column(column, datasets.Image())
    return dataset


def _parquet_files(folder: Path, split: str) -> list[str]:
    """Those of a split where files or folders are named after splits, as on the Hub; all of them where none is."""
    found: dict[str | None, list[str]] = {}
    for file in sorted(folder.rglob("*.parquet")):  # `metadata.parquet` may lie beside images
        parts = (re.match(r"(train|test|validation)([-._]|$)", part) for part in file.relative_to(folder).parts)
        found.setdefault(next((part[1] for part in parts if part), None), []).append(glob.escape(str(file)))
    if set(found) != {None} and split not in found:
        splits = sorted(name for name in found if name)
        raise ValueError(f"{folder} holds the splits {splits}, and no {split!r}: name one of them.")
    return found[split if split in found else None]


def undecoded(dataset, columns: Sequence[str]):
    """A dataset, streamed or not, whose images are their files' bytes and paths: broken ones are met one by one."""
    for column in columns:
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


class ImageStore(Dataset):
    """The images of a dataset as (3, H, W) uint8, each decoded once and kept (`keep=True`) or decoded each time.

    A file that cannot be decoded is marked in `unreadable`, warned of once, and gives `None`.
    """

    def __init__(self, dataset: datasets.Dataset, image_column: str = "image", keep: bool = True) -> None:
        self.dataset, self.image_column = dataset, image_column
        self.kept: list[Tensor | None] | None = [None] * len(dataset) if keep else None
        # In shared memory, so that the main process sees what its workers found.
        self.unreadable = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        self.decoder: ThreadPoolExecutor | None = None
        self.coming: dict[int, Future[Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor | None:
        begun = self.coming.pop(index, None)
        if begun:
            return begun.result()
        if self._is_known(index):
            return None if self.unreadable[index] else self.kept[index]
        return self._decoded(index)

    def decode_ahead(self, index: int) -> None:
        """Begins to decode an image that will be asked for soon, beside the training step."""
        if index not in self.coming and not self._is_known(index):
            self.decoder = self.decoder or ThreadPoolExecutor(1, thread_name_prefix="decoder")
            self.coming[index] = self.decoder.submit(self._decoded, index)

    def _is_known(self, index: int) -> bool:
        return bool(self.unreadable[index]) or (self.kept is not None and self.kept[index] is not None)

    def _decoded(self, index: int) -> Tensor | None:
        try:
            image = to_uint8(self.dataset[self.image_column][index])  # and no other column's
        except UNREADABLE as error:
            self.unreadable[index] = True
            warnings.warn(f"image {index} cannot be decoded and is skipped: {error}", stacklevel=2)
            return None
        if self.kept is not None:
            self.kept[index] = image
        return image


def first_readable(
    index: int, images: ImageStore, noisy: ImageStore | None = None
) -> tuple[int, Tensor, Tensor | None]:
    """The image of this index, or the next one that can be decoded; with its noisy version if there is one."""
    for offset in range(len(images)):
        found = (index + offset) % len(images)
        clean, pair = images[found], noisy[found] if noisy else None
        if clean is None or (noisy and pair is None):
            continue
        if noisy:
            check_pair(f"Pair {found}", clean, pair)
        return found, clean, pair
    raise ValueError(f"None of the {len(images)} images can be decoded.")


def check_pair(name: str, clean: Tensor, noisy: Tensor) -> None:
    """Raises `ValueError` where the two are not of one size."""
    if noisy.shape != clean.shape:
        raise ValueError(f"{name}: clean {tuple(clean.shape)} and noisy {tuple(noisy.shape)} differ in size.")


def shrunk(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, H, W) in [0, 1] at a smaller size: bicubic, without aliasing."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp_(0, 1)


@dataclass
class SampleMaker:
    """Clean image and number -> training sample: a crop, mirrored and transposed at random, noise, a loss.

    Args:
        seed: of the run.
        crop_sizes: first sample -> side in pixels from there on; smaller images are extended by reflection. 0 takes
            whole images, not mirrored, so that their cached sharpness scores hold.
        noise: what is added; `None` where the dataset brings noisy images.
        scales: an image is shrunk by one of these factors, drawn anew each time. Shrunk photographs are sharper, and
            hold less noise and fewer traces of JPEG.
        blind_probability: of withholding the noise level from the network (as NaN).
        loss_sampler: draws the loss; `None` for a network that is told nothing of it.
    """

    seed: int
    crop_sizes: Mapping[int, int]
    noise: Noise | None
    blind_probability: float
    loss_sampler: LossSampler | FixedLoss | None = None
    scales: Sequence[float] = (1.0,)
    _starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._starts = sorted(self.crop_sizes)

    def crop_size(self, sample: int) -> int:
        return self.crop_sizes[max(start for start in self._starts if start <= sample)]

    def __call__(self, sample: int, clean: Tensor, noisy: Tensor | None = None) -> dict[str, Tensor]:
        """(3, H, W) uint8 -> `labels` and `pixel_values` (3, h, w) in [0, 1], `noise_level` (), and the controls."""
        generator = seeded_generator(self.seed, 1, sample)
        images = clean if noisy is None else torch.cat([clean, noisy])
        crop = self._crop(images, self.crop_size(sample), generator)
        blind = torch.rand((), generator=generator) < self.blind_probability
        if noisy is None:
            pixel_values, level = self.noise(crop, generator)
        else:
            crop, pixel_values = crop.chunk(2)
            level = float("nan")
        item = {
            "labels": crop.contiguous(),
            "pixel_values": pixel_values.contiguous(),
            "noise_level": torch.tensor(float("nan") if blind else level),
        }
        if self.loss_sampler is not None:
            weights, emphasis = self.loss_sampler(1, generator)
            item["loss_weights"], item["high_frequency_emphasis"] = weights[0], emphasis[0]
        return item

    def _crop(self, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        if not size:
            return image.float().div_(255)
        image = symmetric_pad(image, max(size, image.shape[-2]), max(size, image.shape[-1]))
        several = len(self.scales) > 1
        scale = self.scales[int(torch.randint(0, len(self.scales), (), generator=generator)) if several else 0]
        window = min(round(size / scale), *image.shape[-2:])
        top, left = (int(torch.randint(0, side - window + 1, (), generator=generator)) for side in image.shape[-2:])
        mirror, transpose = torch.randint(0, 2, (2,), generator=generator).tolist()
        crop = shrunk(image[:, top : top + window, left : left + window].float().div_(255), (size, size))
        crop = crop.flip(-1) if mirror else crop
        return crop.transpose(-1, -2) if transpose else crop


class ImageOrder:
    """The image of sample n: each epoch visits every image, once or `repeats[image]` times, in an order of its own."""

    def __init__(self, seed: int, images: int, repeats: Sequence[int] | None = None) -> None:
        self.seed = seed
        self.visits = torch.arange(images).repeat_interleave(torch.tensor(repeats or [1] * images))
        self.epoch, self.order = -1, []

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.visits)

    def __getitem__(self, sample: int) -> int:
        epoch, position = divmod(sample, len(self.visits))
        if epoch != self.epoch:
            generator = seeded_generator(self.seed, 0, epoch)
            self.order = self.visits[torch.randperm(len(self.visits), generator=generator)].tolist()
            self.epoch = epoch
        return self.order[position]


def folder_repeats(dataset: datasets.Dataset, image_column: str, repeats: Mapping[str, int]) -> list[int]:
    """How often an epoch visits each image of a dataset: as `repeats` says of one of its file's folders, else once.

    Folders in which all files lie are no folders of the dataset, and their names do not count.
    """
    if not repeats:
        return [1] * len(dataset)
    files = dataset.cast_column(image_column, datasets.Image(decode=False))[image_column]
    parents = [Path((file or {}).get("path") or "").parent for file in files]
    common = os.path.commonpath(parents) if all(path.is_absolute() for path in parents) else ""
    folders = [set(path.relative_to(common).parts) for path in parents]
    unknown = [name for name in repeats if not any(name in parts for parts in folders)]
    if unknown:
        raise ValueError(f"folder_repeats names {unknown}: no image of the dataset lies in such a folder.")
    return [max([1, *(count for name, count in repeats.items() if name in parts)]) for parts in folders]


class TrainingSamples(Dataset):
    """The samples of a whole run. `noisy` holds the images' own noisy versions, where there are such.

    The images of the next `ahead` samples are decoded in a thread: for a run whose one process asks for every sample.
    """

    def __init__(
        self,
        maker: SampleMaker,
        images: ImageStore,
        length: int,
        noisy: ImageStore | None = None,
        ahead: int = 0,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self.maker, self.images, self.noisy, self.length, self.ahead = maker, images, noisy, length, ahead
        self.order = ImageOrder(maker.seed, len(images), repeats)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        index = self.order[sample]
        self._decode_ahead(sample)
        index, clean, noisy = first_readable(index, self.images, self.noisy)
        item = self.maker(sample, clean, noisy)
        if not self.maker.crop_size(sample) and COLUMN in self.images.dataset.column_names:
            item["target_sharpness_scores"] = torch.tensor(self.images.dataset[COLUMN][index])
        return item

    def _decode_ahead(self, sample: int) -> None:
        """Of this sample's own epoch: the next one's order is another."""
        left = min(len(self.order) - sample % len(self.order), self.length - sample)
        for coming in range(sample + 1, sample + min(self.ahead + 1, left)):
            index = self.order[coming]
            for store in (self.images, self.noisy):
                if store is not None:
                    store.decode_ahead(index)


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks the samples; where one of them has maps of controls, all get maps."""
    sizes = {tuple(item["labels"].shape[-2:]) for item in items}
    if len(sizes) > 1:
        raise ValueError(
            f"Whole images of {sorted(sizes)} pixels do not fit in one batch: set batch_size 1 or crop_size."
        )
    batch = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if values[0].ndim == 3:  # an image, or a control with or without extent
            height, width = (max(value.shape[dim] for value in values) for dim in (-2, -1))
            values = [value.expand(-1, height, width) for value in values]
        batch[name] = torch.stack(values)
    return batch


def validation_images(images: ImageStore, noisy: ImageStore | None = None) -> list[tuple[Tensor, Tensor | None]]:
    """Centre crops (3, h, w) in [0, 1] of at most 256 pixels a side, and those of their noisy versions, if any."""

    def centre(image: Tensor) -> Tensor:
        top, left = (max(0, (side - VALIDATION_CROP) // 2) for side in image.shape[-2:])
        return image[:, top : top + VALIDATION_CROP, left : left + VALIDATION_CROP].float() / 255

    found = (first_readable(index, images, noisy)[1:] for index in range(len(images)))
    return [(centre(clean), None if pair is None else centre(pair)) for clean, pair in found]
