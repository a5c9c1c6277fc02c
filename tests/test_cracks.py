"""Benchmarks on cracks: masks that belong to their image, known values, and weights that say what they weigh."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cracks import read_crack
from benchmarks.faithfulness import area_under_curve, correlation, deletion_insertion, random_map, shuffled_ranks
from benchmarks.steering import TERMS, Balance, gradient_magnitude, mean_of_known, measured, regions, settings
from modeling import ViTUNetConfig
from modeling.loss_weights import balanced_weights

CONFIG = ViTUNetConfig()
BALANCES = {term: Balance(CONFIG.loss_strengths.get(term, 1.0), CONFIG.fidelity_share) for term in TERMS}


@pytest.fixture
def masks(tmp_path):
    """Masks of the images `a` and `a.b`; 204 stands for a joint."""
    values = np.full((6, 8), 0, dtype=np.uint8)
    values[2] = 255
    values[:, 5] = 204
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.new("L", (8, 6), 255).save(tmp_path / "a.b.png")
    return tmp_path


def test_a_joint_is_neither_crack_nor_background(masks):
    crack, background = read_crack(masks, "photographs/a.jpg", (6, 8))
    assert crack.sum() == 7 and crack[2, :5].all() and not crack[2, 5]
    assert background.sum() == 5 * 7 and not background[:, 5].any() and not (crack & background).any()
    assert read_crack(masks, "a.b.jpg", (6, 8))[0].all()


def test_masks_that_do_not_belong_are_refused(masks):
    with pytest.raises(ValueError, match=r"One mask of c\.jpg is needed in .*, there is none"):
        read_crack(masks, "c.jpg", (6, 8))
    with pytest.raises(ValueError, match=r"The mask of a\.jpg is \(6, 8\), the image \(8, 6\)"):
        read_crack(masks, "a.jpg", (8, 6))
    Image.new("L", (8, 6)).save(masks / "a.bmp")
    with pytest.raises(ValueError, match=r"One mask of a\.jpg .* there are \['a\.bmp', 'a\.png'\]"):
        read_crack(masks, "a.jpg", (6, 8))


def test_known_areas_and_correlations():
    positive = torch.tensor([True, True, False, False])
    assert area_under_curve(torch.tensor([3.0, 4.0, 1.0, 2.0]), positive) == 1
    assert area_under_curve(torch.tensor([1.0, 2.0, 3.0, 4.0]), positive) == 0
    assert area_under_curve(torch.ones(4), positive) == 0.5
    assert area_under_curve(torch.tensor([3.0, 1.0, 2.0, 1.0]), positive) == (1 + 1 + 0 + 0.5) / 4
    assert correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert correlation(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])) == 0


def test_equal_values_are_ranked_in_an_order_that_is_drawn():
    activation = torch.zeros(40, 40)
    activation[30, 7], activation[3, 9] = 2.0, 1.0
    ranks = shuffled_ranks(activation, seed=0)
    assert ranks[30, 7] == 1 and ranks[3, 9] == 2
    assert torch.equal(ranks.flatten().sort().values, torch.arange(1, 1601))
    rows = torch.arange(40.0)[:, None].expand(40, 40)
    assert abs(correlation(ranks.double(), rows)) < 0.1  # in raster order it would be 1
    assert torch.equal(ranks, shuffled_ranks(activation, seed=0))
    assert not torch.equal(ranks, shuffled_ranks(activation, seed=1))


def test_random_cells_are_as_large_as_they_are_said_to_be():
    fine, coarse = (random_map((48, 70), cell, seed=0) for cell in (2, 16))
    assert fine.shape == coarse.shape == (48, 70) and 0 <= coarse.min() < coarse.max() <= 1
    assert coarse.diff(dim=1).abs().max() <= 1 / 16 < fine.diff(dim=1).abs().max() <= 1 / 2


def test_deletion_and_insertion_of_what_the_result_is_made_of():
    """A restoration that keeps its input: deleting where all detail lies loses it at once, elsewhere nothing."""
    noisy = torch.full((3, 64, 64), 0.5)
    noisy[:, 28:36, 28:36] += 0.4 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    near = torch.zeros(64, 64)
    near[16:48, 16:48] = 1  # a quarter of the pixels, and nearly all of what the blur changes
    right, wrong = (
        deletion_insertion(lambda image: image, noisy, activation, shares=(0.3,)) for activation in (near, -near)
    )
    assert right[0] < 0.05 and right[1] > 0.95 and wrong[0] > 0.95 and wrong[1] < 0.05
    assert deletion_insertion(lambda image: image, noisy, near, shares=(0.0, 1.0)) == pytest.approx((0.5, 0.5))


def test_deletion_and_insertion_on_a_network(model):
    noisy = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = deletion_insertion(lambda image: model(image[None]).reconstruction[0], noisy, noisy.mean(0))
    assert all(math.isfinite(score) and score < 1 for score in scores)


def test_regions_share_out_what_is_known():
    crack, joint = torch.zeros(40, 60, dtype=torch.bool), torch.zeros(40, 60, dtype=torch.bool)
    crack[20, 10:50], joint[:, 55] = True, True
    parts = regions(crack, ~(crack | joint))
    assert torch.equal(parts["crack"], crack)
    assert torch.equal(sum(part.int() for part in parts.values()), (~joint).int())
    assert parts["near"][12, 30] and parts["near"][28, 2] and parts["rest"][11, 30] and parts["rest"][28, 1]


def test_figures_of_regions_that_are_not_there():
    clean = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2))
    left = torch.zeros(12, 12, dtype=torch.bool)
    left[:, :6] = True
    masks = {"crack": torch.zeros_like(left), "near": left, "rest": ~left}
    restored = clean.clone()
    restored[:, :, 8:] = (restored[:, :, 8:] - 0.1).clamp(0, 1)
    whole, *decibels = measured(restored, clean, masks)[:4]
    assert 20 < decibels[2] < whole and decibels[1] == math.inf and math.isnan(decibels[0])
    ratios = measured(torch.rand(3, 12, 12), torch.full((3, 12, 12), 0.5), masks)[4:]
    assert all(math.isnan(ratio) for ratio in ratios)  # there is no gradient to compare with
    assert mean_of_known([[1.0, math.nan, 2.0], [3.0, 5.0, math.inf]]) == [2.0, 5.0, math.inf]
    assert math.isnan(mean_of_known([[math.nan]])[0])


def test_the_gradient_of_a_ramp():
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    slope = gradient_magnitude((0.3 * rows + 0.4 * columns)[None])
    torch.testing.assert_close(slope[:-1, :-1], torch.full((4, 5), 0.5))


def test_a_uniform_weight_has_the_effective_weight_of_its_map():
    """As the network itself receives them, and not as a person writes them."""
    values = torch.rand(8, 9, generator=torch.Generator().manual_seed(3)).square()
    lines = {label: (term, weight) for label, term, weight in settings({"a map": values}, BALANCES)}
    assert lines["pixel loss alone"][1] == 0 and lines["wavelet, uniform 0.25"] == ("wavelet", 0.25)
    for term in TERMS:

        def received(weight, term=term) -> float:
            weight = torch.as_tensor(weight).expand(1, 1, 8, 9)
            stacked = torch.cat([1 - weight, weight], dim=1)
            return balanced_weights(stacked, torch.zeros(1), ("pixel", term), CONFIG)[:, 1].mean().item()

        uniform = lines[f"{term}, uniform, as a map"][1]
        assert received(uniform) == pytest.approx(received(values), rel=1e-5)
        assert received(uniform) == pytest.approx(BALANCES[term].effective(uniform), rel=1e-5)
        assert abs(uniform - values.mean().item()) > 0.01  # the mean of the map would be another weight
    plain = Balance(1.0, 0.0)
    assert plain.effective(0.3) == pytest.approx(0.3) and plain.weight(0.3) == pytest.approx(0.3)
    assert Balance(4.0, 0.1).effective(1.0) == pytest.approx(0.25 / 0.35)
