"""The arithmetic of stacked layers, one function to a form of computing it, so that forms can be measured and chosen.

Members are folded into the batch: activations are [members·batch, …], member after member. *Unrolled* forms make the call
of the single network once for each member, on its slice: the same bits. They are the fastest on a CPU, whose
convolutions fill it with one member. *Grouped* forms make one call over members × channels, which is what a GPU needs; they
transpose [members·batch, channels] to [batch, members·channels] and back.
"""

from typing import Any

import torch
from torch.nn import functional as F


class _Products(torch.autograd.Function):
    """``x @ weight.mT + bias`` for each member. Autograd's own derivative of baddbmm has the weight's gradient
    transposed, which is slower to take up and rounds differently from that of ``F.linear``.
    """

    # Not with ``setup_context``: torch would look at the signature of ``forward`` in every call, 40 µs of a step of 1.4 ms.
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        of_weight = torch.bmm(gradient.mT, x) if ctx.needs_input_grad[1] else None
        of_bias = gradient.sum(1) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[members, batch, in] (an expanded [batch, in] too), [members, out, in], [members, out] → [members, batch, out]."""
    return _Products.apply(x, weight, bias)  # type: ignore[no-any-return]


def slices(x: torch.Tensor, members: int) -> tuple[torch.Tensor, ...]:
    """[members·batch, …] → each member's [batch, …]. Its derivative is one ``cat``, which keeps channels-last."""
    parts: tuple[torch.Tensor, ...] = x.split(len(x) // members)
    return parts


def each(stacked: torch.Tensor | None, members: int) -> tuple[Any, ...]:
    """[members, …] → each member's. Its derivative keeps channels-last order, which ``unbind``'s own does not."""
    if stacked is None:
        return (None,) * members
    if stacked.dim() == 5 and stacked.stride(2) == 1:
        return tuple(own.movedim(-1, -3) for own in stacked.movedim(-3, -1).unbind())
    return stacked.unbind()


def convolution_unrolled(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shared: bool, settings: dict[str, Any]
) -> torch.Tensor:
    """One convolution after the other. ``x``: [members·batch, in, height, width], or [batch, …] where ``shared``."""
    members = len(weight)
    images = (x,) * members if shared else slices(x, members)
    layers = zip(images, each(weight, members), each(bias, members), strict=True)
    return torch.cat([F.conv2d(own, w, b, **settings) for own, w, b in layers])


def convolution_at_once(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shared: bool, settings: dict[str, Any]
) -> torch.Tensor:
    """One call over members × channels: a grouped convolution, or an ordinary one where ``shared``."""
    members = len(weight)
    groups = settings["groups"] * (1 if shared else members)
    if shared and settings["groups"] > 1:
        x, shared, groups = x.repeat(members, 1, 1, 1), False, settings["groups"] * members
    channels = x if shared else beside(x, members)
    biases = None if bias is None else bias.flatten()
    ordered = weight.movedim(2, -1).flatten(0, 1).movedim(-1, 1) if weight.stride(2) == 1 else weight.flatten(0, 1)
    return behind(F.conv2d(channels, ordered, biases, **{**settings, "groups": groups}), members)


def beside(x: torch.Tensor, members: int) -> torch.Tensor:
    """[members·batch, channels, …] → [batch, members·channels, …]; channels-last stays so."""
    if is_channels_last(x):
        rows = x.permute(0, 2, 3, 1).unflatten(0, (members, -1))
        joined: torch.Tensor = rows.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)
        return joined
    turned: torch.Tensor = x.unflatten(0, (members, -1)).transpose(0, 1).flatten(1, 2)
    return turned


def behind(x: torch.Tensor, members: int) -> torch.Tensor:
    """[batch, members·channels, …] → [members·batch, channels, …]; channels-last stays so."""
    if is_channels_last(x):
        rows = x.permute(0, 2, 3, 1).unflatten(3, (members, -1))
        parted: torch.Tensor = rows.permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)
        return parted
    turned: torch.Tensor = x.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)
    return turned


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the channels are what lies side by side."""
    return x.dim() == 4 and x.stride(1) == 1 and x.shape[1] > 1


def batch_norm_unrolled(
    x: torch.Tensor,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    members: int,
) -> torch.Tensor:
    """BatchNorm of one member after the other; ``mean`` and ``variance`` [members, channels] are updated in place."""
    parts = (each(tensor, members) for tensor in (mean, variance, weight, bias))
    layers = zip(slices(x, members), *parts, strict=True)
    return torch.cat([F.batch_norm(own, m, v, w, b, training, momentum, eps) for own, m, v, w, b in layers])


def batch_norm_at_once(
    x: torch.Tensor,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    members: int,
) -> torch.Tensor:
    """One BatchNorm over members × channels, whose statistics are each member's own."""
    mean, variance = (None if tensor is None else tensor.view(-1) for tensor in (mean, variance))
    weight, bias = (None if tensor is None else tensor.flatten() for tensor in (weight, bias))
    channels = F.batch_norm(beside(x, members), mean, variance, weight, bias, training, momentum, eps)
    return behind(channels, members)


def layer_norm_unrolled(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: list[int], eps: float
) -> torch.Tensor:
    """LayerNorm of one member after the other."""
    members = len(weight)
    layers = zip(slices(x, members), each(weight, members), each(bias, members), strict=True)
    return torch.cat([F.layer_norm(own, shape, w, b, eps) for own, w, b in layers])


def layer_norm_at_once(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: list[int], eps: float
) -> torch.Tensor:
    """One normalisation of everything, then each member's own scale and shift."""
    return scaled(F.layer_norm(x, shape, None, None, eps), weight, bias)


def group_norm_unrolled(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int, eps: float
) -> torch.Tensor:
    """GroupNorm of one member after the other."""
    members = len(weight)
    layers = zip(slices(x, members), each(weight, members), each(bias, members), strict=True)
    return torch.cat([F.group_norm(own, groups, w, b, eps) for own, w, b in layers])


def group_norm_at_once(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int, eps: float
) -> torch.Tensor:
    """One normalisation of everything, then each member's own scale and shift of its channels."""
    pixels = (1,) * (x.dim() - 2)
    shifts = None if bias is None else bias.view(*bias.shape, *pixels)
    return scaled(F.group_norm(x, groups, None, None, eps), weight.view(*weight.shape, *pixels), shifts)


def scaled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x`` [members·batch, …] times ``weight`` [members, …] plus ``bias``, which are broadcast from the last dimension."""
    own = x.unflatten(0, (len(weight), -1))

    def fitted(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(len(tensor), *(1,) * (own.dim() - tensor.dim()), *tensor.shape[1:])

    result: torch.Tensor = own * fitted(weight)
    return (result if bias is None else result + fitted(bias)).flatten(0, 1)
