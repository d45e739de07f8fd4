"""How large a network is and how much it computes."""

from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.models.trace import Call, trace

if TYPE_CHECKING:
    from torch import nn


def parameter_count(model: "nn.Module") -> int:
    """The numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def multiply_adds(model: "nn.Module", spec: DataSpec) -> int:
    """Multiply-adds of one image's forward pass: all matrix products and convolutions, those within attention too."""
    return trace(model, spec.image_shape)[0].multiply_adds


def layer_table(calls: list[Call]) -> str:
    """The calls of ``trace`` as text: what is within a layer stands below it, indented, and is counted in its numbers."""
    rows = [("layer", "type", "output", "parameters", "multiply-adds")]
    for call in calls:
        if call.kind == "+":
            continue
        frozen = "" if call.trained == call.parameters else f" ({call.parameters - call.trained:,} frozen)"
        name = call.name.rpartition(".")[2] or "network"
        shape = " × ".join(map(str, call.shape))
        rows.append(
            ("  " * call.depth + name, call.kind, shape, f"{call.parameters:,}{frozen}", f"{call.multiply_adds:,}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        texts = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]]) + "\n"
