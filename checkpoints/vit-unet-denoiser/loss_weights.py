"""Weights of the losses as people give them -> what the loss of each image, and the network, take.

Letters in shapes: B images, K loss terms, h x w a map of controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import LOSS_TERMS
from .spectra import kept_beside

# Mean of the emphasis map's d over the spectrum of a large square image: (sqrt(2) + asinh(1)) / (3 sqrt(2)).
MEAN_DISTANCE = (math.sqrt(2) + math.asinh(1)) / (3 * math.sqrt(2))


def stack_loss_weights(loss_weights: Mapping[str, float | Tensor], names: tuple[str, ...], batch_size: int) -> Tensor:
    """Weights by name -> (B, K, h, w) in the order of `names`, summing to 1 over K. Absent terms weigh 0.

    A value is a number, a tensor (B,) or a map (B, 1, h, w) of any size; without maps h = w = 1. What lies on the CPU
    stays there: asking a busy accelerator for an answer would make every step wait for the one before.
    """
    unknown = sorted(set(loss_weights) - set(names))
    if unknown:
        raise ValueError(f"Unknown loss terms {unknown}: this network knows {list(names)}.")
    tensors = [value for value in loss_weights.values() if isinstance(value, Tensor)]
    home = next((value.device for value in tensors if value.device.type != "cpu"), torch.device("cpu"))
    columns = []
    for name in names:
        value = loss_weights.get(name, 0.0)
        if isinstance(value, int | float):
            value = torch.full((), value, dtype=torch.float32, device=home)
        value = torch.as_tensor(value, dtype=torch.float32).to(home)
        columns.append(per_image_map(value, batch_size, f"loss weight {name!r}"))
    stacked = torch.cat(on_one_grid(*columns), dim=1)
    total = stacked.sum(1, keepdim=True)
    if not holds(torch.isfinite(stacked) & (stacked >= 0)):
        raise ValueError(f"Loss weights must be finite and not negative, got {_described(loss_weights)}.")
    if not holds(total > 0):
        raise ValueError(f"Loss weights sum to 0: give at least one of {list(names)} a positive weight.")
    return stacked / total


def balanced_weights(weights: Tensor, high_frequency_emphasis: Tensor, names: tuple[str, ...], config) -> Tensor:
    """What each logarithm of the "log" balance weighs: (B, K, h, w) and emphasis (B, 1, h, w) -> (B, K, h, w), sum 1.

    A weight over the term's strength in `config.loss_strengths`; and times the mean of 1 + g d for an emphasised term:
    a logarithm takes that mean out again, so without it an emphasis on high frequencies would be paid for by the low
    ones. The pixel term gets `config.fidelity_share` of the others' weights beside its own.
    """

    emphasised = _column(weights, *(MEAN_DISTANCE * LOSS_TERMS[name].emphasised for name in names))
    strengths = _column(weights, *(config.loss_strengths.get(name, 1.0) for name in names))
    weights = weights + _column(weights, *(config.fidelity_share * (name == "pixel") for name in names)) * (1 - weights)
    balanced = weights / strengths * (1 + high_frequency_emphasis * emphasised)
    return balanced / balanced.sum(1, keepdim=True)


@kept_beside
def _column(*values: float) -> Tensor:
    """(K, 1, 1)"""
    return torch.tensor(values)[:, None, None]


def holds(condition: Tensor) -> bool:
    """Whether a condition holds everywhere. While a graph is recorded or compiled there are no values to ask for."""
    if torch.compiler.is_compiling() or (condition.is_cuda and torch.cuda.is_current_stream_capturing()):
        return True
    return bool(condition.all())


def on_one_grid(*controls: Tensor) -> list[Tensor]:
    """Maps (B, K, h, w), the coarser ones brought to the finest of their grids."""
    grid = torch.Size(max(control.shape[dim] for control in controls) for dim in (-2, -1))

    def on_grid(control: Tensor) -> Tensor:
        if control.shape[-2:] in {(1, 1), grid}:
            return control.expand(-1, -1, *grid)
        return F.interpolate(control, grid, mode="bilinear")

    return [on_grid(control) for control in controls]


def per_image_map(value: Tensor, batch_size: int, what: str) -> Tensor:
    """A number, (B,) or (B, 1, h, w) -> (B, 1, h, w)."""
    if value.ndim == 4 and value.shape[1] == 1 and value.shape[0] in (1, batch_size):
        return value.expand(batch_size, -1, -1, -1)
    if value.ndim == 0 or value.shape in {(1,), (batch_size,)}:
        return value.reshape(-1, 1, 1, 1).expand(batch_size, -1, -1, -1)
    raise ValueError(
        f"The {what} must be a number, a tensor ({batch_size},) or a map ({batch_size}, 1, h, w), "
        f"got shape {tuple(value.shape)}."
    )


def _described(loss_weights: Mapping[str, float | Tensor]) -> dict:
    return {k: tuple(v.shape) if isinstance(v, Tensor) and v.ndim else float(v) for k, v in loss_weights.items()}
