"""Restores files and folders: each photograph comes back as it was, without its noise.

    vit-unet-denoise photo.jpg scans/ --model checkpoints/vit-unet-denoiser --output restored
    vit-unet-denoise photo.jpg --model checkpoints/vit-unet-denoiser --output restored --preset wavelet

Mode, depth, alpha, colour profile and EXIF are kept, and so are subfolders; large photographs are restored in tiles. A
file that cannot be read, restored or written is told, the others go on, and the exit status is 1. In a clone of the
repository: `python -m modeling.cli`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageToImage

from .image_files import FORMATS, photographs, save_restored
from .losses import PRESETS
from .memory import give_back_freed_memory, keep_freed_memory
from .pipeline_image_denoising import ImageDenoisingPipeline


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", metavar="PATH", help="files, and folders of files")
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--output", required=True, help="folder for the restored files, which keep their names")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    setting = parser.add_mutually_exclusive_group()
    setting.add_argument("--preset", choices=PRESETS, help="loss weights and emphasis by name")
    setting.add_argument("--loss_weights", help="""JSON, by term: '{"pixel": 0.5, "wavelet": 0.5}'""")
    parser.add_argument("--high_frequency_emphasis", type=float, help="g, at least 0")
    parser.add_argument("--noise_level", type=float, help="of 255. Default: the network sees for itself")
    parser.add_argument(
        "--self_ensemble", action="store_true", help="mean of eight turned and mirrored copies: eight times the time"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the features. bfloat16 takes half of the time where the processor has it, for 0.01 dB",
    )
    arguments = parser.parse_args(argv)
    try:
        arguments.controls = controls(arguments)
        arguments.pairs = destinations(arguments.photographs, Path(arguments.output), arguments.overwrite)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def controls(arguments: argparse.Namespace) -> dict:
    """Keywords of the pipeline."""
    found = {"preset": arguments.preset, "high_frequency_emphasis": arguments.high_frequency_emphasis}
    if arguments.self_ensemble:
        found["self_ensemble"] = True
    if arguments.noise_level is not None:
        found["noise_level"] = arguments.noise_level / 255
    if arguments.loss_weights is not None:
        try:
            weights = json.loads(arguments.loss_weights)
            found["loss_weights"] = {str(term): float(weight) for term, weight in weights.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"--loss_weights {arguments.loss_weights}: give JSON, a number by term ({error})."
            ) from error
    return {name: value for name, value in found.items() if value is not None}


def destinations(paths: list[str], output: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """-> each file and what it becomes. Raises `ValueError` before anything is restored that could not be kept."""
    found: list[tuple[Path, Path]] = []  # file, its path below the folder that was named
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"There is no {path}: name a file or a folder.")
        files = photographs(path) if path.is_dir() else [path]
        if output.resolve().is_relative_to(path.resolve()) and output.resolve() != path.resolve():
            # What was restored before, below the folder that was named.
            files = [file for file in files if not file.resolve().is_relative_to(output.resolve())]
        if not files:
            raise ValueError(f"All photographs of {path} lie below --output {output}: name another one.")
        found += [(file, file.relative_to(path if path.is_dir() else path.parent)) for file in files]
    pairs: dict[Path, Path] = {}
    for file, name in found:
        target = output / (name if name.suffix.lower() in FORMATS else name.with_suffix(".png"))
        if target in pairs:
            raise ValueError(f"{pairs[target]} and {file} would both become {target}: restore them into two folders.")
        if target.exists() and target.samefile(file):
            raise ValueError(f"{file} would be replaced by its restored version: name another --output.")
        if target.exists() and not overwrite:
            raise ValueError(f"{target} is there already: add --overwrite, or name another --output.")
        pairs[target] = file
    return [(file, target) for target, file in pairs.items()]


def main(argv: list[str] | None = None) -> int:
    """-> the exit status: 1 where a photograph could not be restored."""
    arguments = parse_arguments(argv)
    keep_freed_memory()
    try:
        model = AutoModelForImageToImage.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).eval()
        processor = AutoImageProcessor.from_pretrained(arguments.model)
    except (OSError, ValueError) as error:
        print(f"--model {arguments.model}: {error}", file=sys.stderr)
        return 2
    denoise = ImageDenoisingPipeline(model=model, image_processor=processor)
    try:
        denoise(Image.new("RGB", (16, 16)), **arguments.controls)  # so that a wrong setting is told once
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for source, target in tqdm(arguments.pairs, unit="photographs", disable=len(arguments.pairs) < 2):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            save_restored(denoise(str(source), return_tensors=True, **arguments.controls), source, target)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # the next one may be smaller
            failed += 1
            tqdm.write(f"{source}: {str(error) or 'there is not enough memory'}", file=sys.stderr)
            give_back_freed_memory()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
