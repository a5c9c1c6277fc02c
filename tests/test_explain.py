"""Activation maps: one for every method and layer, of a fixed sign, and of what they say they show."""

from __future__ import annotations

import gc
import sys
import weakref

import numpy as np
import pytest
import torch

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.explain import METHODS, TARGETS, activation_map, activation_maps, filtered, layer_names
from modeling.opened_network import OpenedNetwork
from modeling.principal_maps import KERNEL_CELLS, kernel_principal_map, principal_map
from tests.conftest import TINY_HYBRID, TINY_VIT, randomised, tiny_config

LAYERS = ["vit.0", "vit.1", "vit", "encoder.0", "encoder.1", "encoder.2", "bottleneck", "decoder.1", "decoder.0"]
WITHOUT_TARGET = [name for name, row in METHODS.items() if not row.uses_target]
WITH_GRADIENT = [name for name, row in METHODS.items() if row.uses_gradient]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return randomised(ViTUNetForImageDenoising(tiny_config()))


@pytest.fixture(scope="module")
def hybrid():
    """The posts' network, its ViT frozen."""
    torch.manual_seed(0)
    return randomised(ViTUNetForImageDenoising(ViTUNetConfig.hybrid_vit_base(**TINY_HYBRID)))


@pytest.fixture(scope="module")
def image():
    """A bright square on texture (3, 52, 70)."""
    image = 0.3 + 0.05 * torch.randn(3, 52, 70, generator=torch.Generator().manual_seed(0))
    image[:, 16:32, 24:44] += 0.4
    return image.clamp(0, 1)


def test_layers_are_named_in_the_order_of_the_network(network, hybrid):
    assert layer_names(network) == LAYERS
    # The posts' contracting path ends in a pooling, and their bottleneck has all blocks of its level.
    names = ["encoder.0", "encoder.1", "encoder.2", "bottleneck", "decoder.2", "decoder.1", "decoder.0"]
    assert layer_names(hybrid) == ["vit.0", "vit.1", "vit", *names]
    assert layer_names(ViTUNetForImageDenoising(tiny_config(use_vit=False)))[0] == "encoder.0"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_every_layer(network, image, method, layer):
    shown = activation_map(network, image, method, layer)
    assert shown.shape == image.shape[-2:] and shown.dtype == torch.float32
    assert shown.min() == 0 and shown.max() == 1 and shown.std() > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fixture", ["network", "hybrid"])
def test_maps_of_several_layers_are_those_of_each(fixture, image, method, request):
    model = request.getfixturevalue(fixture)
    layers = [*layer_names(model)[::-1], "vit.0"]
    maps = activation_maps(model, image, method, layers, "sharpness", max_channels=2)
    assert list(maps) == layers[:-1] and list(activation_maps(model, image)) == layer_names(model)
    for layer, shown in maps.items():
        expected = activation_map(model, image, method, layer, "sharpness", max_channels=2)
        torch.testing.assert_close(shown, expected, atol=2e-4, rtol=0, msg=layer)


@pytest.mark.parametrize("method", ["eigencam", "kpca", "layercam"])
def test_every_stage_of_the_posts_network(hybrid, image, method):
    for layer in layer_names(hybrid):
        shown = activation_map(hybrid, image, method, layer)
        assert shown.shape == image.shape[-2:] and shown.max() == 1 and shown.std() > 0.01, layer


