"""Publishes: a model with its card on the Hub, in one commit, and the page as a Space.

    python -m training.hub model --model runs/mine/model --repo_id user/denoiser --evaluation cbsd68.json
    python -m training.hub space --model runs/mine/model --output runs/space

The card is `training/model_card.md` filled with what is on record: the model, the run's `arguments.json` and
`metrics.jsonl`, and what `training.evaluate --output` measured. Its Python is run before it is written.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, SpaceCard, SpaceCardData, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from transformers import HfArgumentParser

from modeling import ViTUNetForImageDenoising, ViTUNetImageProcessor
from training.checkpoints import save_model
from training.evaluation_report import eval_results

ROOT = Path(__file__).parent.parent
TEMPLATE = Path(__file__).with_name("model_card.md")
# Arguments that say where and how a run was kept, not what was trained.
UNPUBLISHED = {"output_dir", "resume", "stop_at_step", "push_to_hub", "hub_model_id", "hub_private", "git_commit"}


@dataclass
class ModelArguments:
    model: str = field(metadata={"help": "Folder of a model: OUTPUT_DIR/model of a run, or any of save_pretrained."})
    repo_id: str = field(metadata={"help": "Its name on the Hub: user/name."})
    private: bool = field(default=False, metadata={"help": "Publish it for yourself alone."})
    evaluation: list[str] = field(default_factory=list, metadata={"help": "Files of training.evaluate --output."})
    run_dir: str | None = field(default=None, metadata={"help": "The run's output_dir. Default: the one around model."})
    training_data: str = field(default="", metadata={"help": "Its images, their licences: Markdown, or an .md file."})
    notes: str = field(default="", metadata={"help": "More for the section on limits: Markdown, or an .md file."})
    datasets: list[str] = field(default_factory=list, metadata={"help": "Datasets on the Hub that it learned from."})
    base_model: str | None = field(default=None, metadata={"help": "Model on the Hub that training started from."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the weights, as the Hub names it."})
    output: str | None = field(default=None, metadata={"help": "Write the files to this new folder, publish nothing."})

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
        check_model_folder(self.model)
        if self.run_dir is None and (Path(self.model).resolve().parent / "arguments.json").is_file():
            self.run_dir = str(Path(self.model).resolve().parent)
        if self.run_dir and not (Path(self.run_dir) / "arguments.json").is_file():
            raise ValueError(f"--run_dir {self.run_dir} holds no arguments.json: name the output_dir of a run.")
        self.training_data, self.notes = _text(self.training_data), _text(self.notes)


@dataclass
class SpaceArguments:
    model: str = field(metadata={"help": "Folder of a model, which is copied, or Hub id, which the Space downloads."})
    output: str = field(metadata={"help": "New folder for the Space."})

    def __post_init__(self) -> None:
        is_folder = Path(self.model).exists() or Path(self.model).is_absolute()
        check_model_folder(self.model) if is_folder else check_repo_id(self.model)


# The card ------------------------------------------------------------------------------------------------------------


def model_card(folder: Path, model: ViTUNetForImageDenoising, arguments: ModelArguments) -> ModelCard:
    """The card of the model in `folder`; nothing is run or written."""
    config, name = model.config, arguments.repo_id.split("/")[1]
    results = [read_evaluation(path) for path in arguments.evaluation]
    run, validation = _read_run(arguments.run_dir)
    terms = [term for term in config.steerable_terms if term != "pixel"]
    # The example moves the strongest control, where the network has it.
    shown = "regional_sharpness" if "regional_sharpness" in terms else next(iter(terms), None)
    tags = {"u-net": True, "vit": config.use_vit, "loss-conditional-training": terms}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-to-image",
        license=arguments.license,
        tags=["image-denoising", "image-restoration", *(tag for tag, holds in tags.items() if holds)],
        datasets=arguments.datasets or None,
        base_model=arguments.base_model,
        model_name=name,
        eval_results=[entry for result in results for entry in eval_results(result)] or None,
    )
    kept = {key: value for key, value in run.items() if key not in UNPUBLISHED and value not in (None, "", {}, [])}
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        asked=arguments,
        config=config,
        terms=[f"`{term}`" for term in config.conditioned_terms] if terms else [],
        control=json.dumps({"pixel": 0.8, shown: 0.2}) if shown else "",
        parameters=model.num_parameters(),
        weights_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        receptive_field=model.receptive_field,
        evaluations=[_table(result) for result in results],
        validation=validation,
        run=run,
        run_yaml=_yaml({key: _without_folder(value) for key, value in kept.items()}),
        commit=git_commit(),
    )


def write_card(folder: str | Path, model: ViTUNetForImageDenoising, arguments: ModelArguments) -> Path:
    """Writes `README.md` into the model's folder. Raises `ValueError`, and writes nothing, where its Python fails."""
    folder = Path(folder)
    card = model_card(folder, model, arguments)
    run_python(str(card), arguments.repo_id, folder)
    unfinished = folder / "unfinished-README.md"
    card.save(unfinished)
    return unfinished.replace(folder / "README.md")


