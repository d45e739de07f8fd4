"""``gradlab show-schedule``: the learning rate of every step of a run that is not made. Needs no torch and no data."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gradlab.config import Config
from gradlab.entry import compose
from gradlab.errors import ConfigError, GradlabError
from gradlab.schedules.plateau import Plateau

BLUE = "#1f4e79"
MOST_POINTS = 5000  # more than a figure has pixels


def show_schedule(overrides: list[str], into: Path | None) -> int:
    """Print a table of the learning rate and draw it into ``into``, or ``<schedule>_schedule.png``; returns 0.

    Raises:
        ConfigError: the configuration is wrong, or its schedule watches validation.
        GradlabError: the figure cannot be written.
    """
    config = compose(overrides)
    if isinstance(config.schedule, Plateau):
        raise ConfigError(
            "schedule=plateau follows validation, so its learning rate is not known before the training. A run draws it "
            "in plots/learning_rate.png, and its metric is lr."
        )
    into = into or Path(f"{config.schedule.name}_schedule.png")
    try:
        figure(config).savefig(into, format="png", dpi=110)
    except OSError as error:
        raise GradlabError(f"The figure cannot be written: {error}") from error
    console, horizon = Console(), config.horizon
    epochs = f"{horizon.epochs:.4g} epochs of {horizon.steps_per_epoch:,}"
    console.print(
        f"{config.schedule.name} schedule · {config.optimizer.name} lr={config.optimizer.lr:.3g} · "
        f"{horizon.total_steps:,} steps ({epochs})",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table(config))
    console.print(f"drawn in {into}", highlight=False, soft_wrap=True)
    return 0


def table(config: Config) -> Table:
    """The rates at the first and the last step, at the highest and at tenths of the run."""
    horizon = config.horizon
    last = horizon.total_steps - 1
    factors = {step: config.schedule.factor(step, horizon) for step in _steps(horizon.total_steps)}
    shown = {round(tenth * last / 10) for tenth in range(11)} | {max(factors, key=lambda step: factors[step])}
    drawn = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("step", "epoch", "factor", "learning rate"):
        drawn.add_column(heading, justify="right")
    for step in sorted(shown):
        factor = config.schedule.factor(step, horizon)
        drawn.add_row(
            f"{step + 1:,}",
            f"{step / horizon.steps_per_epoch:.2f}",
            f"{factor:.4g}",
            f"{config.optimizer.lr * factor:.4g}",
        )
    return drawn


def figure(config: Config) -> Figure:
    """The learning rate against the optimizer step, counted from 1 as in a run's figures."""
    horizon = config.horizon
    steps = _steps(horizon.total_steps)
    drawn = Figure(figsize=(6, 3.4), layout="constrained")
    axes: Axes = drawn.subplots()
    axes.plot(
        [step + 1 for step in steps],
        [config.optimizer.lr * config.schedule.factor(step, horizon) for step in steps],
        color=BLUE,
    )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{config.schedule.name}, {config.optimizer.name} lr={config.optimizer.lr:.3g}", fontsize=11)
    axes.grid(alpha=0.25)
    return drawn


def _steps(total: int) -> list[int]:
    """All steps of a short run, evenly spaced ones of a long run; the first and the last in any case."""
    points = min(total, MOST_POINTS)
    return sorted({point * (total - 1) // max(points - 1, 1) for point in range(points)})
