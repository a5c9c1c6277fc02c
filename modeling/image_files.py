"""Photographs on disk and in memory: what goes in comes out, restored. Not part of what `save_pretrained` copies.

Letters in shapes: H x W pixels, C channels (1 = gray, 3 = RGB; alpha apart).
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from .image_processing_vit_unet import check_says_its_maximum, to_rgb

ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation -> quarter turns anticlockwise, then whether to mirror left and right, that make an image upright.
_UPRIGHT = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
# TIFF tags that say how pixels lie in the file, which is another matter in the next file; and its colour profile.
_TIFF_LAYOUT = {*range(254, 260), 262, 266, 273, *range(277, 281), 284, 301, *range(317, 326), 338, 339, 347, 34675}
_NEW_SUBFILE_TYPE = 254  # TIFF tag
_MAX_DPI = 65536  # what every format can say
_HEADER_BYTES = 2**16
_DEEP = "16-bit colour"  # stands in for the PIL mode that is not there
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
_MODES = {  # that a format holds
    "PNG": {"L", "LA", "RGB", "RGBA", "I", "I;16", _DEEP},
    "JPEG": {"L", "RGB"},
    "TIFF": {"L", "LA", "RGB", "RGBA", "I", "I;16", "F"},
    "WEBP": {"L", "LA", "RGB", "RGBA"},
}
_OPTIONS = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {},  # libtiff, which compresses, does not write EXIF's inner directory
    "WEBP": {"lossless": True},
}
_INFO = ("icc_profile", "exif", "dpi")
# What PIL raises for files that are no images, are broken, or are too large to be safe.
UNREADABLE = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


class DeepImage(np.ndarray):
    """(H, W, 2 to 4) of `uint16`, which PIL cannot hold, with an `info` as PIL's images have."""

    def __array_finalize__(self, other: np.ndarray | None) -> None:
        self.info = dict(getattr(other, "info", {}))


@dataclass(frozen=True)
class Original:
    """What an image was beside its colours: all that its restored version takes over.

    Args:
        dtype: of its samples; float arrays come back as 8 bits, unless they were a PIL image of mode "F".
        channels: 1 (gray) or 3, alpha not counted.
        alpha: (H, W) as it lay, not turned upright.
        orientation: EXIF's, 1 = upright.
        info: keywords of PIL's `save`: ICC profile, EXIF and resolution, where it had them.
    """

    dtype: np.dtype
    channels: int
    alpha: np.ndarray | None = None
    orientation: int = 1
    info: dict[str, Any] = field(default_factory=dict)

    def like(self, restored: Tensor) -> Image.Image | DeepImage:
        """A restored image (3, H, W), upright, float, as what came in: its mode, depth, alpha, orientation, profiles.

        PIL cannot hold colours of 16 bits: they are a `DeepImage`.
        """
        values = restored.detach().float().cpu()
        if self.channels == 1:
            values = values.mean(0, keepdim=True)
        values = _lying(values, self.orientation).clamp(0, 1)
        if self.dtype.kind != "f":
            maximum = 255 if self.dtype == np.uint8 else 65535
            values = values.mul_(maximum).round_()
        samples = values.permute(1, 2, 0).numpy().astype(self.dtype)
        if self.alpha is not None:
            if self.alpha.shape != samples.shape[:2]:
                raise ValueError(f"The restored image is {samples.shape[:2]}, its original {self.alpha.shape}.")
            samples = np.concatenate([samples, self.alpha[..., None]], axis=-1)
        if samples.dtype == np.uint16 and samples.shape[-1] > 1:
            image = samples.view(DeepImage)
        else:
            image = Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
        image.info.update(self.info)
        return image


