"""The mean over turned and mirrored copies, and the network that teaches it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from modeling import ImageDenoisingPipeline, ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.degradations import indexed_gaussian_noise
from modeling.image_files import read_photograph
from modeling.self_ensemble import SYMMETRIES, self_ensemble, turn, turn_back
from tests.conftest import randomised, tiny_config
from training.data import ImageStore, load_images
from training.evaluate import SelfEnsemble, Setting, evaluate
from training.loss_sampling import FixedLoss
from training.teacher import Teacher

IMAGE = torch.rand(1, 3, 20, 28, generator=torch.Generator().manual_seed(0))


def test_the_eight_symmetries_differ_and_can_be_undone():
    turned = [turn(IMAGE, symmetry) for symmetry in range(SYMMETRIES)]
    assert torch.equal(turned[0], IMAGE)
    for symmetry, image in enumerate(turned):
        assert torch.equal(turn_back(image, symmetry), IMAGE)
        assert not any(torch.equal(image, other) for other in turned[:symmetry])
    assert [tuple(image.shape[-2:]) for image in turned] == 2 * [(20, 28), (28, 20), (20, 28), (28, 20)]


def test_the_mean_does_not_know_how_the_image_lies(model):
    """Of square images without padding: the network alone tells them apart."""
    square = IMAGE[..., :16, :16]

    def restore(pixels: torch.Tensor) -> torch.Tensor:
        return model(pixels).reconstruction

    with torch.no_grad():
        once, mean = restore(square), self_ensemble(restore, square)
        for symmetry in range(1, SYMMETRIES):
            turned = turn(square, symmetry)
            torch.testing.assert_close(turn_back(self_ensemble(restore, turned), symmetry), mean, rtol=0, atol=1e-5)
            assert (turn_back(restore(turned), symmetry) - once).abs().max() > 1e-3


def test_maps_turn_with_the_image():
    level = torch.arange(20 * 28.0).reshape(1, 1, 20, 28)
    vector = torch.tensor([2.0])

    def restore(pixels: torch.Tensor, noise_level, loss_weights) -> torch.Tensor:
        assert loss_weights["wavelet"] == 0.5 and loss_weights["amplitude"] is vector
        return pixels * noise_level + loss_weights["pixel"]

    weights = {"pixel": level, "wavelet": 0.5, "amplitude": vector}
    restored = self_ensemble(restore, IMAGE, noise_level=level, loss_weights=weights)
    torch.testing.assert_close(restored, IMAGE * level + level)


@pytest.mark.parametrize("tile_size", [2048, 16])
def test_the_pipeline_takes_the_mean(model, tile_size):
    pipe = ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())
    sharp = torch.linspace(0, 1, 28).expand(20, 28)
    controls = {"pixel": 1 - sharp, "wavelet": sharp}
    maps = {name: weight[None, None] for name, weight in controls.items()}
    with torch.no_grad():
        expected = self_ensemble(lambda x, **kept: model(x, **kept).reconstruction, IMAGE, loss_weights=maps)[0]
    options = {"loss_weights": controls, "tile_size": tile_size, "return_tensors": True}
    restored = pipe(IMAGE[0], **options, self_ensemble=True)
    torch.testing.assert_close(restored, expected, rtol=1e-5, atol=2e-5)
    assert (pipe(IMAGE[0], **options) - restored).abs().max() > 1e-3


def test_the_command_takes_it(model, tmp_path):
    from modeling.cli import main

    model.save_pretrained(tmp_path / "model")
    ViTUNetImageProcessor().save_pretrained(tmp_path / "model")
    Image.fromarray((IMAGE[0] * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    for name, options in (("once", []), ("mean", ["--self_ensemble"])):
        command = [str(tmp_path / "photo.png"), "--model", str(tmp_path / "model"), "--output", str(tmp_path / name)]
        assert main([*command, *options]) == 0
    once, mean = (read_photograph(tmp_path / name / "photo.png") for name in ("once", "mean"))
    assert not torch.equal(once, mean)


@pytest.mark.parametrize("told", [False, True])
def test_it_is_measured_as_the_pipeline_does_it(model, image_folder, told):
    images = ImageStore(load_images(str(image_folder)).select([2]))
    setting = Setting("wavelet", {"pixel": 0.5, "wavelet": 0.5})
    clean = images[0].float() / 255
    pipe = ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())
    options = {"loss_weights": setting.loss_weights, "noise_level": 0.1 if told else None}
    noisy = indexed_gaussian_noise(clean, 0.1, 0)
    restored = pipe(noisy, **options, self_ensemble=True, return_tensors=True)
    (row,) = evaluate(SelfEnsemble(model), images, 0.1, [setting], told, measures=["mse"])
    assert row["mse"] == pytest.approx((restored.clamp(0, 1) - clean).square().mean().item(), rel=1e-4)


def test_the_mean_of_half_precision_is_taken_in_full():
    """Eight numbers of bfloat16 near 1 are summed to 8, where its steps are a sixteenth."""
    ones = torch.full((1, 3, 4, 4), 0.996, dtype=torch.bfloat16)
    mean = self_ensemble(lambda pixels: pixels, ones)
    assert mean.dtype == torch.bfloat16 and torch.equal(mean, ones)


# ---------------------------------------------------------------------------------------------------------------------
# The teacher
# ---------------------------------------------------------------------------------------------------------------------


def batch_of(count: int, weights: list[list[float]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(count, 3, 32, 32, generator=generator)
    return {
        "pixel_values": clean + 0.1 * torch.randn(clean.shape, generator=generator),
        "labels": clean,
        "noise_level": torch.full((count,), float("nan")),
        "loss_weights": torch.tensor(weights)[..., None, None],
    }


def one_hot(model: ViTUNetForImageDenoising, *terms: int) -> list[list[float]]:
    return torch.eye(len(model.config.conditioned_terms))[list(terms)].tolist()


def test_each_place_of_a_batch_is_taught_another_symmetry(model):
    batch = batch_of(10, one_hot(model, *[0] * 10))
    labels = Teacher(model, share=1.0).labels(batch)
    with torch.no_grad():
        for place in range(10):
            noisy = turn(batch["pixel_values"][place : place + 1], place % 8)
            restored = model(noisy, loss_weights={"pixel": 1.0}).reconstruction
            torch.testing.assert_close(labels[place], turn_back(restored, place % 8)[0], rtol=1e-4, atol=1e-4)


def test_only_where_the_pixel_term_weighs_alone(model):
    batch = batch_of(3, one_hot(model, 0, 1, 0))
    batch["loss_weights"][2] = torch.full_like(batch["loss_weights"][2], 1 / len(batch["loss_weights"][2]))
    taught, half = (Teacher(model, share).labels(batch) for share in (1.0, 0.5))
    assert torch.equal(taught[1:], batch["labels"][1:]) and not torch.equal(taught[0], batch["labels"][0])
    torch.testing.assert_close(half[0], (taught[0] + batch["labels"][0]) / 2)


@pytest.mark.parametrize("weights", [None, {"pixel": 0.8}, {"pixel": 2.0, "wavelet": 0.0}])
def test_a_run_of_the_pixel_term_alone_is_taught(model, weights):
    """However its weights are scaled; an unconditioned network's batches bring none."""
    batch = batch_of(2, one_hot(model, 0, 0))
    expected = Teacher(model, share=1.0).labels(batch)
    batch.pop("loss_weights")
    if weights is not None:
        fixed = FixedLoss(tuple(weights.get(term, 0.0) for term in model.config.conditioned_terms), 0.0)
        batch["loss_weights"], batch["high_frequency_emphasis"] = fixed(2, torch.Generator())
    assert torch.equal(Teacher(model, share=1.0).labels(batch), expected)


