"""``gradlab gradcheck``: the gradients that training follows against those that the loss itself shows, layer by layer.

Backpropagation is right where a small step changes the loss as it says: (L(θ + ε) − L(θ − ε)) / 2ε, in float64. For every
parameter tensor that is asked for single entries, and once along a random direction through all of them, which an error
anywhere in the tensor cannot escape but by chance.
"""

import csv
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.config import Config
from gradlab.entry import compose
from gradlab.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

STEP = 1e-5
"""ε. Truncation (ε²) and the rounding of the two losses (2e-16/ε) are about equally small there."""
TOLERANCE = 1e-5
"""A parameter's largest relative error. Right gradients have 1e-7 and less, a forgotten factor has 0.1 and more."""
ROUNDING = 64 * 2.0**-52
"""How exactly a loss is known, as a share of it: a forward pass adds up many roundings."""
FINER = (1.0, 0.1, 0.01)
"""Parts of ε that are tried, because between the two points may lie kinks of the loss (a ReLU's, a maximum's)."""


@dataclass(frozen=True)
class Probe:
    """One derivative, both ways.

    where: index of the entry in the flattened parameter; or None for the direction through all entries.
    analytic: by backpropagation.
    numerical: by two evaluations of the loss.
    kink: the loss has different slopes to both sides, at any ε: a kink at this very point, where the numerical one is the
        mean of the two slopes and any value between them is a right answer (a subgradient).
    agrees: whether they are equal but for rounding, or the analytic one is a subgradient.
    """

    where: int | None
    analytic: float
    numerical: float
    kink: bool
    agrees: bool


