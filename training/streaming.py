"""Samples of a streamed dataset: images as they come, shuffled among the newest few.

Their order is a function of the run's seed: a resumed run passes over the images that it has seen, without decoding
them, and goes on exactly, unless some of them could not be decoded.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import datasets
from torch import Tensor
from torch.utils.data import IterableDataset

from modeling.image_files import UNREADABLE, to_uint8
from training.data import SampleMaker, check_pair, undecoded


class StreamedSamples(IterableDataset):
    """The samples from `first` to `length` of a run that fall to one of its processes.

    Args:
        dataset: streamed, with the image columns alone.
        columns: that of the clean images, and that of the noisy ones if there are such.
        buffer: images held back and drawn from at random.
        batch_size: processes take turns after so many samples.
    """

    def __init__(
        self,
        maker: SampleMaker,
        dataset: datasets.IterableDataset,
        columns: tuple[str, ...],
        first: int,
        length: int,
        buffer: int,
        batch_size: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.maker, self.columns, self.first, self.length, self.buffer = maker, columns, first, length, buffer
        self.batch_size, self.process, self.processes = batch_size, process, processes
        self.unreadable = 0  # images of this process that could not be decoded, each as often as it was met
        self.dataset = undecoded(dataset, columns)  # so that passing over an image costs no decoding

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        made, last_epoch = 0, None  # samples of this process, and the epoch in which an image was read
        for number, (epoch, row) in enumerate(itertools.islice(self._rows(), self.first, None)):
            turn, place = divmod(made, self.batch_size)
            sample = self.first + (turn * self.processes + self.process) * self.batch_size + place
            if sample >= self.length:
                return
            last_epoch = epoch if last_epoch is None else last_epoch
            # By the row's number, and not by the sample's: a broken image is passed over by its own process alone.
            if number // self.batch_size % self.processes != self.process:
                continue
            images = self._decoded(row)
            if images is None:
                self.unreadable += 1
                if epoch > last_epoch + 1:
                    raise ValueError("None of the streamed images can be decoded.")
                continue
            last_epoch = epoch
            made += 1
            yield self.maker(sample, *images)

    def _rows(self) -> Iterator[tuple[int, dict]]:
        """Epoch and row."""
        for epoch in itertools.count():
            shuffled = self.dataset.shuffle(seed=self.maker.seed + epoch, buffer_size=self.buffer)
            empty = True
            for row in shuffled:
                empty = False
                yield epoch, row
            if empty:
                raise ValueError("The streamed dataset holds no images.")

    def _decoded(self, row: dict) -> list[Tensor] | None:
        images = []
        for column in self.columns:
            source = row[column]
            try:
                images.append(to_uint8(datasets.Image().decode_example(source)))  # which reaches files on the Hub
            except UNREADABLE as error:
                name = (source or {}).get("path") or "an image"
                warnings.warn(f"{name} cannot be decoded and is skipped: {error}", stacklevel=2)
                return None
        if len(images) > 1:
            check_pair("A streamed pair", *images)
        return images
