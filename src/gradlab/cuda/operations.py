"""Our operations for whoever makes a network's steps; Triton is imported only where there is a GPU."""

import contextlib

import torch


def ours(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which a network on ``device`` computes with our operations; one that changes nothing where that is no GPU."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    from gradlab.cuda.replacing import Replacing

    return Replacing(device)
