"""The Compare tab: one photograph under up to four settings, side by side, under one magnifying glass.

It opens with the figure of "Denoising autoencoders, part 3": the pixel loss, with regional sharpness, with frequency,
and with the emphasis on high frequencies. One of the settings is what an editor could do to the first of them: unsharp
masking.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import gradio as gr
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from interface.chooser import QUIET, Chooser
from interface.denoise_figures import FIDELITY_CORNER
from interface.denoise_tab import preset_labels
from interface.pictures import NO_REFERENCE, PUT_AWAY, Photograph, Pictures, on_page
from interface.restorer import AS_STARTED, Networks, Restore, TrainedHere
from interface.scores import scores
from interface.sliders import slider
from modeling import PRESETS
from modeling.losses import pixel

FIRST_POST = ("mse", "regional_sharpness", "frequency", "frequency_emphasis")
OWN, UNSHARP, NOISY, CLEAN, NOTHING = "own", "unsharp", "noisy", "clean", "nothing"
OTHERS = {
    OWN: "Own weights",
    UNSHARP: "MSE, unsharp mask",
    NOISY: "Noisy photograph",
    CLEAN: "Clean photograph",
    NOTHING: "Nothing",
}
UNSHARP_SIGMA = 1.0  # pixels
START_ZOOM = 3
ONE_LOSS = "  \nThis network restores for one loss: no setting acts on it."

GLASS_HTML = """
<style>
  #compare .compared :is(.image-container, .image-container > button, .image-frame) { width: 100%; height: auto; }
  #compare .compared .image-frame { overflow: hidden; }
  #compare .compared img {
    width: 100%; height: auto; max-height: none; cursor: grab; user-select: none; touch-action: pan-y;
    transform: translate(var(--right, 0%), var(--down, 0%)) scale(var(--zoom, 1)); transform-origin: 0 0;
  }
  #compare.magnified .compared img { image-rendering: pixelated; touch-action: none; }
