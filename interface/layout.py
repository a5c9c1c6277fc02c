"""How the Denoise tab stands on a phone: the picture first, and in sight while a slider below it moves."""

from __future__ import annotations

import gradio as gr

PHONE = """
@media (max-width: 768px) {
  #denoise > .column { display: contents; }
  #denoise > .column > * { flex: 1 1 100%; min-width: 0; }
  #before-after { order: -1; position: sticky; top: 0; z-index: 50; }
  .gradio-container { overflow: clip !important; }  /* hidden, nothing inside would stick */
}
"""


def stand_on_a_phone() -> None:
    """Lays it down where it is called, for a row `denoise` that holds two columns."""
    gr.HTML(f"<style>{PHONE}</style>", visible="hidden")
