"""A recorded training step, as far as it can be tested without a GPU: what is copied where, and when."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training.arguments import TrainingArguments
from training.graphs import STEPS_BEFORE, GraphedStep, set_learning_rate
from training.optimizers import build_optimizer


class ReplayedOnCPU(GraphedStep):
    """Runs the step where a GPU would replay it: on the recorded batch's memory, into the recorded results'."""

    def _on_a_stream_of_its_own(self, shapes: tuple) -> dict[str, Tensor]:
        return self.step(self.inputs[shapes])

    def _recorded(self, shapes: tuple):
        results = {"loss": torch.zeros(())}

        def replay() -> None:
            results["loss"].copy_(self.step(self.inputs[shapes])["loss"])

        return SimpleNamespace(replay=replay), results


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_replayed_steps_are_the_plain_ones(optimizer_name):
    def trained(graphed: bool) -> tuple[list[float], list[Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1))
        optimizer = build_optimizer(optimizer_name, model, 1.0, 1e-2)

        def step(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            loss = (model(batch["image"]).mean((1, 2, 3)) - batch["value"]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return {"loss": loss.detach()}

        step_on = ReplayedOnCPU(step, optimizer, torch.device("cpu")) if graphed else step
        losses = []
        for index in range(STEPS_BEFORE + 4):
            set_learning_rate(optimizer, 1e-3 / (1 + index))
            batch = {"image": torch.randn(4, 3, 8 + 4 * (index % 2), 8), "value": torch.randn(4)}
            losses.append(step_on(batch)["loss"].item())
        return losses, list(model.parameters())

    plain, replayed = trained(False), trained(True)
    assert plain[0] == pytest.approx(replayed[0], rel=1e-5)
    for expected, parameter in zip(plain[1], replayed[1], strict=True):
        torch.testing.assert_close(parameter, expected)


def test_what_a_graph_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="gradient_accumulation_steps"):
        TrainingArguments(dataset="x", output_dir="y", cuda_graph=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="fp16"):
        TrainingArguments(dataset="x", output_dir="y", cuda_graph=True, mixed_precision="fp16")
