"""Publishing: the real client against a Hub of our own on this machine, the card's Python, and a Space that starts."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, SpaceCard, constants
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modeling import ViTUNetConfig, ViTUNetForImageDenoising
from tests.conftest import TINY_HYBRID, randomised, tiny_config
from training import hub
from training.arguments import TrainingArguments
from training.checkpoints import save_model

RUN = {"dataset": "/home/somebody/photographs", "output_dir": "/home/somebody/runs/mine", "seed": 0, "max_steps": 10}
RUN |= {"min_noise_level": 0.0, "max_noise_level": 75.0, "noise": None, "model": None, "hub_model_id": "user/tiny-1.0"}
EVALUATION = {
    "model": "runs/mine/model",
    "protocol": {"noise": "white Gaussian", "limit": None},
    "sets": {
        "Kodak24": {
            "25": [
                {"image": 0, "setting": "default", "psnr": 30.0, "ssim": 0.8, "octave_1_dB": -1.0},
                {"image": 1, "setting": "default", "psnr": 31.0, "ssim": None, "octave_1_dB": -2.0},
            ],
            "50": [{"image": 0, "setting": "default", "psnr": 26.126, "ssim": None, "octave_1_dB": -3.0}],
        }
    },
}


class Hub(ThreadingHTTPServer):
    """As much of the Hub as publishing needs: it keeps what it was asked, and the commits with their files."""

    def __init__(self, private: bool = False, refuses: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.private, self.refuses = private, refuses
        self.requests: list[tuple[str, str]] = []
        self.created: list[dict] = []
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Routes(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        """Also of uploads, which come in chunks of unknown number."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = b""
        while size := int(self.rfile.readline(), 16):
            chunks += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return chunks

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path))
        name, refused = self.path.removeprefix("/api/models/"), "create" in self.server.refuses
        self.answer({"id": name, "private": self.server.private}, 404 if refused else 200)

    def do_PUT(self) -> None:
        content = self.body()
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self) -> None:
        self.server.requests.append(("POST", self.path))
        content, hub_server = self.body(), self.server
        if hub_server.refuses and hub_server.refuses in self.path:
            self.answer({"error": "You are not allowed to write here."}, 403)
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            hub_server.created.append(asked)
            self.answer({"url": f"{hub_server.endpoint}/{asked['organization']}/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self.answer({"files": [{"path": n, "uploadMode": modes[n], "shouldIgnore": False} for n in names]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            upload = {"upload": {"href": f"{hub_server.endpoint}/storage"}}
            self.answer({"transfer": "basic", "objects": [{**entry, "actions": upload} for entry in objects]})
        elif "/commit/" in self.path:
            self.answer(self.commit([json.loads(line) for line in content.splitlines()]))
        else:
            self.answer({"error": "no such route"}, 404)

    def commit(self, operations: list[dict]) -> dict:
        files = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        self.server.commits.append(files)
        oid = f"{len(self.server.commits):040x}"
        repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        return {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}", "commitOid": oid}

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def serve(monkeypatch):
    """`serve(**behaviour)` -> a Hub, with somebody logged in; large files go the way that needs no second server."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    servers = []

    def start(**behaviour) -> Hub:
        servers.append(Hub(**behaviour))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """What a finished run leaves: arguments, log and model."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_model(randomised(ViTUNetForImageDenoising(tiny_config())), folder / "model")
    (folder / "arguments.json").write_text(json.dumps(RUN))
    lines = [{"step": 5, "psnr_25": 27.5}, {"step": 10, "psnr_25": 28.5}, {"step": 10, "loss": 0.1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    return folder


@pytest.fixture(scope="module", autouse=True)
def space(run_dir, tmp_path_factory):
    """A Space that is starting: that takes as long as all other tests together, so it does it beside them."""
    folder = tmp_path_factory.mktemp("spaces") / "space"
    hub.main(["space", "--model", str(run_dir / "model"), "--output", str(folder)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HOME": str(folder.parent / "home")}
    log = folder.parent / "log.txt"
    with log.open("w") as file:
        page = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=file, stderr=file)
    yield folder, f"http://127.0.0.1:{port}", page, log
    page.kill()
    page.wait(10)


def asked(run_dir: Path, /, **fields) -> hub.ModelArguments:
    return hub.ModelArguments(**{"model": str(run_dir / "model"), "repo_id": "user/tiny-1.0", **fields})


def card_of(run_dir: Path, **fields) -> ModelCard:
    """The card of the run's model, whose Python is not run."""
    model = ViTUNetForImageDenoising.from_pretrained(run_dir / "model")
    return hub.model_card(run_dir / "model", model, asked(run_dir, **fields))


# Publishing ----------------------------------------------------------------------------------------------------------


def test_a_run_is_published_in_one_commit_that_loads(run_dir, serve, tmp_path):
    """Runs the card's Python for real, as everything else here does without."""
    server = serve(private=True)
    arguments = TrainingArguments(
        dataset="somebody/photographs", output_dir=str(run_dir), hub_model_id="user/tiny-1.0", hub_private=True
    )
    url = hub.push_to_hub(run_dir, arguments, endpoint=server.endpoint)
    assert url == f"{server.endpoint}/user/tiny-1.0"
    assert server.created == [{"name": "tiny-1.0", "organization": "user", "visibility": "private"}]
    (files,) = server.commits
    assert set(files) == {path.name for path in (run_dir / "model").iterdir()} | {"README.md"}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_vit_unet.py"} < set(files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    image, model = torch.rand(1, 3, 33, 40), ViTUNetForImageDenoising.from_pretrained(run_dir / "model")
    again = ViTUNetForImageDenoising.from_pretrained(tmp_path)
    torch.testing.assert_close(again(image).reconstruction, model(image).reconstruction, rtol=0, atol=1e-4)
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == ["somebody/photographs"] and card.data.base_model is None
    assert not (run_dir / "model" / "README.md").exists()


@pytest.mark.parametrize(
    ("behaviour", "fields", "reason"),
    [
        ({"refuses": "/commit/"}, {}, "not allowed to write"),
        ({"refuses": "/repos/create"}, {}, "not allowed to write"),
        ({"private": False}, {"private": True}, "is public"),
    ],
)
def test_what_the_hub_refuses_names_the_reason_and_the_model(run_dir, serve, monkeypatch, behaviour, fields, reason):
    monkeypatch.setattr(hub, "run_python", lambda *_: None)  # has its own tests
    server = serve(**behaviour)
    with pytest.raises(RuntimeError, match=reason) as caught:
        hub.publish(asked(run_dir, **fields), endpoint=server.endpoint)
    assert str(run_dir / "model") in str(caught.value)
    assert not server.commits


def test_nothing_is_sent_without_a_login_or_with_a_card_that_fails(run_dir, serve, monkeypatch, tmp_path):
    server = serve()
    broken = tmp_path / "card.md"
    broken.write_text("---\n{{ card_data }}\n---\n```python\nraise SystemExit('this card is wrong')\n```\n")
    monkeypatch.setattr(hub, "TEMPLATE", broken)
    with pytest.raises(ValueError, match="this card is wrong"):
        hub.publish(asked(run_dir), endpoint=server.endpoint)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="hf auth login"):
        hub.publish(asked(run_dir), endpoint=server.endpoint)
    assert not server.requests


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repo_id": "tiny"}, "names no user"),
        ({"repo_id": "a/b/c"}, "user/name"),
        ({"repo_id": "user/../x"}, "user/name"),
        ({"model": "no/such/folder"}, r"no config\.json"),
        ({"run_dir": "no/such/run"}, r"no arguments\.json"),
        ({"notes": "missing.md"}, r"no file missing\.md"),
    ],
)
def test_wrong_arguments_are_refused(run_dir, fields, message):
    with pytest.raises(ValueError, match=message):
        asked(run_dir, **fields)


# The card ------------------------------------------------------------------------------------------------------------


def test_the_card_holds_what_is_on_record(run_dir, tmp_path):
    (tmp_path / "data.md").write_text("Ten photographs, CC0.\n")
    card = card_of(run_dir, evaluation=[str(run_dir / "evaluation.json")], training_data=str(tmp_path / "data.md"))
    data, text = card.data, card.text
    assert text.lstrip().startswith("# tiny-1.0\n")
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-to-image", "apache-2.0")
    assert data.tags == ["image-denoising", "image-restoration", "u-net", "vit", "loss-conditional-training"]
    found = {(entry.dataset_config, entry.metric_type): entry.metric_value for entry in data.eval_results}
    assert found[("sigma 25", "psnr")] == 30.5 and found[("sigma 50", "psnr")] == 26.13
    assert found[("sigma 25", "ssim")] == 0.8 and ("sigma 50", "ssim") not in found
    assert "| Kodak24, sigma 25 | 30.50 | 0.8 |" in text
    assert "| Kodak24, sigma 50 | 26.13 | not defined |" in text
    assert "noise: white Gaussian" in text and "Kodak24: 2" in text
    assert "at step 10" in text and "`psnr_25`: 28.50" in text
    assert "Ten photographs, CC0." in text
    assert "sigma 0 to\n75 of 255" in text
    assert "seed: 0" in text and "dataset: photographs" in text
    assert "/home" not in text and "output_dir" not in text and "hub_model_id" not in text
    assert "\n\n\n" not in text and "None" not in text


def test_a_card_without_a_record_claims_nothing(run_dir, tmp_path):
    model = ViTUNetForImageDenoising(ViTUNetConfig.hybrid_vit_base(**TINY_HYBRID))
    model.save_pretrained(tmp_path)
    card = hub.model_card(tmp_path, model, hub.ModelArguments(model=str(tmp_path), repo_id="user/plain"))
    assert card.data.eval_results is None and card.data.datasets is None
    assert "loss-conditional-training" not in card.data.tags and "loss_weights" not in card.text
    assert all(sentence in card.text for sentence in ("Not measured.", "was not stated", "is not recorded"))


def test_the_commit_is_that_of_training_where_the_run_recorded_it(run_dir, monkeypatch):
    monkeypatch.setattr(hub, "git_commit", lambda: "b" * 40)
    assert f"Published from commit `{'b' * 40}`" in card_of(run_dir).text
    monkeypatch.setattr(hub, "_read_run", lambda _: (RUN | {"git_commit": "a" * 40}, None))
    text = card_of(run_dir).text
    assert f"Trained from commit `{'a' * 40}`" in text and "b" * 40 not in text


def test_the_card_of_a_network_for_one_loss_promises_no_controls(run_dir, tmp_path):
    assert "act live" in card_of(run_dir).text
    config = shutil.copytree(run_dir, tmp_path / "run") / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"one_loss": True}))
    card = card_of(tmp_path / "run")
    assert "act live" not in card.text and 'restores for one loss, `{"pixel": 1.0}`' in card.text
    assert "model(pixels)" in card.text and "loss-conditional-training" not in card.data.tags


