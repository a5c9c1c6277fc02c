"""What the benchmark of the losses compares computes the same number."""

from __future__ import annotations

import pytest
import torch

from benchmarks import sharpness_cache
from benchmarks.losses import PLAIN, fast, measured
from modeling import TRAINABLE_TERMS


@pytest.mark.parametrize("name", TRAINABLE_TERMS)
def test_the_straightforward_version_agrees(name):
    prediction, target = torch.rand(2, 2, 3, 48, 40)
    torch.testing.assert_close(PLAIN[name](prediction, target), fast(name)(prediction, target), rtol=1e-4, atol=1e-7)


def test_the_ways_to_score_windows_agree():
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    expected = torch.tensor(sharpness_cache.ours_two_at_once(image))
    for way in (sharpness_cache.looped, sharpness_cache.unfolded, sharpness_cache.unfolded_one_by_one):
        torch.testing.assert_close(torch.tensor(way(image)), expected, rtol=1e-4, atol=0)


def test_time_and_memory_are_measured():
    milliseconds, mebibytes = measured(PLAIN["amplitude"], (1, 3, 64, 64), repeats=1)
    assert milliseconds > 0
    assert mebibytes > 2 * 3 * 64 * 64 * 8 / 2**20  # two complex spectra at the least
