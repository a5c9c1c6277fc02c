"""Training runs as processes of their own: started, watched, stopped, taken up again. Knows no page.

A run is a folder, and what it is stands in its files, so that every page and every later app finds it: `run.json` (what
it was asked for), `log.txt` (what it printed), and what `training.train` writes beside them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from modeling.image_files import UNREADABLE, photographs

ROOT = Path(__file__).parent.parent
FEWEST_IMAGES = 2  # one to train on, one held out
LONGEST_LINE = 8192  # bytes of a log: of an error that names its reasons, say
# Endings that Pillow knows and `datasets` does not, which a Space, where nobody trains, does without.
UNKNOWN_TO_DATASETS = {".avif", ".avifs", ".h5", ".hdf", ".mpo", ".pfm", ".qoi"}
NICENESS = 10  # denoising in the app goes before training
SECONDS_TO_SAVE = 60  # a step, a validation and a checkpoint end within it
SECONDS_TO_DIE = 10


@dataclass(frozen=True)
class Run:
    """A run as its folder shows it. `state`: running, stopping, finished, stopped or failed."""

    folder: Path
    state: str
    arguments: Mapping[str, object]  # of training.train, by name

    @property
    def max_steps(self) -> int:
        return int(self.arguments["max_steps"])

    @property
    def lines(self) -> tuple[dict, ...]:
        """Of `metrics.jsonl`, oldest first."""
        path = self.folder / "metrics.jsonl"
        return _read_lines(path, _version(path))

    @property
    def step(self) -> int:
        """The last one that was logged; 0 before the first."""
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def strip(self) -> Path | None:
        """The newest picture strip."""
        return max((self.folder / "strips").glob("step-*.png"), default=None)

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint."""
        newest = max(self.folder.glob("checkpoint-*"), default=None)
        return int(newest.name.split("-")[1]) if newest else None

    @property
    def version(self) -> tuple:
        """Changes when there is something new to see."""
        return self.folder.name, self.state, _version(self.folder / "metrics.jsonl"), self.strip, self.saved_step

    def log(self, lines: int = 40) -> str:
        """The last lines that it printed; of a progress bar, the last state."""
        path = self.folder / "log.txt"
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - max(200 * lines, LONGEST_LINE)))
            text = file.read().decode(errors="replace")
        return "\n".join([line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")][-lines:])


class Training:
    """The runs of an app: one at a time, each in a folder of its own. Leaving the context ends the one that is on.

    Args:
        folder: holds a folder for each run.
        overrides: arguments of `training.train` that win over those of every run.
    """

    def __init__(self, folder: str | Path, overrides: Mapping[str, object] | None = None) -> None:
        self.folder, self.overrides = Path(folder).absolute(), dict(overrides or {})
        self.process: subprocess.Popen | None = None
        self.asked_to_stop: int | None = None  # a process
        self.lock = threading.RLock()  # pages call from several threads

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def current(self) -> Run | None:
        """The run that is on, or the last one."""
        newest = next(iter(self._runs()), None)
        if newest is None:
            return None
        asked = json.loads((newest / "run.json").read_text())
        return Run(newest, self._state(newest, asked["pid"]), asked["arguments"])

    def start(self, recipe: Path, images: Path | Sequence[Path], arguments: Mapping[str, object]) -> Run:
        """Starts a run.

        Args:
            recipe: a file of `training/recipes`.
            images: a folder, used where it lies, or files, which are copied: what a browser sent does not stay.
            arguments: fields of the recipe to set.

        Raises `ValueError` while another run is on.
        """
        with self.lock:
            self._refuse_a_second()
            folder = self.folder / time.strftime("%Y%m%d-%H%M%S")
            folder.mkdir(parents=True)
            if not isinstance(images, Path):
                try:
                    images = _copied(images, folder / "images")
                except OSError:  # the disk is full, an upload is gone: no page would show the folder
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
            self._launch(folder, recipe, {"dataset": str(images), "output_dir": str(folder), **arguments})
            return self.current()

    def go_on(self) -> Run:
        """Takes the last run up from its newest checkpoint. Raises `ValueError` where there is none to take up."""
        with self.lock:
            self._refuse_a_second()
            run = self.current()
            if run is None or run.state == "finished":
                raise ValueError("There is no run that was stopped: press Start.")
            recipe = json.loads((run.folder / "run.json").read_text())["recipe"]
            self._launch(run.folder, recipe, run.arguments)
            return self.current()

    def stop(self) -> None:
        """Asks the run to save and end, and returns at once. One that does not answer in time is killed."""
        with self.lock:
            run = self.current()
            if run is None or run.state not in ("running", "stopping"):
                raise ValueError("No run is on.")
            if run.state == "running":  # a second interrupt would end it before it has saved
                pid = json.loads((run.folder / "run.json").read_text())["pid"]
                self.asked_to_stop = pid
                _signal(pid, signal.SIGINT)
                threading.Thread(target=self._insist, args=(run.folder, pid), daemon=True).start()

    def close(self) -> None:
        """Stops the run that this app has started and waits for its end, at most a minute."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.stop()
            self.process.wait(SECONDS_TO_SAVE)
        except (subprocess.TimeoutExpired, ValueError):  # it does not answer; it has ended just now
            pass
        finally:
            if self.process.poll() is None:  # or whoever waits has lost patience
                _signal(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def results(self) -> dict[str, Path]:
        """By name of the run, newest first: the folders of finished runs' models."""
        found = {}
        for folder in self._runs():
            asked = json.loads((folder / "run.json").read_text())
            if self._state(folder, asked["pid"]) == "finished":
                found[folder.name] = folder / "model"
        return found

    def _runs(self) -> list[Path]:
        """Their folders, the one that was launched last first, whatever people have named them since."""
        launched = {path.parent: path.stat().st_mtime_ns for path in self.folder.glob("*/run.json")}
        return sorted(launched, key=lambda folder: (launched[folder], folder.name), reverse=True)

    def _refuse_a_second(self) -> None:
        run = self.current()
        if run is not None and run.state in ("running", "stopping"):
            raise ValueError(f"The run {run.folder.name} is on: stop it, or wait until it ends.")

    def _launch(self, folder: Path, recipe: Path | str, arguments: Mapping[str, object]) -> None:
        arguments = {**arguments, **self.overrides}
        command = [sys.executable, "-m", "training.train", str(recipe)]
        for name, value in {**arguments, "resume": True}.items():  # without a checkpoint it starts from the beginning
            command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        with (folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the app's terminal reaches the app alone, which then passes it on
            )
        asked = {"recipe": str(recipe), "arguments": arguments, "pid": self.process.pid}
        unfinished = folder / "run.tmp"  # a page may be watching
        unfinished.write_text(json.dumps(asked, indent=2) + "\n")
        unfinished.replace(folder / "run.json")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    def _is_on(self, folder: Path, pid: int) -> bool:
        if self.process is not None and self.process.pid == pid:
            return self.process.poll() is None
        # One that an earlier app has left behind, or another app has started. Numbers of processes are used again.
        try:
            return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _state(self, folder: Path, pid: int) -> str:
        if self._is_on(folder, pid):
            return "stopping" if self.asked_to_stop == pid else "running"
        if (folder / "model" / "preprocessor_config.json").is_file():  # what is saved last
            return "finished"
        mine = self.process is not None and self.process.pid == pid
        return "failed" if mine and self.process.returncode and self.asked_to_stop != pid else "stopped"

    def _insist(self, folder: Path, pid: int) -> None:
        for seconds, number in ((SECONDS_TO_SAVE, signal.SIGTERM), (SECONDS_TO_DIE, signal.SIGKILL)):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not self._is_on(folder, pid):
                    return
                time.sleep(0.2)
            _signal(pid, number)


def chosen_images(files: Sequence[str] | None, folder: str | None) -> Path | list[Path]:
    """What a person has chosen: files, or a folder. Raises `ValueError` unless there are enough images in it."""
    folder = (folder or "").strip()
    if not files and not folder:
        raise ValueError("There are no images to train on: add photographs, or name a folder.")
    if files and folder:
        raise ValueError(f"There are photographs and the folder {folder}: remove one of them.")
    if folder:
        path = Path(folder)
        with contextlib.suppress(RuntimeError):  # the home of a user who is unknown stays as it is written
            path = path.expanduser()
        path = path.absolute()
        if not path.is_dir():
            raise ValueError(f"There is no folder {folder} on this machine: check its name.")
        found = trainable(path)
        readable = [file for file in found if _is_image(file)]  # a run passes over the others
    else:
        found = readable = [Path(file) for file in files]
        if not all(file.is_file() for file in found):  # Gradio deletes what was uploaded
            raise ValueError("The photographs were put away after an hour: add them again.")
        for file in found:
            if not _is_image(file):
                raise ValueError(f"{file.name} cannot be read as an image: remove it.")
    if len(readable) < FEWEST_IMAGES:
        raise ValueError(
            f"{len(readable)} of {len(found)} files can be read as an image: give at least {FEWEST_IMAGES}, of which "
            "one is held out to measure PSNR."
        )
    return path if folder else found


def image_count(images: Path | Sequence[Path]) -> int:
    return len(trainable(images)) if isinstance(images, Path) else len(images)


def trainable(folder: Path) -> list[Path]:
    """Those images of a folder that `datasets` finds: of formats that it knows, and not hidden."""
    return [
        file
        for file in photographs(folder)
        if file.suffix.lower() not in UNKNOWN_TO_DATASETS
        and not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    ]


def _is_image(path: Path) -> bool:
    """Whether its head is an image's: decoding all of it would take as long as an epoch."""
    try:
        with Image.open(path):
            return True
    except UNREADABLE:
        return False


def _copied(files: Sequence[Path], folder: Path) -> Path:
    folder.mkdir()
    for index, file in enumerate(files):  # numbered: two of them may have the same name
        shutil.copyfile(file, folder / f"{index:05d}-{file.name}")
    return folder


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _read_lines(path: Path, version: tuple[int, int] | None) -> tuple[dict, ...]:
    lines = []
    for line in path.read_text().splitlines() if version else []:
        with contextlib.suppress(json.JSONDecodeError):  # the last one may be half written
            lines.append(json.loads(line))
    return tuple(lines)


def _signal(pid: int, number: int) -> None:
    """To the process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
