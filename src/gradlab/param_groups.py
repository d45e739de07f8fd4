"""Parameter groups: which parameters an optimizer treats alike, and how the others differ.

A group scales the optimizer's learning rate and may be exempt from its weight decay, whatever the optimizer: one whose
groups have several base rates (muon) has all of them scaled.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gradlab.bounds import check_number
from gradlab.errors import ConfigError
from gradlab.optimizers import Optimizer
from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

WORDS_OF_TABLES = ("embed", "token", "position")
"""In the own name of a parameter (not in that of its layer), they make it an embedding: ``pos_embed``, ``cls_token``; the
projection ``patch_embed.weight`` is a matrix like any other."""


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike.

    params: with their names in the network.
    lr_scale: multiplies every learning rate, > 0.
    decays: whether weight decay applies.
    """

    params: "list[tuple[str, nn.Parameter]]"
    lr_scale: float
    decays: bool


class ParamGroups(Protocol):
    """What every entry of ``PARAM_GROUPS`` has."""

    @property
    def name(self) -> str: ...

    def check(self, optimizer: Optimizer) -> None:
        """Raise ``ConfigError`` where these groups could change nothing with this optimizer."""

    def of(self, model: "nn.Module") -> list[Group]:
        """Every trainable parameter of ``model`` in exactly one group."""


PARAM_GROUPS: Registry[ParamGroups] = Registry("param_groups")


def build_optimizer(optimizer: Optimizer, groups: list[Group]) -> "torch.optim.Optimizer":
    """The torch optimizer over ``groups``. Each of its parameter groups has its own base learning rate as ``base_lr``."""
    if len(groups) == 1 and groups[0].lr_scale == 1 and groups[0].decays:
        built = optimizer.build(groups[0].params)
    else:
        built = optimizer.build(
            [{"params": group.params, "lr_scale": group.lr_scale, "decays": group.decays} for group in groups]
        )
    for group in built.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
        if not group.get("decays", True):
            group["weight_decay"] = 0.0
        group["base_lr"] = group["lr"]  # not every group has the optimizer's own: muon's AdamW has another
    return built


@PARAM_GROUPS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """All parameters alike."""

    name: str

    def check(self, optimizer: Optimizer) -> None:
        """Goes with any optimizer."""

    def of(self, model: "nn.Module") -> list[Group]:
        return [Group(trainable(model), 1.0, True)]


@PARAM_GROUPS.register("no_decay")
@dataclass(frozen=True)
class NoDecay:
    """No weight decay on biases, norms and all other vectors, nor on embeddings and tokens; all else decays.

    Embeddings are the tables of ``nn.Embedding`` and parameters whose own name has embed, token or position in it.
    """

    name: str

    def check(self, optimizer: Optimizer) -> None:
        check_decays(optimizer, "param_groups=no_decay", "Choose param_groups=uniform")

    def of(self, model: "nn.Module") -> list[Group]:
        exempt = exempt_from_decay(model)
        groups = []
        for spared in (True, False):  # the final layer stays the last matrix, by which muon knows it
            params = [pair for pair in trainable(model) if (pair[0] in exempt) is spared]
            if params:
                groups.append(Group(params, 1.0, not spared))
        return groups


@PARAM_GROUPS.register("layerwise")
@dataclass(frozen=True)
class Layerwise:
    """A learning rate that falls from the output to the input (ELECTRA, Clark et al., 2020; BEiT, Bao et al., 2022).

    A layer has lr × decay^depth; the last has depth 0. Layers are the network's parts in their order, sequences of them
    opened: a linear or convolutional layer, a residual or transformer block. Parts with vectors only (norms) go with the
    layer before them, and parameters of the network itself (positions, tokens) with the first one.
    https://arxiv.org/abs/2003.10555, https://arxiv.org/abs/2106.08254

    decay: factor from one layer to the one before it, in (0, 1).
    decay_vectors: whether weight decay applies to vectors and embeddings too; if not, they are exempt as in no_decay.
    """

    name: str
    decay: float
    decay_vectors: bool

    def __post_init__(self) -> None:
        check_number(self, "decay", above=0, below=1)

    def check(self, optimizer: Optimizer) -> None:
        if not self.decay_vectors:
            check_decays(optimizer, "param_groups.decay_vectors=false", "Choose param_groups.decay_vectors=true")

    def of(self, model: "nn.Module") -> list[Group]:
        exempt = set() if self.decay_vectors else exempt_from_decay(model)
        depths, groups = depths_of(model), dict[tuple[int, bool], Group]()
        for name, parameter in trainable(model):
            key = depths[name], name not in exempt
            group = groups.setdefault(key, Group([], self.decay ** depths[name], key[1]))
            group.params.append((name, parameter))
        return list(groups.values())