def test_git_commit(tmp_path):
    assert hub.git_commit(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    commit = hub.git_commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert hub.git_commit(tmp_path) == f"{commit}-dirty"


def test_a_cards_python_runs_word_for_word_and_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "config.json").write_text("{}")
    first = "import os, shutil\nassert os.path.isfile('user/tiny-1.0/config.json') and 'HF_TOKEN' not in os.environ"
    second = "shutil.copy('noisy.png', 'restored.png')"
    hub.run_python(f"```python\n{first}\n```\ntext\n```python\n{second}\n```\n", "user/tiny-1.0", tmp_path)
    with pytest.raises(ValueError, match=r"no restored\.png"):
        hub.run_python(f"```python\n{first}\n```\n", "user/tiny-1.0", tmp_path)
    with pytest.raises(ValueError, match="NameError"):
        hub.run_python("```python\nnot_there\n```\n", "user/tiny-1.0", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"25": []}'])
def test_what_is_no_evaluation_is_refused(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"--evaluation .*evaluation\.json"):
        hub.read_evaluation(path)


# The Space -----------------------------------------------------------------------------------------------------------


def test_a_space_starts_from_its_own_folder(space):
    folder, url, page, log = space
    data = SpaceCard.load(folder / "README.md").data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "apache-2.0")
    assert data.sdk_version == importlib.metadata.version("gradio")
    assert (folder / "checkpoints" / "model" / "model.safetensors").is_file()
    config = wait_for_json(f"{url}/config", page, log)
    assert any(part["type"] == "tabitem" for part in config["components"])


