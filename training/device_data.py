"""Training batches made on the accelerator: the images live in its memory, crops and noise are made there.

Where a step takes milliseconds, no loader keeps up. Batch k of a run is a pure function of (seed, k, process), so a
resumed run goes on exactly.

Letters in shapes: B images, N images in all at all scales, S the crop's side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from modeling.degradations import seeded_generator
from modeling.vit_features import symmetric_pad
from training.data import ImageOrder, ImageStore, SampleMaker, first_readable, shrunk


class DeviceBatches:
    """Batches of one process, from number `first` to `last` - 1, with white Gaussian noise.

    Args:
        maker: seed, crop sizes by sample, scales, and the distribution of losses.
        images: all of them are decoded and kept on the device at each of the scales, 3 bytes a pixel. Those that are
            smaller than the largest crop of the run are extended by reflection, and none is shrunk to less than it.
        noise_levels: lowest and highest, in units of the [0, 1] range; each image draws its own, uniformly.
        process, processes: which of how many this one is.
        repeats: how often an epoch visits each image; default: once.
    """

    def __init__(
        self,
        maker: SampleMaker,
        images: ImageStore,
        noise_levels: tuple[float, float],
        batch_size: int,
        first: int,
        last: int,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self.maker, self.noise_levels, self.batch_size = maker, noise_levels, batch_size
        self.first, self.last, self.device, self.process, self.processes = first, last, device, process, processes
        self.order = ImageOrder(maker.seed, len(images), repeats)
        self.scales = sorted(set(maker.scales))
        self.drawn = torch.tensor([self.scales.index(scale) for scale in maker.scales])  # as often as the maker says
        largest = max(maker.crop_sizes.values())
        rows, sizes = [], []
        for index in range(len(images)):
            image = first_readable(index, images)[1]
            image = symmetric_pad(image, max(largest, image.shape[-2]), max(largest, image.shape[-1]))
            for scale in self.scales:
                copy = _at_scale(image, max(scale, largest / min(image.shape[-2:])))
                rows.append(copy.flatten())
                sizes.append(copy.shape[-2:])
        self.pixels = torch.cat(rows).to(device)  # in one row, so that a batch is a single gather
        self.sizes = torch.tensor(sizes)  # (N, 2)
        lengths = 3 * self.sizes.prod(1)
        self.starts = lengths.cumsum(0) - lengths  # (N,)
        self.cells, self.channels = torch.arange(largest, device=device), torch.arange(3, device=device).view(3, 1, 1)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number in range(self.first, self.last):
            yield self.batch(number)

    def batch(self, number: int) -> dict[str, Tensor]:
        """`labels` and `pixel_values` (B, 3, S, S) in [0, 1] on the device, `noise_level` (B,), and the controls."""
        maker, count, device = self.maker, self.batch_size, self.device
        sample = (number * self.processes + self.process) * count
        generator = seeded_generator(maker.seed, 2, number, self.process)
        chosen = torch.tensor([self.order[sample + offset] for offset in range(count)]) * len(self.scales)
        if len(self.drawn) > 1:
            chosen += self.drawn[torch.randint(0, len(self.drawn), (count,), generator=generator)]
        labels = self._crops(chosen, maker.crop_size(sample), torch.rand(count, 4, generator=generator))

        low, high = self.noise_levels
        level = low + (high - low) * torch.rand(count, generator=generator)
        blind = torch.rand(count, generator=generator) < maker.blind_probability
        on_device = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(labels.shape, generator=on_device, device=device)
        batch = {
            "labels": labels,
            "pixel_values": torch.addcmul(labels, noise, level.to(device, non_blocking=True).view(-1, 1, 1, 1)),
            # These stay behind: the network checks them, and would have to wait for the device.
            "noise_level": torch.where(blind, float("nan"), level),
        }
        if maker.loss_sampler is not None:
            batch["loss_weights"], batch["high_frequency_emphasis"] = maker.loss_sampler(count, generator)
        return batch

    def _crops(self, chosen: Tensor, size: int, places: Tensor) -> Tensor:
        """Copies (B,) and four numbers in [0, 1) for each, where and how it is cut -> (B, 3, S, S) in [0, 1]."""
        sizes = self.sizes[chosen]
        height, width = sizes.unbind(1)
        top, left = (places[:, :2] * (sizes - size + 1)).long().unbind(1)
        mirror, transpose = (places[:, 2:] < 0.5).unbind(1)
        # Where a crop begins in the row of all pixels, and how far it is to the next channel, row and column of it.
        begin = self.starts[chosen] + top * width + left + torch.where(mirror, size - 1, 0)
        column = torch.where(mirror, -1, 1)
        strides = torch.where(transpose, column, width), torch.where(transpose, width, column)
        numbers = torch.stack([begin, height * width, *strides], dim=1).to(self.device, non_blocking=True)
        begin, channel, row, column = numbers[..., None, None, None].unbind(1)  # (B, 1, 1, 1)
        rows, columns = self.cells[:size, None], self.cells[:size]
        return self.pixels.take(begin + channel * self.channels + row * rows + column * columns).float() / 255


def _at_scale(image: Tensor, scale: float) -> Tensor:
    """(3, H, W) uint8, shrunk."""
    height, width = image.shape[-2:]
    return (shrunk(image / 255, (round(scale * height), round(scale * width))) * 255).round().to(torch.uint8)