def open_image(source: str | Path | Image.Image | np.ndarray | Tensor) -> tuple[Tensor, Original]:
    """An image of any kind -> its samples (C, H, W), upright, as they are, and all that they do not say.

    Files and PIL images may be of any mode; of a TIFF file, a PIL image is the page that it stands at. Arrays are
    (H, W), (H, W, C) or (C, H, W), with or without alpha: 8-bit, 16-bit, or float in [0, 1].

    Raises `ValueError` for a file that holds no image, or several: an animation, or a TIFF file of pages that are not
    reduced copies of the first.
    """
    if isinstance(source, str | Path):
        try:
            with Image.open(source) as image:
                return _from_pil(image, Path(source))
        except UNREADABLE as error:
            remedy = "give a PNG, JPEG, TIFF or WebP file"
            raise ValueError(f"{Path(source).name} cannot be read as an image: {remedy}. ({error})") from error
    if isinstance(source, Image.Image):
        return _from_pil(source)
    samples = source if isinstance(source, Tensor) else torch.from_numpy(np.ascontiguousarray(source))
    samples = samples.detach().cpu()
    channels = (1, 2, 3, 4)
    if samples.ndim == 2:
        samples = samples[None]
    # Between two readings an array is (H, W, C), as numpy has images, and a tensor (C, H, W), as torch has them.
    is_numpy = isinstance(source, np.ndarray)
    if source.ndim == 3 and samples.shape[2] in channels and (is_numpy or samples.shape[0] not in channels):
        samples = samples.permute(2, 0, 1)
    if samples.ndim != 3 or samples.shape[0] not in channels:
        raise ValueError(f"An image must be (H, W), (H, W, C) or (C, H, W), C up to 4, got {tuple(source.shape)}.")
    check_says_its_maximum(samples)
    if samples.is_floating_point():
        colours, alpha = _split(samples.float())  # numpy has no bfloat16
        alpha = None if alpha is None else (alpha.clip(0, 1) * 255).round().astype(np.uint8)
        return colours, Original(np.dtype(np.uint8), len(colours), alpha)
    colours, alpha = _split(samples)
    return colours, Original(samples.numpy().dtype, len(colours), alpha)


def is_float_file(path: str | Path) -> bool:
    """Whether a file holds float values, which TIFF alone can take back."""
    with Image.open(path) as image:
        return image.mode == "F"


def read_photograph(path: str | Path) -> Tensor:
    """A file -> (3, H, W) float in [0, 1], upright. Raises `ValueError` with the file's name if it is no image."""
    return to_rgb(open_image(path)[0])


def to_uint8(image: Image.Image | None) -> Tensor:
    """A PIL image of any mode -> (3, H, W) uint8, without alpha. Raises `ValueError` for a dataset's empty cell."""
    if image is None:
        raise ValueError("there is no image")
    if image.mode[0] in "IF":  # more than 8 bits, which PIL would cut off at white
        return (to_rgb(open_image(image)[0]) * 255).round_().to(torch.uint8)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def save_restored(restored: Tensor, source: str | Path, destination: str | Path) -> None:
    """Saves a restored image beside its original, as what that was: mode, depth, alpha, profile, EXIF, orientation.

    A palette becomes RGB, and one bit eight, since restored pixels have more values. The file appears whole or not at
    all.

    Args:
        restored: (3, H, W), float in [0, 1], upright as `read_photograph` gives it.
        source: the file that was read.
        destination: the file to write; its ending names the format.

    Raises `ValueError` for a format that cannot hold the image.
    """
    samples, original = open_image(source)
    if restored.shape != (3, *samples.shape[1:]):
        raise ValueError(
            f"The restored image is {tuple(restored.shape)}, and {Path(source).name} needs (3, {samples.shape[1]}, "
            f"{samples.shape[2]})."
        )
    save_image(original.like(restored), destination, original.info)


