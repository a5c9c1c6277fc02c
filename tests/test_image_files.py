"""Photographs on disk: whatever goes in, the same comes out."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin
from torchvision.io import ImageReadMode, decode_image

from modeling.image_files import Original, open_image, photographs, read_photograph, save_image, save_restored, to_uint8
from modeling.image_processing_vit_unet import to_rgb

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (5, 7, 4), dtype=np.uint8)
DEEP = GENERATOR.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
PROFILE = b"\0" * 36 + b"acsp" + b"\0" * 88


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "A camera", orientation
    tags.get_ifd(0x8769)[0x829A] = 0.005  # exposure time
    return tags.tobytes()


def written(path, **options):
    """An RGB photograph on disk."""
    Image.fromarray(PIXELS[..., :3]).save(path, **options)
    return path


def deep_png(path, channels: int, dpi: tuple[int, int] = (300, 300)):
    save_image(DEEP[..., :channels], path, {"icc_profile": PROFILE, "exif": exif(), "dpi": dpi})
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_eight_bit_modes_come_back(tmp_path, mode, ending):
    source, destination = tmp_path / f"source{ending}", tmp_path / f"restored{ending}"
    image = Image.fromarray(PIXELS if mode == "RGBA" else PIXELS[..., :3])
    image = image.convert(mode)
    image.save(source)
    save_restored(read_photograph(source), source, destination)
    with Image.open(source) as before, Image.open(destination) as after:
        expected = {"1": "L", "P": "RGB"}.get(mode, mode)
        assert (after.mode, after.size) == (expected, before.size)
        assert np.array_equal(np.asarray(after), np.asarray(before.convert(expected)))


def test_other_colour_spaces_become_rgb_without_their_profile(tmp_path):
    source = tmp_path / "print.jpg"
    Image.fromarray(PIXELS[..., :3]).convert("CMYK").save(source, icc_profile=PROFILE)
    save_restored(read_photograph(source), source, tmp_path / "restored.png")
    with Image.open(tmp_path / "restored.png") as after:
        assert after.mode == "RGB" and "icc_profile" not in after.info


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode):
    source, destination = tmp_path / "source.png", tmp_path / "restored.png"
    image = Image.new("RGB", (6, 4), (10, 20, 30)).convert(mode)
    image.paste(image.getpixel((0, 0)), (0, 0, 3, 4))
    colour = {"L": 18, "P": image.getpixel((0, 0)), "RGB": (10, 20, 30)}[mode]
    image.putpixel((5, 3), (200, 0, 0) if mode == "RGB" else 99)
    image.save(source, transparency=colour)
    with Image.open(source) as before:
        alpha = np.asarray(before.convert("RGBA"))[..., 3]
    assert alpha.min() == 0 and alpha.max() == 255
    save_restored(read_photograph(source), source, destination)
    with Image.open(destination) as after:
        assert after.mode == ("LA" if mode == "L" else "RGBA")
        assert np.array_equal(np.asarray(after)[..., -1], alpha)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bit_gray_is_exact(tmp_path, ending):
    source, destination = tmp_path / f"source{ending}", tmp_path / f"restored{ending}"
    Image.fromarray(DEEP[..., 0]).save(source)
    save_restored(read_photograph(source), source, destination)
    with Image.open(destination) as after:
        assert after.mode == "I;16" and np.array_equal(np.asarray(after), DEEP[..., 0])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colours_are_exact(tmp_path, channels):
    source, destination = deep_png(tmp_path / "source.png", channels), tmp_path / "restored.png"
    stored = decode_image(str(source), mode=ImageReadMode.UNCHANGED)
    assert stored.dtype == torch.uint16
    assert np.array_equal(stored.permute(1, 2, 0).numpy(), DEEP[..., :channels])
    save_restored(read_photograph(source), source, destination)
    assert torch.equal(decode_image(str(destination), mode=ImageReadMode.UNCHANGED), stored)
    with Image.open(destination) as after:
        assert after.info["icc_profile"] == PROFILE and after.getexif()[0x010F] == "A camera"
        assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_large_deep_file_is_one_that_others_read(tmp_path):
    """Many lines, each less the one above: against PIL's own reader, which keeps the upper byte."""
    values = GENERATOR.integers(0, 65536, (300, 200, 3), dtype=np.uint16)
    save_image(values, tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        image.load()
        assert np.array_equal(np.asarray(image), values >> 8)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_profile_and_exif_stay(tmp_path, ending, orientation):
    source, destination = tmp_path / f"source{ending}", tmp_path / f"restored{ending}"
    options = {"lossless": True} if ending == ".webp" else {}
    written(source, exif=exif(orientation), icc_profile=PROFILE, **options)
    pixels = read_photograph(source)
    with Image.open(source) as before:
        upright = np.asarray(ImageOps.exif_transpose(before))
        stored = np.asarray(before)
    assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), upright)
    save_restored(pixels, source, destination)
    with Image.open(destination) as after:
        tags = after.getexif()
        assert (tags[0x010F], float(tags.get_ifd(0x8769)[0x829A])) == ("A camera", 0.005)
        assert after.info["icc_profile"] == PROFILE
        # PIL turns TIFF files upright as it reads them.
        assert tags.get(0x0112, 1) == (1 if ending == ".tif" else orientation)
        assert after.size == (upright.shape[1::-1] if ending == ".tif" else (7, 5))
        difference = np.abs(np.asarray(after).astype(int) - stored).max()
        assert difference <= (12 if ending == ".jpg" else 0)  # of random pixels, which JPEG likes least