</style>
<span>Zoom</span>
<button type="button" value="1">whole</button>
<button type="button" value="2">2x</button>
<button type="button" value="4">4x</button>
<button type="button" value="8">8x</button>
<span>The wheel zooms, a drag moves: all pictures together.</span>
"""
GLASS_CSS = """
display: flex; flex-wrap: wrap; gap: 0.3em 0.8em; align-items: center;
button { font: inherit; background: none; border: 1px solid currentColor; border-radius: 4px; padding: 0 0.8em; }
"""
# One view for all: zoom, and where the pictures' upper left corner lies, in shares of a picture's side. The pictures
# follow through CSS variables of their common parent, so that a new picture is seen through the same glass.
GLASS_SCRIPT = f"""
const room = element.closest('#compare');
const view = {{zoom: 1, right: 0, down: 0}};
let grip = null;
const picture = (target) => target.closest('.compared')?.querySelector('img');
const inside = (corner) => Math.min(0, Math.max(1 - view.zoom, corner));
const show = () => {{
  view.right = inside(view.right);
  view.down = inside(view.down);
  room.style.setProperty('--zoom', view.zoom);
  room.style.setProperty('--right', 100 * view.right + '%');
  room.style.setProperty('--down', 100 * view.down + '%');
  room.classList.toggle('magnified', view.zoom > 1);
}};
// What lies at (x, y) of the pictures' frames, in shares of their sides, stays there.
const zoom = (to, x, y) => {{
  const factor = Math.min(32, Math.max(1, to)) / view.zoom;
  view.right = x - factor * (x - view.right);
  view.down = y - factor * (y - view.down);
  view.zoom *= factor;
  show();
}};
element.addEventListener('click', (event) => {{ if (event.target.value) zoom(Number(event.target.value), 0.5, 0.5); }});
room.addEventListener('wheel', (event) => {{
  const image = picture(event.target);
  if (!image) return;
  event.preventDefault();
  const box = image.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width * view.zoom + view.right;
  const y = (event.clientY - box.top) / box.height * view.zoom + view.down;
  zoom(view.zoom * Math.exp(-event.deltaY / 400), x, y);
}}, {{passive: false}});
room.addEventListener('pointerdown', (event) => {{
  const image = picture(event.target);
  if (!image || view.zoom === 1) return;
  event.preventDefault();
  const box = image.getBoundingClientRect();
  grip = {{x: event.clientX, y: event.clientY, width: box.width / view.zoom, height: box.height / view.zoom}};
}});
window.addEventListener('pointermove', (event) => {{
  if (!grip) return;
  view.right += (event.clientX - grip.x) / grip.width;
  view.down += (event.clientY - grip.y) / grip.height;
  grip.x = event.clientX;
  grip.y = event.clientY;
  show();
}});
for (const name of ['pointerup', 'pointercancel']) window.addEventListener(name, () => {{ grip = null; }});
room.addEventListener('dragstart', (event) => event.preventDefault());
zoom({START_ZOOM}, 0.5, 0.5);
"""


def unsharp_mask(image: Tensor, amount: float) -> Tensor:
    """The image (3, H, W) plus so much of its difference to a blurred copy (Gaussian, sigma of one pixel)."""
    side = min(7, *(2 * length - 1 for length in image.shape[-2:]))  # reflection needs room
    return image + amount * (image - gaussian_blur(image, [side, side], [UNSHARP_SIGMA] * 2))


def numbers(restored: Tensor, photograph: Photograph) -> str:
    """Markdown: PSNR, SSIM, sharpness ratio and mean squared error, where there is a clean reference."""
    if not photograph.noise:
        return NO_REFERENCE
    restored = restored.clamp(0, 1)
    decibels, similarity, sharpness = scores(restored, photograph.photo)
    error = pixel(restored[None], photograph.photo[None]).item()
    return f"**{decibels:.2f} dB** PSNR, SSIM {similarity:.3f}  \n**{sharpness:.3f}** sharpness ratio, MSE {error:.5f}"


def build_compare_tab(
    tab: gr.Tab,
    restore: Restore,
    terms: Mapping[str, str],
    max_emphasis: float,
    examples: list[Path],
    trained: TrainedHere | None = None,
    elsewhere: gr.State | None = None,
) -> None:
    """Lays out the tab `tab`, inside whose context this is called. Nothing is computed before it is opened.

    Args:
        restore: noisy image, loss weights by term, emphasis, noise level or `None` -> restored image.
        terms: label of each loss weight, by term; empty for a network whose loss is fixed.
        max_emphasis: end of the emphasis sliders.
        examples: clean photographs to choose from.
        trained: further networks to choose from, if there are any.
        elsewhere: state with the `Photograph` of another tab, which is the first to be looked at.
    """
    pictures, networks = Pictures(), Networks(restore, terms, max_emphasis, trained)
    labels = preset_labels(terms) or {"mse": "MSE"}
    choices = [(label, name) for name, label in {**labels, **OTHERS}.items() if terms or name != OWN]
    first = [name for name in FIRST_POST if name in labels]
    first += [UNSHARP, *[NOTHING] * 3][: 4 - len(first)]

    with gr.Column(elem_id="compare"):
        with gr.Row():
            chooser = Chooser(tab, examples, elsewhere, "compare")
        gr.HTML(html_template=GLASS_HTML, css_template=GLASS_CSS, js_on_load=GLASS_SCRIPT, elem_id="glass")
        slots = []
        with gr.Row():
            for index, name in enumerate(first):
                with gr.Column(min_width=150):
                    setting = gr.Dropdown(
                        choices, value=name, show_label=False, container=False, elem_id=f"compare-setting-{index}"
                    )
                    chosen = gr.Dropdown(
                        [AS_STARTED],
                        value=AS_STARTED,
                        label="Network",
                        visible=False,
                        elem_id=f"compare-network-{index}",
                    )
                    picture = gr.Image(
                        show_label=False, container=False, format="png", type="filepath", interactive=False, buttons=[],
                        elem_id=f"compare-picture-{index}", elem_classes="compared",
                    )  # fmt: skip
                    measures = gr.Markdown(elem_id=f"compare-numbers-{index}")
                    amount = slider(0, 2, 0.5, step=0.05, label="Amount", visible=name == UNSHARP)
                    with gr.Column(visible=False) as own:
                        weights = [
                            slider(0, 1, FIDELITY_CORNER.get(term, 0.0), step=0.01, label=label)
                            for term, label in terms.items()
                        ]
                        emphasis = slider(0, max_emphasis, 0, step=0.1, label="High-frequency emphasis")
                shown = gr.State(None)  # photograph's key, and how it was restored
                slots.append((setting, chosen, picture, measures, shown, amount, own, weights, emphasis))

    def restored(photograph: Photograph, name: str, network: str, strength: float, *values) -> Tensor:
        if name in (NOISY, CLEAN):
            return photograph.noisy if name == NOISY else photograph.photo
        network_restores, has_sliders = networks.in_use(network)
        *weight_values, emphasis_value = values
        if name == OWN:
            own_setting = (dict(zip(terms, weight_values, strict=True)), emphasis_value)
        elif name == UNSHARP:
            own_setting = (FIDELITY_CORNER, 0.0)
        else:
            own_setting = (PRESETS[name].loss_weights, PRESETS[name].high_frequency_emphasis)
        image = network_restores(photograph.noisy, *(own_setting if has_sliders else (None, None)), None)
        return unsharp_mask(image, strength) if name == UNSHARP else image

    @on_page
    def redraw(photograph: Photograph | None, before, name: str, *setting):
        """Writes the photograph, too, which is kept for an hour from then on."""
        if photograph is None and before is not None:
            raise ValueError(PUT_AWAY)
        if photograph is None or name == NOTHING:
            return None, "", None, photograph
        asked = (photograph.key, name, *setting)
        if asked == before:  # the tab is opened again
            return gr.skip(), gr.skip(), asked, photograph
        if name == CLEAN and not photograph.noise:
            return None, NO_REFERENCE, asked, photograph
        image = restored(photograph, name, *setting)
        text = "" if name == CLEAN else numbers(image, photograph)
        if terms and name not in (NOISY, CLEAN) and not networks.in_use(setting[0])[1]:
            text += ONE_LOSS
        return pictures.file(image), text, asked, photograph

    def show_controls(name: str):
        return gr.update(visible=name == UNSHARP), gr.update(visible=name == OWN)

    def look_for_networks(*used: str):
        found = networks.choices(*used)
        return [gr.update(choices=found, visible=len(found) > 1, value=name) for name in used]

    if trained is not None:
        used = [slot[1] for slot in slots]
        tab.select(look_for_networks, used, used, **QUIET)
    for setting, chosen, picture, measures, shown, amount, own, weights, emphasis in slots:
        inputs = [chooser.seen, shown, setting, chosen, amount, *weights, emphasis]
        outputs = [picture, measures, shown, chooser.seen]
        changed = [setting.change, chosen.change, *(control.input for control in (amount, *weights, emphasis))]
        for event in (*(event.success for event in chooser.events), partial(gr.on, changed)):
            drawn = event(redraw, inputs, outputs, **chooser.in_turn)
            drawn.failure(lambda: (None, "", None), None, outputs[:3], **QUIET)  # not the picture of another setting
        setting.change(show_controls, setting, [amount, own], **QUIET)
