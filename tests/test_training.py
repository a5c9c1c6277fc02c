"""The training script, run as people run it: as a process, with a recipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from tests.conftest import randomised, tiny_config
from training.arguments import TrainingArguments, parse_arguments, write_arguments
from training.checkpoints import checkpoints
from training.logs import Log
from training.loss_sampling import FixedLoss
from training.train import FRESH_NETWORKS, GRID_FLOOR, freeze_all_but, learning_rate, train, training_step

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "training" / "recipes" / "smoke.yaml"


def run(output_dir: Path, folder: Path, *arguments: str, launcher=(sys.executable,)):
    command = [*launcher, "-m", "training.train", str(SMOKE), "--dataset", str(folder), "--output_dir", str(output_dir)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True)


def run_here(output_dir: Path, folder: Path, *arguments: str) -> None:
    train_here([str(SMOKE), "--dataset", str(folder), "--output_dir", str(output_dir), *arguments])


def train_here(arguments: list[str]) -> None:
    """In this process, which has torch loaded."""
    AcceleratorState._reset_state(reset_partial_state=True)
    train(parse_arguments(arguments))
    AcceleratorState._reset_state(reset_partial_state=True)


def metrics(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_folder) -> Path:
    output_dir = tmp_path_factory.mktemp("run")
    run(output_dir, image_folder)
    return output_dir


def test_a_run_leaves_a_model_checkpoints_and_metrics(finished):
    model = ViTUNetForImageDenoising.from_pretrained(finished / "model")
    assert model(torch.rand(1, 3, 20, 20)).reconstruction.isfinite().all()
    assert [path.name for path in checkpoints(finished)] == ["checkpoint-0000005", "checkpoint-0000010"]
    lines = metrics(finished)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 11))
    assert {*model.config.conditioned_terms, "learning_rate", "images_per_second"} <= set(lines[0])
    assert [line["step"] for line in lines if "psnr_50" in line] == [5, 10]
    assert all(line["slider_response"] > 0 for line in lines if "psnr_50" in line)
    assert json.loads((finished / "arguments.json").read_text())["max_steps"] == 10


def test_weights_moved_and_the_average_lags_behind(finished):
    averaged = load_file(finished / "model" / "model.safetensors")
    last = load_file(finished / "checkpoint-0000010" / "model.safetensors")
    name = "decoder.output.weight"
    assert last[name].abs().sum() > 0
    assert not torch.equal(averaged[name], last[name])


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path, image_folder):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    config = yaml.safe_load(SMOKE.read_text())["model_config"]
    config["vit_config"]["hidden_dropout_prob"] = 0.0  # dropout draws anew in each process
    common = ("--model_config", json.dumps(config), "--max_steps", "20", "--batch_size")
    run(tmp_path / "two", image_folder, *common, "2", launcher=launcher)
    run_here(tmp_path / "accumulated", image_folder, *common, "2", "--gradient_accumulation_steps", "2")
    run_here(tmp_path / "one", image_folder, *common, "4")
    for measure, tolerance in (("loss", 1e-4), ("psnr_50", 1e-3)):
        expected = [line[measure] for line in metrics(tmp_path / "one") if measure in line]
        for other in ("two", "accumulated"):
            values = [line[measure] for line in metrics(tmp_path / other) if measure in line]
            assert values == pytest.approx(expected, abs=tolerance), (other, measure)


def test_a_run_leaves_strips_and_a_tracker_s_file(finished):
    strips = sorted(path.name for path in (finished / "strips").iterdir())
    assert strips == ["step-0000005.png", "step-0000010.png"]
    with Image.open(finished / "strips" / strips[0]) as strip:
        assert strip.width > 3 * strip.height  # noisy, three settings, clean
    assert list((finished / "logs").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data_on_device", "true"),
        ("--streaming", "true", "--shuffle_buffer", "2"),
        ("--noise", '[{"model": "poisson_gaussian", "shot": [0, 20], "read": 5}, {"model": "jpeg", "quality": 80}]'),
        ("--crop_schedule", '{"5": 64}', "--map_probability", "1", "--gradient_accumulation_steps", "2"),
        ("--grid_penalty", "0.5", "--level_gradients", "true", "--mixed_precision", "bf16"),
    ],
    ids=lambda arguments: arguments[0][2:],
)
def test_every_way_to_make_samples_trains_and_resumes(arguments, tmp_path, image_folder):
    common = ("--max_steps", "6", "--checkpoint_steps", "3", "--log_with", "none", "--strip_steps", "0", *arguments)
    run_here(tmp_path / "whole", image_folder, *common)
    halfway = "checkpoint-0000003"
    shutil.copytree(tmp_path / "whole" / halfway, tmp_path / "broken" / halfway)
    shutil.copy(tmp_path / "whole" / "arguments.json", tmp_path / "broken")
    run_here(tmp_path / "broken", image_folder, *common, "--resume", "true")
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    for name, value in load_file(tmp_path / "broken" / "model" / "model.safetensors").items():
        assert torch.equal(value, expected[name]), name
    assert all(torch.tensor(line["loss"]).isfinite() for line in metrics(tmp_path / "whole") if "loss" in line)


def test_the_grid_penalty_charges_for_stripes_and_trains_them_away():
    torch.manual_seed(0)
    model = ViTUNetForImageDenoising(tiny_config())
    with torch.no_grad():
        model.decoder.output.bias[0] = 0.05  # red, in one pixel of each block of four
    images = torch.rand(2, 3, 32, 32)
    batch = {"pixel_values": images, "labels": images, "noise_level": torch.full((2,), float("nan"))}

    def losses(penalty: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return training_step(model, batch, model.config, channels_last=False, grid_penalty=penalty)

    (plain, raw), (charged, terms) = losses(0.0), losses(2.0)
    assert "grid_imprint" not in raw and terms["grid_imprint"] > 1e-5
    expected = 2 * torch.log1p(terms["grid_imprint"] / GRID_FLOOR)
    torch.testing.assert_close(charged - plain, expected, rtol=1e-4, atol=0)
    optimizer = torch.optim.Adam([model.decoder.output.bias], lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        (losses(2.0)[0] - losses(0.0)[0]).backward()
        optimizer.step()
    assert losses(2.0)[1]["grid_imprint"] < 0.1 * terms["grid_imprint"]


def test_level_gradients_pull_every_image_equally_hard():
    """Whatever its loss, its noise and the grid penalty: the direction stays, the length becomes 1 / batch."""
    torch.manual_seed(0)
    model = randomised(ViTUNetForImageDenoising(tiny_config())).train()
    labels = torch.rand(3, 3, 32, 32)
    noise = torch.tensor([0.02, 0.1, 0.3])[:, None, None, None] * torch.randn(3, 3, 32, 32)
    weights = torch.zeros(3, len(model.config.conditioned_terms), 1, 1)
    weights[0, 0] = weights[1, 4] = weights[2, 5] = 1.0  # pixel, regional_sharpness, wavelet
    batch = {
        "pixel_values": labels + noise,
        "labels": labels,
        "noise_level": torch.full((3,), float("nan")),
        "loss_weights": weights,
        "high_frequency_emphasis": torch.zeros(3, 1, 1, 1),
    }
    pulls, losses = {}, {}
    for level in (False, True):
        found = []

        def record(module, inputs, output, found=found) -> None:
            output.register_hook(found.append)

        hook = model.decoder.shuffle.register_forward_hook(record)
        loss, _ = training_step(model, batch, model.config, False, grid_penalty=0.1, level_gradients=level)
        (0.5 * loss).backward()  # half, as where two batches are accumulated
        hook.remove()
        pulls[level], losses[level] = found[0].flatten(1), loss.item()
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)
    lengths = pulls[False].norm(dim=1)
    assert lengths.max() > 1.1 * lengths.min()
    torch.testing.assert_close(pulls[True], pulls[False] / (6 * lengths[:, None]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("balance", ["log", "sum"])
def test_one_loss_told_with_the_batch_is_the_networks_default(balance):
    weights = {"pixel": 0.4, "amplitude": 0.1}
    config = tiny_config(loss_weights=weights, high_frequency_emphasis=2.0, loss_balance=balance)
    model = randomised(ViTUNetForImageDenoising(config))
    batch = {"pixel_values": torch.rand(2, 3, 32, 32), "labels": torch.rand(2, 3, 32, 32)}
    batch["noise_level"] = torch.full((2,), float("nan"))
    told = FixedLoss(tuple(weights.get(name, 0.0) for name in config.conditioned_terms), 2.0)(2, torch.Generator())
    controls = dict(zip(("loss_weights", "high_frequency_emphasis"), told, strict=True))
    losses = [training_step(model, each, model.config, False)[0] for each in (batch, {**batch, **controls})]
    torch.testing.assert_close(*losses)


def test_the_grid_penalty_is_refused_beside_a_plain_sum(image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"grid_penalty=0\.1 .* set it to 0"):
        run_here(tmp_path / "run", image_folder, "--grid_penalty", "0.1", "--model_config", json.dumps(
            {**yaml.safe_load(SMOKE.read_text())["model_config"], "loss_balance": "sum"}
        ))  # fmt: skip


def test_averages_that_torchs_averaged_model_wrote_go_on(tmp_path, image_folder):
    run_here(tmp_path / "run", image_folder, "--max_steps", "3", "--stop_at_step", "2")
    path = checkpoints(tmp_path / "run")[-1] / "ema.safetensors"
    older = {f"module.{name}": value for name, value in load_file(path).items()}
    save_file({**older, "n_averaged": torch.tensor(2)}, path)
    run_here(tmp_path / "run", image_folder, "--max_steps", "3", "--resume", "true")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_run_from_before_a_field_was_there_goes_on(tmp_path):
    arguments = TrainingArguments(dataset="examples", output_dir=str(tmp_path))
    write_arguments(arguments, tmp_path, resumed=False)
    path = tmp_path / "arguments.json"
    first = json.loads(path.read_text())
    for later in ("grid_penalty", "folder_repeats", "scales"):
        del first[later]
    path.write_text(json.dumps(first))
    write_arguments(arguments, tmp_path, resumed=True)
    arguments.grid_penalty = 0.1
    with pytest.raises(ValueError, match=r"grid_penalty=0\.1 was 0\.0"):
        write_arguments(arguments, tmp_path, resumed=True)


def test_a_second_run_does_not_overwrite_the_first(finished, image_folder):
    with pytest.raises(ValueError, match="--resume true"):
        run_here(finished, image_folder)


def test_a_resumed_run_keeps_its_arguments(tmp_path):
    first = TrainingArguments(dataset="x", output_dir=str(tmp_path), learning_rate=1e-3)
    write_arguments(first, tmp_path, resumed=False)
    longer = TrainingArguments(dataset="x", output_dir=str(tmp_path), learning_rate=1e-3, max_steps=7, resume=True)
    write_arguments(longer, tmp_path, resumed=True)
    assert json.loads((tmp_path / "arguments.json").read_text())["max_steps"] == 7
    other = TrainingArguments(dataset="x", output_dir=str(tmp_path), learning_rate=2e-3, resume=True)
    with pytest.raises(ValueError, match=r"learning_rate=0\.002 was 0\.001"):
        write_arguments(other, tmp_path, resumed=True)


def test_learning_rate_warms_up_and_ends_at_nothing():
    arguments = TrainingArguments(dataset="x", output_dir="y", max_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, arguments) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_line_that_a_kill_cut_short_does_not_stop_a_resumed_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    Log(tmp_path, Accelerator(cpu=True), first_step=1).write(step=2, loss=1.5)
    assert metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_an_unfinished_checkpoint_is_not_taken_for_a_whole_one(tmp_path):
    for name in ("checkpoint-0000005", "unfinished-checkpoint-0000010", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000005"]
    assert checkpoints(tmp_path / "absent") == []


def test_command_line_wins_over_the_recipe():
    arguments = parse_arguments([str(SMOKE), "--batch_size", "7", "--model_config", '{"use_vit": false}'])
    assert arguments.batch_size == 7 and arguments.crop_size == 48
    assert arguments.model_config == {"use_vit": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [("bach_size: 3", "unknown fields"), ("learning_rate: 3e-4", "write a number"), (None, "no recipe")],
)
def test_bad_recipes_are_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_arguments([str(path)])


@pytest.mark.parametrize(
    "overrides",
    [
        {"batch_size": 0},
        {"min_noise_level": 50, "max_noise_level": 20},
        {"preset": "large"},
        {"noise": [{"model": "rain"}]},
        {"noise": "gaussian"},
        {"push_to_hub": True},
        {"num_workers": 2, "streaming": True},
        {"crop_size": 0, "data_on_device": True},
        {"map_probability": 2},
        {"crop_schedule": {5: 0}},
        {"scales": [1, 0]},
        {"teacher_share": 1.5},
        {"teacher": "folder", "crop_size": 0},
        {"batch_size": 10, "teacher": "folder"},
        {"scales": 0.5},
        {"scales": [1, 0.5], "crop_size": 0},
        {"scales": [1, 0.5], "noisy_column": "noisy"},
        {"model": "folder", "model_config": {"use_vit": False}},
        {"backbone": "other", "model": "folder"},
        {"corner_probability": 0.0, "teacher": "folder"},
        {"max_grad_norm": 0.0},
        {"preset": "hybrid_vit_base", "model": "folder"},
        {"max_noise_level": 300.0},
        {"num_workers": 2, "data_on_device": True},
    ],
)
def test_bad_arguments_are_refused(overrides):
    with pytest.raises(ValueError, match=next(iter(overrides))):
        TrainingArguments(dataset="x", output_dir="y", **overrides)


@pytest.mark.parametrize("recipe", sorted((ROOT / "training" / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_parse(recipe):
    arguments = parse_arguments([str(recipe), "--dataset", "folder"])
    shipped = ViTUNetConfig.from_pretrained(ROOT / "checkpoints" / "vit-unet-denoiser")
    config = shipped if arguments.model else FRESH_NETWORKS[arguments.preset](**arguments.model_config)
    with torch.device("meta"):
        model = ViTUNetForImageDenoising(config)
    if arguments.trained_parts:
        freeze_all_but(model, arguments.trained_parts)
        assert 0 < sum(parameter.requires_grad for parameter in model.parameters()) < len(list(model.parameters()))


def test_only_the_named_parts_learn(tmp_path, image_folder):
    start = randomised(ViTUNetForImageDenoising(tiny_config()))
    start.save_pretrained(tmp_path / "start")
    parts = ["--trained_parts", '["condition", "decoder"]']
    parts += ["--max_steps", "2"]
    run_here(tmp_path / "run", image_folder, "--model", str(tmp_path / "start"), "--model_config", "{}", *parts)
    trained = ViTUNetForImageDenoising.from_pretrained(tmp_path / "run" / "model")
    for (name, before), after in zip(start.named_parameters(), trained.parameters(), strict=True):
        stays = not name.startswith(("condition", "decoder"))
        assert torch.equal(before, after) == stays, name
    with pytest.raises(ValueError, match="decode'"):
        freeze_all_but(start, ["decode"])


def test_a_teacher_takes_the_place_of_the_clean_image(tmp_path, image_folder):
    start = ViTUNetForImageDenoising(tiny_config())  # fresh, and so it returns its input
    start.save_pretrained(tmp_path / "start")
    common = ("--model", str(tmp_path / "start"), "--model_config", "{}", "--corner_probability", "1")
    common += ("--batch_size", "8")
    teacher = ("--teacher", str(tmp_path / "start"), "--teacher_share", "1")
    run_here(tmp_path / "plain", image_folder, *common, "--max_steps", "2")
    run_here(tmp_path / "taught", image_folder, *common, *teacher, "--max_steps", "2")
    plain, taught = (metrics(tmp_path / name)[0]["pixel"] for name in ("plain", "taught"))
    assert plain > 1e-3  # from the clean images
    assert taught == pytest.approx(0, abs=1e-9)  # from what it makes of them
    one_loss = ("--sample_losses", "false", "--loss_weights", '{"pixel": 0.5, "wavelet": 0.5}')
    with pytest.raises(ValueError, match="pixel term alone"):
        run_here(tmp_path / "wrong", image_folder, *common, *teacher, *one_loss)


def test_a_network_knows_that_it_was_trained_for_one_loss(tmp_path, image_folder):
    """Trained on for all losses, it forgets it again."""
    run_here(tmp_path / "one", image_folder, "--max_steps", "1", "--sample_losses", "false")
    one = ViTUNetForImageDenoising.from_pretrained(tmp_path / "one" / "model")
    assert one.config.conditioned_terms and one.config.steerable_terms == ()
    assert not any("slider_response" in line for line in metrics(tmp_path / "one"))
    start = ("--model", str(tmp_path / "one" / "model"), "--model_config", "{}")
    run_here(tmp_path / "all", image_folder, *start, "--max_steps", "1")
    config = ViTUNetForImageDenoising.from_pretrained(tmp_path / "all" / "model").config
    assert config.steerable_terms == tuple(config.conditioned_terms)


def test_a_network_of_half_precision_is_trained_in_float32(tmp_path, image_folder):
    randomised(ViTUNetForImageDenoising(tiny_config())).half().save_pretrained(tmp_path / "start")
    start = ("--model", str(tmp_path / "start"), "--model_config", "{}", "--max_steps", "2")
    run_here(tmp_path / "run", image_folder, *start)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


def test_a_stream_that_holds_nothing_out(tmp_path, image_folder):
    run_here(tmp_path, image_folder, "--streaming", "true", "--validation_size", "0", "--max_steps", "2")
    assert [line["unreadable"] for line in metrics(tmp_path)] == [0, 0]


def test_a_stream_may_begin_with_a_file_that_is_no_image(tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "0000.png").write_bytes(b"no image")
    stream = ("--streaming", "true", "--validation_size", "3", "--max_steps", "2", "--shuffle_buffer", "2")
    with pytest.warns(UserWarning, match="cannot be decoded"):
        run_here(tmp_path / "run", tmp_path / "images", *stream)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
