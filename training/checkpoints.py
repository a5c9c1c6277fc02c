"""What training saves: models, and the checkpoints of a run.

Checkpoints are `checkpoint-{step:07d}` folders, written beside and then renamed, so that each one is whole.

Accelerate saves model, optimiser and random states; beside them stand the averaged weights (`ema.safetensors`) and
where the run is (`progress.json`).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from modeling import ImageDenoisingPipeline, ViTUNetForImageDenoising, ViTUNetImageProcessor

_NAME = re.compile(r"checkpoint-(\d{7,})")


def save_model(
    model: ViTUNetForImageDenoising, folder: str | Path, processor: ViTUNetImageProcessor | None = None
) -> None:
    """Saves what loads anywhere with `trust_remote_code=True`: the model, its processor, its pipeline, and their code.

    The image processor's file is the last to be written.
    """
    processor = processor or ViTUNetImageProcessor()
    ImageDenoisingPipeline(model=model, image_processor=processor, device=model.device).save_pretrained(folder)


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))


def save_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, step: int, ema: nn.Module, progress: dict, keep: int
) -> Path:
    """Saves the run, then removes all checkpoints but the newest `keep`. `progress` is anything that JSON holds."""
    final = Path(output_dir) / f"checkpoint-{step:07d}"
    unfinished = final.with_name(f"unfinished-{final.name}")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    if accelerator.is_main_process:
        averaged = {name: tensor.contiguous() for name, tensor in ema.state_dict().items()}
        save_file(averaged, unfinished / "ema.safetensors")
        (unfinished / "progress.json").write_text(json.dumps(progress) + "\n")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for old in checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Accelerator, folder: Path, ema: nn.Module) -> dict:
    """Restores what `save_checkpoint` saved -> its `progress`.

    Raises `ValueError` where the run had another number of processes, whose batches and random states these were.
    """
    progress = json.loads((folder / "progress.json").read_text())
    processes = progress.get("processes", accelerator.num_processes)
    if processes != accelerator.num_processes:
        raise ValueError(f"{folder} is of {processes} processes, here are {accelerator.num_processes}: start as many.")
    accelerator.load_state(str(folder))
    averaged = load_file(folder / "ema.safetensors")
    averaged.pop("n_averaged", None)  # of runs that were begun when torch's AveragedModel held the weights
    ema.load_state_dict({name.removeprefix("module."): value for name, value in averaged.items()})
    return progress