@dataclass(frozen=True)
class ParameterCheck:
    """One parameter tensor. ``error`` is ‖analytic − numerical‖ / (‖analytic‖ + ‖numerical‖) over its probes without kinks.

    largest: the largest absolute entry of its gradient.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    probes: Sequence[Probe]

    @property
    def error(self) -> float:
        smooth = [probe for probe in self.probes if not probe.kink]
        apart = _norm(probe.analytic - probe.numerical for probe in smooth)
        size = _norm(probe.analytic for probe in smooth) + _norm(probe.numerical for probe in smooth)
        return apart / size if size > 0 else 0.0

    @property
    def agrees(self) -> bool:
        return all(probe.agrees for probe in self.probes)

    @property
    def worst(self) -> Probe:
        return max(self.probes, key=lambda probe: (not probe.agrees, abs(probe.analytic - probe.numerical)))


def _norm(values: Iterable[float]) -> float:
    return math.hypot(*values)


def check_gradients(
    loss: "Callable[[], torch.Tensor]",
    parameters: "Sequence[tuple[str, torch.nn.Parameter]]",
    entries: int = 10,
    seed: int = 0,
) -> list[ParameterCheck]:
    """Compare the gradients of ``loss`` with its differences.

    Args:
        loss: evaluates it, a float64 scalar, always the same for the same parameters.
        parameters: by name, float64, each asking for a gradient. They are changed on the way and put back.
        entries: of each parameter that are looked at one by one, drawn at random; all, where it has fewer.
        seed: of these and of the directions.
    """
    import torch

    for _, parameter in parameters:
        parameter.grad = None
    here = loss()
    here.backward()
    value, checks = float(here.detach()), []
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            directions: list[tuple[int | None, torch.Tensor]] = []
            count = parameter.numel()
            for place in sorted(torch.randperm(count, generator=random)[:entries].tolist()):
                single = torch.zeros(count, dtype=parameter.dtype)
                single[place] = 1.0
                directions.append((place, single.view(parameter.shape)))
            through_all = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
            directions.append((None, through_all / through_all.norm()))
            probes = [_probe(loss, value, parameter, gradient, way, where) for where, way in directions]
            checks.append(ParameterCheck(name, tuple(parameter.shape), float(gradient.abs().max()), probes))
    return checks


def _probe(
    loss: "Callable[[], torch.Tensor]",
    value: float,
    parameter: "torch.nn.Parameter",
    gradient: "torch.Tensor",
    direction: "torch.Tensor",
    where: int | None,
) -> Probe:
    analytic = float((gradient * direction).sum())
    kept = parameter.detach().clone()

    def at(distance: float) -> float:
        parameter.copy_(kept + distance * direction)
        try:
            return float(loss())
        finally:
            parameter.copy_(kept)

    for part in FINER:
        step = part * STEP
        above, below = at(step), at(-step)
        numerical = (above - below) / (2 * step)
        rounding = ROUNDING * abs(value) / step
        if abs(analytic - numerical) <= TOLERANCE * max(abs(analytic), abs(numerical)) + rounding:
            return Probe(where, analytic, numerical, False, True)
        slopes = sorted(((above - value) / step, (value - below) / step))
        # Where the loss is smooth, the slopes to both sides differ by ε times its curvature and come together with ε.
        kink = slopes[1] - slopes[0] > 1e-3 * max(abs(slopes[0]), abs(slopes[1])) + 4 * rounding
    return Probe(where, analytic, numerical, kink, kink and slopes[0] - rounding <= analytic <= slopes[1] + rounding)


# ------------------------------------------------------------------- the command


def gradcheck(overrides: list[str], *, images: int, entries: int, plant: str | None, form: str) -> int:
    """Check the gradients of the network and loss that ``overrides`` choose, and print a table; returns 1 where they disagree.

    Args:
        overrides: as for ``train.py``.
        images: training images that the loss is the mean over.
        entries: see ``check_gradients``.
        plant: a parameter whose gradient is doubled before it is compared; or None.
        form: ``table`` or ``csv``.

    Raises:
        ConfigError: the configuration is wrong, or there is no parameter called ``plant``.
    """
    config = compose([*overrides, *([] if _sets_precision(overrides) else ["trainer.precision=fp64"])])
    if config.trainer.precision != "fp64":
        raise ConfigError("gradients are checked in float64: leave trainer.precision out, or set it to fp64.")
    parameters, loss, seen = _network_and_loss(config, images)
    names = [name for name, _ in parameters]
    if plant is not None:
        if plant not in names:
            raise ConfigError(
                f"--plant {plant}: the network has no such parameter.{did_you_mean(plant, names)} It has {', '.join(names)}."
            )
        dict(parameters)[plant].register_hook(lambda gradient: 2 * gradient)
    checks = check_gradients(loss, parameters, entries)
    if form == "csv":
        _write(checks)
        return int(not all(check.agrees for check in checks))
    count = sum(parameter.numel() for _, parameter in parameters)
    print(
        f"{config.model.name} ({count:,} trained parameters) · {config.init.name} init · {config.loss.name} over {seen} "
        f"images of {config.data.name} · seed {config.seed} · float64, ε = {STEP:g}"
    )
    if plant is not None:
        print(f"planted: the gradient of {plant} is doubled")
    _show(checks)
    wrong = [check for check in checks if not check.agrees]
    kinks = sum(probe.kink for check in checks for probe in check.probes)
    at_kinks = f" {kinks} derivatives lie at a kink, where the loss has two slopes." if kinks else ""
    if not wrong:
        worst = max(check.error for check in checks)
        print(f"\nAll {len(checks)} parameters agree; the largest relative error is {worst:.1e}.{at_kinks}")
        return 0
    print(f"\n{len(wrong)} of {len(checks)} parameters disagree.{at_kinks}")
    for check in wrong:
        probe = check.worst
        place = "along a direction through all entries" if probe.where is None else f"at entry {probe.where}"
        ratio = f", {probe.analytic / probe.numerical:.4g} times as much" if probe.numerical else ""
        print(
            f"  {check.name}: {place} backpropagation says {probe.analytic:.6g}, the loss {probe.numerical:.6g}{ratio}"
        )
    return 1


def _sets_precision(overrides: list[str]) -> bool:
    return any(override.lstrip("+").startswith("trainer.precision=") for override in overrides)


def _network_and_loss(
    config: Config, images: int
) -> "tuple[list[tuple[str, torch.nn.Parameter]], Callable[[], torch.Tensor], int]":
    """The trained parameters of a run's network as it starts, its loss over some training images, and how many those are."""
    import torch

    from gradlab.data.sample import sample
    from gradlab.param_groups import trainable
    from gradlab.prepare import check_device_and_libraries, prepare
    from gradlab.tracking.journal import Journal

    check_device_and_libraries(config)
    config.data.fetch()
    splits = config.data.load()
    with tempfile.TemporaryDirectory(prefix="gradlab-gradcheck-") as folder:
        journal = Journal(Path(folder) / "journal.jsonl")  # that of a training which is not made
        prepared = prepare([config], splits, [journal])
        journal.close()
    (learner,) = prepared.learners
    model = learner.model.double().train()
    weights = None if learner.class_weights is None else learner.class_weights.double()
    batch = sample(splits, prepared.data.normalization, images, torch.float64)
    prepared.data.close()

    def loss() -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of dropout: the same units every time
            return config.loss.of(model(batch.images), batch, weights)

    return trainable(model), loss, len(batch.labels)


def _write(checks: Sequence[ParameterCheck]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["parameter", "shape", "probes", "kinks", "largest_gradient", "relative_error", "agrees"])
    for check in checks:
        kinks = sum(probe.kink for probe in check.probes)
        shape, agrees = "x".join(map(str, check.shape)), str(check.agrees).lower()
        writer.writerow([check.name, shape, len(check.probes), kinks, check.largest, check.error, agrees])


def _show(checks: Sequence[ParameterCheck]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("parameter", "shape"):
        table.add_column(heading)
    for heading in ("checked", "largest gradient", "relative error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for check in checks:
        singles = sum(probe.where is not None for probe in check.probes)
        kinks = sum(probe.kink for probe in check.probes)
        said = "agrees" if check.agrees else "[red]wrong[/red]"
        table.add_row(
            check.name,
            "×".join(map(str, check.shape)),
            f"{singles} + 1",
            f"{check.largest:.1e}",
            f"{check.error:.1e}",
            said + (f", {kinks} at kinks" if kinks else ""),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(table)
