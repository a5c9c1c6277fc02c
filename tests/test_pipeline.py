"""The pipeline: any image in, the same kind of image out, restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling import PRESETS, ImageDenoisingPipeline, ViTUNetConfig, ViTUNetForImageDenoising, ViTUNetImageProcessor
from modeling.image_files import open_image, save_image
from modeling.pipeline_image_denoising import as_control
from tests.conftest import TINY_HYBRID, randomised, tiny_config

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (33, 41, 4), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS[..., :3])


@pytest.fixture
def pipe(model) -> ImageDenoisingPipeline:
    return ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())


@pytest.fixture
def identity() -> ImageDenoisingPipeline:
    """A fresh network returns its input, so that all that changes is what the pipeline loses."""
    model = ViTUNetForImageDenoising(tiny_config()).eval()
    return ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())


def test_it_restores_what_the_model_restores(pipe):
    pixels = torch.from_numpy(PIXELS[None, ..., :3] / np.float32(255)).permute(0, 3, 1, 2)
    weights = {"pixel": 0.5, "wavelet": 0.5}
    with torch.no_grad():
        expected = pipe.model(pixels, None, weights, 2.0, 0.1).reconstruction[0]
    controls = {"loss_weights": weights, "high_frequency_emphasis": 2.0, "noise_level": 0.1}
    restored = pipe(PHOTO, **controls, return_tensors=True)
    torch.testing.assert_close(restored, expected)
    picture = np.asarray(pipe(PHOTO, **controls)) / 255
    np.testing.assert_allclose(picture, expected.clamp(0, 1).permute(1, 2, 0), atol=0.51 / 255)


def test_by_name_of_the_task(model, tmp_path):
    model.save_pretrained(tmp_path)
    ViTUNetImageProcessor().save_pretrained(tmp_path)
    by_folder = pipeline("image-denoising", model=str(tmp_path))
    by_hand = pipeline("image-denoising", model=model, image_processor=ViTUNetImageProcessor())
    assert type(by_folder) is type(by_hand) is ImageDenoisingPipeline
    restored = [pipe(PHOTO, return_tensors=True) for pipe in (by_folder, by_hand)]
    torch.testing.assert_close(*restored, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(41, 33), (1, 1), (7, 2)])
def test_every_mode_comes_back(identity, mode, size):
    image = Image.fromarray(PIXELS).crop((0, 0, *size))
    image = image.convert("RGB").convert(mode) if mode in ("1", "P", "L") else image.convert(mode)
    restored = identity(image)
    expected = {"1": "L", "P": "RGB"}.get(mode, mode)
    assert (restored.mode, restored.size) == (expected, size)
    assert np.array_equal(np.asarray(restored), np.asarray(image.convert(expected)))


def test_sixteen_bits_come_back(identity, tmp_path):
    deep = GENERATOR.integers(0, 65536, (9, 12, 4), dtype=np.uint16)
    gray = identity(Image.fromarray(deep[..., 0]))
    assert gray.mode == "I;16" and np.array_equal(np.asarray(gray), deep[..., 0])
    wide = identity(Image.fromarray(deep[..., 0].astype(np.int32)))  # mode "I", as PIL reads some files of 16 bits
    assert np.array_equal(np.asarray(wide), deep[..., 0])
    save_image(deep, tmp_path / "deep.png")
    for source in (deep, tmp_path / "deep.png", str(tmp_path / "deep.png")):
        restored = identity(source)
        assert restored.dtype == np.uint16 and np.array_equal(restored, deep)


def test_alpha_is_not_touched(pipe):
    assert np.array_equal(np.asarray(pipe(Image.fromarray(PIXELS)))[..., 3], PIXELS[..., 3])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_network_sees_it_upright_and_it_comes_back_as_it_lay(pipe, tmp_path, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    PHOTO.save(tmp_path / "photo.png", exif=tags, icc_profile=b"profile")
    upright, _ = open_image(tmp_path / "photo.png")
    expected = pipe(upright, return_tensors=True)
    restored = pipe(tmp_path / "photo.png")
    assert restored.size == PHOTO.size
    assert restored.getexif()[0x0112] == orientation and restored.info["icc_profile"] == b"profile"
    save_image(restored, tmp_path / "restored.png")
    saved = open_image(tmp_path / "restored.png")[0] / 255
    torch.testing.assert_close(saved, expected.clamp(0, 1), rtol=0, atol=0.51 / 255)


def test_lists_and_batches(pipe):
    images = [PHOTO, Image.fromarray(255 - PIXELS[..., :3])]
    one_by_one = [pipe(image, return_tensors=True) for image in images]
    for batch_size in (1, 2):
        for restored, expected in zip(
            pipe(images, batch_size=batch_size, return_tensors=True), one_by_one, strict=True
        ):
            torch.testing.assert_close(restored, expected, rtol=1e-5, atol=2e-5)
    sizes = [PHOTO, PHOTO.resize((20, 10))]
    assert [restored.size for restored in pipe(sizes)] == [image.size for image in sizes]


def test_large_images_go_in_tiles(pipe):
    whole = pipe(PHOTO, preset="wavelet", return_tensors=True)
    tiled = pipe(PHOTO, preset="wavelet", tile_size=16, return_tensors=True)
    torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["L", "I;16", "I", "F"])
def test_a_mask_of_any_depth_is_white_at_its_maximum(mode):
    maximum, dtype = {"L": (255, np.uint8), "I;16": (65535, np.uint16), "I": (65535, np.int32), "F": (1, np.float32)}[
        mode
    ]
    mask = Image.fromarray(np.array([[0, maximum]], dtype=dtype))
    assert mask.mode == mode
    assert as_control(mask, "wavelet").tolist() == [[[[0.0, 1.0]]]]


def test_a_network_for_one_loss_takes_no_other(model):
    model.config.one_loss = True
    pipe = ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())
    assert pipe(PHOTO).size == PHOTO.size
    for setting in ({"preset": "wavelet"}, {"loss_weights": {"pixel": 1}}, {"high_frequency_emphasis": 1.0}):
        with pytest.raises(ValueError, match="its default loss alone"):
            pipe(PHOTO, **setting)


def test_presets_are_settings_by_name(pipe):
    chosen = PRESETS["frequency_emphasis"]
    expected = pipe(PHOTO, loss_weights=chosen.loss_weights, high_frequency_emphasis=2.0, return_tensors=True)
    assert torch.equal(pipe(PHOTO, preset="frequency_emphasis", return_tensors=True), expected)
    flat = pipe(PHOTO, preset="frequency_emphasis", high_frequency_emphasis=0.0, return_tensors=True)
    assert torch.equal(flat, pipe(PHOTO, preset="frequency", return_tensors=True))
    preset = ImageDenoisingPipeline(model=pipe.model, image_processor=pipe.image_processor, preset="wavelet")
    assert torch.equal(preset(PHOTO, return_tensors=True), pipe(PHOTO, preset="wavelet", return_tensors=True))


def test_weights_in_a_call_do_not_inherit_the_emphasis_of_a_preset(pipe):
    built = ImageDenoisingPipeline(model=pipe.model, image_processor=pipe.image_processor, preset="frequency_emphasis")
    weights = dict(PRESETS["frequency_emphasis"].loss_weights)
    in_call, emphasised = (
        built(PHOTO, loss_weights=weights, return_tensors=True, **emphasis)
        for emphasis in ({}, {"high_frequency_emphasis": 2.0})
    )
    assert torch.equal(in_call, pipe(PHOTO, loss_weights=weights, return_tensors=True))
    assert torch.equal(emphasised, built(PHOTO, return_tensors=True)) and not torch.equal(in_call, emphasised)


def test_a_mask_weighs_where_it_is_white(pipe):
    mask = Image.new("L", PHOTO.size)
    mask.paste(255, (0, 0, 20, 33))
    array = np.asarray(mask, dtype=np.float32) / 255
    by_mask = pipe(PHOTO, loss_weights={"pixel": 0.5, "regional_sharpness": mask}, return_tensors=True)
    by_array = pipe(PHOTO, loss_weights={"pixel": 0.5, "regional_sharpness": array}, return_tensors=True)
    assert torch.equal(by_mask, by_array)
    assert not torch.allclose(by_mask, pipe(PHOTO, loss_weights={"pixel": 1.0}, return_tensors=True), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "sharp"}, "preset='sharp' is unknown"),
        ({"preset": "mse", "loss_weights": {"pixel": 1.0}}, "give it or loss_weights"),
        ({"loss_weights": {"phase": 1.0}}, "Unknown loss terms"),
        ({"loss_weights": {"pixel": np.ones((2, 2, 2))}}, "pixel must be a number or a map"),
        ({"loss_weights": {"pixel": 1 - PIXELS[..., 0] // 255}}, "do not say what is 1"),
        ({"noise_level": 25}, r"must lie in \[0, 1\]"),
        ({"noise_level": float("nan")}, r"must lie in \[0, 1\]"),
        ({"high_frequency_emphasis": -1.0}, "high_frequency_emphasis"),
        ({"tile_size": 0}, "tile_size=0"),
    ],
)
def test_bad_settings_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(PHOTO, **arguments)


def test_bad_images_are_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match=r"absent.png cannot be read"):
        pipe(str(tmp_path / "absent.png"))
    with pytest.raises(ValueError, match="must lie in"):
        pipe(np.full((4, 4, 3), 200.0))


def test_the_posts_network():
    model = randomised(ViTUNetForImageDenoising(ViTUNetConfig.hybrid_vit_base(**TINY_HYBRID)))
    pipe = ImageDenoisingPipeline(model=model, image_processor=ViTUNetImageProcessor())
    assert pipe(PHOTO).size == PHOTO.size
    with pytest.raises(ValueError, match="without conditioned_terms"):
        pipe(PHOTO, preset="wavelet")
