"""The loss terms: the same list of tests for each, and the facts that the design states."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur

from modeling import LOSS_TERMS, TRAINABLE_TERMS, ViTUNetConfig
from modeling.losses import WeightedCriterion, grid_imprint
from modeling.sharpness import sharpness_scores
from modeling.spectra import emphasis_map

TERMS = {name: term.function for name, term in LOSS_TERMS.items()}
EMPHASISED = [name for name, term in LOSS_TERMS.items() if term.emphasised]


def pair(*shape: int, seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(*shape, generator=generator, dtype=dtype) for _ in range(2))


def ring(thickness: float = 8.0) -> torch.Tensor:
    """The first post's picture: a white ring of radius 60 on black, 256x256."""
    side = torch.arange(256.0) - 128
    distance = torch.hypot(side[:, None], side[None, :])
    return ((distance - 60).abs() <= thickness / 2).float()[None, None]


# --- the same list for each term -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_zero_at_equality_with_finite_gradients(name):
    for image in (pair(2, 3, 33, 40)[0], torch.zeros(2, 3, 33, 40).double(), torch.full((2, 3, 8, 8), 0.5).double()):
        prediction = image.clone().requires_grad_()
        value = TERMS[name](prediction, image)
        assert value.shape == (2,)
        assert value.abs().max() < 1e-20
        value.sum().backward()
        assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSS_TERMS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (31, 37), (65, 16)])
