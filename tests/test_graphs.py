"""A recorded training step: without a GPU, what is copied where, and when; with one, the recording itself."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from modeling import ViTUNetForImageDenoising
from tests.conftest import TINY, tiny_config
from training.arguments import TrainingArguments, parse_arguments
from training.graphs import STEPS_BEFORE, GraphedStep, set_learning_rate
from training.optimizers import build_optimizer
from training.train import train


class ReplayedOnCPU(GraphedStep):
    """Runs the step where a GPU would replay it: on the recorded batch's memory, into the recorded results'."""

    def _on_a_stream_of_its_own(self) -> dict[str, Tensor]:
        return self.step(self.inputs)

    def _recorded(self):
        results, inputs = {"loss": torch.zeros(())}, self.inputs

        def replay() -> None:
            results["loss"].copy_(self.step(inputs)["loss"])

        return SimpleNamespace(replay=replay), results


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_replayed_steps_are_the_plain_ones(optimizer_name):
    """Over a change of shapes, and over a resume from the saved state of the optimiser."""

    def trained(graphed: bool) -> tuple[list[float], list[Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1))
        losses, saved = [], None
        for _ in range(2):
            optimizer = build_optimizer(optimizer_name, model, 1.0, 1e-2)
            if saved:
                optimizer.load_state_dict(saved)

            def step(batch: dict[str, Tensor], optimizer=optimizer) -> dict[str, Tensor]:
                loss = (model(batch["image"]).mean((1, 2, 3)) - batch["value"]).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                return {"loss": loss.detach()}

            step_on = ReplayedOnCPU(step, optimizer, torch.device("cpu")) if graphed else step
            for index in range(2 * STEPS_BEFORE + 4):
                set_learning_rate(optimizer, 1e-3 / (1 + index))
                side = 8 if index < STEPS_BEFORE + 2 else 12
                batch = {"image": torch.randn(4, 3, side, 8), "value": torch.randn(4)}
                losses.append(step_on(batch)["loss"].item())
            assert not graphed or step_on.graph is not None
            saved = optimizer.state_dict()
        return losses, list(model.parameters())

    plain, replayed = trained(False), trained(True)
    assert replayed[0] == pytest.approx(plain[0], rel=1e-4)
    for expected, parameter in zip(plain[1], replayed[1], strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"mixed_precision": "fp16"}, "fp16"),
        ({"map_probability": 0.1}, "map_probability"),
        ({"data_on_device": False}, "data_on_device false"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**{"dataset": "x", "output_dir": "y", "cuda_graph": True, "data_on_device": True, **fields})


def test_a_graph_needs_a_cuda_device(image_folder, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = ["--dataset", str(image_folder), "--output_dir", str(tmp_path), "--data_on_device", "true"]
    with pytest.raises(ValueError, match="set it to false"):
        train(parse_arguments([*command, "--cuda_graph", "true"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_recorded_run_is_the_plain_one(optimizer, taught, image_folder, tmp_path):
    command = ["--dataset", str(image_folder), "--model_config", json.dumps(TINY), "--optimizer", optimizer]
    command += ["--data_on_device", "true", "--crop_size", "32", "--validation_size", "2", "--max_steps", "12"]
    command += ["--logging_steps", "1", "--log_with", "none", "--strip_steps", "0", "--level_gradients", "true"]
    if taught:
        ViTUNetForImageDenoising(tiny_config()).save_pretrained(tmp_path / "teacher")
        command += ["--teacher", str(tmp_path / "teacher")]
    losses = []
    for graph in ("false", "true"):
        train(parse_arguments([*command, "--output_dir", str(tmp_path / graph), "--cuda_graph", graph]))
        lines = [json.loads(line) for line in (tmp_path / graph / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