def test_the_teacher_is_at_its_pixel_term_whatever_its_defaults(model):
    batch = batch_of(2, one_hot(model, 0, 0))
    expected = Teacher(model, share=1.0).labels(batch)
    model.config.loss_weights, model.config.high_frequency_emphasis = {"pixel": 0.2, "wavelet": 0.8}, 2.0
    assert torch.equal(Teacher(model, share=1.0).labels(batch), expected)


def test_a_learner_comes_closer_to_the_mean(model):
    """Some steps towards the symmetries of its own: what they differ in shrinks, without a clean image."""
    teacher, learner = Teacher(model, share=1.0), randomised(ViTUNetForImageDenoising(tiny_config()))
    learner.load_state_dict(model.state_dict())
    noisy = batch_of(8, one_hot(model, *[0] * 8))
    noisy["pixel_values"] = noisy["pixel_values"][:1].repeat(8, 1, 1, 1)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
    with torch.no_grad():
        mean = self_ensemble(lambda x: teacher.model(x).reconstruction, noisy["pixel_values"][:1])
    distances = []
    for _ in range(20):
        restored = learner(noisy["pixel_values"]).reconstruction
        distances.append((restored[0] - mean[0]).square().mean().item())
        (restored - teacher.labels(noisy)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert distances[-1] < 0.7 * distances[0]


def test_who_cannot_be_taught_is_told(model):
    teacher = Teacher(model, share=0.7)
    several = {"loss_weights": {"pixel": 0.5, "wavelet": 0.5}}
    teacher.check_learner(tiny_config(**several))
    teacher.check_learner(tiny_config(one_loss=True))
    for fixed in (tiny_config(**several, one_loss=True), tiny_config(**several, conditioned_terms=())):
        with pytest.raises(ValueError, match="this one was trained for"):
            Teacher(ViTUNetForImageDenoising(fixed), share=0.7).check_learner(tiny_config())
    with pytest.raises(ValueError, match=r"pixel term alone.*wavelet"):
        teacher.check_learner(tiny_config(**several, one_loss=True))
    gray = {"num_channels": 1, "vit_image_mean": (0.5,), "vit_image_std": (0.5,), "use_vit": False}
    with pytest.raises(ValueError, match=r"3 channels.* 1:"):
        teacher.check_learner(tiny_config(**gray))
