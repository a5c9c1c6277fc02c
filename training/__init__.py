"""Trains and evaluates the denoiser. Start with `python -m training.train training/recipes/smoke.yaml`."""