def wait_for_json(url: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> dict:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer in {seconds} s: {log.read_text()}")


def test_a_space_of_a_hub_id_downloads_it_and_requires_what_it_imports(tmp_path):
    folder = hub.write_space(hub.SpaceArguments(model="user/tiny-1.0", output=str(tmp_path / "space")))
    assert SpaceCard.load(folder / "README.md").data.models == ["user/tiny-1.0"]
    assert "'user/tiny-1.0'" in (folder / "app.py").read_text() and not (folder / "checkpoints").exists()
    required = {Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()}
    assert all("==" in line for line in (folder / "requirements.txt").read_text().splitlines())
    assert not required & {"pytest", "ruff", "accelerate", "tensorboard"}
    packages = importlib.metadata.packages_distributions()
    own = {"interface", "modeling", "page", *sys.stdlib_module_names}
    for path in folder.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        imported += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        for module in {name.split(".")[0] for name in imported} - own:
            assert required & {canonicalize_name(name) for name in packages[module]}, f"{path.name} imports {module}"


def test_a_space_is_not_written_over_something(run_dir, tmp_path):
    with pytest.raises(ValueError, match="name a new folder"):
        hub.write_space(hub.SpaceArguments(model="user/tiny", output=str(tmp_path)))
    with pytest.raises(ValueError, match=r"no config\.json"):
        hub.SpaceArguments(model=str(tmp_path), output="x")
    assert not list(tmp_path.iterdir())
