"""What a run says of itself: averages between two lines of the log, and `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor


class Averages:
    """Means of named values over the batches since the last line, and how the time was spent.

    The sums are part of a checkpoint, so that a resumed run logs what an unbroken one does.
    """

    def __init__(self, state: dict | None = None) -> None:
        state = state or {"sums": {}, "batches": 0}
        self.sums: dict[str, Tensor] = {name: torch.tensor(value) for name, value in state["sums"].items()}
        self.batches = state["batches"]
        self.start_clock()

    def state(self, accelerator: Accelerator) -> dict:
        """Of all processes, which take part in this: each goes on from the mean of their sums."""
        if not self.sums:
            return {"sums": {}, "batches": 0}
        sums = accelerator.reduce(torch.stack(list(self.sums.values())), "mean").tolist()
        return {"sums": dict(zip(self.sums, sums, strict=True)), "batches": self.batches}

    def start_clock(self) -> None:
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()
        self.ready = self.started

    def data_arrived(self) -> None:
        """The loader has handed over a batch: the time since the last step ended was spent waiting."""
        self.waited += time.perf_counter() - self.ready

    def add(self, values: dict[str, Tensor], images: int) -> None:
        names, given = list(values), [value.float() for value in values.values()]
        sums = [self.sums.get(name, torch.zeros(())).to(value.device) for name, value in values.items()]
        self.sums |= zip(names, torch._foreach_add(sums, given), strict=True)
        self.batches += 1
        self.images += images
        self.ready = time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside counts neither as training nor as waiting."""
        begun = time.perf_counter()
        yield
        self.started += time.perf_counter() - begun
        self.ready = time.perf_counter()

    def reduced(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, images per second and the share of time spent waiting for data; starts anew."""
        elapsed = time.perf_counter() - self.started
        means = accelerator.reduce(torch.stack(list(self.sums.values())) / self.batches, "mean").tolist()
        result = dict(zip(self.sums, means, strict=True))
        result["images_per_second"] = self.images * accelerator.num_processes / elapsed
        result["waiting_share"] = self.waited / elapsed
        self.sums, self.batches = {}, 0
        self.start_clock()
        return result


class Log:
    """Appends one JSON object per line to `metrics.jsonl`, and tells the trackers; the main process alone does.

    A run that is resumed at `first_step` will write the later steps again: their lines are removed.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, first_step: int) -> None:
        self.accelerator = accelerator
        self.path = folder / "metrics.jsonl" if accelerator.is_main_process else None
        if self.path and self.path.is_file():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= first_step]
            rewritten = self.path.with_suffix(".tmp")
            rewritten.write_text("".join(f"{line}\n" for line in kept))
            rewritten.replace(self.path)

    def write(self, step: int, **values: float) -> None:
        self.accelerator.log(values, step=step)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def _step(line: str) -> float:
    """The step of a line; infinite for one that a kill has cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