def run_python(card: str, repo_id: str, folder: str | Path) -> None:
    """Runs the ```python blocks of a card, one after another, word for word, without a network and without a token.

    They run in an empty folder with a picture `noisy.png`, in which the model lies under its Hub id, and must leave
    `restored.png` of the same size. Raises `ValueError` with the end of what they said otherwise.
    """
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL))
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        (here / repo_id).parent.mkdir(parents=True)
        (here / repo_id).symlink_to(Path(folder).resolve(), target_is_directory=True)
        noisy = Image.effect_noise((80, 64), 50).convert("RGB")
        noisy.save(here / "noisy.png")
        private = {"PYTHONPATH", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
        environment = {key: value for key, value in os.environ.items() if key not in private}
        environment |= {"HF_HOME": str(here / "home"), "HF_HUB_OFFLINE": "1"}
        command, options = [sys.executable, "-c", code], {"cwd": here, "env": environment, "timeout": 300}
        try:
            subprocess.run(command, **options, capture_output=True, text=True, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = error.stderr[-2000:] if isinstance(error, subprocess.CalledProcessError) else error
            raise ValueError(f"The Python of {repo_id}'s card fails, so the card was not written:\n{said}") from error
        restored = here / "restored.png"
        if not restored.is_file() or Image.open(restored).size != noisy.size:
            raise ValueError(f"The Python of {repo_id}'s card leaves no restored.png of the size of noisy.png.")


def read_evaluation(path: str | Path) -> dict:
    """What `training.evaluate --output` wrote; `training.evaluation_report` says what it holds."""
    try:
        result = json.loads(Path(path).read_text())
        return {"model": result["model"], "protocol": result["protocol"], "sets": result["sets"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"write it with `python -m training.evaluate --output {path}`"
        raise ValueError(f"--evaluation {path} holds no results: {again}. ({error!r})") from error


def git_commit(folder: Path = ROOT) -> str | None:
    """The checkout's commit, ending in `-dirty` if changed since; `None` without git or outside its own repository."""
    if not (folder / ".git").exists():
        return None  # perhaps a copy that lies inside somebody's other repository
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _table(result: dict) -> dict:
    """Rows of the very numbers that stand in the `model-index`, so that the two agree."""
    rows: dict[str, dict[str, float]] = {}
    for entry in eval_results(result):
        if not re.match(r"octave_\d", entry.metric_type):  # a dozen columns: they stay in the model-index
            rows.setdefault(entry.dataset_name, {})[entry.metric_type] = entry.metric_value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    decimals = {c: max(len(str(row.get(c, "")).partition(".")[2]) for row in rows.values()) for c in columns}
    images = {
        name: len({row["image"] for rows in levels.values() for row in rows}) for name, levels in result["sets"].items()
    }
    protocol = {key: value for key, value in result["protocol"].items() if value is not None} | {"images": images}
    return {
        "header": ["set", *columns],
        "rows": [
            [name, *(f"{row[c]:.{decimals[c]}f}" if c in row else "not defined" for c in columns)]
            for name, row in rows.items()
        ],
        "protocol": _yaml(protocol),
    }


def _read_run(run_dir: str | None) -> tuple[dict, dict | None]:
    """A run's arguments, and its last validation: step and scores."""
    if run_dir is None:
        return {}, None
    run, validation = json.loads((Path(run_dir) / "arguments.json").read_text()), None
    log = Path(run_dir) / "metrics.jsonl"
    for line in map(json.loads, log.read_text().splitlines() if log.is_file() else []):
        scores = {name: value for name, value in line.items() if name.startswith("psnr")}
        validation = {"step": line["step"], "scores": scores} if scores else validation
    return run, validation


def _without_folder(value):
    """A path says where somebody keeps things: its last part is enough."""
    path = Path(value) if isinstance(value, str) else None
    return path.name if path and (path.is_absolute() or path.exists()) else value


def _text(value: str) -> str:
    """Markdown, or the content of an .md file."""
    if value.endswith(".md") and not Path(value).is_file():
        raise ValueError(f"There is no file {value}: name an .md file, or give the text itself.")
    return Path(value).read_text().strip() if value.endswith(".md") else value


def _yaml(values: dict) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110).strip()


# Publishing ----------------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str) -> None:
    """Raises `ValueError` for what is no `user/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} cannot be the name of a model on the Hub: give user/name. ({error})") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} names no user: give user/name.")


def check_model_folder(folder: str | Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json: name a folder that save_pretrained wrote.")


def check_can_publish(repo_id: str) -> None:
    """For the start of a long run: a name that the Hub takes, and a login. Asks no server."""
    check_repo_id(repo_id)
    if get_token() is None:
        raise ValueError(f"Nobody is logged in, so {repo_id} cannot be published: `hf auth login`, or set HF_TOKEN.")


def write_model(folder: Path, arguments: ModelArguments) -> None:
    """All that is published, in a new folder: config, safetensors, their code, processor and card."""
    model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    has_processor = (Path(arguments.model) / "preprocessor_config.json").is_file()
    processor = ViTUNetImageProcessor.from_pretrained(arguments.model) if has_processor else ViTUNetImageProcessor()
    save_model(model, folder, processor)
    write_card(folder, model, arguments)


def publish(arguments: ModelArguments, endpoint: str | None = None) -> str:
    """Publishes a model with its card in one commit -> its address. A name that exists gets a new commit.

    Raises `ValueError` where the card's Python fails or nobody is logged in, before anything is sent, and
    `RuntimeError` where the Hub refuses.
    """
    check_can_publish(arguments.repo_id)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder, arguments)
        api = HfApi(endpoint=endpoint)
        # `upload_folder` may cut a folder into several commits; a model and its code belong in one.
        operations = [CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())]
        try:
            # Never `private=False`: an organisation may have made private its default.
            url = api.create_repo(arguments.repo_id, private=arguments.private or None, exist_ok=True)
            if arguments.private and not api.repo_info(arguments.repo_id).private:
                raise ValueError("it exists and is public: make it private there, or choose another repo_id.")
            api.create_commit(arguments.repo_id, operations, commit_message=f"Publish {arguments.repo_id}")
        except Exception as error:  # the network, the Hub, its rules: whatever it was, nothing is lost
            raise RuntimeError(
                f"{arguments.repo_id} was not published: {error}\nThe model is safe in {arguments.model}: "
                "`python -m training.hub model --help` says how to publish it from there."
            ) from error
    return str(url)


def push_to_hub(output_dir: str | Path, arguments, endpoint: str | None = None) -> str:
    """Publishes `output_dir/model`, the result of a run -> its address. For the main process alone.

    `arguments` are the run's `TrainingArguments`. What the run was started with came from the Hub where it is no path.
    """
    dataset, model = (n if n and not Path(n).exists() else None for n in (arguments.dataset, arguments.model))
    return publish(
        ModelArguments(
            model=str(Path(output_dir) / "model"),
            repo_id=arguments.hub_model_id,
            private=arguments.hub_private,
            datasets=[dataset] if dataset else [],
            base_model=model,
        ),
        endpoint,
    )


# The Space -----------------------------------------------------------------------------------------------------------

# Listens on every address, at the port that a Space names.
SPACE_APP = """import os
import sys
from pathlib import Path

from page import main

if __name__ == "__main__":
    host, port = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    sys.argv[1:] = ["--model", {model}, "--host", host, "--port", port]
    main()
"""


def space_requirements() -> str:
    """What the app imports, at the versions that are installed here: those it was tested with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = [Requirement(line).name for line in project["dependencies"] + extras["app"] + extras["explain"]]
    try:
        # A local version such as 2.15.0+cpu is known to one index only.
        return "".join(f"{name}=={Version(importlib.metadata.version(name)).public}\n" for name in names)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"The app needs {error.name}: run `pip install -e '.[app,explain]'`.") from error


def write_space(arguments: SpaceArguments) -> Path:
    """Writes a Space that starts as it is: `python app.py` shows the page. The folder appears when it is whole."""
    requirements, source = space_requirements(), Path(arguments.model)
    is_folder = source.exists()
    name = source.resolve().name if is_folder else arguments.model
    data = SpaceCardData(
        title=f"{name.split('/')[-1]} image denoiser",
        sdk="gradio",
        sdk_version=importlib.metadata.version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license="apache-2.0",
        models=None if is_folder else [arguments.model],
    )
    with _new_folder(arguments.output) as folder:
        folder.mkdir()
        for part in ("interface", "modeling", "examples"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "LICENSE", folder)
        shutil.copy(ROOT / "app.py", folder / "page.py")
        if is_folder:
            shutil.copytree(source, folder / "checkpoints" / name)
        model = f'str(Path(__file__).parent / "checkpoints" / {name!r})' if is_folder else repr(name)
        (folder / "app.py").write_text(SPACE_APP.replace("{model}", model))
        (folder / "requirements.txt").write_text(requirements)
        text = f"Denoises photographs with `{name}`; its training loss is a control. `app.py` starts `page.py`, the app"
        SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{text}.\n").save(folder / "README.md")
    return Path(arguments.output)


@contextlib.contextmanager
def _new_folder(path: str | Path) -> Iterator[Path]:
    """A path beside, for what becomes `path` when all of it is written."""
    final = Path(path)
    if final.exists():
        raise ValueError(f"--output {final} exists: name a new folder.")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f"unfinished-{final.name}-") as scratch:
        yield Path(scratch) / final.name
        (Path(scratch) / final.name).rename(final)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    commands = {"model": ModelArguments, "space": SpaceArguments}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands, help="each has its own --help")
    command = parser.parse_args(argv[:1]).command
    parser = HfArgumentParser(commands[command], prog=f"python -m training.hub {command}", description=__doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv[1:])
    if command == "space":
        print(f"Wrote {write_space(arguments)}. To publish it: hf upload user/name FOLDER --repo-type space")
    elif arguments.output:
        with _new_folder(arguments.output) as folder:
            write_model(folder, arguments)
        print(f"Wrote {arguments.output}, published nothing.")
    else:
        print(f"Published {publish(arguments)}")


if __name__ == "__main__":
    main()
