"""Torch optimizers that torch does not have. They import torch, so they are imported in ``build`` only."""
