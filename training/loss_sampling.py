"""Draws loss weights and emphasis for loss-conditional training (You Only Train Once, Dosovitskiy & Djolonga 2020).

Every image of a batch gets its own setting of the controls, and its own loss accordingly. The distribution has three
parts, because people use the sliders in three ways:

- the fidelity corner (pixel weight 1), which is the default and what tables compare;
- the edges from there to each other term, where one slider is moved, its far end with a probability of its own;
- the interior, where several are.

A share of the images gets two such settings, blended by a smooth random mask, because people paint the controls too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOBS = 4  # random numbers a side from which a mask is made
MAP_SIDE = 16  # cells a side of a map of controls; the network brings it to its own grid


@dataclass(frozen=True)
class LossSampler:
    """Draws settings of the controls, a pure function of the generator.

    Args:
        names: the conditioned terms; the first is the fidelity term.
        max_emphasis: emphasis g is 0 with probability one half, else uniform in [0, max_emphasis].
        corner_probability: of weight 1 on the fidelity term.
        map_probability: of two settings in one image.
        edge_share: of the fidelity term and one other, among the draws away from the corner; the rest is uniform over
            the simplex.
        far_end_probability: of weight 1 on the other term, given an edge; else the weight is uniform.
    """

    names: tuple[str, ...]
    max_emphasis: float
    corner_probability: float = 0.35
    map_probability: float = 0.0
    edge_share: float = 0.7
    far_end_probability: float = 0.25

    def __call__(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """-> weights (count, K, h, w), which sum to 1 over K, and the emphasis (count, 1, h, w).

        Without a map among them h = w = 1.
        """
        weights, emphasis = (values[..., None, None] for values in self.settings(count, generator))
        if not self.map_probability:
            return weights, emphasis
        painted = torch.rand(count, generator=generator) < self.map_probability
        other_weights, other_emphasis = (values[..., None, None] for values in self.settings(count, generator))
        mask = smooth_masks(count, generator)
        if not painted.any():
            return weights, emphasis
        mask = torch.where(painted[:, None, None, None], mask, 0.0)
        return weights.lerp(other_weights, mask), emphasis.lerp(other_emphasis, mask)

    def settings(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """-> weights (count, K), and the emphasis (count, 1)."""
        terms = len(self.names)
        kind, far_end, weight, has_emphasis, emphasis, other = torch.rand(6, count, 1, generator=generator)
        interior = torch.empty(count, terms).exponential_(generator=generator)  # normalised: Dirichlet(1, ..., 1)
        interior /= interior.sum(1, keepdim=True)
        corner = torch.zeros(count, terms)
        corner[:, 0] = 1.0
        if terms == 1:
            weights = corner
        else:
            # `other` is a term from 1 to terms - 1; the rounding of a product must not give one more.
            index = 1 + (other * (terms - 1)).long().clamp(max=terms - 2)
            end = torch.zeros(count, terms).scatter(1, index, 1.0)
            edge = corner.lerp(end, torch.where(far_end < self.far_end_probability, 1.0, weight))
            is_edge = kind < self.corner_probability + self.edge_share * (1 - self.corner_probability)
            weights = torch.where(kind < self.corner_probability, corner, torch.where(is_edge, edge, interior))
        return weights, torch.where(has_emphasis < 0.5, self.max_emphasis * emphasis, 0.0)


@dataclass(frozen=True)
class FixedLoss:
    """One setting for all images, in the form in which [`LossSampler`] draws them.

    Args:
        weights: of each conditioned term.
        emphasis: g.
    """

    weights: tuple[float, ...]
    emphasis: float

    def __call__(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """-> weights (count, K, 1, 1), and the emphasis (count, 1, 1, 1)."""
        weights = torch.tensor(self.weights)[:, None, None].expand(count, -1, -1, -1)
        return weights, torch.full((count, 1, 1, 1), self.emphasis)


def smooth_masks(count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 16, 16) in [0, 1]: blobs with soft borders, as a brush or an activation map would paint them."""
    noise = torch.randn(count, 1, BLOBS, BLOBS, generator=generator)
    smooth = F.interpolate(noise, size=(MAP_SIDE, MAP_SIDE), mode="bicubic", align_corners=False)
    return torch.sigmoid(2 * smooth)
