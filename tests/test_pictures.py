"""Photographs that visitors bring, the files of their pictures, and the hand that moves."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from gradio.utils import is_static_file
from PIL import Image

from interface.hand import REST, Hand
from interface.pictures import MAX_MEGAPIXELS, Pictures, opened, uploaded
from modeling.image_files import read_photograph


def test_reading_a_file_that_is_no_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("this is no image")
    with pytest.raises(ValueError, match=r"notes\.jpg cannot be read as an image"):
        read_photograph(path)
    with pytest.raises(ValueError, match=r"absent\.png cannot be read"):
        read_photograph(tmp_path / "absent.png")


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_photograph(tmp_path / "turned.png").shape == (3, 3, 2)


def test_only_what_was_uploaded_is_opened(tmp_path, monkeypatch):
    """Handlers that are not preprocessed get what a caller sends, which may name any file of this machine."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    for folder in ("uploads", "."):
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "photo.png")
    assert uploaded({"path": str(tmp_path / "uploads" / "photo.png")}) == str(tmp_path / "uploads" / "photo.png")
    for path in (tmp_path / "photo.png", tmp_path / "uploads" / ".." / "photo.png"):
        with pytest.raises(ValueError, match=r"photo\.png was not uploaded"):
            uploaded({"path": str(path)})


def test_photographs_that_do_not_fit_are_refused(tmp_path):
    side = int((MAX_MEGAPIXELS * 1e6) ** 0.5) + 100
    Image.new("L", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(gr.Error, match=r"large\.png has 26 megapixels"):
        opened(str(tmp_path / "large.png"), 0)


def test_pictures_are_lossless_and_do_not_pile_up():
    pictures = Pictures(kept=3, seconds=0)
    image = torch.randint(0, 256, (3, 9, 7)) / 255
    named = pictures.file(image, "mine")
    files = [Path(pictures.file(image)) for _ in range(5)]
    assert [file.exists() for file in files] == [False, False, True, True, True]
    assert not Path(named).exists()
    again = Path(pictures.file(image, "mine"))
    assert str(again) == named and len(list(again.parent.iterdir())) == 3
    assert torch.equal(torch.from_numpy(np.array(Image.open(again))).permute(2, 0, 1) / 255, image)
    for width, suffix in ((16383, ".webp"), (16384, ".png")):  # WebP's longest side, and one that it has no room for
        long = torch.randint(0, 256, (3, 9, width)) / 255
        for found, expected in ((pictures, suffix), (Pictures(near=True), ".bmp")):
            shown = Path(found.file(long, only_shown=True))
            assert shown.suffix == expected
            assert torch.equal(torch.from_numpy(np.array(Image.open(shown))).permute(2, 0, 1) / 255, long)


def test_large_pictures_are_fewer():
    pictures = Pictures(seconds=0, near=True, kept_bytes=3000)  # one of these takes 1254
    files = [Path(pictures.file(torch.rand(3, 20, 20), only_shown=True)) for _ in range(5)]
    assert [file.exists() for file in files] == [False, False, False, True, True]


def test_gradio_takes_pictures_from_where_they_lie():
    """It would hash and copy each of them, and forget some of the copies."""
    pictures = Pictures()
    assert is_static_file(Path(pictures.file(torch.rand(3, 4, 4))))


def test_pictures_that_were_just_asked_for_stay(tmp_path):
    pictures = Pictures(kept=1)
    files = [Path(pictures.file(torch.rand(3, 4, 4))) for _ in range(3)]
    assert all(file.exists() for file in files)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        pictures.written("mine.png", fail)
    assert len(list(files[0].parent.iterdir())) == 3  # nothing half-written is left


def test_figures_wait_until_the_hand_rests():
    hand = Hand()
    assert hand.rests("a")  # it never moved
    hand.moved("a")
    start = time.monotonic()
    assert hand.rests("a") and time.monotonic() - start > 0.9 * REST
    hand.moved("a")
    threading.Timer(REST / 2, hand.moved, ["a"]).start()
    assert not hand.rests("a")  # a newer move
    assert hand.rests("b")  # another photograph's
    for key in range(2 * Hand.KEPT):
        hand.moved(str(key))
    assert len(hand.moves) == Hand.KEPT
