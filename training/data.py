"""A `datasets` dataset -> training samples and validation images.

Training sample n is a pure function of (seed, n): which image, which crop, which noise, which loss. So a run that is
resumed goes on with exactly the samples that it would have seen, with any number of workers.
"""

from __future__ import annotations

import glob
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modeling.degradations import gaussian_noise, seeded_generator
from modeling.vit_features import reflect_pad
from training.loss_sampling import LossSampler
from training.sharpness_cache import COLUMN

VALIDATION_CROP = 256  # pixels


def load_images(name_or_path: str, split: str = "train", image_column: str = "image") -> datasets.Dataset:
    """A Hub dataset or a folder of images (searched recursively) with an image column of the name given."""
    if Path(name_or_path).is_dir():
        # Named as one split, because `data_dir` would sort files into splits by words such as "test" in their names.
        files = {split: [f"{glob.escape(name_or_path)}/**"]}
        dataset = datasets.load_dataset("imagefolder", data_files=files, split=split, drop_labels=True)
    else:
        dataset = datasets.load_dataset(name_or_path, split=split)
    if image_column not in dataset.column_names:
        raise ValueError(f"{name_or_path} has no column {image_column!r}: name one of {dataset.column_names}.")
    if not len(dataset):
        raise ValueError(f"{name_or_path} holds no images.")
    return dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(mode="RGB"))


def to_uint8(image) -> Tensor:
    """A PIL image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class ImageStore(Dataset):
    """The images of a dataset as (3, H, W) uint8, each decoded once and kept (`keep=True`) or decoded each time."""

    def __init__(self, dataset: datasets.Dataset, image_column: str = "image", keep: bool = True) -> None:
        self.dataset, self.image_column = dataset, image_column
        self.kept: list[Tensor | None] | None = [None] * len(dataset) if keep else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        if self.kept is not None and self.kept[index] is not None:
            return self.kept[index]
        image = to_uint8(self.dataset[index][self.image_column])
        if self.kept is not None:
            self.kept[index] = image
        return image


class TrainingSamples(Dataset):
    """Sample n of a run: a random crop, mirrored and transposed at random, noise of a random level, a loss setting.

    Args:
        images: the clean images.
        seed: of the run.
        crop_size: side in pixels; smaller images are extended by reflection. 0 takes whole images, not mirrored, so
            that the cached sharpness scores of `images` hold.
        min_noise_level, max_noise_level: levels are uniform between them, in units of the [0, 1] range.
        blind_probability: of withholding the noise level from the network (as NaN).
        loss_sampler: draws the loss; `None` for a network with a fixed one.
        length: number of samples in the run.
    """

    def __init__(
        self,
        images: ImageStore,
        seed: int,
        crop_size: int,
        min_noise_level: float,
        max_noise_level: float,
        blind_probability: float,
        loss_sampler: LossSampler | None,
        length: int,
    ) -> None:
        self.images, self.seed, self.crop_size, self.length = images, seed, crop_size, length
        self.min_noise_level, self.max_noise_level = min_noise_level, max_noise_level
        self.blind_probability, self.loss_sampler = blind_probability, loss_sampler
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.length

    def _image_index(self, sample: int) -> int:
        epoch, position = divmod(sample, len(self.images))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self.images), generator=seeded_generator(self.seed, 0, epoch))
        return int(self._order[position])

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        generator = seeded_generator(self.seed, 1, sample)
        index = self._image_index(sample)
        clean = self._crop(self.images[index], generator)
        level, blind = torch.rand(2, generator=generator).tolist()
        level = self.min_noise_level + level * (self.max_noise_level - self.min_noise_level)
        item = {
            "labels": clean,
            "pixel_values": gaussian_noise(clean, level, generator),
            "noise_level": torch.tensor(float("nan") if blind < self.blind_probability else level),
        }
        if not self.crop_size and COLUMN in self.images.dataset.column_names:
            item["target_sharpness_scores"] = torch.tensor(self.images.dataset[COLUMN][index])
        if self.loss_sampler is not None:
            item["loss_weights"], item["high_frequency_emphasis"] = self.loss_sampler(generator)
        return item

    def _crop(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not self.crop_size:
            return image.float().div_(255)
        size = self.crop_size
        image = reflect_pad(image, max(size, image.shape[-2]), max(size, image.shape[-1]))
        top, left = (int(torch.randint(0, side - size + 1, (), generator=generator)) for side in image.shape[-2:])
        mirror, transpose = torch.randint(0, 2, (2,), generator=generator).tolist()
        crop = image[:, top : top + size, left : left + size].float().div_(255)
        crop = crop.flip(-1) if mirror else crop
        return (crop.transpose(-1, -2) if transpose else crop).contiguous()


def validation_images(images: ImageStore) -> list[Tensor]:
    """Centre crops (3, h, w) in [0, 1] of at most 256 pixels a side."""
    crops = []
    for index in range(len(images)):
        image = images[index]
        top, left = (max(0, (side - VALIDATION_CROP) // 2) for side in image.shape[-2:])
        crops.append(image[:, top : top + VALIDATION_CROP, left : left + VALIDATION_CROP].float() / 255)
    return crops
