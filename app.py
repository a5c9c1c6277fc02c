"""The app: loads one model, assembles the tabs, launches.

python app.py --model checkpoints/vit-unet-denoiser
"""

from __future__ import annotations

import argparse
import signal
from functools import partial
from pathlib import Path

import gradio as gr
import torch

from interface.compare_tab import build_compare_tab
from interface.denoise_tab import build_denoise_tab
from interface.explain_tab import build_explain_tab
from interface.loss_lab_tab import build_loss_lab_tab
from interface.restorer import Restorer, TrainedHere
from interface.train_tab import build_train_tab
from interface.training_run import Training
from modeling import LOSS_TERMS, TRAINABLE_TERMS, ViTUNetForImageDenoising
from modeling.explain import activation_maps, layer_names
from modeling.memory import keep_freed_memory

HOME = Path(__file__).parent
# The first example is a rock wall with cracks: texture that a denoiser likes to blur.
NAMES = ("rock023", "ground037", "casa-mila", "canyon-wren", "extreme-desert-hike", "blue-periwinkle")
EXAMPLES = [HOME / "examples" / f"{name}.png" for name in NAMES]
OWN_ADDRESSES = ("127.0.0.1", "::1", "localhost")
TITLE = "# ViT + U-Net denoiser\nThe training loss is a control of the trained network: move a slider, see its price."


def build_app(
    model: ViTUNetForImageDenoising,
    examples: list[Path] = EXAMPLES,
    training: Training | None = None,
    own_machine: bool = True,
) -> gr.Blocks:
    """The page. Visitors on the `own_machine` may name its folders, to train on them, and need nothing compressed."""
    training = training or Training(HOME / "runs" / "app")
    terms = {name: LOSS_TERMS[name].label for name in model.config.steerable_terms}
    restorer, trained = Restorer(model), TrainedHere(training.results, model.device)
    network = (restorer, terms, model.config.max_high_frequency_emphasis)
    with gr.Blocks(title="ViT + U-Net denoiser", delete_cache=(600, 3600), analytics_enabled=False) as app:
        gr.Markdown(TITLE)
        with gr.Tab("Denoise") as denoise:
            look = restorer.attention if model.config.use_vit else None
            told = model.config.noise_conditioned
            seen = build_denoise_tab(app, *network, examples, trained, denoise, look, told, own_machine)
        with gr.Tab("Explain") as explain:
            build_explain_tab(explain, partial(activation_maps, model), layer_names(model), examples, seen)
        with gr.Tab("Compare") as compare:
            build_compare_tab(compare, *network, examples, trained, seen)
        with gr.Tab("Loss lab") as lab:
            build_loss_lab_tab(lab, HOME / "examples" / "ascent.png")
        if (HOME / "training").is_dir():  # a Space has none
            with gr.Tab("Train"):
                learns = model.config.conditioned_terms or TRAINABLE_TERMS, model.config.max_high_frequency_emphasis
                build_train_tab(app, training, model.name_or_path, bool(terms), *learns, own_machine)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HOME / "checkpoints" / "vit-unet-denoiser"), help="Hub id or folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--runs", default=str(HOME / "runs" / "app"), help="folder for the runs of the tab Train")
    arguments = parser.parse_args()

    keep_freed_memory()
    try:
        model = ViTUNetForImageDenoising.from_pretrained(arguments.model, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        parser.error(f"--model {arguments.model}: {error}")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)
    for number in (signal.SIGINT, signal.SIGTERM):  # both leave by the same door, which ends a training run
        signal.signal(number, signal.default_int_handler)
    with Training(arguments.runs) as training:
        address = {"server_name": arguments.host, "server_port": arguments.port}
        files = {"allowed_paths": [str(HOME / "examples")], "max_file_size": "200mb"}
        page = build_app(model, training=training, own_machine=arguments.host in OWN_ADDRESSES)
        page.queue(max_size=64).launch(**address, **files)


if __name__ == "__main__":
    main()
