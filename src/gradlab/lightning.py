"""Lightning, imported without what it imports and no run uses: ``from gradlab.lightning import pl``. A start takes half the time.

``import lightning`` brings torchmetrics, whose start brings torchvision, scipy.signal and matplotlib, and torch's compiler
(``torch._dynamo``, with sympy), which is wanted for one question: is this network a compiled one? Together they take longer
than torch. Building a network's trace or an optimizer, and each of its steps, would bring the compiler as well, to tell it
not to look at them.

Nothing is taken away. Who asks torchmetrics for more than its base classes gets the whole of it; who imports torch's
compiler gets that, and is asked from then on. Where another version of these libraries wants more of them than is foreseen
here, Lightning is imported as it is.
"""

import contextlib
import functools
import gc
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
METRICS = "torchmetrics"
BASES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


def _load() -> None:
    """Import ``lightning.pytorch``, where nobody has done so before."""
    if "lightning" in sys.modules:
        return
    before, collecting = set(sys.modules), gc.isenabled()
    gc.disable()  # what is imported stays
    try:
        with _metrics_in_part(), _compiler_unasked():
            importlib.import_module("lightning.pytorch")
        _torch_without_the_compiler()
    except (ImportError, AttributeError):  # other versions than those that this was written for
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("lightning", METRICS):
                del sys.modules[name]
    finally:
        if collecting:
            gc.enable()


# ---------------------------------------------------------------------------------------------------------- torchmetrics


class _InPart(ModuleType):
    """torchmetrics before its ``__init__`` has run: its base classes, and the whole as soon as anything else is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in BASES:
            return getattr(importlib.import_module(BASES[name]), name)
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader = self.__spec__.loader if self.__spec__ else None
        assert loader is not None
        imports = sys.modules.get(f"{METRICS}.utilities.imports")
        if imports is not None:  # its plots were defined as if there were no matplotlib
            importlib.reload(imports)
            importlib.reload(importlib.import_module(f"{METRICS}.utilities.plot"))
        loader.exec_module(self)
        return getattr(self, name)


@contextlib.contextmanager
def _metrics_in_part() -> Iterator[None]:
    """Within it, ``from torchmetrics import Metric`` imports that class and what it stands on."""
    spec = importlib.util.find_spec(METRICS) if METRICS not in sys.modules else None
    if spec is None:
        yield
        return
    part = _InPart(METRICS)
    part.__spec__, part.__file__ = spec, spec.origin
    part.__path__ = list(spec.submodule_search_locations or [])
    part._logger = logging.getLogger(METRICS)  # type: ignore[attr-defined]
    sys.modules[METRICS] = part
    # The base class has a plot of itself; for that its module would import pyplot.
    name = f"{METRICS}.utilities.imports"
    inner = importlib.machinery.PathFinder.find_spec(name, [f"{path}/utilities" for path in part.__path__])
    if inner is None or inner.loader is None:
        raise ImportError(f"{METRICS} has no module utilities.imports")
    imports = importlib.util.module_from_spec(inner)
    sys.modules[name] = imports
    inner.loader.exec_module(imports)
    imports._MATPLOTLIB_AVAILABLE = False  # type: ignore[attr-defined]
    importlib.import_module(f"{METRICS}.utilities")  # before the base class: they import each other
    imports._MATPLOTLIB_AVAILABLE = True  # type: ignore[attr-defined]
    yield


# -------------------------------------------------------------------------------------------------------- torch's compiler


class _AskedOfTheCompiler(type):
    """Of a class that stands for one of the compiler's: only where that is loaded can there be an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        real = getattr(sys.modules.get(COMPILER), cls.__name__, None)
        return real is not None and real is not cls and isinstance(instance, real)


class OptimizedModule(metaclass=_AskedOfTheCompiler):
    """Stands for ``torch._dynamo.OptimizedModule`` in Lightning's questions."""


def disable(function: Callable[..., Any], recursive: bool = True, **named: Any) -> Callable[..., Any]:
    """``torch._dynamo.disable``, which is asked when the compiler is loaded: nothing can be compiling before that."""
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            ask = getattr(sys.modules.get(COMPILER), "disable", disable)
            if ask is disable:
                return function(*arguments, **keywords)
            disabled = ask(function, recursive, **named)
        return disabled(*arguments, **keywords)

    return call


@contextlib.contextmanager
def _compiler_unasked() -> Iterator[None]:
    """Within it, ``torch._dynamo`` has the two names above and nothing else."""
    import torch  # which may want its compiler itself

    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)
    stand_in.OptimizedModule, stand_in.disable = OptimizedModule, disable  # type: ignore[attr-defined]
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[COMPILER]
        if vars(torch).get("_dynamo") is stand_in:
            del torch._dynamo


def _torch_without_the_compiler() -> None:
    """Let torch call its own functions as they are until the compiler is loaded: following a network, making steps."""
    import torch
    from torch.utils import flop_counter

    marked = [getattr(torch.optim.Optimizer, name) for name in ("add_param_group", "zero_grad", "state_dict")]
    marked += [torch.optim.Optimizer.load_state_dict, flop_counter._FlopCounterMode.__torch_dispatch__]
    for function in (getattr(each, "__wrapped__", None) for each in marked):
        # Where torch keeps what the compiler has made of the function (torch/_compile.py).
        if function is not None and not hasattr(function, "__dynamo_disable"):
            function.__dynamo_disable = disable(function, wrapping=False)
    torch_itself: Any = torch
    torch_itself._disable_dynamo = _marked  # for what is marked from here on, such as a TorchDispatchMode
    for optimizer in vars(torch.optim).values():
        step = vars(optimizer).get("step") if isinstance(optimizer, type) else None
        if getattr(getattr(step, "__code__", None), "co_name", None) == "_use_grad":
            optimizer.step = _step(step)


def _step(step: Any) -> Any:
    """An optimizer's step without the two marks for the compiler that torch sets around it (torch/optim/optimizer.py)."""
    import torch

    @functools.wraps(step)
    def plain(self: Any, *arguments: Any, **named: Any) -> Any:
        if COMPILER in sys.modules:
            return step(self, *arguments, **named)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step.__wrapped__(self, *arguments, **named)

    return plain


def _marked(function: Callable[..., Any] | None = None, recursive: bool = True) -> Callable[..., Any]:
    """``torch._disable_dynamo``: a decorator, with or without an argument."""
    if function is None:
        return functools.partial(_marked, recursive=recursive)
    return disable(function, recursive, wrapping=False)


_load()

import lightning.pytorch as pl  # noqa: E402

__all__ = ["pl"]
