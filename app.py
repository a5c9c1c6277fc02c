"""The app: loads one model, assembles the tabs, launches.

python app.py --model checkpoints/vit-unet-denoiser
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gradio as gr
import torch

from interface.denoise_tab import build_denoise_tab
from interface.loss_lab_tab import build_loss_lab_tab
from interface.restorer import Restorer
from modeling import LOSS_TERMS, ViTUNetForImageDenoising

HOME = Path(__file__).parent
# The first example is a rock wall with cracks: texture that a denoiser likes to blur.
EXAMPLES = [HOME / "examples" / f"{name}.png" for name in (
    "rock023", "ground037", "casa-mila", "canyon-wren", "extreme-desert-hike", "blue-periwinkle"
)]  # fmt: skip
TITLE = (
    "# ViT + U-Net denoiser\nThe training loss is a control of the trained network: move a slider, see what it costs."
)


def build_app(model: ViTUNetForImageDenoising, examples: list[Path] = EXAMPLES) -> gr.Blocks:
    terms = {name: LOSS_TERMS[name].label for name in model.config.conditioned_terms}
    with gr.Blocks(title="ViT + U-Net denoiser", delete_cache=(600, 3600), analytics_enabled=False) as app:
        gr.Markdown(TITLE)
        with gr.Tab("Denoise"):
            build_denoise_tab(app, Restorer(model), terms, model.config.max_high_frequency_emphasis, examples)
        with gr.Tab("Loss lab") as lab:
            build_loss_lab_tab(lab, HOME / "examples" / "ascent.png")
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HOME / "checkpoints" / "vit-unet-denoiser"), help="Hub id or folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    except (OSError, ValueError) as error:
        parser.error(f"--model {arguments.model}: {error}")
    model = model.to(device, memory_format=torch.channels_last)
    app = build_app(model).queue(max_size=64)
    app.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        allowed_paths=[str(HOME / "examples")],
        max_file_size="200mb",
    )


if __name__ == "__main__":
    main()
