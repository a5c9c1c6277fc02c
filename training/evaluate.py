"""A denoiser against sets of clean images with seeded noise.

    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER --noise_level 15 25 50
    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER --sweep regional_sharpness
    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER OTHER_FOLDER user/hub_dataset \\
        --preset mse hybrid --loss_weights '{"pixel": 0.5, "wavelet": 0.5}' --measures all \\
        --output results.json --plots plots --model_index model_index.yaml
    python -m training.evaluate --model checkpoints/vit-unet-denoiser --dataset FOLDER --self_ensemble
    python -m training.evaluate --function my_module:denoise --dataset FOLDER

Protocol: white Gaussian noise on RGB images in [0, 1], neither clipped nor quantised, from a generator seeded with the
image's index; whole images; predictions clipped; means of per-image values.

Another denoiser is a Python function of a noisy image (3, H, W), float32 on the CPU and not clipped, and of the noise
level in units of the [0, 1] range (a blind one ignores it), to the restored image (3, H, W). `--function` names it as
`module:function`, the module as one would import it from the folder in which the command runs.
"""

from __future__ import annotations

import importlib
import json
import os
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import HfArgumentParser

from modeling import PRESETS, TRAINABLE_TERMS, EncodedImage, ViTUNetForImageDenoising
from modeling.degradations import indexed_gaussian_noise
from modeling.self_ensemble import SYMMETRIES, mean_turned_back, turn
from training.data import ImageStore, load_images
from training.evaluation_measures import MEASURES, QUICK_MEASURES, checked_measures, library, measured
from training.evaluation_report import means, print_table, write_json, write_model_index, write_plots

__all__ = ["FunctionDenoiser", "Setting", "evaluate", "main", "means", "sweep_settings"]

PLOTTED = ("psnr", "sharpness_ratio", "octaves")
SWEEP_STOPS = 11


