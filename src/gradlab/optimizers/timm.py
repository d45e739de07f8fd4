"""The optimizers of timm (PyTorch Image Models), by their names there."""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlab.bounds import check_number
from gradlab.errors import ConfigError, FieldError, did_you_mean
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params

OURS = ("params", "lr", "weight_decay")
"""Arguments of a timm optimizer that are no options: they are fields here."""


@OPTIMIZERS.register("timm")
@dataclass(frozen=True)
class Timm:
    """An optimizer of timm, https://huggingface.co/docs/timm/reference/optimizers: adabelief, adan, lars, mars, laprop, ….

    Which there are, and what options they take, only timm knows: it is asked when the run begins, before anything is made.

    opt: its name in timm. Those that need second derivatives, or another package and a GPU (bnb…, fused…), are refused.
    lr: step size, > 0; for timm's default see there.
    weight_decay: its decay, ≥ 0, coupled or decoupled as the optimizer has it.
    options: further arguments of the optimizer, as ``{eps: 1e-6}``; what is not named has timm's default. Or null.
    """

    name: str
    opt: str
    lr: float
    weight_decay: float
    options: dict[str, Any] | None

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "weight_decay", at_least=0)
        for word in OURS[1:]:
            if word in (self.options or {}):
                raise FieldError("options", f"has {word}, which is optimizer.{word}; give it there")

    def check(self) -> None:
        """Raise ``ConfigError`` where timm is not installed. Imports nothing."""
        if importlib.util.find_spec("timm") is None:
            raise ConfigError(
                "optimizer=timm needs the package timm, which is not installed: pip install 'gradlab[timm]'."
            )

    def check_in_timm(self) -> None:
        """Raise ``ConfigError`` where timm has no such optimizer, or it does not take these options. Imports timm.

        Every value must be of its default's kind, and the optimizer is built once, over nothing that is trained.
        """
        import torch
        from timm.optim import get_optimizer_info, list_optimizers

        names = list_optimizers()
        if self.opt not in names:
            hint = " Lookahead around any optimizer is wrapper=lookahead." if self.opt.startswith("lookahead") else ""
            raise ConfigError(
                f"optimizer.opt: timm has no optimizer '{self.opt}'.{hint or did_you_mean(self.opt, names)} "
                f"Choices: {', '.join(names)}."
            )
        info = get_optimizer_info(self.opt)
        if info.second_order or isinstance(info.opt_class, str):
            needs = "second derivatives" if info.second_order else f"the package {str(info.opt_class).split('.')[0]}"
            raise ConfigError(f"optimizer.opt: timm's {self.opt} needs {needs}, which is not supported here.")
        known = _defaults(info.opt_class)
        for key, value in (self.options or {}).items():
            if key not in known:
                raise ConfigError(
                    f"optimizer.options: timm's {self.opt} has no option '{key}'."
                    f"{did_you_mean(key, known) or ' It has ' + ', '.join(known) + '.'}"
                )
            _check_kind(f"optimizer.options: {key} of timm's {self.opt}", value, known[key])
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        try:
            self.build([("weight", weight)])
        except (ValueError, AssertionError, TypeError, RuntimeError) as error:
            raise ConfigError(f"optimizer.options: timm's {self.opt} does not take them: {error}.") from error

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        from timm.optim import create_optimizer_v2

        options = {
            key: tuple(value) if isinstance(value, list) else value for key, value in (self.options or {}).items()
        }
        # Some of timm's do not know torch's named parameters.
        given: list[Any] = list(params)
        if given and isinstance(given[0], dict):
            nameless = [{**group, "params": [parameter for _, parameter in group["params"]]} for group in given]
        else:
            nameless = [parameter for _, parameter in given]
        built: torch.optim.Optimizer = create_optimizer_v2(
            nameless, opt=self.opt, lr=self.lr, weight_decay=self.weight_decay, **options
        )
        return built


def _defaults(optimizer: Callable[..., Any]) -> dict[str, Any]:
    """The options of an optimizer with their defaults."""
    parameters = inspect.signature(optimizer).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in OURS}


def _check_kind(what: str, value: Any, default: Any) -> None:
    """Raise unless ``value`` is of the kind of ``default``; what has no default of its own (None) may be anything."""
    if isinstance(default, bool):
        fits, words = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        fits, words = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        fits, words = isinstance(value, str), "text"
    elif isinstance(default, tuple):
        numbers = isinstance(value, list) and all(isinstance(entry, int | float) for entry in value)
        fits, words = numbers and len(value) == len(default), f"a list of {len(default)} numbers"
    else:
        return
    if not fits:
        raise ConfigError(f"{what} must be {words}, not '{value}'.")
