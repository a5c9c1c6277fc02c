"""A dataset of the Hub by its name: the real clients against a Hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.data import load_images

SMOKE = Path(__file__).parent.parent / "training" / "recipes" / "smoke.yaml"
NAME, COMMIT = "somebody/photographs", "1" * 40


class DatasetHub(ThreadingHTTPServer):
    """As much of the Hub as reading one dataset needs."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.files = files
        self.requests: list[str] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Routes(BaseHTTPRequestHandler):
    server: DatasetHub

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

    def entry(self, path: str) -> dict:
        content = self.server.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append(path)
        length = int(self.headers.get("Content-Length", 0))
        content, files = self.rfile.read(length), self.server.files
        api = f"/api/datasets/{NAME}"
        file = path.removeprefix(f"/datasets/{NAME}/resolve/").partition("/")[2]
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self.answer_json({"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings})
        elif path.startswith(f"{api}/paths-info/"):
            asked = urllib.parse.parse_qs(content.decode()).get("paths") or json.loads(content)["paths"]
            self.answer_json([self.entry(name) for name in asked if name in files])
        elif path.startswith(f"{api}/tree/"):
            folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
            below = [name for name in files if Path(name).is_relative_to(folder)]
            folders = {str(parent) for name in below for parent in Path(name).parents if parent != Path()}
            entries = [{"type": "directory", "path": each, "oid": COMMIT, "size": 0} for each in folders - {folder}]
            self.answer_json(entries + [self.entry(name) for name in below])
        elif path.startswith("/datasets/") and file in files:
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            self.answer(files[file], ETag=etag, X_Repo_Commit=COMMIT)
        else:
            self.answer_json({"error": "no such route"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_) -> None:
        pass


TRAIN_TWICE = """
import sys
from training.arguments import parse_arguments
from training.train import train

for streaming in ("false", "true"):
    train(parse_arguments([*sys.argv[1:], "--streaming", streaming, "--output_dir", streaming]))
"""


def test_training_on_a_dataset_of_the_hub(image_folder, tmp_path):
    """Downloaded, and streamed."""
    parquet = tmp_path / "photographs.parquet"
    dataset = load_images(str(image_folder))
    dataset.to_parquet(parquet)
    hub = DatasetHub({"data/train-00000-of-00001.parquet": parquet.read_bytes(), "README.md": b"# Photographs\n"})
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    command = [str(SMOKE), "--dataset", NAME, "--max_steps", "2"]
    command += ["--strip_steps", "0", "--log_with", "none", "--crop_size", "32"]
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(SMOKE.parents[2])}
    try:
        subprocess.run(
            [sys.executable, "-c", TRAIN_TWICE, *command],
            cwd=tmp_path,
            env={**os.environ, **places, "HF_HUB_OFFLINE": "0"},
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        )
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.stderr[-3000:]}\n{hub.requests}")
    finally:
        hub.shutdown()
        hub.server_close()
    for streaming in ("false", "true"):
        assert (tmp_path / streaming / "model" / "model.safetensors").is_file()
    assert any("resolve" in path for path in hub.requests)
