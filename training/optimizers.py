"""Muon for convolutions and linear layers, AdamW for everything else, as one optimiser.

Muon (K. Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix whose singular values are
all about 1: every direction of the matrix learns at the same speed. A convolution is the matrix (C_out, C_in k k), a
transposed one (C_in, C_out k k). The scale of Liu et al. 2025 ("Muon is scalable for LLM training", equation 4) gives
its steps the length of AdamW's, so that one learning rate and one weight decay serve both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration (Jordan 2024): singular values end between 0.7 and 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
NARROW = 12  # rows or columns of a matrix that is left to AdamW: the last layer's, to the unshuffled image
LENGTH_OF_ADAMW = 0.2  # root mean square of an AdamW step over its learning rate


def orthogonalised(groups: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of several shapes, (N, m, n) each -> the same, with singular values near 1, by Newton-Schulz iteration.

    The iteration multiplies X by a polynomial of X X^T each time. All of these commute, so they are gathered in a small
    square matrix, and the long one is multiplied twice only: for a convolution a third of the arithmetic. And those
    small matrices are all that is iterated on, so shapes with the same shorter side share every product.
    """
    wide = [matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT for matrices in groups]
    wide = [x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7) for x in wide]
    by_side: dict[int, list[int]] = defaultdict(list)
    for index, x in enumerate(wide):
        by_side[x.shape[-2]].append(index)
    result = list(groups)
    for indices in by_side.values():
        factors = _newton_schulz(torch.cat([wide[index] @ wide[index].mT for index in indices]))
        for index, factor in zip(indices, factors.split([len(wide[index]) for index in indices]), strict=True):
            x = factor @ wide[index]
            result[index] = x if x.shape == groups[index].shape else x.mT
    return result


def _newton_schulz(gram: Tensor) -> Tensor:
    """X X^T (N, m, m) -> the matrices (N, m, m) whose product with X has singular values near 1."""
    a, b, c = QUINTIC
    product = None
    for _ in range(ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    return product


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of a model, save those of its narrowest layers; AdamW for the rest.

    Args:
        model: its weights of two and more dimensions go to Muon, but for those with at most `NARROW` rows or columns.
        lr, weight_decay: of both.
        betas: of AdamW.
        momentum: of Muon, with Nesterov's look ahead.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], momentum: float = 0.95
    ) -> None:
        matrices, rest = [], []
        for parameter in model.parameters():
            if parameter.requires_grad:
                wide = parameter.ndim >= 2 and min(parameter.flatten(1).shape) > NARROW
                (matrices if wide else rest).append(parameter)
        self.adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)
        groups = [{**group, "muon": False} for group in self.adamw.param_groups] + [{"params": matrices, "muon": True}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        # One state and one list of groups: whoever saves, loads or changes the learning rate sees a single optimiser.
        self.adamw.state = self.state
        self.adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        loss = self.adamw.step(closure)
        for group in self.param_groups:
            if group["muon"]:
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict) -> None:
        # Matrices are orthogonalised together: small products in a batch cost less than one by one.
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])

        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for index, parameter in enumerate(parameters):
            by_shape[parameter.flatten(1).shape].append(index)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        groups = [torch.stack([ahead[index].flatten(1) for index in indices]) for indices in by_shape.values()]
        for (shape, indices), steps in zip(by_shape.items(), orthogonalised(groups), strict=True):
            steps = steps * (-group["lr"] * LENGTH_OF_ADAMW * max(shape) ** 0.5)
            steps = [step.view(parameters[index].shape) for index, step in zip(indices, steps, strict=True)]
            torch._foreach_add_([parameters[index] for index in indices], steps)


def build_optimizer(name: str, model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """`adamw` or `muon`, over the parameters of the model that are trained."""
    betas = (0.9, 0.99)
    if name == "muon":
        return Muon(model, lr, weight_decay, betas)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)
