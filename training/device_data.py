"""Training batches made on the accelerator: the images live in its memory, crops and noise are made there.

Where a step takes milliseconds, no loader keeps up. Batch k of a run is a pure function of (seed, k, process), so a
resumed run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modeling.degradations import seeded_generator
from modeling.vit_features import reflect_pad
from training.data import ImageStore, SampleMaker, first_readable, image_index


class DeviceBatches:
    """Batches of one process, from number `first` to `last` - 1, with white Gaussian noise.

    Args:
        maker: seed, crop sizes by sample, and the distribution of losses.
        noise_levels: lowest and highest, in units of the [0, 1] range; each image draws its own, uniformly.
        samples_per_batch: of all processes together; numbers the samples.
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
    ) -> None:
        self.maker, self.noise_levels, self.batch_size = maker, noise_levels, batch_size
        self.first, self.last, self.device, self.process, self.processes = first, last, device, process, processes
        self.images = [first_readable(index, images)[1].to(device) for index in range(len(images))]

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number in range(self.first, self.last):
            yield self.batch(number)

    def batch(self, number: int) -> dict[str, Tensor]:
        """`labels` and `pixel_values` (B, 3, h, w) in [0, 1] on the device, `noise_level` (B,), and the controls."""
        maker, count, device = self.maker, self.batch_size, self.device
        sample = (number * self.processes + self.process) * count
        generator = seeded_generator(maker.seed, 2, number, self.process)
        size = maker.crop_size(sample)
        places = torch.rand(count, 4, generator=generator).tolist()
        crops = []
        for offset, place in enumerate(places):
            image = self.images[image_index(sample + offset, len(self.images), maker.seed)]
            image = reflect_pad(image, max(size, image.shape[-2]), max(size, image.shape[-1]))
            top, left = (int(share * (side - size + 1)) for share, side in zip(place, image.shape[-2:], strict=False))
            crop = image[:, top : top + size, left : left + size]
            crop = crop.flip(-1) if place[2] < 0.5 else crop
            crops.append(crop.transpose(-1, -2) if place[3] < 0.5 else crop)
        labels = torch.stack(crops).float() / 255

        low, high = self.noise_levels
        level = low + (high - low) * torch.rand(count, generator=generator)
        blind = torch.rand(count, generator=generator) < maker.blind_probability
        on_device = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(labels.shape, generator=on_device, device=device)
        batch = {
            "labels": labels,
            "pixel_values": torch.addcmul(labels, noise, level.to(device).view(-1, 1, 1, 1)),
            # These stay behind: the network checks them, and would have to wait for the device.
            "noise_level": torch.where(blind, float("nan"), level),
        }
        if maker.loss_sampler is not None:
            batch["loss_weights"], batch["high_frequency_emphasis"] = maker.loss_sampler(count, generator)
        return batch
