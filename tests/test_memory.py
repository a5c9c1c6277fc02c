"""What the process of the app keeps of its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Tensors as a slider's move needs them, several times; how many pages the system had to give for the last time.
PROGRAM = """
import resource, sys, torch
from interface.memory import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else True)
torch.set_num_threads(1)
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**21) for _ in range(8)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(mode: str) -> int:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], cwd=ROOT, capture_output=True, text=True, check=True
    )
    took, count = process.stdout.split()
    if took == "False":
        pytest.skip("the C library is not glibc's")
    return int(count)


def test_freed_memory_is_taken_again_without_the_system():
    assert pages("keep") < 1000 < pages("as usual")
