"""The app: loads one model, assembles the tabs, launches.

python app.py --model checkpoints/vit-unet-denoiser
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import gradio as gr
import torch

from interface.denoise_tab import build_denoise_tab
from interface.loss_lab_tab import build_loss_lab_tab
from interface.restorer import Restorer, TrainedHere
from interface.train_tab import build_train_tab
from interface.training_run import Training
from modeling import LOSS_TERMS, ViTUNetForImageDenoising

HOME = Path(__file__).parent
# The first example is a rock wall with cracks: texture that a denoiser likes to blur.
EXAMPLES = [HOME / "examples" / f"{name}.png" for name in (
    "rock023", "ground037", "casa-mila", "canyon-wren", "extreme-desert-hike", "blue-periwinkle"
)]  # fmt: skip
TITLE = (
    "# ViT + U-Net denoiser\nThe training loss is a control of the trained network: move a slider, see what it costs."
)


def build_app(
    model: ViTUNetForImageDenoising, examples: list[Path] = EXAMPLES, training: Training | None = None
) -> gr.Blocks:
    training = training or Training(HOME / "runs" / "app")
    terms = {name: LOSS_TERMS[name].label for name in model.config.conditioned_terms}
    with gr.Blocks(title="ViT + U-Net denoiser", delete_cache=(600, 3600), analytics_enabled=False) as app:
        gr.Markdown(TITLE)
        with gr.Tab("Denoise") as denoise:
            emphasis, trained = model.config.max_high_frequency_emphasis, TrainedHere(training.results, model.device)
            build_denoise_tab(app, Restorer(model), terms, emphasis, examples, trained, denoise)
        with gr.Tab("Loss lab") as lab:
            build_loss_lab_tab(lab, HOME / "examples" / "ascent.png")
        if (HOME / "training").is_dir():  # a Space has none
            with gr.Tab("Train"):
                build_train_tab(app, training, model.name_or_path, bool(terms))
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HOME / "checkpoints" / "vit-unet-denoiser"), help="Hub id or folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--runs", default=str(HOME / "runs" / "app"), help="folder for the runs of the tab Train")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = ViTUNetForImageDenoising.from_pretrained(arguments.model).eval()
    except (OSError, ValueError) as error:
        parser.error(f"--model {arguments.model}: {error}")
    model = model.to(device, memory_format=torch.channels_last)
    for number in (signal.SIGINT, signal.SIGTERM):  # both leave by the same door, which ends a training run
        signal.signal(number, signal.default_int_handler)
    with Training(arguments.runs) as training:
        build_app(model, training=training).queue(max_size=64).launch(
            server_name=arguments.host,
            server_port=arguments.port,
            allowed_paths=[str(HOME / "examples")],
            max_file_size="200mb",
        )


if __name__ == "__main__":
    main()
