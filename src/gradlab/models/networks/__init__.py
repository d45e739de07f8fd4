"""Networks too long for their model's ``build``. They import torch, so they are imported in ``build`` only."""
