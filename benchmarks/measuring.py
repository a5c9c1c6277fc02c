"""Time and memory of a step."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells of its start and stop otherwise
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch


def median_milliseconds(step: Callable[[], object], repeats: int) -> float:
    step()  # warms up
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def peak_mebibytes(step: Callable[[], object]) -> float:
    """The peak of what torch allocates on the way, beyond what was there before, in MiB."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20