@dataclass
class EvaluationArguments:
    dataset: list[str] = field(metadata={"help": "Test sets: Hub dataset ids, folders of clean images."})
    model: str | None = field(default=None, metadata={"help": "Hub id or folder of a model."})
    function: str | None = field(default=None, metadata={"help": "Another denoiser instead, as module:function."})

    # What is asked of it
    noise_level: list[float] = field(default_factory=lambda: [15.0, 25.0, 50.0], metadata={"help": "In 255ths."})
    tell_noise_level: bool = field(default=False, metadata={"help": "Tell the network the level. Default: blind."})
    preset: list[str] = field(default_factory=list, metadata={"help": f"Loss settings by name: {', '.join(PRESETS)}."})
    loss_weights: list[str] = field(default_factory=list, metadata={"help": "JSON, by term; one for each setting."})
    sweep: str | None = field(
        default=None, metadata={"help": "A loss term: 11 stops from the fidelity corner to full weight on it."}
    )
    high_frequency_emphasis: float | None = field(
        default=None, metadata={"help": "In all settings. Default: the preset's or the model's."}
    )

    dtype: str = field(default="float32", metadata={"help": "Of the features: float32, or bfloat16."})
    self_ensemble: bool = field(
        default=False, metadata={"help": "Mean of eight turned and mirrored copies, in eight times the time."}
    )

    # The images
    dataset_split: str = field(default="test", metadata={"help": "Split of a Hub dataset, or of Parquet files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    image_column: str = field(default="image", metadata={"help": "Column that holds the clean images."})
    limit: int | None = field(default=None, metadata={"help": "Only so many images of each set, the first ones."})

    # What is measured, and where it goes
    measures: list[str] = field(
        default_factory=lambda: list(QUICK_MEASURES), metadata={"help": f"all, or of {', '.join(MEASURES)}."}
    )
    output: str | None = field(default=None, metadata={"help": "Write the per-image values to this JSON file."})
    plots: str | None = field(
        default=None,
        metadata={"help": f"Draw PSNR against sharpness, and spectra, in this folder; measures {', '.join(PLOTTED)}."},
    )
    model_index: str | None = field(
        default=None, metadata={"help": "Write the `model-index` of a model card, YAML, to this file."}
    )

    def __post_init__(self) -> None:
        if (self.model is None) == (self.function is None):
            raise ValueError(f"--model {self.model} --function {self.function}: give one of the two.")
        emphasised = self.high_frequency_emphasis is not None
        if self.function and (self.preset or self.loss_weights or self.sweep or emphasised or self.self_ensemble):
            raise ValueError(
                f"--function {self.function} has no controls: leave out presets, weights, sweep and self_ensemble."
            )
        if self.sweep and (self.preset or self.loss_weights):
            raise ValueError(
                f"--sweep {self.sweep} sets the loss weights itself: leave out --preset and --loss_weights."
            )
        if self.sweep and self.sweep not in TRAINABLE_TERMS[1:]:
            raise ValueError(f"--sweep {self.sweep} must name one of {list(TRAINABLE_TERMS[1:])}.")
        if unknown := [name for name in self.preset if name not in PRESETS]:
            raise ValueError(f"--preset {unknown} must be among {list(PRESETS)}.")
        if self.function and self.dtype != "float32":
            raise ValueError(f"--dtype {self.dtype} is the model's, and --function {self.function} has its own.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--dtype {self.dtype} must be float32 or bfloat16.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1.")
        self.measures = checked_measures(self.measures)
        if self.plots:
            library("matplotlib", "--plots")
            self.measures += [name for name in PLOTTED if name not in self.measures]


@dataclass(frozen=True)
class Setting:
    """One position of the sliders; `None` is the model's default."""

    name: str
    loss_weights: dict[str, float] | None = None
    high_frequency_emphasis: float | None = None


def sweep_settings(term: str, high_frequency_emphasis: float | None = None) -> list[Setting]:
    """Stops from weight 1 on `pixel` to weight 1 on the term."""
    stops = [index / (SWEEP_STOPS - 1) for index in range(SWEEP_STOPS)]
    return [Setting(f"{term} {t:.1f}", {"pixel": round(1 - t, 6), term: t}, high_frequency_emphasis) for t in stops]


def chosen_settings(arguments: EvaluationArguments) -> list[Setting]:
    """The presets, then the explicit weights; the model's default where neither is given."""
    emphasis = arguments.high_frequency_emphasis
    if arguments.sweep:
        return sweep_settings(arguments.sweep, emphasis)
    settings = []
    for name in arguments.preset:
        preset = PRESETS[name]
        settings.append(
            Setting(name, dict(preset.loss_weights), preset.high_frequency_emphasis if emphasis is None else emphasis)
        )
    for text in arguments.loss_weights:
        try:
            weights = {term: float(weight) for term, weight in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"--loss_weights {text} must be JSON such as '{{\"pixel\": 0.8}}'. ({error})") from error
        settings.append(Setting(", ".join(f"{term} {w:g}" for term, w in weights.items()), weights, emphasis))
    names = [setting.name for setting in settings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"The settings {twice} are given more than once: leave out the repetitions.")
    return settings or [Setting("default", None, emphasis)]


class FunctionDenoiser:
    """A function (image, noise level) -> image behind the calls that `evaluate` makes. It has no controls."""

    device = torch.device("cpu")

    def __init__(self, function: Callable[[Tensor, float], Tensor]) -> None:
        self.function = function

    @classmethod
    def from_name(cls, name: str) -> FunctionDenoiser:
        """Imports `module:function`. Raises `ValueError` where there is no such function."""
        module, _, attribute = name.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"--function {name} must name an importable module:function. ({error})") from error
        return cls(function)

    def encode(self, pixel_values: Tensor, noise_level: float | None = None) -> tuple[Tensor, float | None]:
        return pixel_values[0], noise_level

    def decode(self, encoded: tuple[Tensor, float | None], loss_weights=None, high_frequency_emphasis=None) -> Tensor:
        """-> (1, 3, H, W)."""
        if loss_weights is not None or high_frequency_emphasis is not None:
            raise ValueError(f"A function has no controls, got {loss_weights} and {high_frequency_emphasis}.")
        noisy, noise_level = encoded
        restored = torch.as_tensor(self.function(noisy, noise_level)).to(self.device)
        if restored.shape != noisy.shape:
            raise ValueError(f"The function returned {tuple(restored.shape)} for an image {tuple(noisy.shape)}.")
        return restored[None]


class SelfEnsemble:
    """A model's mean over eight symmetries behind the calls that `evaluate` makes."""

    def __init__(self, model: ViTUNetForImageDenoising) -> None:
        self.model, self.device = model, model.device

    def encode(self, pixel_values: Tensor, noise_level: float | None = None) -> list[EncodedImage]:
        return [self.model.encode(turn(pixel_values, symmetry), noise_level) for symmetry in range(SYMMETRIES)]

    def decode(self, encoded: list[EncodedImage], *controls) -> Tensor:
        """-> (B, 3, H, W)."""
        return mean_turned_back(self.model.decode(view, *controls) for view in encoded)


@torch.inference_mode()
def evaluate(
    model: ViTUNetForImageDenoising | FunctionDenoiser | SelfEnsemble,
    images: list[Tensor] | ImageStore,
    noise_level: float,
    settings: list[Setting],
    tell_noise_level: bool = False,
    measures: Sequence[str] = QUICK_MEASURES,
) -> list[dict]:
    """Measures every image at every setting; each image is encoded once.

    Args:
        images: (3, H, W) uint8 each; what an `ImageStore` cannot decode is left out.
        noise_level: in units of the [0, 1] range.
        tell_noise_level: to the denoiser; otherwise it is blind.
        measures: names of `MEASURES`.

    Returns:
        One row per image and setting: `image` (index), `setting`, and the measures by name.
    """
    rows = []
    for index in range(len(images)):
        image = images[index]
        if image is None:
            continue
        clean = image.float() / 255
        noisy = indexed_gaussian_noise(clean, noise_level, index)
        device_clean = clean.to(model.device)
        encoded = model.encode(noisy[None].to(model.device), noise_level if tell_noise_level else None)
        for setting in settings:
            restored = model.decode(encoded, setting.loss_weights, setting.high_frequency_emphasis)[0].float()
            rows.append({"image": index, "setting": setting.name, **measured(measures, restored, device_clean)})
    if not rows:
        raise ValueError(f"None of the {len(images)} images can be decoded.")
    return rows


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> ViTUNetForImageDenoising:
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / "config.json").exists():  # a default network would be loaded in silence
        remedy = "name the folder that does" + (f", {folder / 'model'}" if (folder / "model").is_dir() else "")
        raise ValueError(f"--model {name_or_path} holds no config.json: {remedy}.")
    model = ViTUNetForImageDenoising.from_pretrained(name_or_path, dtype=dtype).eval()
    if torch.cuda.is_available():
        model = model.cuda()
    return model.to(memory_format=torch.channels_last)


