"""Noise is what it says, and a function of its seeds alone."""

from __future__ import annotations

import pytest
import torch

from modeling.degradations import (
    NOISE_MODELS,
    Noise,
    correlated_noise,
    gaussian_noise,
    indexed_gaussian_noise,
    jpeg_compression,
    poisson_gaussian_noise,
    quantisation,
    salt_and_pepper_noise,
    seeded_generator,
)


def test_gaussian_noise_has_the_level_it_is_given():
    image = torch.full((3, 128, 128), 0.5)
    noise = gaussian_noise(image, 50 / 255, seeded_generator(0)) - image
    assert noise.std().item() == pytest.approx(50 / 255, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    bright = gaussian_noise(torch.ones(3, 64, 64), 0.2, seeded_generator(0))
    assert bright.max() > 1.2  # not clipped


def test_noise_is_a_function_of_its_seeds():
    image = torch.rand(3, 16, 16)
    for make in (lambda *s: gaussian_noise(image, 0.1, seeded_generator(*s)),):
        assert torch.equal(make(1, 2), make(1, 2))
        assert not torch.equal(make(1, 2), make(2, 1))
        assert not torch.equal(make(0, 0), make(0))
    assert torch.equal(indexed_gaussian_noise(image, 0.1, 3), indexed_gaussian_noise(image, 0.1, 3))


def test_neighbouring_seeds_give_unrelated_noise():
    draws = torch.stack([torch.randn(1000, generator=seeded_generator(7, index)) for index in range(20)])
    correlations = torch.corrcoef(draws) - torch.eye(20)
    assert correlations.abs().max() < 0.2


def test_negative_levels_are_refused():
    for level in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="noise_level"):
            gaussian_noise(torch.zeros(3, 4, 4), level, seeded_generator(0))


# --- noise models ----------------------------------------------------------------------------------------------------

GRAY = torch.full((3, 200, 200), 0.4)


def test_poisson_gaussian_has_the_variance_of_its_formula():
    shot, read = 20 / 255, 5 / 255
    for brightness in (0.1, 0.8):
        image = torch.full((3, 200, 200), brightness)
        noise = poisson_gaussian_noise(image, shot, read, seeded_generator(0)) - image
        assert noise.mean().item() == pytest.approx(0, abs=1e-3)
        assert noise.var().item() == pytest.approx(shot**2 * brightness + read**2, rel=0.03)
    read_only = poisson_gaussian_noise(GRAY, 0.0, read, seeded_generator(1))
    assert torch.equal(read_only, gaussian_noise(GRAY, read, seeded_generator(1)))


def test_correlated_noise_has_its_level_and_its_grain():
    noise = correlated_noise(GRAY, 0.1, 2.0, seeded_generator(0)) - GRAY
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    neighbours = torch.corrcoef(torch.stack([noise[..., 4:].flatten(), noise[..., :-4].flatten()]))[0, 1].item()
    assert neighbours == pytest.approx(torch.tensor(-(4**2) / (4 * 2.0**2)).exp().item(), abs=0.05)


def test_salt_and_pepper_hits_its_share_of_pixels_in_all_channels():
    noisy = salt_and_pepper_noise(GRAY, 0.2, seeded_generator(0))
    assert (noisy == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal((noisy == 0)[0], (noisy == 0)[1])


def test_jpeg_and_quantisation():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    errors = [(jpeg_compression(image, q, seeded_generator(0)) - image).square().mean() for q in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert quantisation(image, 1, seeded_generator(0)).unique().tolist() == [0.0, 1.0]
    assert len(quantisation(image, 3, seeded_generator(0)).unique()) == 8


STEPS = [
    {"model": "gaussian", "noise_level": [0, 75]},
    {"model": "poisson_gaussian", "shot": [0, 30], "read": 5},
    {"model": "correlated", "level": [0, 30], "correlation": [0.5, 2]},
    {"model": "salt_and_pepper", "share": [0, 0.1]},
    {"model": "jpeg", "quality": [30, 95]},
    {"model": "quantisation", "bits": [4, 8]},
]


def test_every_model_is_tried_above():
    assert [step["model"] for step in STEPS] == list(NOISE_MODELS)


@pytest.mark.parametrize("steps", [*([step] for step in STEPS), STEPS], ids=lambda steps: steps[-1]["model"])
def test_composed_noise_is_a_function_of_its_seed(steps):
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    noise, before = Noise(steps), image.clone()
    noisy, level = noise(image, seeded_generator(1))
    again, same_level = noise(image, seeded_generator(1))
    other, _ = noise(image, seeded_generator(2))
    assert torch.equal(noisy, again) and level == same_level and not torch.equal(noisy, other)
    assert torch.equal(image, before) and noisy.shape == image.shape and noisy.isfinite().all()


def test_the_level_told_is_that_of_the_noise():
    two = Noise([{"model": "gaussian", "noise_level": 30}, {"model": "gaussian", "noise_level": 40}])
    assert two(GRAY, seeded_generator(0))[1] == pytest.approx(50 / 255)
    noisy, level = Noise(STEPS[1:3])(GRAY, seeded_generator(0))
    assert level == pytest.approx((noisy - GRAY).std().item(), rel=0.01)


def test_steps_are_taken_with_their_probability():
    noise = Noise([{"model": "gaussian", "noise_level": 10, "probability": 0.3}])
    taken = sum(noise(GRAY[:, :4, :4], seeded_generator(index))[1] > 0 for index in range(300))
    assert 60 < taken < 120


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"model": "rain"}, "no noise model 'rain'"),
        ({"model": "gaussian"}, "takes \\['noise_level'\\]"),
        ({"model": "gaussian", "noise_level": 10, "sigma": 3}, "takes"),
        ({"model": "gaussian", "noise_level": [75, 0]}, "low, high"),
        ({"model": "gaussian", "noise_level": [-5, 5]}, "at least 0"),
        ({"model": "jpeg", "quality": [0, 90]}, "quality=0"),
        ({"model": "salt_and_pepper", "share": 2}, "share=2"),
        ({"model": "quantisation", "bits": 40}, "bits=40"),
        ({"model": "correlated", "level": 5, "correlation": 0}, "correlation=0"),
        ({"model": "gaussian", "noise_level": 5, "probability": 2}, "probability=2"),
    ],
)
def test_bad_noise_is_refused_before_it_is_used(step, message):
    with pytest.raises(ValueError, match=message):
        Noise([step])
    with pytest.raises(ValueError, match="no step"):
        Noise([])