def save_image(image: Image.Image | np.ndarray, destination: str | Path, info: dict[str, Any] | None = None) -> None:
    """Saves a PIL image, or an array (H, W, C) of `uint16`, beside its destination and then renames it.

    `info` are keywords of PIL's `save`, by default the image's own profile, EXIF and resolution. Raises `ValueError`
    for a format that cannot hold the image.
    """
    destination = Path(destination)
    format_name = FORMATS.get(destination.suffix.lower())
    if format_name is None:
        raise ValueError(f"{destination.name}: name a file that ends in {', '.join(FORMATS)}.")
    mode = _DEEP if isinstance(image, np.ndarray) else image.mode
    if mode not in _MODES[format_name]:
        endings = [ending for ending, name in FORMATS.items() if mode in _MODES[name]]
        raise ValueError(f"{destination.name}: {format_name} cannot hold {mode} pixels. Choose {' or '.join(endings)}.")
    if info is None:
        known = getattr(image, "info", {})  # a plain array has none
        info = {key: known[key] for key in _INFO if key in known}
    beside = destination.with_name(f".{uuid.uuid4().hex}{destination.suffix}")
    try:
        with beside.open("xb") as file:
            if mode == _DEEP:
                _write_deep_png(file, image, info)
            else:
                image.save(file, format=format_name, **_OPTIONS[format_name], **info)
        beside.replace(destination)
    finally:
        beside.unlink(missing_ok=True)


def readable_endings() -> set[str]:
    """Endings of the files that PIL reads: it knows others, which it only writes."""
    formats = Image.registered_extensions()  # registers the readers, too
    return {ending for ending, name in formats.items() if name in Image.OPEN or name == "MPO"}  # JPEG's reader


def photographs(folder: str | Path) -> list[Path]:
    """The image files below a folder, by name. Raises `ValueError` where there are none."""
    endings = readable_endings()
    files = sorted(
        path
        for path in Path(folder).rglob("*")
        # macOS keeps other things in files that begin so.
        if path.suffix.lower() in endings and not path.name.startswith("._") and path.is_file()
    )
    if not files:
        raise ValueError(f"There are no images below {folder}.")
    return files


