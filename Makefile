.PHONY: app test quality style smoke install lock checkpoint-code chromium clean
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export HF_HUB_DISABLE_TELEMETRY := 1
export GRADIO_ANALYTICS_ENABLED := False

app: install  ## the page on http://127.0.0.1:7860
	$(RUN) app.py

test: install  ## every test; the browser tests need Chromium, see `make chromium`
	$(RUN) -m pytest

quality: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

style: install
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

smoke: install  ## ten training steps, stopped after five and resumed
	rm -rf runs/smoke
	$(VENV)/bin/accelerate launch -m training.train training/recipes/smoke.yaml --stop_at_step 5
	$(VENV)/bin/accelerate launch -m training.train training/recipes/smoke.yaml --resume true

install: $(VENV)/installed

# The locked dependencies, and the project itself as `vit_unet_denoiser`.
# uv where it is at hand, because it is several times faster; venv and pip otherwise, or where uv fails.
$(VENV)/installed: requirements.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	{ command -v uv >/dev/null \
		&& uv venv --allow-existing --python $(PYTHON) $(VENV) \
		&& uv pip install --python $(RUN) -r requirements.txt --editable .; } || $(MAKE) install-with-pip
	touch $@

.PHONY: install-with-pip
install-with-pip:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "Python's venv is missing. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt --editable .

lock:  ## rewrites requirements.txt from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --output-file requirements.txt --upgrade

checkpoint-code:  ## copies the code beside the weights that ship, as save_pretrained does
	$(RUN) -c 'from transformers.dynamic_module_utils import custom_object_save as save; import modeling; \
		[save(part, "checkpoints/vit-unet-denoiser") for part in (modeling.ViTUNetForImageDenoising, \
		modeling.ViTUNetImageProcessor, modeling.ImageDenoisingPipeline)]'

chromium:  ## for the browser tests: Debian's package; needs root. Any `chromium` or `google-chrome` on the PATH will do
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || { apt-get update -q && apt-get install -y -q chromium; }

clean:
	rm -rf $(VENV) runs build dist *.egg-info
