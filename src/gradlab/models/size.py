"""How large a network is and how much it computes."""

from typing import TYPE_CHECKING, Any

from gradlab.data.spec import DataSpec

if TYPE_CHECKING:
    from torch import nn


def parameter_count(model: "nn.Module") -> int:
    """The numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def multiply_adds(model: "nn.Module", spec: DataSpec) -> int:
    """Multiply-adds of one image's forward pass through the linear and convolution layers."""
    import torch
    from torch import nn

    total = 0

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, torch.Tensor)
        # Every weight works once for each place of the output: each pixel of a convolution's, each row of a linear's.
        channels = output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1]
        total += layer.weight.numel() * (output.numel() // channels)

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *spec.image_shape))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total
