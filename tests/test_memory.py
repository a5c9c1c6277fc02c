"""What the process of the app keeps of its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Tensors, made and freed several times, and how many pages the system had to give for the last ones: thousands, by
# glibc's default, in two runs of three.
PROGRAM = """
import resource, torch
from modeling.memory import keep_freed_memory

print(keep_freed_memory())
torch.set_num_threads(1)
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**21) for _ in range(8)] + [torch.ones(2**24)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_taken_again_without_the_system():
    command, root = [sys.executable, "-c", PROGRAM], Path(__file__).parent.parent
    took, pages = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    if took == "False":
        pytest.skip("the C library is not glibc's")
    assert int(pages) < 1000