@pytest.mark.parametrize("size", [(1, 1), (31, 37), (65, 8)])
def test_any_size(network, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    for method in ("eigencam", "kpca", "gradcam", "scorecam"):
        for layer in ("vit", "vit.0", "encoder.1", "decoder.0"):
            shown = activation_map(network, image, method, layer, max_channels=2)
            assert shown.shape == size and shown.isfinite().all()


def test_the_covariance_route_equals_the_full_decomposition():
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection, get_2d_projection_kernel

    features = np.random.default_rng(0).gamma(2.0, size=(6, 9, 11)).astype(np.float32)
    for ours, library in ((principal_map, get_2d_projection), (kernel_principal_map, get_2d_projection_kernel)):
        shown, expected = ours(features), library(features[None])[0]
        sign = np.sign((shown * expected).sum())
        np.testing.assert_allclose(shown, sign * expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("find", [principal_map, kernel_principal_map])
def test_the_sign_is_fixed(find):
    """Bright is where there is more of what there is on average; negated features have the same map."""
    features = np.random.default_rng(0).normal(size=(5, 12, 12)).astype(np.float32)
    features[:, 3:6, 4:9] += 4 * np.array([1, -1, 1, 1, -1], dtype=np.float32)[:, None, None]
    shown = find(features)
    assert shown[3:6, 4:9].mean() > 0 > shown[8:].mean()
    np.testing.assert_allclose(find(-features), shown, atol=1e-5 * np.abs(shown).max())


def test_the_sign_follows_the_mean_or_what_is_given():
    ramp = np.linspace(-1, 1, 16)[None, None, :].repeat(16, 1)
    for sign in (1, -1):
        features = np.concatenate([ramp, sign * (2 + 0.1 * ramp)])  # the mean lies along the second channel
        shown = principal_map(features)
        assert shown[0, -1] > 0 > shown[0, 0]  # brighter where the second channel is further from 0
        np.testing.assert_allclose(principal_map(features, -ramp[0]), -shown)
    assert not principal_map(np.ones((3, 4, 4))).any()
    assert not kernel_principal_map(np.ones((3, 4, 4), np.float32)).any()


def test_large_maps_are_averaged_for_the_kernel():
    features = np.zeros((2, 60, 131), dtype=np.float32)  # more than KERNEL_CELLS, in squares that do not divide it
    assert features[0].size > KERNEL_CELLS
    features[0, 20:40, 30:60] = 3
    shown = kernel_principal_map(features)
    assert shown.shape == (60, 131) and shown[25:35, 35:55].min() > shown[:, 70:].max()


@pytest.mark.parametrize("layer", ["vit", "decoder.0"])
@pytest.mark.parametrize("method", METHODS)
def test_the_target_acts_where_it_is_said_to_act(network, image, method, layer):
    region = torch.zeros(image.shape[-2:])
    region[:12, :12] = 1
    maps = [
        activation_map(network, image, method, layer, target, region=region)
        for target in ("restoration_change", "region", "sharpness")
    ]
    unmoved = [torch.equal(maps[0], other) for other in maps[1:]]
    assert all(unmoved) if method in WITHOUT_TARGET else not any(unmoved)


def test_channels_can_be_left_out(network, image):
    for method in ("scorecam", "ablationcam"):
        some, more, all_of_them = (
            activation_map(network, image, method, "decoder.0", max_channels=count) for count in (2, 8, None)
        )
        assert not torch.equal(some, more) and torch.equal(more, all_of_them)  # the layer has 8


def test_targets_of_tokens_act_on_the_vit(network, image):
    maps = [activation_map(network, image, "layercam", "vit.0", target) for target in TARGETS if target != "region"]
    assert all(not torch.equal(a, b) for i, a in enumerate(maps) for b in maps[:i])
    bands = [activation_map(network, image, "layercam", target="band_energy", band=b) for b in ((0, 0.1), (0.3, 0.5))]
    assert not torch.equal(*bands)


def test_a_regions_gradient_stays_within_reach(network):
    """What is far from the region has no part in the change inside it."""
    image = torch.rand(3, 32, 160, generator=torch.Generator().manual_seed(2))
    region = torch.zeros(32, 160)
    region[:, :8] = 1
    shown = activation_map(network, image, "hirescam", "decoder.0", "region", region=region)
    assert shown[:, :16].max() == 1 and shown[:, 80:].std() == 0


@pytest.mark.parametrize("fixture", ["network", "hybrid"])
def test_gradients_of_an_inner_layer_are_those_of_a_common_change(fixture, image, request):
    """All windows' copies of a token move together; checked against a finite difference, frozen ViT or not."""
    model = request.getfixturevalue(fixture)
    opened, seen = OpenedNetwork(model, ("vit.0",), (None, None), None), []
    opened.network.double()
    opened.layers["vit.0"].register_forward_hook(lambda layer, inputs, tokens: seen.append(tokens))

    def change() -> torch.Tensor:
        return (opened(image[None].double())[0].restored - image).square().mean()

    (unscaled,) = torch.autograd.grad(change(), seen[0])
    gradient = opened.gradients["vit.0"]
    assert gradient.abs().max() == 1  # scaled, which leaves its direction
    torch.testing.assert_close(gradient, unscaled / unscaled.abs().max())
    scales = []
    for seed in range(3):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed)).double()
        values = []
        for step in (1e-6, -1e-6):
            handle = opened.layers["vit.0"].register_forward_hook(
                lambda layer, inputs, tokens, move=step * direction: tokens + move
            )
            values.append(change().item())
            handle.remove()
        scales.append((values[0] - values[1]) / (gradient * direction).sum().item())
    assert scales == pytest.approx([scales[0]] * 3, rel=1e-4) and scales[0] > 0


@pytest.mark.parametrize("layer", ["vit.0", "vit", "decoder.0"])
def test_an_opened_network_is_not_kept(network, image, layer):
    """Graphs hold hooks, and hooks a network: a circle through them would never be collected."""
    opened = OpenedNetwork(network, (layer,), (None, None), None)
    seen = opened(image[None])[0]
    seen.restored.mean().backward()
    watched = weakref.ref(opened)
    del opened, seen
    gc.collect()
    assert watched() is None


