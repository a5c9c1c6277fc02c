"""A training step as one CUDA graph: recorded once, then launched as a whole instead of kernel by kernel.

A step of a small network is thousands of short kernels, and a CPU takes longer to launch them than a GPU to run them.
A graph runs on the same memory each time, so every batch is copied to where the recorded one lay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEPS_BEFORE = 3  # taken as usual, so that whatever happens once (compiling, choosing kernels) lies behind


class GraphedStep:
    """`step(batch) -> results`, for a step that waits for nothing on the CPU: forward, backward and optimiser.

    Batches of other shapes than the last one's are recorded anew.

    Args:
        step: takes and returns tensors by name. What it returns is overwritten by the next step.
        optimizer: its learning rates become tensors, since numbers would be part of the recording.
        device: a CUDA device.
    """

    def __init__(
        self,
        step: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self.step, self.optimizer, self.device = step, optimizer, device
        self.shapes: dict[str, torch.Size] = {}  # of the last batch, by name
        self.inputs: dict[str, Tensor] = {}
        self.steps = 0  # of these shapes
        self.graph: torch.cuda.CUDAGraph | None = None
        self.results: dict[str, Tensor] = {}

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        shapes = {name: value.shape for name, value in batch.items()}
        if shapes != self.shapes:
            self.shapes, self.steps, self.graph, self.results = shapes, 0, None, {}
            self.inputs = {name: torch.empty_like(value, device=self.device) for name, value in batch.items()}
            self._adapt_optimizer()
        for name, value in self.inputs.items():
            value.copy_(batch[name], non_blocking=True)

        self.steps += 1
        if self.steps <= STEPS_BEFORE:
            return self._on_a_stream_of_its_own()
        if self.graph is None:
            self.graph, self.results = self._recorded()
        self.graph.replay()
        return self.results

    def _adapt_optimizer(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(self.device)
            if "capturable" in group:  # AdamW wants to be asked
                group["capturable"] = True

    def _on_a_stream_of_its_own(self) -> dict[str, Tensor]:
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results = self.step(self.inputs)
        current.wait_stream(stream)
        return results

    def _recorded(self) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self.step(self.inputs)
        return graph, results


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value
