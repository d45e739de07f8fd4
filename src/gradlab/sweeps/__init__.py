"""Sweeps: what a Hydra multirun becomes. One file, one idea; ``session`` is the story."""
