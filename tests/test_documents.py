"""The Python that README and card show runs, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from training.hub import run_python

ROOT = Path(__file__).parent.parent
CHECKPOINT = "checkpoints/vit-unet-denoiser"


def test_the_card_of_the_model_that_ships():
    run_python((ROOT / CHECKPOINT / "README.md").read_text(), CHECKPOINT, ROOT / CHECKPOINT)


def test_the_readme(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for folder in ("checkpoints", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder, target_is_directory=True)
    (tmp_path / "vit_unet_denoiser").symlink_to(ROOT / "modeling", target_is_directory=True)  # as it installs
    Image.effect_noise((80, 64), 50).convert("RGB").save(tmp_path / "photo.jpg")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, env=environment, check=True)
    assert Image.open(tmp_path / "restored.png").size == Image.open(ROOT / "examples" / "rock023.png").size
    assert Image.open(tmp_path / "restored.jpg").size == (80, 64)
