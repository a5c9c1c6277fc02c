"""Muon: what it does to a matrix, whom it leaves to AdamW, and that it can be saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.optimizers import LENGTH_OF_ADAMW, build_optimizer, orthogonalised


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(count):
        image = torch.rand(2, 3, 8, 8, generator=generator)
        loss = (model(image) - image).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", [(2, 16, 27), (1, 40, 8), (3, 12, 12)])
def test_singular_values_end_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(matrices), torch.linalg.svdvals(orthogonalised([matrices])[0])
    kept = before > 0.05 * before.max()  # the smallest of a square matrix take more iterations
    assert after.max() < 1.3 and after[kept].min() > 0.4
    assert orthogonalised([torch.zeros(shape)])[0].isfinite().all()


def test_shapes_that_share_a_side_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(shape, generator=generator) for shape in [(2, 16, 27), (1, 40, 16), (3, 12, 12), (1, 16, 16)]]
    for matrices, together in zip(groups, orthogonalised(groups), strict=True):
        assert together.shape == matrices.shape
        torch.testing.assert_close(together, orthogonalised([matrices])[0])


def test_who_takes_which_steps():
    model = network()
    optimizer = build_optimizer("muon", model, lr=0.01, weight_decay=0.0)
    by_muon = {id(parameter) for group in optimizer.param_groups if group["muon"] for parameter in group["params"]}
    assert by_muon == {id(model[0].weight)}  # not biases, nor a layer to so few channels
    before = model[0].weight.detach().clone()
    steps(model, optimizer, 1)
    moved = (model[0].weight.detach() - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.01 * LENGTH_OF_ADAMW, rel=0.3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_it_learns_and_goes_on_from_its_state(name):
    model = network()
    optimizer = build_optimizer(name, model, 0.01, 1e-4)
    losses = steps(model, optimizer, 30)
    assert losses[-1] < 0.2 * losses[0]
    twin = copy.deepcopy(model)
    other = build_optimizer(name, twin, 0.01, 1e-4)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert steps(model, optimizer, 5) == steps(twin, other, 5)


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    for name in ("adamw", "muon"):
        steps(model, build_optimizer(name, model, 0.01, 1e-2), 2)
    assert torch.equal(model[0].weight, before)
