"""Batch normalisation over the batch of all ranks. torch's SyncBatchNorm does the same on CUDA, and nothing on the CPU."""

from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F

from gradlab.errors import GradlabError


def normalise_together(model: nn.Module) -> None:
    """Have every batch normalisation of ``model`` use the statistics of the whole mini-batch; nothing else of it changes.

    Raises:
        GradlabError: it has one of a kind that is not known.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, _Together):
            together = _KINDS.get(type(module))
            if together is None or module.momentum is None or not module.track_running_stats:
                raise GradlabError(
                    f"trainer.devices: {name} is a {type(module).__name__}, and its statistics cannot be taken over several "
                    "devices. Train on one device, or choose another model."
                )
            module.__class__ = together


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Each rank's loss is a part of one loss, so gradients add up in the same way."""

    @staticmethod
    def forward(context: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class _Together(nn.modules.batchnorm._BatchNorm):
    """Mean and variance over the images and pixels of all ranks, which may have different numbers of images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(
                images, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        axes = [axis for axis in range(images.dim()) if axis != 1]
        shape = [1, -1, *[1] * (images.dim() - 2)]
        wide = images.double() if images.dtype == torch.float64 else images.float()
        own = wide.new_tensor([images.numel() / images.shape[1]])
        sums = _Sum.apply(torch.cat([wide.sum(axes), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        normalised: torch.Tensor = scaled.to(images.dtype)
        return normalised


class _Together1d(_Together, nn.BatchNorm1d):
    pass


class _Together2d(_Together, nn.BatchNorm2d):
    pass


class _Together3d(_Together, nn.BatchNorm3d):
    pass


_KINDS: dict[type, type[_Together]] = {
    nn.BatchNorm1d: _Together1d,
    nn.BatchNorm2d: _Together2d,
    nn.BatchNorm3d: _Together3d,
}
