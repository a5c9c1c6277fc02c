"""Draws loss weights and emphasis for loss-conditional training (You Only Train Once, Dosovitskiy & Djolonga 2020).

Every image of a batch gets its own setting of the controls, and its own loss accordingly. The distribution has three
parts, because people use the sliders in three ways:

- the fidelity corner (pixel weight 1), which is the default and what tables compare;
- the edges from there to each other term, where one slider is moved, its far end with a probability of its own;
- the interior, where several are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossSampler:
    """One draw per image, a pure function of the generator.

    Args:
        names: the conditioned terms; the first is the fidelity term.
        max_emphasis: emphasis g is 0 with probability one half, else uniform in [0, max_emphasis].
        corner_probability: of weight 1 on the fidelity term.
        edge_probability: of the fidelity term and one other; the rest of the draws is uniform over the simplex.
        far_end_probability: of weight 1 on the other term, given an edge; else the weight is uniform.
    """

    names: tuple[str, ...]
    max_emphasis: float
    corner_probability: float = 0.35
    edge_probability: float = 0.45
    far_end_probability: float = 0.25

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """-> weights (K,), which sum to 1, and the emphasis ()."""
        kind, far_end, weight, has_emphasis, emphasis = torch.rand(5, generator=generator).tolist()
        count = len(self.names)
        weights = torch.zeros(count)
        if kind < self.corner_probability or count == 1:
            weights[0] = 1.0
        elif kind < self.corner_probability + self.edge_probability:
            other = int(torch.randint(1, count, (), generator=generator))
            weights[other] = 1.0 if far_end < self.far_end_probability else weight
            weights[0] = 1.0 - weights[other]
        else:
            weights = torch.empty(count).exponential_(generator=generator)  # normalised: Dirichlet(1, ..., 1)
            weights /= weights.sum()
        return weights, torch.tensor(self.max_emphasis * emphasis if has_emphasis < 0.5 else 0.0)