def named_sets(datasets: list[str]) -> dict[str, str]:
    """Name of each test set -> where it is: folders by their last part, where that tells them apart."""
    parts = {}
    for dataset in datasets:
        path = Path(dataset).absolute()  # links keep their names
        named_without = path.with_suffix("") if path.suffix == ".parquet" and path.is_file() else path
        parts[dataset] = Path(os.path.normpath(named_without)).parts if path.exists() else (dataset,)  # or on the Hub
    named = {}
    for dataset, own in parts.items():  # no more of a path than tells it apart: the name is published
        others = [other for name, other in parts.items() if name != dataset]
        needed = next((n for n in range(1, len(own)) if own[-n:] not in [other[-n:] for other in others]), len(own))
        named["-".join(own[-needed:])] = dataset
    if len(named) < len(datasets):
        raise ValueError(f"--dataset {' '.join(datasets)} names a set more than once: leave out the repetitions.")
    return named


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows the commands above as they are written, and the defaults."""


def main(argv: list[str] | None = None) -> dict:
    """-> the results, in the form that `training.evaluation_report` describes."""
    parser = HfArgumentParser(EvaluationArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    settings = chosen_settings(arguments)
    stores = {}
    for name, dataset in named_sets(arguments.dataset).items():
        images = load_images(dataset, arguments.dataset_split, arguments.image_column, config=arguments.dataset_config)
        if arguments.limit:
            images = images.select(range(min(arguments.limit, len(images))))
        stores[name] = ImageStore(images, arguments.image_column, keep=False)
    model = (
        FunctionDenoiser.from_name(arguments.function)
        if arguments.function
        else load_model(arguments.model, getattr(torch, arguments.dtype))
    )
    if arguments.model and model.config.one_loss and settings != [Setting("default")]:
        raise ValueError(
            f"{arguments.model} was trained for its default loss alone: leave out preset, loss_weights, sweep and "
            "high_frequency_emphasis."
        )
    model = SelfEnsemble(model) if arguments.self_ensemble else model
    told = arguments.tell_noise_level or bool(arguments.function)

    results = {
        "model": arguments.function or arguments.model,
        "protocol": {
            "noise": "white Gaussian on RGB in [0, 1], float, neither clipped nor quantised, seeded by image index",
            "noise_level_unit": "1/255",
            "noise_level_told": told,
            "dtype": arguments.dtype,
            "self_ensemble": arguments.self_ensemble,
            "prediction": "whole images, clipped to [0, 1], not rounded",
            "limit": arguments.limit,
            "sweep": arguments.sweep,
            "settings": {
                setting.name: {
                    "loss_weights": setting.loss_weights,
                    "high_frequency_emphasis": setting.high_frequency_emphasis,
                }
                for setting in settings
            },
            "measures": {name: MEASURES[name].meaning for name in arguments.measures},
        },
        "sets": {name: {} for name in stores},
    }
    for name, images in stores.items():
        for noise_level in arguments.noise_level:
            level = f"{noise_level:g}"
            rows = evaluate(model, images, noise_level / 255, settings, told, arguments.measures)
            print_table(name, level, rows, arguments.sweep)
            results["sets"][name][level] = rows
    if arguments.output:
        write_json(results, arguments.output)
    if arguments.plots:
        print("wrote", *write_plots(results, arguments.plots))
    if arguments.model_index:
        write_model_index(results, arguments.model_index)
    return results


if __name__ == "__main__":
    main()
