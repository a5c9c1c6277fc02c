"""Networks that differ in a few fields, trained alike and compared: one table.

    python -m training.study training/studies/architectures.yaml --dataset FOLDER

A study is a YAML file: a `recipe`, `arguments` that change it for all, and `variants`, by name, that change it for one.
Each variant is a run of `training.train` in `output_dir/NAME`; a run that is finished is not made again, one that was
stopped goes on. PSNR is that of each run's last validation: images held out from FOLDER, blind, pixel loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modeling import ViTUNetForImageDenoising
from training.arguments import TrainingArguments, parse_arguments, read_arguments
from training.checkpoints import checkpoints

LAST_FILE = "preprocessor_config.json"  # that a run writes


@dataclass(frozen=True)
class Study:
    """What a study's file says. Values of `arguments` and `variants` are fields of a recipe."""

    recipe: str
    output_dir: str
    arguments: dict[str, object]
    variants: dict[str, dict[str, object]]

    @classmethod
    def read(cls, path: str | Path) -> Study:
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There is no study {path}: see training/studies/.")
        content = yaml.safe_load(path.read_text()) or {}
        unknown, missing = set(content) - set(cls.__annotations__), {"recipe", "output_dir", "variants"} - set(content)
        if unknown or missing:
            raise ValueError(f"{path}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}.")
        variants = {str(name): fields or {} for name, fields in content["variants"].items()}
        if strange := [name for name in variants if Path(name).name != name]:
            raise ValueError(f"{path}: variants {strange} must be names of folders.")
        return cls(content["recipe"], content["output_dir"], content.get("arguments") or {}, variants)

    def folder(self, name: str) -> Path:
        return Path(self.output_dir) / name

    def train(self, name: str, dataset: str) -> Path:
        """Trains a variant, or the rest of it -> the folder of its model.

        Raises `ValueError` where the folder holds a run with other arguments.
        """
        folder = self.folder(name)
        fields = {**self.arguments, **self.variants[name], "dataset": dataset, "output_dir": str(folder)}
        command = [self.recipe]
        for field, value in fields.items():
            command += [f"--{field}", value if isinstance(value, str) else json.dumps(value)]
        arguments = parse_arguments(command)
        if arguments.push_to_hub:
            raise ValueError("A study's networks are not published: leave out push_to_hub.")
        _check_same(folder, arguments)
        if not (folder / "model" / LAST_FILE).is_file():
            command += ["--resume", json.dumps(bool(checkpoints(folder)))]
            print(f"{name}: -m training.train {' '.join(command)}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "training.train", *command], check=True)
        return folder / "model"


def _check_same(folder: Path, arguments: TrainingArguments) -> None:
    path = folder / "arguments.json"
    if not path.is_file():
        return
    before, now = read_arguments(path), json.loads(json.dumps(asdict(arguments)))
    changed = [name for name in now if name not in ("resume", "stop_at_step") and before[name] != now[name]]
    if changed:
        raise ValueError(
            f"{folder} was trained with other values of {changed}: remove it, or name another output_dir in the study."
        )


def gigamacs(model: nn.Module, side: int = 256) -> float:
    """Multiplications of one image of side x side pixels, in units of 10^9."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.rand(1, 3, side, side))
    return counter.get_total_flops() / 2e9


def seconds_per_megapixel(
    restorers: Mapping[str, Callable[[Tensor], object]], side: int = 512, rounds: int = 5
) -> dict[str, float]:
    """Medians of the time that each takes for an image (1, 3, side, side), after a round that warms up.

    They take turns, so that a slow minute of the machine slows them all.
    """
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    image = image.to(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in restorers}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, restore in restorers.items():
                start = time.perf_counter()
                restore(image)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) / (side * side / 1e6) for name, found in times.items()}


def last_validation(folder: Path) -> dict[str, float]:
    """PSNR in dB by name, from a run's log."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [{name: value for name, value in line.items() if name.startswith("psnr")} for line in lines]
    found = [scores for scores in found if scores]
    if not found:
        raise ValueError(f"{folder / 'metrics.jsonl'} holds no validation: set validation_size above 0.")
    return found[-1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="YAML file")
    parser.add_argument("--dataset", required=True, help="images to train on, as in training.train")
    parser.add_argument("--only", nargs="+", default=None, help="only these variants")
    arguments = parser.parse_args(argv)

    study = Study.read(arguments.study)
    names = arguments.only or list(study.variants)
    if unknown := [name for name in names if name not in study.variants]:
        raise ValueError(f"--only {unknown}: the study has {list(study.variants)}.")
    folders = {name: study.train(name, arguments.dataset) for name in names}
    models = {
        name: ViTUNetForImageDenoising.from_pretrained(folder).eval().to(memory_format=torch.channels_last)
        for name, folder in folders.items()
    }
    found = {name: last_validation(folder.parent) for name, folder in folders.items()}
    seconds = seconds_per_megapixel(models)
    scores = list(found[names[0]])
    print(f"{'variant':<28}{'parameters M':>13}{'GMACs 256x256':>15}{'s/megapixel':>13}", end="")
    print("".join(f"{name.replace('psnr_', 'dB at '):>10}" for name in scores))
    for name, model in models.items():
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"{name:<28}{size:>13.2f}{gigamacs(model):>15.2f}{seconds[name]:>13.2f}", end="")
        print("".join(f"{found[name][score]:>10.2f}" for score in scores))


if __name__ == "__main__":
    main()