@PARAM_GROUPS.register("norm_biases")
@dataclass(frozen=True)
class NormBiases:
    """The biases of norms (BatchNorm, LayerNorm, GroupNorm) learn faster than all else, and do not decay.

    airbench multiplies their rate by 64, where the norms have no scales (Jordan, 2024, https://arxiv.org/abs/2404.00498, section
    3.4). A network without norms is trained as with ``uniform``.

    scale: multiplies the learning rate of these biases, > 0.
    """

    name: str
    scale: float

    def __post_init__(self) -> None:
        check_number(self, "scale", above=0)

    def check(self, optimizer: Optimizer) -> None:
        """Goes with any optimizer."""

    def of(self, model: "nn.Module") -> list[Group]:
        from torch import nn

        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
        biases = {id(layer.bias) for layer in model.modules() if isinstance(layer, norms) and layer.bias is not None}
        fast = [pair for pair in trainable(model) if id(pair[1]) in biases]
        others = [pair for pair in trainable(model) if id(pair[1]) not in biases]
        groups = [Group(fast, self.scale, False), Group(others, 1.0, True)]  # the final layer stays the last matrix
        return [group for group in groups if group.params]


def check_decays(optimizer: Optimizer, asked: str, instead: str) -> None:
    """Raise ``ConfigError`` unless ``optimizer`` has a weight decay. Its value may be 0: sweeps pass through 0."""
    chosen: Any = optimizer
    if not any(field.name.endswith("weight_decay") for field in dataclasses.fields(chosen)):
        raise ConfigError(
            f"{asked} exempts parameters from weight decay, and optimizer={optimizer.name} has none, so it would change "
            f"nothing. {instead}, or an optimizer with weight decay."
        )


def trainable(model: "nn.Module") -> "list[tuple[str, nn.Parameter]]":
    """The parameters that learn, by name, in the order of the layers."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def exempt_from_decay(model: "nn.Module") -> set[str]:
    """The names of vectors, scalars, embeddings and tokens."""
    from torch import nn

    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() <= 1
        or id(parameter) in tables
        or any(word in name.rpartition(".")[2] for word in WORDS_OF_TABLES)
    }


def depths_of(model: "nn.Module") -> dict[str, int]:
    """The depth of every parameter, by name: 0 in the last layer, rising towards the input."""
    layers: list[list[str]] = []
    for names, shapes in _parts(model, ""):
        if layers and all(len(shape) <= 1 for shape in shapes):
            layers[-1] += names  # a norm goes with what it norms
        else:
            layers.append(names)
    depths = {name: depth for depth, names in enumerate(reversed(layers)) for name in names}
    # What no part holds belongs to the network itself, or to a sequence in it: positions and tokens, at the input.
    return {name: depths.get(name, max(depths.values(), default=0)) for name, _ in model.named_parameters()}


def _parts(module: "nn.Module", path: str) -> "list[tuple[list[str], list[torch.Size]]]":
    """The names and shapes in each part of ``module``: its children, where they are sequences those of theirs."""
    from torch import nn

    children = [
        (f"{path}{name}.", child)
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
    found = []
    for prefix, child in children:
        # A network that is one part is a shell around the real one.
        opened = isinstance(child, nn.Sequential | nn.ModuleList) or (len(children) == 1 and any(child.children()))
        if opened and any(child.children()):
            found += _parts(child, prefix)
        else:
            named = list(child.named_parameters())
            found.append(([prefix + name for name, _ in named], [parameter.shape for _, parameter in named]))
    return found
