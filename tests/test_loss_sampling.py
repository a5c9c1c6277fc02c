"""The distribution of the controls in training."""

from __future__ import annotations

import torch

from modeling import TRAINABLE_TERMS
from modeling.degradations import seeded_generator
from training.loss_sampling import LossSampler


def draws(sampler: LossSampler, count: int = 4000):
    pairs = [sampler(seeded_generator(index)) for index in range(count)]
    return torch.stack([weights for weights, _ in pairs]), torch.stack([emphasis for _, emphasis in pairs])


def test_weights_are_a_point_of_the_simplex():
    weights, emphasis = draws(LossSampler(TRAINABLE_TERMS, 4.0))
    assert weights.shape[1] == len(TRAINABLE_TERMS)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert emphasis.min() == 0 and 3.9 < emphasis.max() <= 4.0
    assert 0.45 < (emphasis == 0).float().mean() < 0.55


def test_every_corner_and_every_edge_is_visited():
    weights, _ = draws(LossSampler(TRAINABLE_TERMS, 4.0))
    at_corner = (weights == 1).float().mean(0)
    assert 0.3 < at_corner[0] < 0.4  # the fidelity corner
    assert (at_corner[1:] > 0.01).all()
    on_edge = ((weights > 0).sum(1) == 2).float().mean()
    assert 0.25 < on_edge < 0.45
    assert 0.1 < ((weights > 0).sum(1) == len(TRAINABLE_TERMS)).float().mean() < 0.3


def test_a_draw_is_a_function_of_the_generator():
    sampler = LossSampler(TRAINABLE_TERMS, 4.0)
    for index in range(20):
        first, second = sampler(seeded_generator(index)), sampler(seeded_generator(index))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_one_term_is_always_the_corner():
    weights, _ = draws(LossSampler(("pixel",), 4.0), 50)
    assert (weights == 1).all()
