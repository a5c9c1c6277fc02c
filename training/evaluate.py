"""A checkpoint against a set of clean images with seeded noise.

    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER --noise_level 15 25 50
    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER --sweep regional_sharpness

Protocol: white Gaussian noise on RGB images in [0, 1], neither clipped nor quantised, from a generator seeded with the
image's index; whole images; predictions clipped; means of per-image values.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import HfArgumentParser

from modeling import TRAINABLE_TERMS, ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.metrics import (
    fourier_ring_correlation,
    octave_spectrum_error,
    periodic_artefact_index,
    psnr,
    sharpness_ratio,
    ssim,
)
from training.data import ImageStore, load_images

MEASURES = {
    "psnr": psnr,
    "ssim": ssim,
    "sharpness_ratio": sharpness_ratio,
    # Energy and correlation above a quarter cycle per pixel: the one without the other is noise, not detail.
    "top_octave_dB": lambda prediction, target: octave_spectrum_error(prediction, target, 1)[0],
    "top_octave_corr": lambda prediction, target: fourier_ring_correlation(prediction, target, 1)[0],
    "artefact_index": periodic_artefact_index,
}
SWEEP_STOPS = 11


@dataclass
class EvaluationArguments:
    model: str = field(metadata={"help": "Hub id or folder of a model."})
    dataset: str = field(metadata={"help": "Hub dataset id, or a folder of clean images."})
    noise_level: list[float] = field(default_factory=lambda: [15.0, 25.0, 50.0], metadata={"help": "In 255ths."})
    loss_weights: dict | str | None = field(default=None, metadata={"help": "JSON, by term. Default: the model's."})
    high_frequency_emphasis: float | None = field(default=None, metadata={"help": "Default: the model's."})
    tell_noise_level: bool = field(default=False, metadata={"help": "Tell the network the level. Default: blind."})
    sweep: str | None = field(
        default=None, metadata={"help": "A loss term: 11 stops from the fidelity corner to full weight on it."}
    )
    dataset_split: str = field(default="test", metadata={"help": "Split of a Hub dataset."})
    image_column: str = field(default="image", metadata={"help": "Column that holds the clean images."})
    measures: list[str] = field(default_factory=lambda: list(MEASURES), metadata={"help": "Which; SSIM takes longest."})
    limit: int | None = field(default=None, metadata={"help": "Only so many images, the first ones."})
    output: str | None = field(default=None, metadata={"help": "Write the per-image values to this JSON file."})

    def __post_init__(self) -> None:
        if isinstance(self.loss_weights, str):
            self.loss_weights = json.loads(self.loss_weights)
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown or not self.measures:
            raise ValueError(f"--measures {unknown} must be among {list(MEASURES)}.")
        if self.sweep and self.loss_weights:
            raise ValueError(f"--sweep {self.sweep} sets the loss weights itself: leave out --loss_weights.")
        if self.sweep and self.sweep not in TRAINABLE_TERMS[1:]:
            raise ValueError(f"--sweep {self.sweep} must name one of {list(TRAINABLE_TERMS[1:])}.")


@dataclass(frozen=True)
class Setting:
    """One position of the sliders; `None` is the model's default."""

    name: str
    loss_weights: dict[str, float] | None = None
    high_frequency_emphasis: float | None = None


def sweep_settings(term: str, high_frequency_emphasis: float | None = None) -> list[Setting]:
    """Stops from weight 1 on `pixel` to weight 1 on the term."""
    stops = [index / (SWEEP_STOPS - 1) for index in range(SWEEP_STOPS)]
    return [Setting(f"{term} {t:.1f}", {"pixel": 1 - t, term: t}, high_frequency_emphasis) for t in stops]


@torch.inference_mode()
def evaluate(
    model: ViTUNetForImageDenoising,
    images: list[Tensor] | ImageStore,
    noise_level: float,
    settings: list[Setting],
    tell_noise_level: bool = False,
    measures: Sequence[str] = tuple(MEASURES),
) -> list[dict]:
    """Measures every image at every setting; each image is encoded once.

    Args:
        images: (3, H, W) uint8 each.
        noise_level: in units of the [0, 1] range.

    Returns:
        One row per image and setting: `image` (index), `setting`, and the measures by name.
    """
    rows = []
    for index in range(len(images)):
        clean = images[index].float() / 255
        noisy = indexed_gaussian_noise(clean, noise_level, index)
        device_clean = clean.to(model.device)
        encoded = model.encode(noisy[None].to(model.device), noise_level if tell_noise_level else None)
        for setting in settings:
            restored = model.decode(encoded, setting.loss_weights, setting.high_frequency_emphasis)[0].float()
            values = {name: MEASURES[name](restored, device_clean) for name in measures}
            rows.append({"image": index, "setting": setting.name, **values})
    return rows


def means(rows: list[dict], setting: str) -> dict[str, float]:
    """Mean of each measure over the images at one setting, those left out for which it is not defined (NaN)."""
    columns = {name: [row[name] for row in rows if row["setting"] == setting] for name in MEASURES if name in rows[0]}
    defined = {name: [value for value in column if not math.isnan(value)] for name, column in columns.items()}
    return {name: sum(column) / len(column) if column else math.nan for name, column in defined.items()}


def print_table(rows: list[dict], settings: list[Setting], noise_level: float) -> None:
    """One line per setting; `cost` is the PSNR that it loses to the first one."""
    table = {setting.name: means(rows, setting.name) for setting in settings}
    first = table[settings[0].name]
    print(f"\nnoise level {noise_level:g}/255, {len(rows) // len(settings)} images")
    print(
        f"{'setting':<28}"
        + "".join(f"{name:>17}" for name in first)
        + (f"{'cost (dB)':>11}" if "psnr" in first else "")
    )
    for name, values in table.items():
        cost = f"{first['psnr'] - values['psnr']:>11.3f}" if "psnr" in first else ""
        print(f"{name:<28}" + "".join(f"{value:>17.4f}" for value in values.values()) + cost)
    if len(settings) > 1 and "sharpness_ratio" in first:
        ratios = [values["sharpness_ratio"] for values in table.values()]
        rising = all(later > earlier for earlier, later in itertools.pairwise(ratios))
        print(f"mean sharpness ratio rises at every stop: {'yes' if rising else 'no'}")


def main(argv: list[str] | None = None) -> dict:
    (arguments,) = HfArgumentParser(EvaluationArguments, description=__doc__).parse_args_into_dataclasses(argv)
    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    if torch.cuda.is_available():
        model = model.cuda()
    model = model.to(memory_format=torch.channels_last)
    dataset = load_images(arguments.dataset, arguments.dataset_split, arguments.image_column)
    if arguments.limit:
        dataset = dataset.select(range(min(arguments.limit, len(dataset))))
    images = ImageStore(dataset, arguments.image_column, keep=False)
    if arguments.sweep:
        settings = sweep_settings(arguments.sweep, arguments.high_frequency_emphasis)
    else:
        settings = [Setting("given", arguments.loss_weights, arguments.high_frequency_emphasis)]

    results = {}
    for noise_level in arguments.noise_level:
        rows = evaluate(model, images, noise_level / 255, settings, arguments.tell_noise_level, arguments.measures)
        print_table(rows, settings, noise_level)
        results[f"{noise_level:g}"] = rows
    if arguments.output:
        finite = {  # JSON knows no NaN
            level: [{k: None if v != v else v for k, v in row.items()} for row in rows]
            for level, rows in results.items()
        }
        Path(arguments.output).write_text(json.dumps(finite, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
