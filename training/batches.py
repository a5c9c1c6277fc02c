"""From the arguments of a run to its batches: which images, how samples are made of them, and where."""

from __future__ import annotations

from collections.abc import Iterable

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from modeling import ViTUNetConfig
from modeling.degradations import Noise
from training.arguments import TrainingArguments
from training.data import (
    ImageStore,
    SampleMaker,
    TrainingSamples,
    collate,
    folder_repeats,
    load_images,
    undecoded,
    validation_images,
)
from training.device_data import DeviceBatches
from training.loss_sampling import FixedLoss, LossSampler
from training.sharpness_cache import with_sharpness_scores
from training.streaming import StreamedSamples

DECODED_AHEAD = 32  # samples: a few batches


class Data:
    """The dataset of a run: its images, those held out for validation, and how samples are made of them."""

    def __init__(self, arguments: TrainingArguments, config: ViTUNetConfig, samples_per_step: int) -> None:
        self.arguments, self.samples_per_step = arguments, samples_per_step
        columns = (arguments.image_column, arguments.noisy_column)
        self.columns = tuple(column for column in columns if column)
        source = arguments.dataset, arguments.dataset_split, *columns, arguments.streaming
        dataset = load_images(*source, arguments.dataset_config)
        self.images = None if arguments.streaming else len(dataset)  # in all
        dataset, held_out = self._split(dataset)
        self.held_out = validation_images(*self._stores(held_out, keep=False)) if held_out else []
        if not arguments.crop_size:
            dataset = with_sharpness_scores(dataset, arguments.image_column, config.sharpness_window_size)
        self.dataset = dataset
        self.repeats = (
            None if arguments.streaming else folder_repeats(dataset, arguments.image_column, arguments.folder_repeats)
        )
        keep = arguments.keep_images and not arguments.data_on_device
        self.stores = None if arguments.streaming else self._stores(dataset, keep)
        self.streamed: StreamedSamples | None = None

        sampler, names = None, tuple(config.conditioned_terms)
        if names and arguments.sample_losses:
            maximum = config.max_high_frequency_emphasis
            probabilities = arguments.corner_probability, arguments.map_probability
            sampler = LossSampler(names, maximum, *probabilities)
        elif names:
            weights = tuple(float(config.loss_weights.get(name, 0.0)) for name in names)
            sampler = FixedLoss(weights, config.high_frequency_emphasis)
        gaussian = [{"model": "gaussian", "noise_level": [arguments.min_noise_level, arguments.max_noise_level]}]
        schedule = {step * samples_per_step: size for step, size in arguments.crop_schedule.items()}
        self.maker = SampleMaker(
            seed=arguments.seed,
            crop_sizes={0: arguments.crop_size, **schedule},
            noise=None if arguments.noisy_column else Noise(arguments.noise or gaussian),
            blind_probability=arguments.blind_probability,
            loss_sampler=sampler,
            scales=arguments.scales,
        )

    def _split(self, dataset):
        """-> the images to train on, and those held out."""
        arguments, size = self.arguments, self.arguments.validation_size
        if not size:
            return dataset, None
        if arguments.streaming:  # the first of the stream, which are then passed over
            rows = list(undecoded(dataset, self.columns).take(size))
            if len(rows) < size:
                raise ValueError(f"{arguments.dataset} holds {len(rows)} images: lower validation_size={size}.")
            return dataset.skip(size), datasets.Dataset.from_list(rows, features=dataset.features)
        if len(dataset) <= size:
            raise ValueError(f"{arguments.dataset} holds {len(dataset)} images: lower validation_size={size}.")
        parts = dataset.train_test_split(size, seed=arguments.seed)
        return parts["train"], parts["test"]

    def _stores(self, dataset, keep: bool) -> list[ImageStore]:
        return [ImageStore(dataset, column, keep) for column in self.columns]

    @property
    def unreadable(self) -> int:
        """Images that could not be decoded so far."""
        if self.stores:
            return int(torch.stack([store.unreadable for store in self.stores]).any(0).sum())
        return self.streamed.unreadable if self.streamed else 0

    def batches(self, accelerator: Accelerator, step: int) -> Iterable[dict[str, Tensor]]:
        """The batches of this process from a step to the end of the run, on its device."""
        arguments = self.arguments
        first, length = step * self.samples_per_step, arguments.max_steps * self.samples_per_step
        rank = accelerator.process_index, accelerator.num_processes
        if arguments.data_on_device:
            levels = arguments.min_noise_level / 255, arguments.max_noise_level / 255
            numbers = [number * arguments.gradient_accumulation_steps for number in (step, arguments.max_steps)]
            return DeviceBatches(
                self.maker,
                self.stores[0],
                levels,
                arguments.batch_size,
                *numbers,
                accelerator.device,
                *rank,
                self.repeats,
            )
        common = {"batch_size": arguments.batch_size, "collate_fn": collate}
        common["generator"] = torch.Generator()  # of its own: the global one belongs to dropout, and is restored
        if arguments.streaming:
            share = arguments.shuffle_buffer, arguments.batch_size, *rank
            self.streamed = StreamedSamples(self.maker, self.dataset, self.columns, first, length, *share)
            return (send_to_device(batch, accelerator.device) for batch in DataLoader(self.streamed, **common))
        # Where images are not kept, those that wait would take the memory that is to be spared.
        alone = accelerator.num_processes == 1 and not arguments.num_workers and arguments.keep_images
        noisy = self.stores[1] if arguments.noisy_column else None
        ahead = DECODED_AHEAD if alone else 0
        samples = TrainingSamples(self.maker, self.stores[0], length, noisy, ahead, self.repeats)
        loader = DataLoader(
            samples,
            sampler=range(first, length),
            num_workers=arguments.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            **common,
        )
        return accelerator.prepare_data_loader(loader)