def test_any_size_is_finite_and_not_negative(name, shape):
    prediction, target = pair(2, 3, *shape)
    prediction.requires_grad_()
    value = TERMS[name](prediction, target)
    assert value.shape == (2,) and value.isfinite().all() and (value >= 0).all()
    value.sum().backward()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_is_symmetric(name):
    prediction, target = pair(2, 3, 24, 30)
    torch.testing.assert_close(TERMS[name](prediction, target), TERMS[name](target, prediction))


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_batch_equals_single(name):
    prediction, target = pair(3, 3, 24, 30)
    singles = torch.cat([TERMS[name](prediction[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(TERMS[name](prediction, target), singles)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_float32_agrees_with_float64(name):
    prediction, target = pair(2, 3, 64, 64)
    single = TERMS[name](prediction.float(), target.float())
    torch.testing.assert_close(single.double(), TERMS[name](prediction, target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", TRAINABLE_TERMS)
def test_gradient_is_right(name):
    prediction, target = pair(1, 1, 6, 7)
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, target), prediction.requires_grad_())


@pytest.mark.parametrize("name", EMPHASISED)
def test_emphasis_acts_per_image(name):
    prediction, target = pair(2, 3, 24, 30)
    plain, emphasised = TERMS[name](prediction, target), TERMS[name](prediction, target, 2.0)
    assert (emphasised > plain).all()
    mixed = TERMS[name](prediction, target, torch.tensor([0.0, 2.0]).double())
    torch.testing.assert_close(mixed, torch.stack([plain[0], emphasised[1]]))


@pytest.mark.parametrize("name", TRAINABLE_TERMS)
def test_is_free_of_the_image_size(name):
    """The same texture at 128 and at 512 pixels: a stationary one, and its blurred version."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(512).double()
    radius = torch.hypot(frequency[:, None], frequency[None, :])
    noise = torch.fft.fft2(torch.randn(3, 512, 512, generator=generator, dtype=torch.float64))
    target = 0.5 + 0.05 * torch.fft.ifft2(noise / (0.02 + radius).sqrt()).real[None]
    prediction = gaussian_blur(target, [7, 7], [1.0, 1.0])
    emphasis = {"high_frequency_emphasis": 2.0} if name in EMPHASISED else {}
    small, large = (
        TERMS[name](prediction[..., :side, :side], target[..., :side, :side], **emphasis).item() for side in (128, 512)
    )
    assert small == pytest.approx(large, rel=0.05)


PARAMETERS = [
    ("amplitude", {"high_frequency_emphasis": 1.0}),
    ("amplitude", {"compat": True}),
    ("amplitude_squared", {"high_frequency_emphasis": 1.0}),
    ("amplitude_squared", {"compat": True}),
    ("windowed_amplitude", {"high_frequency_emphasis": 1.0}),
    ("windowed_amplitude", {"window_size": 8}),
    ("regional_sharpness", {"window_size": 8}),
    ("wavelet", {"wavelet": "db2"}),
    ("wavelet", {"levels": 2}),
    ("wavelet", {"window_size": 16}),
]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_responds_to_its_parameters(name, parameter):
    prediction, target = pair(2, 3, 48, 64)
    plain, changed = TERMS[name](prediction, target), TERMS[name](prediction, target, **parameter)
    assert ((plain - changed).abs() > 1e-3 * plain).all()


def test_every_parameter_is_in_the_list_above():
    keywords = {(name, *parameter) for name, parameter in PARAMETERS}
    for name, term in LOSS_TERMS.items():
        for keyword in (*term.settings, *(("high_frequency_emphasis",) if term.emphasised else ())):
            assert (name, keyword) in keywords


IMAGES = st.builds(
    lambda seed, shape, low, spread: low + spread * pair(*shape, seed=seed)[0],
    st.integers(0, 2**31),
    st.tuples(st.just(2), st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
    st.floats(-1, 1),
    st.sampled_from([0.0, 1e-6, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(IMAGES, st.floats(-0.5, 1.5), st.sampled_from(TRAINABLE_TERMS))
def test_any_values_give_finite_losses_and_gradients(image, value, name):
    """Constant images, almost constant ones and values outside [0, 1], at any size."""
    prediction = image.requires_grad_()
    loss = TERMS[name](prediction, torch.full_like(image, value))
    loss.sum().backward()
    assert (loss >= 0).all() and loss.isfinite().all() and prediction.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(IMAGES, st.integers(-9, 9), st.integers(-9, 9))
def test_amplitudes_are_blind_to_any_cyclic_shift(image, down, right):
    shifted = image.roll((down, right), (-2, -1))
    for name in ("amplitude", "amplitude_squared"):
        assert TERMS[name](shifted, image).max() < 1e-9


# --- known values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "sigma", "expected"), [(15, 3.0, 14.8913), (5, 1.0, 10.0407)])
def test_ring_experiment_of_the_first_post(kernel, sigma, expected):
    image = ring()
    blurred = gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    assert 1000 * TERMS["amplitude"](image, blurred, compat=True).item() == pytest.approx(expected, abs=5e-5)


def test_amplitude_has_the_posts_scale_at_224():
    prediction, target = pair(1, 3, 224, 224)
    torch.testing.assert_close(
        TERMS["amplitude"](prediction, target, 2.0), TERMS["amplitude"](prediction, target, 2.0, compat=True)
    )


@pytest.mark.parametrize("shape", [(37, 52), (224, 224)])
def test_compat_gives_the_unnormalised_numbers_of_the_posts(shape):
    prediction, target = pair(1, 3, *shape)
    difference = (torch.fft.fft2(prediction).abs() - torch.fft.fft2(target).abs()).abs()
    posts = (difference * torch.fft.ifftshift(emphasis_map(*shape, 2.0).double())).mean() / 1000
    criterion = WeightedCriterion(ViTUNetConfig(loss_compat=True))
    terms = criterion.terms(prediction, target, 2.0)
    torch.testing.assert_close(terms["amplitude"][0], posts, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        TERMS["amplitude_squared"](prediction, target, compat=True)[0], difference.square().mean()
    )


def test_known_values():
    """Values that follow by hand."""
    flat = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64)
    rows, columns = torch.arange(16)[:, None], torch.arange(16)[None, :]
    checkerboard = flat + 0.1 * (1.0 - 2.0 * ((rows + columns) % 2))
    dot = flat.clone()
    dot[..., 7, 7] += 0.1
    assert TERMS["pixel"](checkerboard, flat).item() == pytest.approx(0.01)
    assert TERMS["complex_spectrum"](checkerboard, flat).item() == pytest.approx(0.01)
    # All of the checkerboard's energy, 256 x 0.01, is one coefficient of amplitude 1.6, where the emphasis is 1 + g.
    assert TERMS["amplitude"](checkerboard, flat).item() == pytest.approx(0.224 * 1.6 / 256)
    assert TERMS["amplitude"](checkerboard, flat, 2.0).item() == pytest.approx(3 * 0.224 * 1.6 / 256)
    assert TERMS["amplitude_squared"](checkerboard, flat).item() == pytest.approx(0.01)
    # A dot differs from eight neighbours, each pair counted once.
    assert TERMS["regional_sharpness"](dot, flat).item() == pytest.approx(8 * 0.1 / 1000)
    # The finest diagonal band holds the whole checkerboard: one of nine bands, magnitude 0.1 everywhere.
    assert TERMS["wavelet"](checkerboard, flat).item() == pytest.approx(0.1 / 9)
    # A negative turns every phase by half a circle.
    image = pair(1, 1, 16, 16)[0]
    assert TERMS["phase"](-image, image).item() == pytest.approx(math.pi**2)


def test_windowed_amplitude_equals_a_plain_loop_over_windows():
    prediction, target = pair(2, 3, 37, 29)
    taps = torch.sin(math.pi * (torch.arange(8).double() + 0.5) / 8).square()
    window = torch.outer(taps, taps)
    window = window / window.square().mean().sqrt()
    mask = torch.fft.ifftshift(emphasis_map(8, 8, 2.0).double())
    values = []
    for top in range(0, 37 - 7, 4):
        for left in range(0, 29 - 7, 4):
            amplitudes = [
                torch.fft.fft2(image[..., top : top + 8, left : left + 8] * window, norm="ortho").abs()
                for image in (prediction, target)
            ]
            values.append(((amplitudes[0] - amplitudes[1]).abs() * mask).flatten(1).mean(1))
    expected = 0.224 * torch.stack(values).mean(0)
    torch.testing.assert_close(TERMS["windowed_amplitude"](prediction, target, 2.0, window_size=8), expected)


@pytest.mark.parametrize("shape", [(10, 10), (9, 12), (7, 7), (1, 5)])
@pytest.mark.parametrize("power", ["amplitude", "amplitude_squared"])
def test_half_plane_equals_the_centred_full_plane(shape, power):
    prediction, target = pair(2, 3, *shape)
    spectra = [torch.fft.fftshift(torch.fft.fft2(image, norm="ortho"), dim=(-2, -1)) for image in (prediction, target)]
    difference = (spectra[0].abs() - spectra[1].abs()).abs()
    scale = 0.224 if power == "amplitude" else 1.0
    difference = difference if power == "amplitude" else difference.square()
    expected = scale * (difference * emphasis_map(*shape, 2.0).double()).flatten(1).mean(1)
    torch.testing.assert_close(TERMS[power](prediction, target, 2.0), expected, rtol=1e-6, atol=1e-9)


def test_emphasis_map_of_the_first_post():
    weights = emphasis_map(10, 10, 2.0)
    assert weights[5, 5].item() == 1.0
    assert weights[0, 0].item() == pytest.approx(3.0)
    assert weights[5, 0].item() == pytest.approx(2.41421, abs=1e-5)
    assert weights[5, 4].item() == pytest.approx(1.28284, abs=1e-5)


def test_parseval():
    for seed in range(3):
        prediction, target = pair(2, 3, 31, 20, seed=seed)
        torch.testing.assert_close(TERMS["complex_spectrum"](prediction, target), TERMS["pixel"](prediction, target))


def test_amplitude_ignores_shift_and_phase(ascent):
    shifted = ascent.roll((-1, -1), (-2, -1))
    phase_of_noise = torch.fft.rfft2(torch.rand(ascent.shape, generator=torch.Generator().manual_seed(0)).double())
    spectrum = torch.fft.rfft2(ascent).abs() * torch.exp(1j * phase_of_noise.angle())
    scrambled = torch.fft.irfft2(spectrum, s=ascent.shape[-2:])
    for other in (shifted, scrambled):
        assert TERMS["amplitude"](other, ascent).item() < 1e-9
        assert TERMS["amplitude_squared"](other, ascent).item() < 1e-15
        assert TERMS["pixel"](other, ascent).item() > 1e-3


def test_facts_of_the_second_post(ascent):
    """Shift, blur and noise at one PSNR: squared amplitude punishes blur most and the shift not at all."""
    shifted = ascent.roll((-1, -1), (-2, -1))
    error = TERMS["pixel"](shifted, ascent).item()
    assert -10 * math.log10(error) == pytest.approx(22.651, abs=5e-4)

    frequency = torch.fft.fftfreq(512).double().square()
    gain = torch.exp(-2 * (math.pi * 2.3927) ** 2 * (frequency[:, None] + frequency[None, :]))
    blurred = torch.fft.ifft2(torch.fft.fft2(ascent) * gain).real
    noise = torch.randn(ascent.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = ascent + math.sqrt(error) * noise / noise.square().mean().sqrt()
    assert -10 * math.log10(TERMS["pixel"](blurred, ascent).item()) == pytest.approx(22.651, abs=2e-3)
    assert TERMS["amplitude_squared"](blurred, ascent).item() == pytest.approx(0.0054, abs=5e-5)
    assert TERMS["amplitude_squared"](noisy, ascent).item() == pytest.approx(0.0033, abs=5e-5)


@pytest.mark.parametrize("window_size", [2, 5, 16])
def test_sharpness_scores_equal_a_plain_loop_over_windows(window_size):
    image, _ = pair(2, 3, 37, 29)
    step = window_size // 2
    scores = sharpness_scores(image, window_size)
    for row in range(scores.shape[1]):
        for column in range(scores.shape[2]):
            top, left = row * step, column * step
            window = image[..., top : top + window_size, left : left + window_size]
            expected = sum(
                difference.abs().sum((-1, -2)).mean(1)
                for difference in (
                    window[..., :, 1:] - window[..., :, :-1],
                    window[..., 1:, :] - window[..., :-1, :],
                    window[..., 1:, 1:] - window[..., :-1, :-1],
                    window[..., 1:, :-1] - window[..., :-1, 1:],
                )
            )
            torch.testing.assert_close(scores[:, row, column], expected)
    assert scores.shape[1:] == tuple((side - window_size) // step + 1 for side in (37, 29))


def test_grid_imprint_sees_what_repeats_and_nothing_else():
    clean = torch.rand(2, 3, 32, 36, generator=torch.Generator().manual_seed(5))
    columns = (torch.arange(36) % 2 - 0.5) * 0.02  # a stripe of amplitude 0.01
    rows = ((torch.arange(32) // 2) % 2 - 0.5)[:, None] * 0.02  # one that repeats every 4 pixels, not every 2
    assert grid_imprint(clean, clean).tolist() == [0.0, 0.0]
    torch.testing.assert_close(grid_imprint(clean + columns, clean), torch.full((2,), 1e-4), rtol=1e-4, atol=0)
    assert grid_imprint(clean + rows + 0.1, clean).max() < 1e-12
    torch.testing.assert_close(grid_imprint(clean + rows, clean, 4), torch.full((2,), 1e-4), rtol=1e-4, atol=0)
    odd = (clean + columns)[..., :31, :35]
    torch.testing.assert_close(grid_imprint(odd, clean[..., :31, :35]), torch.full((2,), 1e-4), rtol=1e-4, atol=0)


def test_regional_sharpness_compares_distributions_not_positions():
    image, _ = pair(1, 3, 64, 64)
    flipped = image.flip(-1)
    assert TERMS["regional_sharpness"](flipped, image).item() == pytest.approx(0, abs=1e-12)


# --- the criterion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["sum", "log"])
def test_criterion(balance):
    prediction, target = pair(2, 3, 32, 32, dtype=torch.float32)
    criterion = WeightedCriterion(ViTUNetConfig(loss_balance=balance))
    terms = criterion.terms(prediction, target)
    assert tuple(terms) == TRAINABLE_TERMS
    loss = criterion.combine(terms, {name: 0.8 * (name == "pixel") + 0.2 * (name == "wavelet") for name in terms})
    values = [terms["pixel"], terms["wavelet"]]
    if balance == "log":
        values = [
            torch.log(value + LOSS_TERMS[name].floor) for name, value in zip(("pixel", "wavelet"), values, strict=True)
        ]
    torch.testing.assert_close(loss, 0.8 * values[0] + 0.2 * values[1])


def test_terms_are_float32_under_autocast():
    prediction, target = pair(1, 3, 33, 32, dtype=torch.float32)
    criterion = WeightedCriterion(ViTUNetConfig())
    with torch.autocast("cpu", torch.bfloat16):
        terms = criterion.terms(prediction.bfloat16(), target)
    expected = criterion.terms(prediction.bfloat16().float(), target)
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])


def test_compiled_terms_are_the_same():
    """Without code being generated, which takes minutes: what a compiler can follow, it can also translate."""
    plain, compiled = (WeightedCriterion(ViTUNetConfig()) for _ in range(2))
    compiled.compile(backend="aot_eager", fullgraph=True)
    target, image = torch.rand(2, 2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    results = []
    for criterion in (plain, compiled):
        prediction = image.clone().requires_grad_()
        terms = criterion.terms(prediction, target)
        gradients = [torch.autograd.grad(value.sum(), prediction, retain_graph=True)[0] for value in terms.values()]
        results.append((list(terms.values()), gradients))
    torch.testing.assert_close(results[1], results[0])