def test_opening_changes_nothing(network, image):
    expected = network(image[None]).reconstruction[0]
    for layer in LAYERS:
        opened = OpenedNetwork(network, (layer,), (None, None), None)
        torch.testing.assert_close(opened(image[None])[0].restored, expected, msg=layer)
        assert opened.network.decoder.output.weight.data_ptr() == network.decoder.output.weight.data_ptr()


def test_the_model_stays_as_it_is(network, image):
    network.train()
    gradient = torch.ones_like(network.decoder.output.weight)
    network.decoder.output.weight.grad = gradient
    for method in ("gradcam", "ablationcam"):
        for layer in ("vit.1", "decoder.0"):
            activation_map(network, image, method, layer, max_channels=2)
    assert network.training and network.decoder.output.weight.grad is gradient
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == [
        "decoder.output.weight"
    ]
    assert all(parameter.requires_grad for parameter in network.decoder.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    network.decoder.output.weight.grad = None
    network.eval()


@pytest.mark.parametrize("method", ["eigencam", "kpca", "gradcam"])
def test_the_same_map_twice(network, image, method):
    maps = [activation_map(network, image, method, "encoder.0") for _ in range(2)]
    with torch.inference_mode():
        maps.append(activation_map(network, image.clone(), method, "encoder.0"))
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("layer", ["vit.0", "vit", "encoder.1", "decoder.0"])
def test_a_shifted_image_has_a_shifted_map(network, layer):
    """By a step of the windows, away from the borders, on a scene whose whole variance lies inside."""
    scene = torch.full((3, 64, 192), 0.5)
    scene[:, 24:40, 88:104] = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5))
    maps = [activation_map(network, part, "eigencam", layer) for part in (scene[..., :176], scene[..., 16:])]
    inner, shifted = maps[0][:, 56:136], maps[1][:, 40:120]
    assert torch.corrcoef(torch.stack([inner.flatten(), shifted.flatten()]))[0, 1] > 0.98


def test_windows_are_explained_together(network):
    """More windows than the ViT takes at once give the same map."""
    image = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(6))
    expected = activation_map(network, image, "gradcam", "vit.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling.vit_features.WINDOWS_AT_ONCE", 5)
        torch.testing.assert_close(activation_map(network, image, "gradcam", "vit.0"), expected)


def test_other_windows_and_controls(image):
    config = tiny_config(vit_config={**TINY_VIT, "image_size": 40}, pixel_unshuffle=1)
    model = randomised(ViTUNetForImageDenoising(config))
    maps = [
        activation_map(model, image, "eigengradcam", "vit.1", loss_weights=weights, noise_level=0.1)
        for weights in ({"pixel": 1.0}, {"pixel": 0.2, "wavelet": 0.8})
    ]
    assert not torch.equal(*maps)


def test_the_controls_act_where_features_are_decoded(network, image):
    """Even where nobody asks for a target: the bottleneck and the expanding path are conditioned themselves."""
    settings = {"pixel": 1.0}, {"pixel": 0.2, "wavelet": 0.8}
    for method in WITHOUT_TARGET:
        for layer in ("vit", "encoder.0", "bottleneck", "decoder.1", "decoder.0"):
            maps = [activation_map(network, image, method, layer, loss_weights=weights) for weights in settings]
            assert torch.equal(*maps) == (layer in ("vit", "encoder.0")), (method, layer)
    sharp = activation_map(network, image, layer="decoder.0", high_frequency_emphasis=3.0)
    assert not torch.equal(sharp, activation_map(network, image, layer="decoder.0"))
    for layer in ("bottleneck", "decoder.0"):
        with pytest.raises(ValueError, match="Unknown loss terms"):
            activation_map(network, image, layer=layer, loss_weights={"phase": 1.0})


def test_targets_of_tokens_need_no_decoding(network, image):
    assert OpenedNetwork(network, ("vit.0",), None, None)(image[None])[0].restored is None
    for method in ("gradcam", "scorecam"):
        maps = [
            activation_map(network, image, method, "vit.0", "token_norm", loss_weights=weights, max_channels=2)
            for weights in (None, {"wavelet": 1.0})
        ]
        assert torch.equal(*maps) and maps[0].max() == 1


