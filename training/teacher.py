"""Self-distillation: the pixel term's target is what a trained network makes of the image, turned and mirrored.

What a network makes of eight turned and mirrored copies of an image differs by chance alone, and their mean is better
than each (see `modeling/self_ensemble.py`). A network can learn that mean: it is pulled towards another one of the
eight each time (distillation: Hinton et al. 2015). The clean image pulls there too, but for the most part towards what
the noise has destroyed, which cannot be known. A share of it keeps the mean from being learned by blurring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.self_ensemble import SYMMETRIES, turn, turn_back


class Teacher:
    """Targets for the images of a batch whose whole weight is on the pixel term.

    Args:
        model: the trained network, on the device of the batches. It stays as it is.
        share: of its restorations in the targets; the rest is the clean images.
    """

    def __init__(self, model: ViTUNetForImageDenoising, share: float) -> None:
        self.model, self.share = model.eval().requires_grad_(False), share

    def check_learner(self, config: ViTUNetConfig) -> None:
        """Raises `ValueError` where a network of this config could not learn from it."""
        own = self.model.config
        if config.num_channels != own.num_channels:
            raise ValueError(
                f"The teacher restores {own.num_channels} channels, and the network to train {config.num_channels}: "
                "take a teacher of the same."
            )
        if not own.steerable_terms and not _pixel_alone(own):
            raise ValueError(
                f"A teacher teaches the pixel term alone, and this one was trained for {dict(own.loss_weights)}: take "
                "another one."
            )
        if not config.steerable_terms and not _pixel_alone(config):
            raise ValueError(
                f"A teacher teaches the pixel term alone, and this run's loss is {dict(config.loss_weights)}: leave "
                'out teacher, or set loss_weights to {"pixel": 1}.'
            )

    @torch.no_grad()
    def labels(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, C, S, S): the batch's clean images where another term weighs, else mixed with the restorations.

        The place in the batch says which symmetry an image is shown in, so that no step depends on a value or on
        chance: all eight come equally often where the size of the batch is a multiple of eight.
        """
        symmetries = [place % SYMMETRIES for place in range(len(batch["labels"]))]
        shown = zip(batch["pixel_values"], symmetries, strict=True)
        turned = torch.stack([turn(image, symmetry) for image, symmetry in shown])
        config, known = self.model.config, {}
        if config.noise_conditioned:
            known["noise_level"] = batch["noise_level"]
        if config.conditioned_terms:  # tensors beside the batch's own, which a CUDA graph can take
            ones = torch.ones_like(batch["noise_level"])
            known |= {"loss_weights": {"pixel": ones}, "high_frequency_emphasis": torch.zeros_like(ones)}
        turned = turned.contiguous(memory_format=torch.channels_last)
        restored = self.model(turned, **known).reconstruction.float()
        answers = zip(restored, symmetries, strict=True)
        taught = torch.stack([turn_back(image, symmetry) for image, symmetry in answers])
        taught = batch["labels"].lerp(taught, self.share)
        if "loss_weights" not in batch:
            return taught
        others = batch["loss_weights"][:, 1:].to(taught.device, non_blocking=True)
        return torch.where((others == 0).flatten(1).all(1)[:, None, None, None], taught, batch["labels"])


def _pixel_alone(config: ViTUNetConfig) -> bool:
    return not any(weight for name, weight in config.loss_weights.items() if name != "pixel")
