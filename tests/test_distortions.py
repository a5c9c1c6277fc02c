"""The distortions of the loss lab: exact at whole strengths, calibrated, and honest about their spectra."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Barrier

import pytest
import torch

from modeling.degradations import DISTORTIONS, Distorter, distort
from modeling.losses import amplitude, pixel


def decibels(image: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * math.log10(pixel(other, image).item())


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 32, 40), (1, 3, 31, 37)])
def test_strength_zero_changes_nothing(name, shape):
    image = torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(distort(image, name, 0.0), image)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_calibration_reaches_the_psnr_of_the_second_post(name, ascent):
    strength = Distorter(ascent, name).strength(22.65)
    assert 0 < strength <= DISTORTIONS[name].maximum
    assert decibels(ascent, distort(ascent, name, strength)) == pytest.approx(22.65, abs=1e-3)


def test_calibration_is_safe_among_threads(ascent):
    """Two threads that find the first stop's error missing at the same time, on their way to the second."""
    calls, both = count(), Barrier(2, timeout=20)

    class Met(Distorter):
        def error(self, strength: float) -> float:
            error = super().error(strength)
            both.wait() if next(calls) < 2 else time.sleep(0.005)  # the other one's turn
            return error

    alone, shared = (kind(ascent[..., :128, :128], "blur") for kind in (Distorter, Met))
    strength = (alone.strengths[1] + alone.strengths[2]) / 2
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(shared.strength, [-10 * math.log10(alone.error(strength))] * 2))
    assert found == pytest.approx([strength] * 2, rel=1e-5)


def test_an_error_that_oscillates_is_met_in_the_first_interval_that_reaches_it():
    """Stripes of a period of 4 pixels, shifted: the error is largest after 2 and 6 pixels, and none after 4."""
    stripes = (torch.arange(64) % 4 < 2).double().expand(1, 1, 64, 64)
    distorter = Distorter(stripes, "shift")
    assert distorter.error(4.0) == pytest.approx(0, abs=1e-12) and distorter.error(2.0) == pytest.approx(1)
    strength = distorter.strength(3.0)
    assert 0 < strength < 2 and decibels(stripes, distort(stripes, "shift", strength)) == pytest.approx(3.0, abs=1e-3)


def test_the_second_posts_shift_and_blur(ascent):
    assert torch.equal(
        distort(ascent, "shift", 1.0).round(decimals=9), ascent.roll((-1, -1), (-2, -1)).round(decimals=9)
    )
    assert Distorter(ascent, "shift").strength(22.651) == pytest.approx(1.0, abs=1e-3)
    assert Distorter(ascent, "blur").strength(22.651) == pytest.approx(2.3927, abs=1e-3)


@pytest.mark.parametrize("name", ["shift", "scrambled_phase", "zeroed_phase"])
def test_amplitudes_survive(name):
    image = torch.rand(1, 1, 31, 37, dtype=torch.float64)  # odd sides: no bin at half the sampling rate
    distorted = distort(image, name, 0.3 if name == "shift" else 1.0)
    assert amplitude(distorted, image).item() < 1e-9 < pixel(distorted, image).item()


def test_scrambling_is_seeded():
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(distort(image, "scrambled_phase", 1.0, 3), distort(image, "scrambled_phase", 1.0, 3))
    assert not torch.equal(distort(image, "scrambled_phase", 1.0, 3), distort(image, "scrambled_phase", 1.0, 4))
    assert distort(image, "scrambled_phase", 1.0).mean().item() == pytest.approx(image.mean().item(), abs=1e-5)


def test_what_cannot_be_is_refused():
    image = torch.rand(1, 1, 16, 16)
    with pytest.raises(ValueError, match="no distortion 'twist'"):
        distort(image, "twist", 1.0)
    with pytest.raises(ValueError, match="strength"):
        distort(image, "blur", -1.0)
    with pytest.raises(ValueError, match="cannot bring"):
        Distorter(torch.full((1, 1, 16, 16), 0.5), "blur").strength(20.0)