def weights_of(method: str, activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """(C, h, w) each -> (C,)."""
    return METHODS[method].adapted().get_cam_weights(None, None, None, activations[None], gradients[None])[0]


def test_known_weights_of_channels_whose_features_sum_to_zero():
    activations = np.array([[[1, -1], [2, -2]], [[3, -3], [6, -6]]], dtype=np.float32)
    gradients = np.array([[[1, 0.5], [-0.5, 1]]], dtype=np.float32).repeat(2, 0)
    # |features| sum to 6 and 18, which is 0.5 and 1.5 of their mean.
    by_hand = [1 / 2.5 + 0.5 / 2.25 + 1 / 2.5, 1 / 3.5 + 0.5 / 2.75 + 1 / 3.5]
    np.testing.assert_allclose(weights_of("gradcam++", activations, gradients), by_hand, rtol=1e-6)
    by_hand = [(1 + 0.5 - 1 + 2) / 6] * 2
    np.testing.assert_allclose(weights_of("xgradcam", activations, gradients), by_hand, rtol=1e-6)
    for method in ("gradcam++", "xgradcam"):
        assert not weights_of(method, 0 * activations, 0 * gradients).any()  # and no division by 0


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
def test_signed_features_of_any_scale_have_one_map(method):
    random = np.random.default_rng(0)
    activations, gradients = random.normal(size=(2, 6, 9, 8)).astype(np.float32)
    activations -= activations.mean(axis=(1, 2), keepdims=True)
    expected = weights_of(method, activations, gradients)
    assert np.isfinite(expected).all() and np.abs(expected).max() < gradients[0].size
    for features, target in ((1e-3, 1.0), (1e3, 1.0), (1.0, 1e-6), (1.0, 1e6)):
        weights = weights_of(method, features * activations, np.float32(target) * gradients)
        np.testing.assert_allclose(weights / np.abs(weights).max(), expected / np.abs(expected).max(), rtol=1e-3)


def test_non_negative_features_are_weighed_as_published():
    from pytorch_grad_cam import XGradCAM

    activations, gradients = np.random.default_rng(1).gamma(2.0, size=(2, 1, 5, 6, 7))
    expected = XGradCAM.get_cam_weights(None, None, None, None, activations, gradients)
    np.testing.assert_allclose(weights_of("xgradcam", activations[0], gradients[0]), expected[0], rtol=1e-6)
    np.testing.assert_allclose(weights_of("xgradcam", -activations[0], -gradients[0]), -expected[0], rtol=1e-6)


def test_a_fresh_network_that_does_nothing_has_nothing_to_show(image):
    fresh = ViTUNetForImageDenoising(tiny_config())
    assert not activation_map(fresh, image, "gradcam", "decoder.0").any()


def test_filter_keeps_what_lies_between_the_thresholds():
    values = torch.tensor([[0.0, 0.4, 0.65, 0.9, 1.0]])
    torch.testing.assert_close(filtered(values), torch.tensor([[0.0, 0.0, 0.5, 1.0, 0.0]]))
    assert not filtered(torch.zeros(2, 2)).any()
    with pytest.raises(ValueError, match=r"0\.9 and 0\.4"):
        filtered(values, 0.9, 0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "saliency"}, "'saliency' is not among"),
        ({"layer": "decoder.2"}, r"'decoder\.2' is not among"),
        ({"target": "class"}, "'class' is not among"),
        ({"method": "gradcam", "layer": "encoder.0", "target": "token_mean"}, "does not depend on the layer"),
        ({"method": "gradcam", "target": "region"}, r"mask of shape \(52, 70\) that is not empty, got none"),
        ({"method": "gradcam", "target": "region", "region": torch.ones(5, 5)}, r"got one of shape \(5, 5\)"),
        ({"method": "gradcam", "target": "region", "region": torch.zeros(52, 70)}, "not empty"),
        ({"method": "gradcam", "target": "band_energy", "band": (0.4, 0.1)}, r"band=\(0\.4, 0\.1\)"),
        ({"method": "scorecam", "max_channels": 0}, "max_channels=0"),
    ],
)
def test_errors_name_the_remedy(network, image, arguments, message):
    with pytest.raises(ValueError, match=message):
        activation_map(network, image, **arguments)


def test_one_image_at_a_time_and_the_library(network, image, monkeypatch):
    with pytest.raises(ValueError, match="One image"):
        activation_map(network, torch.rand(2, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match="pip install grad-cam"):
        activation_map(network, image)


def test_a_network_that_looks_at_several_layers_is_explained(image):
    torch.manual_seed(0)
    model = randomised(ViTUNetForImageDenoising(tiny_config(vit_layers=(1, 2))))
    before = model(image[None]).reconstruction
    maps = activation_maps(model, image, "gradcam", layers=["vit.0", "vit.1", "decoder.0"])
    assert all(found.shape == image.shape[-2:] and found.max() > 0 for found in maps.values())
    assert torch.equal(model(image[None]).reconstruction, before)