def _from_pil(image: Image.Image, path: Path | None = None) -> tuple[Tensor, Original]:
    pictures = 1
    if image.format in ("AVIF", "GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):
        pictures = image.n_frames
    elif image.format == "TIFF" and path is not None:
        pictures = _tiff_pictures(path)
    if pictures > 1:
        raise ValueError(f"It holds {pictures} pictures: save the one that you want as a file of its own.")
    # Before anything is loaded, a file still says how its pixels lie; PIL would cut colours of 16 bits to 8.
    is_deep = path is not None and image.mode[0] not in "IF" and _is_deep(image, path)
    if is_deep and image.format != "PNG":
        raise ValueError("Colours of 16 bits, or of any more than 8, are read from PNG files alone: save it as one.")
    image.load()  # PIL turns TIFF files upright on the way, and takes the tag out
    info, orientation = _kept(image)
    if is_deep:
        samples = decode_image(str(path), mode=ImageReadMode.UNCHANGED)
    else:
        samples = torch.from_numpy(np.array(_direct_mode(image)))
        samples = samples[None] if samples.ndim == 2 else samples.permute(2, 0, 1)
    colours, alpha = _split(samples)
    original = Original(samples.numpy().dtype, len(colours), alpha, orientation, info)
    return _upright(colours, orientation), original


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Whether a file, not loaded yet, has more than 8 bits: what its decoder is told says so, or the file's header."""
    if image.format in ("JPEG2000", "AVIF"):  # PIL decodes them to 8 bits
        return _header_says_deep(path)
    told = [tile.args for tile in image.tile]
    if image.format == "PPM":  # raw mode and largest value
        return any(isinstance(arguments, tuple) and arguments[-1] > 255 for arguments in told)
    return any(";16" in str(arguments) for arguments in told)


def _header_says_deep(path: Path) -> bool:
    """More than 8 bits in JPEG 2000 (ISO/IEC 15444-1, the codestream's SIZ) or AVIF (the box `av1C`)."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    _, siz, stream = head.partition(b"\xff\x4f\xff\x51")
    _, av1c, box = head.partition(b"av1C")
    if siz and len(stream) > 38:
        return stream[38] & 0x7F > 7  # Ssiz of the first component: bits less one, the sign apart
    return bool(av1c and len(box) > 2 and box[2] & 0x40)  # high_bitdepth


def _tiff_pictures(path: Path) -> int:
    """The pages of a TIFF file, without those that are reduced copies of another (TIFF 6.0, NewSubfileType, bit 0)."""
    with Image.open(path) as image:  # of its own: what a page leaves behind would be taken for the first one's
        count = 1
        for page in range(1, image.n_frames):
            image.seek(page)
            count += not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1
    return count


def _split(samples: Tensor) -> tuple[Tensor, np.ndarray | None]:
    """(C, H, W) with or without alpha -> colours (1 or 3, H, W), alpha (H, W)."""
    if len(samples) in (2, 4):
        return samples[:-1], samples[-1].numpy()
    return samples, None


def _direct_mode(image: Image.Image) -> Image.Image:
    """An image whose array holds gray or RGB values, and alpha where it has any kind of transparency."""
    has_transparency = image.has_transparency_data
    if image.mode in ("I;16B", "I;16L", "I;16N"):
        return image.convert("I").convert("I;16")
    if image.mode in ("I", "I;16", "F"):
        return image
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if has_transparency else "L")
    return image.convert("RGBA" if has_transparency else "RGB")


def _kept(image: Image.Image) -> tuple[dict[str, Any], int]:
    """Keywords of `save` for what a file says of its image (colour profile, EXIF, resolution), and its orientation."""
    info = {key: image.info[key] for key in ("icc_profile", "dpi") if image.info.get(key)}
    if not all(0 < float(value) < _MAX_DPI for value in info.get("dpi", ())):  # 0 / 0, from some scanners
        info.pop("dpi")
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        info.pop("icc_profile", None)  # it speaks of colours that are not there any more
    as_stored, complete = Image.Exif(), Image.Exif()
    try:
        exif = image.getexif()
        as_stored.load(image.info.get("exif", b""))
        if image.info.get("exif") and as_stored.get(ORIENTATION) == exif.get(ORIENTATION):
            info["exif"] = image.info["exif"]
        elif len(exif):  # a TIFF file, or an orientation that only XMP knows
            complete.load(exif.tobytes())
            for tag in _TIFF_LAYOUT & set(complete):
                del complete[tag]
            if len(complete):
                info["exif"] = complete.tobytes()
    except (SyntaxError, struct.error):  # damaged EXIF: the picture is good without it, and stands as it lies
        return info, 1
    return info, exif.get(ORIENTATION, 1)


def _upright(samples: Tensor, orientation: int) -> Tensor:
    turns, is_mirrored = _UPRIGHT.get(orientation, (0, False))
    samples = samples.rot90(turns, (1, 2))
    return samples.flip(2) if is_mirrored else samples


def _lying(samples: Tensor, orientation: int) -> Tensor:
    """Undoes `_upright`."""
    turns, is_mirrored = _UPRIGHT.get(orientation, (0, False))
    samples = samples.flip(2) if is_mirrored else samples
    return samples.rot90(-turns, (1, 2))


def _write_deep_png(file: BinaryIO, samples: np.ndarray, info: dict[str, Any]) -> None:
    """Writes (H, W, C) of `uint16`, C = 2 (gray, alpha), 3 or 4, as PNG (ISO/IEC 15948), which PIL cannot."""

    def chunk(name: bytes, content: bytes) -> None:
        file.write(struct.pack(">I", len(content)) + name + content)
        file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))

    height, width, channels = samples.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0))
    if "icc_profile" in info:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(info["icc_profile"]))
    if "dpi" in info:
        chunk(b"pHYs", struct.pack(">IIB", *(round(float(value) / 0.0254) for value in info["dpi"]), 1))
    if "exif" in info:
        chunk(b"eXIf", info["exif"].removeprefix(b"Exif\0\0"))
    lines = np.ascontiguousarray(samples, dtype=">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + lines.shape[1]), dtype=np.uint8)
    filtered[:, 0] = 2  # each line less the one above, which compresses better
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    chunk(b"IDAT", zlib.compress(filtered.data, level=4))
    chunk(b"IEND", b"")
