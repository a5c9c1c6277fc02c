"""Averages of networks: the means of their weights, and nothing where there is no mean."""

from __future__ import annotations

import pytest
import torch

from modeling import ViTUNetForImageDenoising
from tests.conftest import randomised, tiny_config
from training.average import average, main


def network(seed: int, **overrides) -> ViTUNetForImageDenoising:
    return randomised(ViTUNetForImageDenoising(tiny_config(**overrides)), seed).eval()


def test_weights_are_the_weighted_means(tmp_path):
    networks = [network(seed) for seed in (1, 2)]
    folders = [str(tmp_path / name) for name in ("1", "2")]
    for each, folder in zip(networks, folders, strict=True):
        each.save_pretrained(folder)
    main(["--models", *folders, "--shares", "0.3", "0.7", "--output_dir", str(tmp_path / "mean")])
    mean = ViTUNetForImageDenoising.from_pretrained(tmp_path / "mean")
    for value, first, second in zip(*(each.parameters() for each in (mean, *networks)), strict=True):
        torch.testing.assert_close(value, 0.3 * first + 0.7 * second)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.6), (1.0, 0.0, 0.0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        average([network(1), network(2)], shares)


@pytest.mark.parametrize("overrides", [{"use_vit": False}, {"loss_strengths": {"wavelet": 3.0}}])
def test_networks_of_two_settings_have_no_average(overrides):
    with pytest.raises(ValueError, match=next(iter(overrides))):
        average([network(1), network(2, **overrides)], (0.5, 0.5))
