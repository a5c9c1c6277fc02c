"""The image processor: every mode that people have, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from modeling import ViTUNetImageProcessor

RAMP = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)


@pytest.fixture(scope="module")
def processor():
    return ViTUNetImageProcessor()


def pixels(processor, image) -> torch.Tensor:
    return processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bit_modes(processor, mode):
    image = Image.fromarray(RAMP[..., :3]).convert(mode)
    result = pixels(processor, image)
    assert result.shape == (3, 5, 7) and result.dtype == torch.float32
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_gray_is_exact(processor, tmp_path, mode):
    values = np.array([[0, 1, 1000], [30000, 65534, 65535]], dtype=np.uint16)
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert image.mode == mode
    expected = torch.from_numpy(values.astype(np.float32) / 65535).expand(3, -1, -1)
    torch.testing.assert_close(pixels(processor, image), expected, rtol=0, atol=0)


def test_alpha_does_not_touch_the_colours(processor):
    rgba = RAMP.copy()
    rgba[..., 3] = 0
    expected = torch.from_numpy(rgba[..., :3].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels(processor, Image.fromarray(rgba)), expected)


def test_arrays_and_tensors(processor):
    expected = torch.from_numpy(RAMP[..., :3].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels(processor, RAMP[..., :3].copy()), expected)
    torch.testing.assert_close(pixels(processor, expected), expected)
    torch.testing.assert_close(pixels(processor, (RAMP[..., :3].astype(np.uint16) * 257)), expected)


def test_batches(processor):
    image = Image.fromarray(RAMP[..., :3].copy())
    assert processor([image, image], return_tensors="pt")["pixel_values"].shape == (2, 3, 5, 7)
    sizes = [tuple(v.shape) for v in processor([image, image.resize((4, 4))])["pixel_values"]]
    assert sizes == [(3, 5, 7), (3, 4, 4)]


def test_round_trip_is_lossless(processor):
    image = Image.fromarray(RAMP[..., :3].copy())
    (back,) = processor.post_process(processor(image, return_tensors="pt")["pixel_values"])
    assert np.array_equal(np.array(back), np.array(image))


def test_bad_values_are_refused(processor):
    with pytest.raises(ValueError, match="must lie in"):
        pixels(processor, torch.full((3, 4, 4), float("nan")))
    with pytest.raises(ValueError, match="must lie in"):
        pixels(processor, np.full((3, 4, 4), 200.0))
    for value in (-1, 65536):
        with pytest.raises(ValueError, match=r"32-bit integers must lie in \[0, 65535\]: scale it to 16 bits"):
            pixels(processor, Image.fromarray(np.array([[0, value]], dtype=np.int32)))
    with pytest.raises(ValueError, match="do not say what is white"):
        pixels(processor, np.full((3, 4, 4), 200, dtype=np.int32))
    with pytest.raises(ValueError, match="not understood"):
        pixels(processor, np.zeros((3, 4, 4), dtype=bool))
