"""The stacked counterparts of layers: the ordinary layer's copy with stacked tensors and another ``forward``.

Members are folded into the batch: everything without parameters or randomness is the ordinary module, unchanged. A
counterpart is made by giving a copied layer another class (``stack``), so all its settings are the ordinary one's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gradlab.models.networks.vit import VisionTransformer
from gradlab.stacked import forms
from gradlab.stacked.noise import Site

FEW = 16
NARROW = 32
"""Channels from which on one member's convolution fills a GPU, on an H200."""


class Fold:
    """What the layers of one stacked network know in common during a forward pass.

    Attributes:
        members: how many networks there are.
        shared: whether the first layer sees images that all members share.
        noises: what each use of dropout multiplies by, those still to come; or None while the uses are only noted.
        sites: the uses of dropout noted.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self.shared = False
        self.noises: list[torch.Tensor] | None = None
        self.sites: list[Site] = []


class Stacked:
    """What counterparts have. ``first``: whether the layer is the network's first, which may see shared images."""

    fold: Fold
    first: bool

    def see(self, layers: Sequence[Any]) -> None:
        """Take from the members' own layers what differs between them."""

    @property
    def shared(self) -> bool:
        return self.first and self.fold.shared


def lowered(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The tensors in autocast's type, where it is on: as it would cast them for ``F.linear``."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    lower = torch.get_autocast_dtype(device)
    return tuple(
        tensor.to(lower) if tensor is not None and tensor.dtype == torch.float32 else tensor for tensor in tensors
    )


class StackedLinear(Stacked, nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, weight, bias = lowered(x, self.weight, self.bias)
        assert values is not None
        assert weight is not None
        members, width = len(weight), values.shape[-1]
        rows = values.reshape(1 if self.shared else members, -1, width).expand(members, -1, -1)
        result = forms.linear(rows, weight, bias)
        return result.view(-1, *x.shape[1:-1], result.shape[-1])


class StackedConv2d(Stacked, nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        settings = {"stride": self.stride, "padding": padding, "dilation": self.dilation, "groups": self.groups}
        # Measured on a CPU: few filters of one channel fill it only together, as long as they are not too many.
        few = self.shared and self.in_channels == 1 and self.out_channels < FEW
        few = few and len(self.weight) * self.out_channels <= 4 * FEW
        # On a GPU ResNet-18 takes 1.2 times as long at once, and five times the memory; LeNet takes 2.5 times as long unrolled.
        at_once = max(self.in_channels, self.out_channels) < NARROW if x.is_cuda else few
        form = forms.convolution_at_once if at_once else forms.convolution_unrolled
        return form(x, self.weight, self.bias, self.shared, settings)


class _StackedBatchNorm(Stacked, nn.modules.batchnorm._BatchNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        by_batch = self.training or self.running_mean is None
        tracked = (
            (self.running_mean, self.running_var) if not self.training or self.track_running_stats else (None, None)
        )
        assert self.momentum is not None
        form = forms.batch_norm_at_once if x.is_cuda else forms.batch_norm_unrolled
        return form(x, *tracked, self.weight, self.bias, by_batch, self.momentum, self.eps, self.fold.members)


class StackedBatchNorm1d(_StackedBatchNorm, nn.BatchNorm1d):
    pass


class StackedBatchNorm2d(_StackedBatchNorm, nn.BatchNorm2d):
    pass


class StackedLayerNorm(Stacked, nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.elementwise_affine:
            return super().forward(x)
        form = forms.layer_norm_at_once if x.is_cuda else forms.layer_norm_unrolled
        return form(x, self.weight, self.bias, list(self.normalized_shape), self.eps)


class StackedGroupNorm(Stacked, nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.affine:
            return super().forward(x)
        form = forms.group_norm_at_once if x.is_cuda else forms.group_norm_unrolled
        return form(x, self.weight, self.bias, self.num_groups, self.eps)


class StackedEmbedding(Stacked, nn.Embedding):
    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(self.fold.members, device=indices.device) * self.num_embeddings
        own = indices.unflatten(0, (self.fold.members, -1))
        rows = own + offsets.view(-1, *(1,) * (own.dim() - 1))
        return F.embedding(rows.flatten(0, 1), self.weight.flatten(0, 1))


class StackedDropout(Stacked, nn.Dropout):
    """The members may have different rates, ``rates``."""

    rates: tuple[float, ...]

    def see(self, layers: Sequence[nn.Dropout]) -> None:
        self.rates = tuple(float(layer.p) for layer in layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not any(self.rates):
            return x
        own = x.unflatten(0, (self.fold.members, -1))
        if self.fold.noises is None:
            like = torch.empty_like(own[0])
            self.fold.sites.append(Site(tuple(like.shape), like.stride(), like.dtype, self.rates))
            return x
        dropped: torch.Tensor = (own * self.fold.noises.pop(0)).flatten(0, 1)
        return dropped


class StackedVisionTransformer(Stacked, VisionTransformer):
    def with_learned(self, tokens: torch.Tensor) -> torch.Tensor:
        own = tokens.unflatten(0, (self.fold.members, -1))
        if self.class_token is not None:
            own = torch.cat([self.class_token.expand(-1, own.shape[1], -1, -1), own], dim=2)
        placed: torch.Tensor = own + self.position_embedding
        return placed.flatten(0, 1)


COUNTERPARTS: dict[type[nn.Module], type[Stacked]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm1d: StackedBatchNorm1d,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.LayerNorm: StackedLayerNorm,
    nn.GroupNorm: StackedGroupNorm,
    nn.Embedding: StackedEmbedding,
    nn.Dropout: StackedDropout,
    VisionTransformer: StackedVisionTransformer,
}
