"""Memory that the app keeps for the next move of a slider."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from interface.memory import MEBIBYTE, MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory


def test_glibc_is_told_what_to_keep(monkeypatch):
    told = {}
    library = SimpleNamespace(mallopt=lambda setting, value: told.update({setting: value}))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory(4 * MEBIBYTE, 16 * MEBIBYTE)
    assert told == {MMAP_THRESHOLD: 4 * MEBIBYTE, TRIM_THRESHOLD: 16 * MEBIBYTE}


@pytest.mark.parametrize("error", [OSError("no such library"), AttributeError("mallopt")])
def test_other_c_libraries_are_left_alone(error, monkeypatch):
    def unknown(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", unknown)
    keep_freed_memory()
