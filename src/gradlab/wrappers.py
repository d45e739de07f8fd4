"""What is wrapped around any optimizer: another way to its gradients, or something done with its steps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gradlab.bounds import check_number
from gradlab.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from gradlab import stepping


class Wrapper(Protocol):
    """What every entry of ``WRAPPERS`` has."""

    @property
    def name(self) -> str: ...

    def build(self, model: "nn.Module") -> "stepping.Step":
        """The wrapper at work, over ``model`` on its device."""


WRAPPERS: Registry[Wrapper] = Registry("wrapper")


@WRAPPERS.register("none")
@dataclass(frozen=True)
class NoWrapper:
    """The optimizer as it is."""

    name: str

    def build(self, model: "nn.Module") -> "stepping.Step":
        from gradlab.stepping import Step

        return Step()


@WRAPPERS.register("sam")
@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation (Foret et al., 2021, https://arxiv.org/abs/2010.01412): steps by the gradient uphill.

    The gradient g at w leads to w + rho·g/‖g‖, the norm over all parameters; the gradient there makes the step at w. Two
    passes over the same images with the same dropout, so a step takes twice as long; BatchNorm's statistics come from the
    first. The loss and accuracy told are those at w. Clipping applies to the second gradient.

    rho: how far uphill, in the norm of all parameters, > 0.
    adaptive: scale the way uphill by the parameters, rho·w²·g/‖w·g‖ (ASAM, Kwon et al., 2021,
        https://arxiv.org/abs/2102.11600); rho is then about ten times larger.
    """

    name: str
    rho: float
    adaptive: bool

    def __post_init__(self) -> None:
        check_number(self, "rho", above=0)

    def build(self, model: "nn.Module") -> "stepping.Step":
        from gradlab.stepping import SharpnessAware

        return SharpnessAware(model, self.rho, self.adaptive)


@WRAPPERS.register("lookahead")
@dataclass(frozen=True)
class Lookahead:
    """Lookahead (Zhang et al., 2019, https://arxiv.org/abs/1907.08610): slow weights follow the optimizer's fast ones.

    After every k steps: slow ← slow + alpha·(fast − slow), and the fast weights go on from there; the optimizer keeps its
    moments. Validation, test and the best network use the slow weights, as the paper does.

    k: steps of the optimizer between two of the slow weights, ≥ 1.
    alpha: length of a slow step, in (0, 1].
    """

    name: str
    k: int
    alpha: float

    def __post_init__(self) -> None:
        check_number(self, "k", at_least=1)
        check_number(self, "alpha", above=0, at_most=1)

    def build(self, model: "nn.Module") -> "stepping.Step":
        from gradlab.stepping import SlowWeights

        return SlowWeights(model, self.k, self.alpha)
