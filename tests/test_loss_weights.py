"""Weights of the losses: forms, refusals, and the balance that makes sliders even."""

from __future__ import annotations

import pytest
import torch

from modeling import PRESETS, TRAINABLE_TERMS, ViTUNetConfig
from modeling.loss_weights import MEAN_DISTANCE, balanced_weights, stack_loss_weights
from modeling.spectra import emphasis_map

CONFIG = ViTUNetConfig()


def test_weights_are_normalised_and_absent_terms_weigh_nothing():
    weights = stack_loss_weights({"wavelet": 2.0, "pixel": torch.tensor([2.0, 6.0])}, TRAINABLE_TERMS, 2)
    assert weights.shape == (2, len(TRAINABLE_TERMS), 1, 1)
    assert weights[:, 0, 0, 0].tolist() == [0.5, 0.75]
    assert weights.sum(1).flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"pixel": 0.0}, "sum to 0"),
        ({}, "sum to 0"),
        ({"pixel": float("nan")}, "finite"),
        ({"pixel": 1.0, "wavelet": -0.1}, "not negative"),
        ({"pixels": 1.0}, "Unknown loss terms \\['pixels'\\]"),
        ({"pixel": torch.ones(3)}, "must be a number"),
        ({"pixel": torch.ones(2, 1, 4)}, "must be a number"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        stack_loss_weights(weights, TRAINABLE_TERMS, 2)


def test_maps_of_several_sizes_come_to_the_finest():
    maps = {"pixel": torch.rand(2, 1, 2, 8) + 0.1, "wavelet": torch.rand(2, 1, 4, 4), "amplitude": 0.5}
    weights = stack_loss_weights(maps, TRAINABLE_TERMS, 2)
    assert weights.shape == (2, len(TRAINABLE_TERMS), 4, 8)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 4, 8))
    named = dict(zip(TRAINABLE_TERMS, weights.unbind(1), strict=True))
    ratio = (named["wavelet"] / named["amplitude"])[:, :, ::4] / 2  # towards the left edge, as the map there
    assert ratio.shape == (2, 4, 2) and torch.allclose(ratio[..., 0], maps["wavelet"][:, 0, :, 0])


def test_presets_name_known_terms():
    for preset in PRESETS.values():
        stack_loss_weights(preset.loss_weights, TRAINABLE_TERMS, 1)


def balanced(weights: dict, emphasis: float = 0.0, config: ViTUNetConfig = CONFIG) -> dict[str, float]:
    stacked = stack_loss_weights(weights, TRAINABLE_TERMS, 1)
    values = balanced_weights(stacked, torch.full((1, 1, 1, 1), emphasis), TRAINABLE_TERMS, config)
    return dict(zip(TRAINABLE_TERMS, values.flatten().tolist(), strict=True))


def test_a_strong_term_weighs_less():
    half = balanced({"amplitude": 0.5, "regional_sharpness": 0.5})
    assert half["regional_sharpness"] / half["amplitude"] == pytest.approx(
        1 / CONFIG.loss_strengths["regional_sharpness"]
    )
    assert sum(half.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.8, 1.0])
def test_the_pixel_term_keeps_its_share(weight):
    values = balanced({"pixel": 1 - weight, "amplitude": weight})
    assert values["amplitude"] / values["pixel"] == pytest.approx(
        weight / (1 - weight + CONFIG.fidelity_share * weight)
    )
    assert balanced({"regional_sharpness": 1.0})["pixel"] == pytest.approx(0.1 / (0.1 + 1 / 4))


def test_a_balance_of_equal_strengths_without_a_share_leaves_weights_as_they_are():
    plain = ViTUNetConfig(loss_strengths={}, fidelity_share=0)
    weights = {"pixel": 0.5, "regional_sharpness": 0.25, "wavelet": 0.25}
    assert balanced(weights, config=plain) == pytest.approx({**dict.fromkeys(TRAINABLE_TERMS, 0.0), **weights})


def test_the_balance_is_saved_with_the_network(tmp_path):
    """It is part of what the network was trained to understand."""
    ViTUNetConfig(loss_strengths={"amplitude": 3.0}, fidelity_share=0.2).save_pretrained(tmp_path)
    found = ViTUNetConfig.from_pretrained(tmp_path)
    assert found.loss_strengths == {"amplitude": 3.0} and found.fidelity_share == 0.2


def test_emphasis_adds_to_emphasised_terms_alone():
    weights = {"pixel": 0.5, "amplitude": 0.25, "wavelet": 0.25}
    plain, emphasised = balanced(weights), balanced(weights, 2.0)
    assert emphasised["amplitude"] / emphasised["pixel"] == pytest.approx(
        plain["amplitude"] / plain["pixel"] * (1 + 2 * MEAN_DISTANCE)
    )
    assert emphasised["wavelet"] / emphasised["pixel"] == pytest.approx(plain["wavelet"] / plain["pixel"])
    assert emphasis_map(512, 512, 1.0).mean().item() - 1 == pytest.approx(MEAN_DISTANCE, abs=1e-3)
