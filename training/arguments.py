"""Arguments of a training run: a dataclass, filled from a YAML recipe and from the command line, which wins."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from modeling.degradations import Noise
from modeling.self_ensemble import SYMMETRIES
from training.hub import git_commit


@dataclass
class TrainingArguments:
    dataset: str = field(
        metadata={
            "help": "Hub dataset id, a folder of images (searched recursively), a Parquet file or folder of them."
        }
    )
    output_dir: str = field(metadata={"help": "Folder for checkpoints, metrics.jsonl and the final model."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub dataset, or of Parquet files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    image_column: str = field(default="image", metadata={"help": "Column that holds the clean images."})
    noisy_column: str | None = field(
        default=None, metadata={"help": "Column with real noisy versions of them. Default: noise is added."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read the dataset as it comes, without downloading it."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Images among which a streamed dataset is shuffled."})
    validation_size: int = field(default=12, metadata={"help": "Images held out for validation (centre crops)."})
    folder_repeats: dict | str | None = field(
        default=None,
        metadata={"help": "Folders whose images come several times an epoch: {photos: 3} (JSON on the command line)."},
    )
    keep_images: bool = field(
        default=True, metadata={"help": "Keep decoded images in memory (3 bytes a pixel, in each loader)."}
    )
    data_on_device: bool = field(
        default=False, metadata={"help": "Keep them in the accelerator's memory; crops and noise are made there."}
    )

    model: str | None = field(default=None, metadata={"help": "Model to start from: Hub id or folder. Default: fresh."})
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Model whose restorations of turned and mirrored crops are mixed into the targets of images whose "
            "whole weight is on pixel: Hub id or folder (see training/teacher.py). Logged terms compare with the mix."
        },
    )
    teacher_share: float = field(
        default=0.7, metadata={"help": "Of the teacher's restorations in those targets; the rest is the clean images."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of ViTUNetConfig for a fresh model (JSON on the command line)."}
    )
    preset: str = field(
        default="small",
        metadata={"help": "Fresh network: small, or hybrid_vit_base (the first post's)."},
    )
    backbone: str | None = field(default=None, metadata={"help": "Pretrained ViT of a fresh model: Hub id or folder."})

    trained_parts: list | str | None = field(
        default=None,
        metadata={"help": 'Parts of the network to train, the rest stays: ["condition", "decoder"]. Default: all.'},
    )

    crop_size: int = field(
        default=96, metadata={"help": "Side of the training crops, pixels; 0: whole images, of one size."}
    )
    crop_schedule: dict | str | None = field(
        default=None, metadata={"help": "Other crop sizes from a step on: {18000: 128} (JSON on the command line)."}
    )
    scales: list | str | None = field(
        default=None,
        metadata={
            "help": "Factors by which images are shrunk: each crop draws one of [1, 1, 0.8, 0.5], say. An image that "
            "is too small for it is shrunk less."
        },
    )
    min_noise_level: float = field(default=0.0, metadata={"help": "Lowest noise level, in 255ths."})
    max_noise_level: float = field(default=75.0, metadata={"help": "Highest noise level, in 255ths."})
    noise: list | str | None = field(
        default=None,
        metadata={
            "help": "Noise models applied in turn (a list in a recipe, JSON on the command line; see "
            "modeling/degradations.py). Default: white Gaussian noise of the levels above."
        },
    )
    blind_probability: float = field(default=0.75, metadata={"help": "Share of images whose noise level is withheld."})
    sample_losses: bool = field(
        default=True, metadata={"help": "Draw loss weights per image (conditioned networks); else the config's hold."}
    )
    corner_probability: float = field(
        default=0.35,
        metadata={"help": "Share of images with all weight on the first term, pixel (see LossSampler)."},
    )
    map_probability: float = field(
        default=0.0, metadata={"help": "Share of images with two losses, blended by a smooth random map."}
    )
    loss_weights: dict | str | None = field(
        default=None, metadata={"help": "The model's default loss weights, by term (JSON on the command line)."}
    )
    high_frequency_emphasis: float | None = field(default=None, metadata={"help": "The model's default emphasis g."})
    level_gradients: bool = field(
        default=False,
        metadata={"help": "Pull every image equally hard, whatever its loss and noise level (see training.train)."},
    )
    grid_penalty: float = field(
        default=0.0, metadata={"help": "Weight of a penalty on errors that repeat with the network's grid; 0: none."}
    )

    max_steps: int = field(default=1000, metadata={"help": "Optimiser steps of the whole run."})
    batch_size: int = field(default=8, metadata={"help": "Images per process and step."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimiser step."})
    optimizer: str = field(default="adamw", metadata={"help": "adamw, or muon (for the matrices; adamw for the rest)."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    warmup_steps: int = field(default=200, metadata={"help": "Steps of linear warm-up; a cosine to 0 follows."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Decoupled weight decay."})
    max_grad_norm: float = field(
        default=1.0,
        metadata={
            "help": "Gradients are clipped to this norm. Those of the log balance are 3 to 20 long: 1 evens them out."
        },
    )
    ema_decay: float = field(
        default=0.999, metadata={"help": "Decay of the averaged weights, which are what is saved."}
    )
    seed: int = field(default=0, metadata={"help": "All randomness is a function of it and of the sample's number."})
    mixed_precision: str = field(default="no", metadata={"help": "Autocast: no, bf16 or fp16."})
    compile: bool = field(default=False, metadata={"help": "torch.compile the network: pays off on a GPU."})
    cuda_graph: bool = field(
        default=False,
        metadata={"help": "Launch a step as one CUDA graph: for one GPU that a CPU cannot keep busy."},
    )
    channels_last: bool = field(default=True, metadata={"help": "Memory format of images and convolutions."})
    num_workers: int = field(default=0, metadata={"help": "Loader processes."})

    log_with: str = field(
        default="tensorboard",
        metadata={"help": "Tracker: any that Accelerate knows, or none. metrics.jsonl is always written."},
    )
    strip_steps: int = field(
        default=1000, metadata={"help": "Steps between picture strips (noisy, three settings, clean); 0: none."}
    )
    logging_steps: int = field(default=50, metadata={"help": "Steps between lines of metrics.jsonl."})
    validation_steps: int = field(default=1000, metadata={"help": "Steps between validations."})
    checkpoint_steps: int = field(default=1000, metadata={"help": "Steps between checkpoints."})
    keep_checkpoints: int = field(default=2, metadata={"help": "Checkpoints to keep; older ones are removed."})
    stop_at_step: int | None = field(
        default=None, metadata={"help": "Save a checkpoint after this step and stop; --resume true goes on."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest checkpoint of output_dir."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the finished model on the Hub, with its card."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Its name there: user/name."})
    hub_private: bool = field(default=False, metadata={"help": "Publish it for yourself alone."})

    def __post_init__(self) -> None:
        choices = {
            "preset": ("small", "hybrid_vit_base"),
            "mixed_precision": ("no", "bf16", "fp16"),
            "optimizer": ("adamw", "muon"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {list(allowed)}.")
        for name in (
            "model_config",
            "crop_schedule",
            "noise",
            "loss_weights",
            "folder_repeats",
            "trained_parts",
            "scales",
        ):
            if isinstance(getattr(self, name), str):
                setattr(self, name, _parsed_json(name, getattr(self, name)))
        self.model_config = self.model_config or {}
        self.folder_repeats = {name: int(count) for name, count in (self.folder_repeats or {}).items()}
        self.crop_schedule = {int(step): int(size) for step, size in (self.crop_schedule or {}).items()}
        if min(self.folder_repeats.values(), default=1) < 1:
            raise ValueError(
                f"folder_repeats={self.folder_repeats} must be at least 1: leave a folder out of the dataset."
            )
        at_least_one = ("max_steps", "batch_size", "gradient_accumulation_steps", "logging_steps", "shuffle_buffer")
        for name in (*at_least_one, "validation_steps", "checkpoint_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("blind_probability", "corner_probability", "map_probability", "teacher_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1].")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm} leaves no gradient: give a large one for no limit.")
        if self.crop_size < 0:
            raise ValueError(f"crop_size={self.crop_size} must be positive, or 0 for whole images.")
        if self.crop_schedule and (not self.crop_size or min(self.crop_schedule.values()) < 1):
            raise ValueError(f"crop_schedule={self.crop_schedule} needs crops: give positive sizes.")
        self.scales = self.scales or [1.0]
        if not isinstance(self.scales, list) or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales={self.scales} must be a list of factors above 0 that are 1 at most.")
        self._check_combinations()
        if self.noise:
            Noise(self.noise)  # refuses what it cannot make
        if not 0 <= self.min_noise_level <= self.max_noise_level <= 255:
            raise ValueError(
                f"min_noise_level={self.min_noise_level} and max_noise_level={self.max_noise_level} must satisfy "
                "0 <= min <= max <= 255 (in 255ths)."
            )

    def flat(self) -> dict[str, str | int | float | bool]:
        """For trackers, which take numbers and texts."""
        values = asdict(self)
        return {k: v if isinstance(v, str | int | float | bool) else json.dumps(v) for k, v in values.items()}

    def _check_combinations(self) -> None:
        if self.model and self.model_config:
            raise ValueError(f"model={self.model!r} has its own config: leave out model_config={self.model_config}.")
        if self.model and self.preset != "small":
            raise ValueError(
                f"model={self.model!r} is no fresh network, for which preset={self.preset!r} is: set it to small."
            )
        if self.model and self.backbone:
            raise ValueError(f"model={self.model!r} has its own ViT: leave out backbone={self.backbone!r}.")
        if self.teacher and self.sample_losses and not self.corner_probability:
            raise ValueError("A teacher teaches where the whole weight is on pixel: raise corner_probability above 0.")
        if self.teacher and not self.crop_size:
            raise ValueError(f"teacher={self.teacher!r} is shown turned crops, which are square: set crop_size.")
        if self.teacher and self.batch_size % SYMMETRIES:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of {SYMMETRIES} for a teacher, which is shown each "
                "image of a batch in another symmetry."
            )
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id: user/name.")
        if self.streaming:
            wrong = {
                "crop_size": not self.crop_size,
                "num_workers": self.num_workers,
                "data_on_device": self.data_on_device,
                "folder_repeats": self.folder_repeats,
            }
            if any(wrong.values()):
                raise ValueError(
                    "A streamed dataset comes once, and is cut into crops by the main process: leave out "
                    f"{', '.join(name for name, given in wrong.items() if given)}."
                )
        if self.data_on_device:
            wrong = {"crop_size 0": not self.crop_size, "noise": self.noise, "noisy_column": self.noisy_column}
            wrong["num_workers"] = self.num_workers
            if any(wrong.values()):
                raise ValueError(
                    "data_on_device makes crops with white Gaussian noise, without a loader: leave out "
                    f"{', '.join(name for name, given in wrong.items() if given)}."
                )
        if self.cuda_graph:
            wrong = {
                "mixed_precision fp16": self.mixed_precision == "fp16",
                "gradient_accumulation_steps": self.gradient_accumulation_steps > 1,
                "map_probability": self.map_probability,
                "data_on_device false": not self.data_on_device,
            }
            if any(wrong.values()):
                raise ValueError(
                    "A step that is one CUDA graph finds everything on the device and takes no decisions: leave out "
                    f"{', '.join(name for name, given in wrong.items() if given)}."
                )
        if min(self.scales) < 1 and (self.noisy_column or not self.crop_size):
            raise ValueError(
                f"scales={self.scales} shrink crops before noise is added: leave them out for whole images (crop_size "
                "0) and for pairs (noisy_column), whose noise would shrink as well."
            )
        if self.noisy_column and self.noise:
            raise ValueError(f"Give noisy_column={self.noisy_column!r} or noise, not both.")


def _parsed_json(name: str, text: str) -> dict | list:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{name} {text!r} is not JSON: {error}.") from error


def parse_arguments(argv: list[str] | None = None) -> TrainingArguments:
    """`[recipe.yaml] [--field value ...]` -> arguments. The command line wins over the recipe."""
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(TrainingArguments, description=__doc__)
    if argv and argv[0].endswith((".yaml", ".yml")):
        recipe, argv = _read_recipe(Path(argv[0])), argv[1:]
        parser.set_defaults(**recipe)
        for action in parser._actions:
            if action.dest in recipe:
                action.required = False
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    return arguments


def _read_recipe(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"There is no recipe {path}: see training/recipes/.")
    recipe = yaml.safe_load(path.read_text()) or {}
    known = {entry.name: entry.type for entry in fields(TrainingArguments)}
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise ValueError(
            f"{path} has unknown fields {unknown}: `python -m training.train --help` lists the known ones."
        )
    for name, value in recipe.items():
        if known[name] in ("float", "int", float, int) and isinstance(value, str):
            raise ValueError(f"{path}: {name} is the text {value!r}; write a number (YAML needs 3.0e-4 for 3e-4).")
    return recipe


# A resumed run is the same run: only these may differ from its first command. A new `max_steps` stretches the schedule.
_FREE_ON_RESUME = {
    "dataset",
    "output_dir",
    "resume",
    "stop_at_step",
    "max_steps",
    "log_with",
    "strip_steps",
    "push_to_hub",
    "hub_model_id",
    "hub_private",
    "num_workers",
    "keep_images",
    "logging_steps",
    "validation_steps",
    "checkpoint_steps",
    "keep_checkpoints",
}


def read_arguments(path: Path) -> dict:
    """A run's `arguments.json`; a field that was not there yet when the run began has its default."""
    return {**asdict(TrainingArguments(dataset="", output_dir="")), **json.loads(path.read_text())}


def checked_arguments(arguments: TrainingArguments, output_dir: Path, resumed: bool) -> dict:
    """What `write_arguments` keeps. Raises `ValueError` for a resumed run with other arguments; writes nothing."""
    path = output_dir / "arguments.json"
    values = json.loads(json.dumps(asdict(arguments)))  # as it will be read back
    if resumed and path.is_file():
        first = read_arguments(path)
        changed = [name for name in values if name not in _FREE_ON_RESUME and first[name] != values[name]]
        if changed:
            details = ", ".join(f"{name}={values[name]!r} was {first[name]!r}" for name in changed)
            raise ValueError(
                f"{output_dir} was started with other arguments: {details}. Use them, or another output_dir."
            )
        return {**first, **values, "resume": False, "stop_at_step": None}
    return {**values, "git_commit": git_commit()}


def write_arguments(arguments: TrainingArguments, output_dir: Path, resumed: bool) -> None:
    """Keeps the run's arguments in `arguments.json`; a resumed run with other ones is refused."""
    values = checked_arguments(arguments, output_dir, resumed)
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "arguments.json").write_text(json.dumps(values, indent=2) + "\n")
