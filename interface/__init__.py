"""The tabs of the app, one file each."""

import os

# After each event Gradio would sum up all events so far with pandas, and the next move of a slider would wait for it.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
# Gradio's page would write the values of every component into the browser's storage at every move of a slider.
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
