"""The end of a network: a logit for each class, or a single one where there are two."""

from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

OUTPUTS = ("softmax", "sigmoid")


def check_output(model: str, output: str, spec: DataSpec) -> None:
    """Raise ``ConfigError`` where one sigmoid shall tell more or fewer than two classes apart."""
    if output == "sigmoid" and len(spec.classes) != 2:
        raise ConfigError(
            f"model.output=sigmoid tells two classes apart, and data={spec.name} has {len(spec.classes)}. "
            f"Choose model.output=softmax, which is what model={model} has by default."
        )


def last_layers(width: int, output: str, spec: DataSpec) -> "list[nn.Module]":
    """Layers from features [batch, width] to logits [batch, classes].

    With ``sigmoid`` one unit computes z, and the logits are (0, z): their softmax is (1 − σ(z), σ(z)), so that the
    cross-entropy, its gradient and every answer are those of a sigmoid unit, and nothing else needs to know.

    That is not the same training as two free logits (u, v), which answer by z = v − u. The gradients of their weights
    are opposite and each is as large as that of the single unit's, so z moves twice as fast: to go the same way, the
    *last* layer needs half the rate. In logistic regression that is all of it; layers before it keep theirs.
    """
    from torch import nn

    if output == "softmax":
        return [nn.Linear(width, len(spec.classes))]
    return [nn.Linear(width, 1), nn.ZeroPad1d((1, 0))]