def test_exif_goes_from_tiff_to_other_formats(tmp_path):
    """Without the tags that say how pixels lie in the TIFF file."""
    source = written(tmp_path / "scan.tif", exif=exif(6), dpi=(300, 300))
    for ending in (".png", ".jpg", ".tiff"):
        save_restored(read_photograph(source), source, tmp_path / f"restored{ending}")
        with Image.open(tmp_path / f"restored{ending}") as after:
            tags = after.getexif()
            assert after.size == (5, 7) and tags[0x010F] == "A camera" and 0x0112 not in tags
            assert ending == ".tiff" or not {256, 257, 273, 277, 279} & set(tags)
            assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_an_orientation_that_only_xmp_knows(tmp_path):
    packet = PngImagePlugin.PngInfo()
    packet.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    source = written(tmp_path / "source.png", pnginfo=packet)
    assert read_photograph(source).shape == (3, 7, 5)
    save_restored(read_photograph(source), source, tmp_path / "restored.png")
    with Image.open(tmp_path / "restored.png") as after:
        assert after.size == (7, 5) and after.getexif()[0x0112] == 6


def test_one_file_may_be_its_own_destination(tmp_path):
    source = written(tmp_path / "photo.png")
    save_restored(torch.zeros(3, 5, 7), source, source)
    assert read_photograph(source).max() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    source, destination = written(tmp_path / "photo.png"), tmp_path / "restored.png"
    destination.write_bytes(b"before")
    with pytest.raises(struct.error):  # midway through the file
        save_image(DEEP[..., :3], destination, {"dpi": (1e12, 1e12)})
    assert destination.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, destination.name}


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (Image.new("RGBA", (2, 2)), "a.jpg", r"JPEG cannot hold RGBA pixels. Choose .png"),
        (Image.fromarray(DEEP[..., 0]), "a.webp", r"cannot hold I;16 pixels. Choose .png or .tif"),
        (DEEP[..., :3], "a.tif", r"TIFF cannot hold 16-bit colour pixels. Choose .png"),
        (Image.new("F", (2, 2)), "a.png", r"Choose .tif"),
        (Image.new("RGB", (2, 2)), "a.gif", r"a.gif: name a file that ends in .png"),
    ],
)
def test_formats_that_cannot_hold_it_are_refused(tmp_path, image, name, message):
    with pytest.raises(ValueError, match=message):
        save_image(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    whole = deep_png(tmp_path / "whole.png", 3).read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:-40])
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for name, message in (("text", "text.png"), ("torn", "torn.png"), ("absent", "absent.png")):
        with pytest.raises(ValueError, match=f"{message} cannot be read as an image"):
            open_image(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"moving.gif cannot .* 2 pictures"):
        open_image(tmp_path / "moving.gif")


