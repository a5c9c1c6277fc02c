"""The network: identity at first, any size, encode once, conditioned decoding, honest errors."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from modeling.losses import WeightedCriterion
from modeling.unet import on_finest_grid
from tests.conftest import TINY_HYBRID, TINY_VIT, randomised, tiny_config

SIZES = [(1, 1), (1, 9), (31, 37), (65, 40), (48, 48), (100, 33)]


def test_a_fresh_network_is_the_identity():
    model = ViTUNetForImageDenoising(tiny_config()).eval()
    images = torch.rand(2, 3, 37, 50)
    output = model(images, loss_weights={"wavelet": 1.0}, high_frequency_emphasis=3.0, noise_level=0.1)
    assert torch.equal(output.reconstruction, images)


def test_half_precision_is_for_features_alone(tmp_path):
    """A picture is kept as it came: bf16 has 128 values from a half to 1."""
    model = ViTUNetForImageDenoising(tiny_config()).bfloat16().eval()
    images = torch.rand(1, 3, 33, 40)
    assert torch.equal(model(images, noise_level=0.1).reconstruction, images)
    whole = randomised(ViTUNetForImageDenoising(tiny_config()))
    expected = whole(images, loss_weights={"wavelet": 1.0}).reconstruction
    whole.save_pretrained(tmp_path)
    loaded = ViTUNetForImageDenoising.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    for halved in (loaded, copy.deepcopy(whole).bfloat16()):
        restored = halved(images, loss_weights={"wavelet": 1.0}).reconstruction
        assert restored.dtype == torch.float32
        assert (restored - expected).abs().max() < 0.05 * (expected - images).abs().max()


def test_checkpointed_layers_have_the_same_gradients():
    images, clean = torch.rand(2, 1, 3, 32, 32)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = randomised(ViTUNetForImageDenoising(tiny_config())).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(images, clean).loss.backward()
        gradients.append([parameter.grad for parameter in model.vit_features.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_conditioned_network_is_exported(model):
    """And what was exported leaves no trace in the network."""

    class Restore(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
            weights = {"pixel": 1 - sharpness, "wavelet": sharpness}
            return self.model(images, loss_weights=weights, high_frequency_emphasis=1.5).reconstruction

    images, sharpness = torch.rand(1, 3, 40, 48), torch.tensor([0.4])
    with torch.no_grad():
        exported = torch.export.export(Restore(), (images, torch.tensor([0.9]))).module()
        torch.testing.assert_close(exported(images, sharpness), Restore()(images, sharpness))


@pytest.mark.parametrize("size", SIZES)
def test_any_size_goes_in_and_the_same_comes_out(model, size):
    output = model(torch.rand(2, 3, *size))
    assert output.reconstruction.shape == (2, 3, *size)
    assert output.reconstruction.isfinite().all()
    assert output.loss is None and output.loss_terms is None


def test_forward_is_decode_of_encode(model):
    images = torch.rand(2, 3, 40, 33)
    controls = {"loss_weights": {"pixel": 0.5, "wavelet": 0.5}, "high_frequency_emphasis": 1.0}
    expected = model(images, noise_level=0.2, **controls).reconstruction
    assert torch.equal(model.decode(model.encode(images, 0.2), **controls), expected)


def test_every_control_changes_the_picture(model):
    encoded = model.encode(torch.rand(1, 3, 32, 32))
    reference = model.decode(encoded)
    for name in model.config.conditioned_terms[1:]:
        assert not torch.allclose(model.decode(encoded, {name: 1.0}), reference, atol=1e-4), name
    assert not torch.allclose(model.decode(encoded, None, 2.0), reference, atol=1e-4)


def test_each_image_of_a_batch_has_its_own_controls(model):
    images = torch.rand(2, 3, 32, 32)
    sharpness, emphasis, level = torch.tensor([0.0, 0.7]), torch.tensor([1.0, 3.0]), torch.tensor([float("nan"), 0.1])
    together = model(images, None, {"pixel": 1 - sharpness, "regional_sharpness": sharpness}, emphasis, level)
    for index in range(2):
        weight = sharpness[index].item()
        alone = model(
            images[index : index + 1],
            loss_weights={"pixel": 1 - weight, "regional_sharpness": weight},
            high_frequency_emphasis=emphasis[index].item(),
            noise_level=None if index == 0 else 0.1,
        )
        torch.testing.assert_close(alone.reconstruction[0], together.reconstruction[index])


def test_weights_are_normalised(model):
    encoded = model.encode(torch.rand(1, 3, 32, 32))
    large = model.decode(encoded, {"pixel": 8.0, "wavelet": 2.0})
    torch.testing.assert_close(large, model.decode(encoded, {"pixel": 0.8, "wavelet": 0.2}))


@pytest.mark.parametrize(("size", "grid"), [((40, 48), (5, 6)), ((33, 47), (33, 47)), ((33, 47), (70, 2))])
def test_a_uniform_map_of_controls_equals_the_vector(model, size, grid):
    image = torch.rand(1, 3, *size)
    vector = model(image, None, {"pixel": 0.6, "wavelet": 0.4}, 2.0, 0.1).reconstruction

    def uniform(value: float) -> torch.Tensor:
        return torch.full((1, 1, *grid), value)

    maps = {"pixel": uniform(0.6), "wavelet": uniform(0.4)}
    torch.testing.assert_close(model(image, None, maps, uniform(2.0), uniform(0.1)).reconstruction, vector)


def test_maps_cover_the_image_and_not_its_padding():
    """The image is 34 pixels wide, padded to 40: the right half of a map begins at pixel 17."""
    halves = torch.tensor([0.0, 1.0]).expand(1, 1, 1, 2)
    fine = halves.repeat_interleave(17, dim=-1).repeat_interleave(16, dim=-2)
    grid = on_finest_grid(fine, (16, 34), (16, 40), 2)
    assert grid.shape == (1, 1, 8, 20)
    assert grid[0, 0, 0].tolist() == [0.0] * 8 + [0.5] + [1.0] * 11


def test_maps_may_have_several_sizes(model):
    encoded = model.encode(torch.rand(1, 3, 32, 48))
    mask, level = (torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = model.decode(encoded, {"pixel": 1 - mask, "wavelet": mask}, level)
    fine = mask.repeat_interleave(4, -1).repeat_interleave(4, -2)  # averaged on the way, to the same
    several = model.decode(encoded, {"pixel": 1 - mask, "wavelet": fine}, level)
    torch.testing.assert_close(several, expected)
    loss = model.weighted_loss(torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48), {"pixel": 1 - mask, "wavelet": fine})
    assert loss[0].isfinite()
    fine[0, 0, 5, 5] = -0.01  # though the mean of its cell is not
    with pytest.raises(ValueError, match="not negative"):
        model.decode(encoded, {"pixel": 1.0, "wavelet": fine})


def test_a_map_acts_where_it_is_painted(model):
    encoded = model.encode(torch.rand(1, 3, 32, 256))
    painted = torch.zeros(1, 1, 4, 32)
    painted[..., :2] = 1.0
    restored = model.decode(encoded, {"pixel": 1 - painted, "wavelet": painted})
    plain = model.decode(encoded)
    assert not torch.allclose(restored[..., :16], plain[..., :16], atol=1e-5)
    torch.testing.assert_close(restored[..., -64:], plain[..., -64:])


def test_the_loss_follows_the_config(model):
    clean, noisy = torch.rand(2, 1, 3, 32, 32)
    weights = {"pixel": 0.5, "wavelet": 0.5}
    terms = model(noisy, clean, weights).loss_terms
    model.config.loss_balance = "sum"
    loss = model.weighted_loss(model(noisy, None, weights).reconstruction, clean, weights)[0]
    expected = model.weighted_loss(model(noisy, None, weights).reconstruction, clean, weights)[1]
    torch.testing.assert_close(loss, 0.5 * expected["pixel"] + 0.5 * expected["wavelet"])
    model.config.wavelet_levels = 1
    assert model(noisy, clean, weights).loss_terms["wavelet"] != terms["wavelet"]


def test_labels_give_the_loss_and_the_raw_terms(model):
    clean, noisy = torch.rand(2, 2, 3, 32, 32)
    output = model(noisy, labels=clean, loss_weights={"pixel": 1.0})
    expected = (output.reconstruction - clean).square().mean((1, 2, 3))
    torch.testing.assert_close(output.loss_terms["pixel"], expected.mean())
    torch.testing.assert_close(output.loss, torch.log(expected + 1e-5).mean())
    assert set(output.loss_terms) == set(model.config.conditioned_terms)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_no_emphasis_at_all_is_a_setting():
    model = randomised(ViTUNetForImageDenoising(tiny_config(max_high_frequency_emphasis=0)))
    assert model(torch.rand(1, 3, 16, 16), high_frequency_emphasis=0.0).reconstruction.isfinite().all()


def test_return_dict_false_gives_a_tuple(model):
    images = torch.rand(1, 3, 16, 16)
    (reconstruction,) = model(images, return_dict=False)
    assert torch.equal(reconstruction, model(images).reconstruction)


def test_receptive_field_bounds_what_a_pixel_can_change():
    model = randomised(ViTUNetForImageDenoising(tiny_config(use_vit=False)))
    side = 3 * model.receptive_field
    side += -side % model.config.stride
    image = torch.rand(1, 3, side, side)
    changed = image.clone()
    changed[..., side // 2, side // 2] += 1.0
    moved = (model(changed).reconstruction - model(image).reconstruction).abs().sum((0, 1)).nonzero()
    extent = (moved.amax(0) - moved.amin(0)).max().item() + 1
    assert model.receptive_field / 3 < extent <= model.receptive_field


@pytest.mark.parametrize("overrides", [{"use_vit": False}, {"vit_join": "concat"}, {"skip_connection": "concat"}])
def test_settings_of_the_same_classes(overrides):
    model = randomised(ViTUNetForImageDenoising(tiny_config(**overrides)))
    assert model(torch.rand(1, 3, 33, 47)).reconstruction.shape == (1, 3, 33, 47)


def test_the_posts_network_in_small():
    config = ViTUNetConfig.hybrid_vit_base(**TINY_HYBRID)
    model = randomised(ViTUNetForImageDenoising(config)).train()
    assert not model.vit_features.vit.training
    output = model(torch.rand(1, 3, 64, 64), labels=torch.rand(1, 3, 64, 64))
    terms = output.loss_terms
    torch.testing.assert_close(output.loss.detach(), 0.8 * terms["pixel"] + 0.2 * terms["regional_sharpness"])
    output.loss.backward()
    assert all(p.grad is None for p in model.vit_features.vit.parameters())
    with pytest.raises(ValueError, match="without conditioned_terms"):
        model(torch.rand(1, 3, 64, 64), loss_weights={"pixel": 1.0})
    with pytest.raises(ValueError, match="noise_conditioned=False"):
        model(torch.rand(1, 3, 64, 64), noise_level=0.1)


def test_the_posts_network_has_the_posts_layers():
    """The layer table of "Denoising autoencoders, part 3", read off the network itself, without allocating it."""
    with torch.device("meta"):
        model = ViTUNetForImageDenoising(ViTUNetConfig.hybrid_vit_base())
    shapes = {
        name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight") and ".vit." not in name
    }
    vit = model.config.vit_config
    assert (vit.hidden_size, vit.num_hidden_layers, vit.patch_size, vit.image_size) == (768, 12, 16, 224)
    assert shapes == {
        "vit_features.projection.0.weight": (512, 768, 1, 1),
        "vit_features.projection.2.weight": (512, 512, 1, 1),
        "encoder.stages.0.0.conv1.weight": (64, 3, 3, 3),
        "encoder.stages.0.0.conv2.weight": (64, 64, 3, 3),
        "encoder.stages.1.0.conv1.weight": (128, 64, 3, 3),
        "encoder.stages.1.0.conv2.weight": (128, 128, 3, 3),
        "encoder.stages.2.0.conv1.weight": (256, 128, 3, 3),
        "encoder.stages.2.0.conv2.weight": (256, 256, 3, 3),
        "decoder.bottleneck.0.conv1.weight": (512, 256 + 512, 3, 3),
        "decoder.bottleneck.0.conv2.weight": (512, 512, 3, 3),
        "decoder.upsamples.2.weight": (512, 256, 2, 2),
        "decoder.stages.2.0.conv1.weight": (256, 512, 3, 3),
        "decoder.stages.2.0.conv2.weight": (256, 256, 3, 3),
        "decoder.upsamples.1.weight": (256, 128, 2, 2),
        "decoder.stages.1.0.conv1.weight": (128, 256, 3, 3),
        "decoder.stages.1.0.conv2.weight": (128, 128, 3, 3),
        "decoder.upsamples.0.weight": (128, 64, 2, 2),
        "decoder.stages.0.0.conv1.weight": (64, 128, 3, 3),
        "decoder.stages.0.0.conv2.weight": (64, 64, 3, 3),
        "decoder.output.weight": (3, 64, 1, 1),
    }
    assert not any(p.requires_grad for p in model.vit_features.vit.parameters())


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2"])
def test_any_pretrained_vit_can_be_the_backbone(tmp_path, model_type):
    config = AutoConfig.for_model(**{**TINY_VIT, "model_type": model_type})
    backbone = AutoModel.from_config(config).eval()
    backbone.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    model = ViTUNetForImageDenoising.from_backbone_pretrained(str(tmp_path), tiny_config(), freeze_vit=True)
    assert list(model.config.vit_image_mean) == [0.1, 0.2, 0.3]
    assert not any(p.requires_grad for p in model.vit_features.vit.parameters())
    pixels = torch.rand(1, 3, 32, 32)
    normalised = (pixels - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    expected = backbone(normalised).last_hidden_state[:, -16:].transpose(1, 2).reshape(1, 32, 4, 4)
    torch.testing.assert_close(model.vit_features.token_map(pixels), expected, rtol=1e-4, atol=1e-5)

    model.save_pretrained(tmp_path / "denoiser")
    again = ViTUNetForImageDenoising.from_pretrained(tmp_path / "denoiser")
    assert not any(p.requires_grad for p in again.vit_features.vit.parameters())
    torch.testing.assert_close(again.vit_features.token_map(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_values": torch.rand(3, 8, 8)}, "must have shape"),
        ({"pixel_values": torch.rand(1, 1, 8, 8)}, "must have shape"),
        ({"pixel_values": torch.rand(1, 3, 0, 8)}, "must have shape"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "floats"),
        ({"loss_weights": {"pixel": float("nan")}}, "finite"),
        ({"loss_weights": {"pixel": 0.0}}, "sum to 0"),
        ({"loss_weights": {"phase": 1.0}}, "Unknown"),
        ({"high_frequency_emphasis": -1.0}, "high_frequency_emphasis"),
        ({"high_frequency_emphasis": float("nan")}, "high_frequency_emphasis"),
        ({"noise_level": -0.1}, "noise_level"),
        ({"noise_level": 25}, "divide levels of 255 by 255"),
        ({"labels": torch.rand(1, 3, 9, 8)}, "labels"),
    ],
)
def test_bad_input_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**{"pixel_values": torch.rand(1, 3, 8, 8), **arguments})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_sizes": (8,)}, "hidden_sizes"),
        ({"encoder_blocks": (1, 1)}, "encoder_blocks"),
        ({"bottleneck_blocks": 0}, "bottleneck_blocks"),
        ({"conditioned_terms": ("pixel", "psnr")}, "no losses"),
        ({"conditioned_terms": ("pixel", "phase")}, "no losses"),
        ({"loss_weights": {"phase": 1.0}}, "no losses"),
        ({"conditioned_terms": ("wavelet", "pixel")}, "begin with 'pixel'"),
        ({"conditioned_terms": ("pixel",), "loss_weights": {"wavelet": 1.0}}, "add them there"),
        ({"decoder_blocks": (0, 1)}, "decoder_blocks"),
        ({"loss_weights": {"pixel": -1.0}}, "loss_weights"),
        ({"loss_strengths": {"wavelet": 0.0}}, "loss_strengths"),
        ({"loss_strengths": {"phase": 1.0}}, "no losses"),
        ({"fidelity_share": 1.5}, "fidelity_share"),
        ({"high_frequency_emphasis": 9.0}, "high_frequency_emphasis"),
        ({"wavelet": "sym9"}, "wavelet"),
        ({"vit_image_std": (0.5, 0.0, 0.5)}, "vit_image_std"),
        ({"vit_projection_sizes": (7,)}, "vit_join"),
        ({"vit_layers": (0, 2)}, "vit_layers"),
        ({"vit_layers": (3,)}, "vit_layers"),
        ({"vit_layers": ()}, "vit_layers"),
        ({"vit_layers": (1,)}, "the last among them"),
        ({"num_channels": 1, "vit_image_mean": (0.5,), "vit_image_std": (0.5,)}, "The ViT sees 3 channels"),
        ({"block_type": "gated", "skip_connection": "concat"}, "skip_connection='concat'"),
        ({"block_type": "gated", "vit_join": "concat"}, "vit_join='concat'"),
        ({"block_type": "gated", "downsampling": "max_pool"}, "'conv'"),
        ({"modulated_levels": (1, 3)}, "modulated_levels"),
        ({"modulated_levels": ()}, "modulated_levels"),
        ({"vit_config": {**TINY_VIT, "image_size": 8}}, "overlap"),
    ],
)
def test_bad_settings_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        ViTUNetForImageDenoising(tiny_config(**overrides))


@pytest.mark.parametrize("levels", [[0], [2], [0, 1]])
def test_controls_act_on_the_levels_that_are_named(levels):
    model = randomised(ViTUNetForImageDenoising(tiny_config(modulated_levels=levels)))
    stages = enumerate([*model.decoder.stages, model.decoder.bottleneck])
    assert [level for level, blocks in stages if any(block.modulation for block in blocks)] == levels
    image = torch.rand(1, 3, 16, 24)
    plain, sharp = (model(image, loss_weights={name: 1.0}).reconstruction for name in ("pixel", "wavelet"))
    assert not torch.allclose(plain, sharp)


# --- maps in the loss ------------------------------------------------------------------------------------------------


def test_a_uniform_map_gives_the_loss_of_its_vector(model):
    noisy, clean = torch.rand(2, 2, 3, 40, 48)
    weights = {"pixel": 0.6, "wavelet": 0.3, "regional_sharpness": 0.1}
    plain = model(noisy, clean, weights, 2.0)
    maps = {name: torch.full((2, 1, 4, 5), value) for name, value in weights.items()}
    mapped = model(noisy, clean, maps, torch.full((2, 1, 4, 5), 2.0))
    torch.testing.assert_close(mapped.loss, plain.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mapped.reconstruction, plain.reconstruction, rtol=1e-4, atol=1e-5)
    for name, value in plain.loss_terms.items():
        torch.testing.assert_close(mapped.loss_terms[name], value, rtol=1e-3, atol=1e-6)


def test_a_term_does_not_see_where_it_weighs_nothing():
    criterion = WeightedCriterion(ViTUNetConfig())
    target = torch.rand(1, 3, 32, 32)
    prediction = target.clone()
    prediction[..., 16:] += 0.1 * torch.rand(1, 3, 32, 16)
    prediction.requires_grad_()
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1.0
    weights = torch.cat([1 - left, left], dim=1)
    terms = criterion.mapped_terms(prediction, target, weights, torch.zeros(1, 1, 1, 1), ("pixel", "wavelet"))
    assert terms["pixel"].item() > 1e-4 and terms["wavelet"].item() < 1e-6
    terms["wavelet"].sum().backward()
    assert prediction.grad[..., 16:].abs().max() == 0
