"""Where a setting of the loss holds: everywhere, where one paints, where a mask is white, where the ViT looks, or where
the picture is sharp.

An area is a map (1, 1, h, w) in [0, 1] that covers the image: at 1 the sliders' setting holds, at 0 the pixel loss
alone. The network takes such maps as its loss weights.

The brush is a canvas of a few thousand cells over a small picture: gr.ImageEditor needs WebGL, and sends every layer of
it in full size after each stroke.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import gradio as gr
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from interface.pictures import read_small_enough, to_image
from modeling.sharpness import sharpness_scores

EVERYWHERE, PAINTED, MASKED, LOOKED_AT, SHARP = "everywhere", "painted", "masked", "looked at", "sharp"
PLACES = {
    EVERYWHERE: "everywhere",
    PAINTED: "where I paint",
    MASKED: "where a mask is white (a file)",
    LOOKED_AT: "where the ViT looks (EigenCAM)",
    SHARP: "where the picture is sharp",
}
MAX_CELLS = 256  # on the longer side of what is painted
AREA_SIDE = 2048  # pixels, the same of any other area: every slider has a map of its size
BACKDROP_SIDE = 640  # pixels
BRIGHT = 0.95  # quantile of the sharpness scores that counts as fully sharp

BRUSH_HTML = """
<div class="board">
  ${value ? `<img src="${value}" alt="the picture to paint on" draggable="false">` : ""}
  <canvas></canvas>
</div>
<div class="tools">
  <label><input type="radio" name="brush-tool" value="paint" checked> Paint</label>
  <label><input type="radio" name="brush-tool" value="erase"> Erase</label>
  <label>Brush <input type="range" name="brush-size" min="2" max="40" value="12" aria-label="Brush size"></label>
  <button type="button">Clear</button>
</div>
"""
BRUSH_CSS = """
.board { position: relative; line-height: 0; max-width: 420px; margin: auto; }
.board img { width: 100%; user-select: none; }
.board canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.board canvas { opacity: 0.5; cursor: crosshair; touch-action: none; }
.tools { display: flex; flex-wrap: wrap; gap: 0.4em 1.2em; align-items: center; justify-content: center; }
.tools { padding: 0.5em; }
.tools label { display: flex; gap: 0.4em; align-items: center; }
.tools button { font: inherit; background: none; border: 1px solid currentColor; border-radius: 4px; padding: 0 0.8em; }
"""
# Listeners sit on the component itself: what is inside is made anew with every photograph.
BRUSH_SCRIPT = f"""
let from = null;
const canvas = () => element.querySelector('canvas');
const fit = () => {{
  const image = element.querySelector('img');
  if (!image) return;
  const resize = () => {{
    const scale = Math.min(1, {MAX_CELLS} / Math.max(image.naturalWidth, image.naturalHeight));
    canvas().width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas().height = Math.max(1, Math.round(image.naturalHeight * scale));
  }};
  if (image.complete && image.naturalWidth) resize();
  else image.addEventListener('load', resize, {{once: true}});
}};
const cell = (event) => {{
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * canvas().width,
          (event.clientY - box.top) / box.height * canvas().height];
}};
const stroke = (to) => {{
  const pen = canvas().getContext('2d');
  const erasing = element.querySelector('[value=erase]').checked;
  pen.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  pen.strokeStyle = '#ff6a00';
  pen.lineCap = 'round';
  pen.lineWidth = element.querySelector('[name=brush-size]').value / 100 * Math.max(canvas().width, canvas().height);
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
  from = to;
}};
const send = () => trigger('input', {{mask: canvas().toDataURL('image/png')}});
element.addEventListener('pointerdown', (event) => {{
  if (event.target !== canvas()) return;
  event.preventDefault();
  canvas().setPointerCapture(event.pointerId);
  from = cell(event);
  stroke(from);
}});
element.addEventListener('pointermove', (event) => {{ if (from) stroke(cell(event)); }});
for (const name of ['pointerup', 'pointercancel'])
  element.addEventListener(name, () => {{ if (from) {{ from = null; send(); }} }});
element.addEventListener('click', (event) => {{
  if (event.target.tagName !== 'BUTTON') return;
  canvas().getContext('2d').clearRect(0, 0, canvas().width, canvas().height);
  send();
}});
watch('value', fit);
fit();
"""


def brush() -> gr.HTML:
    """A picture to paint on. Its value is the picture (`backdrop`); its `input` event carries what is painted."""
    return gr.HTML(
        None, html_template=BRUSH_HTML, css_template=BRUSH_CSS, js_on_load=BRUSH_SCRIPT, elem_id="brush", visible=False
    )


def backdrop(image: Tensor) -> str:
    """(3, H, W) -> the picture to paint on, small, as the address that the browser shows it from."""
    small = to_image(image)
    small.thumbnail((BACKDROP_SIDE, BACKDROP_SIDE))
    return "data:image/png;base64," + base64.b64encode(_png(small)).decode()


def painted_area(address: str) -> Tensor:
    """The brush's picture of what is painted, its opacity the weight -> (1, 1, h, w) in [0, 1]."""
    try:
        content = base64.b64decode(address.partition("base64,")[2], validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            if max(picture.size) > MAX_CELLS:
                raise ValueError(f"{picture.size} cells")
            opacity = np.asarray(picture.convert("RGBA"))[..., 3]
    except (OSError, ValueError) as error:
        raise gr.Error(f"What is painted cannot be read: press Clear, and paint again. ({error})") from error
    return torch.from_numpy(opacity / np.float32(255))[None, None]


def mask_area(path: str) -> Tensor:
    """A mask's file, such as one that marks cracks -> (1, 1, h, w) in [0, 1]. It is laid over the whole picture."""
    return small_area(read_small_enough(path).mean(0)[None, None])


def small_area(area: Tensor) -> Tensor:
    """(1, 1, h, w), averaged where it has more pixels than an area needs."""
    scale = AREA_SIDE / max(area.shape)
    if scale >= 1:
        return area
    return F.interpolate(area, [max(1, round(side * scale)) for side in area.shape[-2:]], mode="area")


def sharp_area(restored: Tensor, window_size: int = 16) -> Tensor:
    """The window scores of a restored image (3, H, W), bright where it is sharp -> (1, 1, rows, columns) in [0, 1]."""
    scores = sharpness_scores(restored[None], window_size)[None]
    return (scores / scores.quantile(BRIGHT).clamp(min=1e-6)).clamp(0, 1)


def held_where(
    area: Tensor | None, loss_weights: Mapping[str, float], emphasis: float
) -> tuple[Mapping[str, float | Tensor], float | Tensor]:
    """Weights and emphasis that hold in an area, as maps; outside of it the pixel loss holds alone.

    Without an area, or with weights that sum to 0, which the network refuses, they come back as they are.
    """
    total = sum(loss_weights.values())
    if area is None or total <= 0:
        return loss_weights, emphasis
    maps = {name: area * (weight / total) for name, weight in loss_weights.items() if weight}
    maps["pixel"] = maps.get("pixel", 0.0) + (1 - area)
    return maps, area * emphasis


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
