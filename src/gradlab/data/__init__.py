"""Data: the registry of datasets (one to a file in ``datasets/``) and how their images reach the training step."""
