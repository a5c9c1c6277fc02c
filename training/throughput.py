"""How much of the bare network's speed a training run keeps, measured in one run.

    python -m training.throughput training/recipes/denoiser_small.yaml --dataset FOLDER

Bare means forward, loss, backward and optimiser on one batch that never changes: no data, no averaged weights, no log.
The run is `training.train` itself, looked at twice: in its first epoch, in which every image is decoded, and after it
(after `LONGEST` steps, where it would take more). An epoch that is over before its steps could be timed apart is not
looked at. The two take turns, and medians are shown.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from training.arguments import TrainingArguments, parse_arguments
from training.batches import Data
from training.data import folder_repeats, load_images
from training.optimizers import build_optimizer
from training.train import build_accelerator, build_model, compile_parts, step_function, train

ROUNDS, STEPS, LONGEST = 3, 40, 400


def bare_images_per_second(arguments: TrainingArguments) -> float:
    accelerator = build_accelerator(arguments)
    model = build_model(arguments, accelerator.device).train()
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if arguments.compile:
        compile_parts(model)
    optimizer = build_optimizer(arguments.optimizer, model, arguments.learning_rate, arguments.weight_decay)
    batch = next(iter(Data(arguments, model.config, arguments.batch_size).batches(accelerator, 0)))
    model, optimizer = accelerator.prepare(model, optimizer)
    step_on = step_function(accelerator, model, optimizer, accelerator.unwrap_model(model).config, arguments)
    for step in range(STEPS + 10):
        if step == 10:  # the first are slower
            _finish(accelerator.device)
            start = time.perf_counter()
        step_on(batch)
    _finish(accelerator.device)
    return STEPS * arguments.batch_size / (time.perf_counter() - start)


def run_images_per_second(arguments: TrainingArguments, output_dir: Path) -> list[tuple[float, float]]:
    """-> images per second and the share of the time spent waiting for data, early and late."""
    train(dataclasses.replace(arguments, output_dir=str(output_dir)))
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    # The first line covers the first, slower steps.
    return [(line["images_per_second"], line["waiting_share"]) for line in (lines[1], lines[-1])]


def steps_of_an_epoch(arguments: TrainingArguments) -> int:
    if arguments.streaming:  # how long it is nobody knows
        return LONGEST
    source = arguments.dataset, arguments.dataset_split, arguments.image_column
    images = load_images(*source, config=arguments.dataset_config)
    visits = sum(folder_repeats(images, arguments.image_column, arguments.folder_repeats))
    return min(-(-visits // arguments.batch_size), LONGEST)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    arguments = parse_arguments()
    epoch = steps_of_an_epoch(arguments)
    lines = max(-(-epoch // STEPS) + 1, 2)  # of the log
    short = {"max_steps": lines * STEPS, "logging_steps": STEPS, "validation_size": 0, "strip_steps": 0}
    short |= {"log_with": "none", "checkpoint_steps": 10**9, "gradient_accumulation_steps": 1, "crop_schedule": None}
    short |= {"resume": False, "stop_at_step": None, "push_to_hub": False}
    arguments = dataclasses.replace(arguments, **short)
    bare, runs = [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            AcceleratorState._reset_state(reset_partial_state=True)
            bare.append(bare_images_per_second(dataclasses.replace(arguments, output_dir=folder)))
            AcceleratorState._reset_state(reset_partial_state=True)
            runs.append(run_images_per_second(arguments, Path(folder) / str(number)))
    pixels, fast = arguments.crop_size**2, statistics.median(bare)
    print(f"{torch.get_num_threads()} threads, batches of {arguments.batch_size} x {arguments.crop_size}^2 pixels")
    print(f"bare network  {fast / arguments.batch_size:7.2f} steps/s {fast * pixels / 1e6:8.3f} megapixels/s")
    early, late = zip(*runs, strict=True)
    for name, seen in (("first epoch", early), ("after it", late)):
        if seen is early and epoch < 2 * STEPS:
            continue
        kept, waited = (statistics.median(values) for values in zip(*seen, strict=True))
        print(f"{name:<14}{kept / arguments.batch_size:7.2f} steps/s {kept * pixels / 1e6:8.3f} megapixels/s", end="")
        print(f"{100 * kept / fast:8.1f} % kept; waiting for data {100 * waited:.1f} % of a step")


if __name__ == "__main__":
    main()