def tiff_of_pages(path, *subfile_types: int):
    """Pages of falling value; the first as large as `PIXELS`."""
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as file:
        for page, subfile_type in enumerate(subfile_types):
            image = Image.new("L", (7, 5) if page == 0 else (4, 3), 200 - page)
            image.save(file, format="TIFF", tiffinfo={254: subfile_type}, icc_profile=PROFILE if page else None)
            file.newFrame()
    return path


def test_a_tiff_file_of_several_pictures_is_refused(tmp_path):
    several = tiff_of_pages(tmp_path / "scan.tif", 0, 1, 2, 0)
    with pytest.raises(ValueError, match=r"scan.tif cannot .* 3 pictures: save the one"):
        open_image(several)
    with Image.open(several) as image:  # the one who opens it says which
        image.seek(3)
        assert open_image(image)[0].unique().tolist() == [197]


def test_reduced_copies_in_a_tiff_file_are_no_pictures_of_their_own(tmp_path):
    samples, original = open_image(tiff_of_pages(tmp_path / "photo.tif", 0, 1, 1))
    assert samples.shape == (1, 5, 7) and samples.unique().tolist() == [200]
    assert "icc_profile" not in original.info  # which the copies have


def test_another_size_is_refused(tmp_path):
    source = written(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo.png needs \(3, 5, 7\)"):
        save_restored(torch.zeros(3, 7, 5), source, tmp_path / "restored.png")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4), (3, 5, 7), (4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_and_tensors(shape, dtype):
    values = GENERATOR.random(shape, dtype=np.float32)
    values = values if dtype == np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    for source in (values, torch.from_numpy(values)):
        samples, original = open_image(source)
        is_planar = shape[0] == 3
        size = shape[1:] if is_planar else shape[:2]
        assert samples.shape[1:] == size
        channels = 1 if len(shape) == 2 else shape[0] if is_planar else shape[2]
        assert (original.channels, original.alpha is not None) == (
            {2: 1, 4: 3}.get(channels, channels),
            channels in (2, 4),
        )
        again = np.asarray(original.like(to_rgb(samples)))
        assert again.shape[:2] == size
        if dtype != np.float32:
            expected = np.moveaxis(values, 0, -1) if is_planar else values
            assert np.array_equal(again, expected.reshape(again.shape))


def test_shapes_that_are_no_image_are_refused():
    for shape in ((5,), (2, 3, 5, 7), (5, 7, 9)):
        with pytest.raises(ValueError, match="An image must be"):
            open_image(np.zeros(shape, dtype=np.uint8))


def test_gray_is_the_mean_of_the_restored_channels():
    restored = torch.tensor([0.0, 0.3, 0.6])[:, None, None].expand(3, 2, 2)
    assert np.asarray(Original(np.dtype(np.uint8), 1).like(restored)).tolist() == [[round(0.3 * 255)] * 2] * 2


def test_a_deep_picture_keeps_profile_and_exif_by_itself(tmp_path):
    """As a pipeline returns it, without the file that it came from."""
    samples, original = open_image(deep_png(tmp_path / "source.png", 3))
    lying = replace(original, orientation=6, info={**original.info, "exif": exif(6)})
    save_image(lying.like(to_rgb(samples).rot90(-1, (1, 2))), tmp_path / "restored.png")
    with Image.open(tmp_path / "restored.png") as after:
        assert after.info["icc_profile"] == PROFILE and after.getexif()[0x0112] == 6
    assert np.array_equal(read_photograph(tmp_path / "restored.png"), to_rgb(samples).rot90(-1, (1, 2)))


@pytest.mark.parametrize("block", [b"Exif\0\0" + bytes(40), b"Exif\0\0II*"])
def test_damaged_exif_costs_the_exif_alone(tmp_path, block):
    damaged = written(tmp_path / "damaged.jpg", exif=block, icc_profile=PROFILE)
    assert torch.equal(read_photograph(damaged), read_photograph(written(tmp_path / "good.jpg")))
    assert set(open_image(damaged)[1].info) >= {"icc_profile"}
    save_restored(read_photograph(damaged), damaged, tmp_path / "restored.jpg")


def test_images_as_bytes():
    """Of every mode, and of more bits than eight not all white."""
    gray = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    assert to_uint8(Image.fromarray(gray)).tolist() == [[[0, 1, 100, 255]]] * 3
    assert to_uint8(Image.fromarray(gray.astype(np.int32))).tolist() == [[[0, 1, 100, 255]]] * 3
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK"):
        image = Image.fromarray(PIXELS[..., :3]).convert(mode)
        assert np.array_equal(to_uint8(image).permute(1, 2, 0), np.array(image.convert("RGB"))), mode


def test_names_may_be_as_long_as_the_disk_allows(tmp_path):
    name = 75 * "\u5199" + ".png"  # 229 bytes of 255
    save_image(Image.fromarray(PIXELS), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_colours_of_16_bits_are_not_cut_in_silence(tmp_path):
    (tmp_path / "deep.ppm").write_bytes(b"P6\n2 1\n65535\n" + bytes(12))
    with pytest.raises(ValueError, match=r"deep\.ppm cannot be read.*16 bits"):
        open_image(tmp_path / "deep.ppm")
    (tmp_path / "plain.ppm").write_bytes(b"P6\n2 1\n255\n" + bytes(6))
    assert open_image(tmp_path / "plain.ppm")[0].shape == (3, 1, 2)


def test_integers_that_do_not_say_what_is_white_are_refused():
    for image in (PIXELS.astype(np.int32), torch.from_numpy(PIXELS.astype(np.int32))):
        with pytest.raises(ValueError, match="do not say what is white"):
            open_image(image)


def test_only_what_can_be_read_is_listed(tmp_path):
    for name in ("b.png", "a.JPG", "a.pdf", "._a.png", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in photographs(tmp_path)] == ["a.JPG", "b.png"]


@pytest.mark.parametrize(
    ("ending", "box", "byte", "deep"),
    [("jp2", b"\xff\x4f\xff\x51", 42, 15), ("j2k", b"\xff\x4f\xff\x51", 42, 15), ("avif", b"av1C", 6, 0x4C)],
)
def test_deep_colours_that_pil_would_cut_are_refused(tmp_path, ending, box, byte, deep):
    path = written(tmp_path / f"photo.{ending}")
    assert read_photograph(path).shape == (3, 5, 7)
    content = bytearray(path.read_bytes())
    content[content.index(box) + byte] = deep  # the header of a file of 16, or 10, bits
    if ending == "avif":  # says it twice
        place = content.index(b"pixi") + 9
        content[place : place + 3] = bytes([10, 10, 10])
    path.write_bytes(content)
    with pytest.raises(ValueError, match="16 bits"):
        read_photograph(path)


def test_a_resolution_that_is_no_number_is_left_out(tmp_path):
    tags = {282: (0, 0), 283: (0, 0), 296: 2}  # 0 / 0 dots per inch
    written(tmp_path / "scan.tif", tiffinfo=tags)
    samples, original = open_image(tmp_path / "scan.tif")
    assert "dpi" not in original.info
    save_image(original.like(to_rgb(samples)), tmp_path / "scan.png")


def test_folders_are_no_photographs(tmp_path):
    (tmp_path / "scans.tif").mkdir()
    inside = written(tmp_path / "scans.tif" / "a.png")
    assert photographs(tmp_path) == [inside]


def test_half_precision_with_alpha():
    samples, original = open_image(torch.rand(4, 5, 7).bfloat16())
    assert samples.shape == (3, 5, 7) and original.alpha.shape == (5, 7)
