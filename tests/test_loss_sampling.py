"""The distribution of the controls in training."""

from __future__ import annotations

import torch

from modeling import TRAINABLE_TERMS
from modeling.degradations import seeded_generator
from training.loss_sampling import LossSampler


def draws(sampler: LossSampler, count: int = 4000):
    weights, emphasis = sampler(count, seeded_generator(0))
    assert weights.shape == (count, len(sampler.names), 1, 1) and emphasis.shape == (count, 1, 1, 1)
    return weights[..., 0, 0], emphasis.flatten()


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
        first, second = (sampler(3, seeded_generator(index)) for _ in range(2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_one_term_is_always_the_corner():
    weights, _ = draws(LossSampler(("pixel",), 4.0), 50)
    assert (weights == 1).all()


def test_maps_blend_two_settings_smoothly():
    sampler = LossSampler(TRAINABLE_TERMS, 4.0, map_probability=0.5)
    weights, emphasis = sampler(400, seeded_generator(0))
    assert weights.shape == (400, len(TRAINABLE_TERMS), 16, 16) and emphasis.shape == (400, 1, 16, 16)
    assert (weights >= 0).all() and (emphasis >= 0).all() and (emphasis <= 4).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(400, 16, 16))
    varies = (weights.amax((-2, -1)) - weights.amin((-2, -1))).amax(1) > 0.05
    assert 0.3 < varies.float().mean() < 0.5  # two equal settings make no map
    assert weights.diff(dim=-1).abs().mean() < 0.05  # no hard borders
    plain, _ = LossSampler(TRAINABLE_TERMS, 4.0)(400, seeded_generator(0))
    torch.testing.assert_close(weights[~varies].mean((-2, -1)), plain[~varies][..., 0, 0], atol=0.05, rtol=0)
