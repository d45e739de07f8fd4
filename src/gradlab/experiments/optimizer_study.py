"""A study: eight optimizers, each tuned on validation under one budget, then judged over fresh seeds."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from gradlab.analysis.grouping import Setting, group
from gradlab.analysis.metric import DEFAULT, Metric
from gradlab.analysis.pictures.style import RED, Look
from gradlab.analysis.statistics import Comparison
from gradlab.experiments.drawing import Figure, bars, figure, tidy
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, VAL, against, best_choice, by_seed, judged, mean, of, table, written
from gradlab.tracking.folder import RunFolder

BASE = "experiment=study/optimizers"
OPTIMIZERS = {
    "sgd": "SGD", "momentum": "momentum", "nesterov": "Nesterov", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop",
    "lion": "Lion", "muon": "Muon",
}  # fmt: skip
GRIDS = {
    "momentum": "0.003,0.3", "sgd": "0.01,1", "adam": "0.0003,0.03", "nesterov": "0.003,0.3", "adamw": "0.0003,0.03",
    "rmsprop": "0.0001,0.01", "lion": "0.0001,0.01", "muon": "0.003,0.3",
}  # fmt: skip
"""The ends of each optimizer's five learning rates, around those that are customary for it."""
LEAST = 1e-4
"""The smallest error that is drawn, on a logarithmic axis."""
BEST, AGAIN, FRESH = 2, (6, 7), 5
"""So many settings of each optimizer are tuned with further seeds, these; seeds of the table, from 1 on, of which none has tuned."""
CHANCE = 2.0
"""A network that is right no more than so many times as often as chance has learned nothing."""


def refine(ran: Ran) -> list[list[str]]:
    """Each command's two settings with the highest validation accuracy once more, with further seeds: one seed may be lucky."""
    commands = []
    for place, command in enumerate(ran.form.commands[: len(ran.sources)]):
        best = sorted((one for one in ran.grouped(place).settings if one.n), key=lambda one: -one.mean)[:BEST]
        commands += [_at(setting, command, ",".join(map(str, AGAIN))) for setting in best]
    return commands


def follow(ran: Ran, fresh: int = FRESH) -> list[list[str]]:
    """Each command's setting with the highest validation accuracy once more, over as many ``fresh`` seeds."""
    commands = []
    for place, command in enumerate(ran.form.commands[: len(ran.sources)]):
        commands.append(_at(_tuned(ran, place), command, f"range(1,{fresh + 1})"))
    return commands


def _at(setting: Setting, command: Sequence[str], seeds: str) -> list[str]:
    """The command at the rate and the schedule of one of its settings, with other seeds."""
    kept = [word for word in command if not word.startswith(("optimizer.lr=", "schedule=", "seed="))]
    return [*kept, f"optimizer.lr={_rate(setting):g}", f"schedule={_schedule(setting)}", f"seed={seeds}"]


def examine(ran: Ran) -> Outcome:
    verdict = judged(ran.after())
    settings = {_optimizer(one): one for one in verdict.grouped.settings}
    settings = {name: settings[name] for name in OPTIMIZERS if name in settings}
    best, also = best_choice(verdict, "optimizer.name") if len(settings) > 1 else (next(iter(settings)), ())
    tuned = {_optimizer(_tuned(ran, place)): place for place in range(len(ran.sources))}
    order = sorted(settings, key=lambda name: -mean(settings[name], VAL))
    headings, rows = table([settings[name] for name in order], {"validation": VAL, "test accuracy": TEST})
    headings[1:1] = ["learning rate", "schedule", "rates within a point of it"]
    headings += ["test accuracy beside the first"]
    for row, name in zip(rows, order, strict=True):
        setting = settings[name]
        row[0] = OPTIMIZERS[name]
        row[1:1] = [_told_rate(ran, tuned[name]), _schedule(setting), _window(ran, tuned[name])]
        row.append("" if name == best else _apart(against(setting, settings[best], TEST)[1]))
    findings = [*_findings(settings, best, also), _never_learned(settings)]
    if _tried_schedules(ran) > 1:
        findings.append(_schedules(settings))
    return Outcome(headings, rows, findings, _figure(ran, settings, order))


def _findings(settings: dict[str, Setting], best: str, also: Sequence[str]) -> list[Finding]:
    left = tuple(OPTIMIZERS[name] for name in also)
    out = [OPTIMIZERS[name] for name in settings if name != best and name not in also]
    each = ", ".join(f"{OPTIMIZERS[name]} {mean(one, VAL):.2%}" for name, one in settings.items())
    told = f"{_and(left)} cannot be told from it" if left else "the others are ruled out as the best"
    lower = [
        OPTIMIZERS[name]
        for name, one in settings.items()
        if name != best and against(one, settings[best], TEST)[0] == "below"
    ]
    higher = [
        OPTIMIZERS[name]
        for name, one in settings.items()
        if name != best and against(one, settings[best], TEST)[0] == "above"
    ]
    return [
        Finding(
            "the best optimizer, each tuned under the same budget", OPTIMIZERS[best],
            f"Each tuned under the same budget, mean validation accuracy over {settings[best].n} fresh seeds is: {each}. {OPTIMIZERS[best]} has the "
            f"highest; {told}" + (f", {_and(out)} {'are' if len(out) > 1 else 'is'} ruled out" if left and out else "") + ".",
            left,
        ),
        Finding(
            "the best one on the test images", "none is above it" if not higher else f"{_and(higher)} above it",
            f"On the test images, which chose nothing, {OPTIMIZERS[best]} reaches {written(of(settings[best], TEST), TEST)}. "
            + (f"{_and(lower)} {'are' if len(lower) > 1 else 'is'} below it" if lower else "None of the others is below it")
            + (f", {_and(higher)} above it" if higher else "")
            + " (each pair alone, 95 %, paired over seeds).",
            ("none is above it",) if higher else (),
        ),
    ]  # fmt: skip


def _never_learned(settings: dict[str, Setting]) -> Finding:
    """Means over seeds hide what a few seeds did that failed whole."""
    lost = {name: one.ended - len(_alive(one)) for name, one in settings.items()}
    told = [
        f"{count} of {settings[name].ended} networks of {OPTIMIZERS[name]} (the others reach {_mean(_alive(settings[name])):.2%})"
        for name, count in lost.items()
        if count
    ]
    return Finding(
        "networks that never learned", "some" if told else "none",
        "At its tuned rate every network learned, of every optimizer and seed." if not told else
        f"At its tuned rate never learned, in validation accuracy no better than twice chance: {'; '.join(told)}. Its interval is that wide because of it.",
        ("some", "none"),  # a matter of single seeds
    )  # fmt: skip


def _alive(setting: Setting) -> list[float]:
    """The validation accuracies of those of its networks that learned something."""
    classes = len(json.loads(RunFolder(_folder(setting)).result.read_text())["class_counts"]["train"])
    return [value for value in by_seed(setting, VAL).values() if value > CHANCE / classes]


def _folder(setting: Setting) -> Path:
    return next(run.folder for run in setting.runs if run.folder)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _schedules(settings: dict[str, Setting]) -> Finding:
    falling = [name for name, one in settings.items() if _schedule(one) != "constant"]
    most = "cosine" if 2 * len(falling) > len(settings) else "constant"
    return Finding(
        "the schedule that tuning chose for most", most,
        f"Tuning chose a rate that falls along a cosine for {len(falling)} of {len(settings)} optimizers"
        + (f" ({_and([OPTIMIZERS[name] for name in falling])})" if 0 < len(falling) < len(settings) else "") + ".",
        ("constant", "cosine"),  # few seeds tune, so others may choose otherwise
    )  # fmt: skip


def _figure(ran: Ran, settings: dict[str, Setting], order: Sequence[str]) -> Figure:
    drawn = figure(11.5, 4.8)
    left, right = drawn.subplots(1, 2, width_ratios=[1.25, 1])
    look = Look([OPTIMIZERS[name] for name in settings])
    for place in range(len(ran.sources)):
        by_rate: dict[float, float] = {}
        for setting in ran.grouped(place).settings:
            if setting.n:
                by_rate[_rate(setting)] = max(by_rate.get(_rate(setting), 0.0), setting.mean)
        name = OPTIMIZERS[_optimizer(ran.grouped(place).settings[0])]
        rates = sorted(by_rate)
        left.plot(
            rates, [max(1 - by_rate[rate], LEAST) for rate in rates], color=look.color(name), marker=look.marker(name), ls=look.line(name),
            ms=4.5, lw=1.5, label=name,
        )  # fmt: skip
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("learning rate")
    left.set_ylabel("validation error (one seed)")
    labelled = "123456789" if left.get_ylim()[0] > 0.1 else "1235"  # all of them, where there are few
    for formatter in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:.0%}" if f"{value:e}"[0] in labelled else "")
    left.legend(frameon=False, fontsize=8, ncols=2)
    left.set_title(
        f"tuning: every learning rate{', the better of two schedules' if _tried_schedules(ran) > 1 else ''}",
        fontsize=10,
    )
    tidy(left)
    ordered = [settings[name] for name in order]
    names = [f"{OPTIMIZERS[name]}, {_rate(settings[name]):g}, {_schedule(settings[name])}" for name in order]
    bars(right, ordered, names, {"validation": VAL, "test": TEST})
    _mark_lost(right, ordered)
    right.set_title(f"each at its best setting: {settings[order[0]].n} fresh seeds", fontsize=10, pad=20)
    return drawn


def _mark_lost(axes: Axes, settings: Sequence[Setting]) -> None:
    """Show where the networks are that learned, and write beside them how many others there are: those would fill the axis."""
    alive = [_alive(one) for one in settings]
    if all(len(values) == one.ended for values, one in zip(alive, settings, strict=True)) or not any(alive):
        return
    seen = [*(value for values in alive for value in values)]
    seen += [value for one in settings for value in by_seed(one, TEST).values() if value >= min(seen)]
    pad = 0.1 * (max(seen) - min(seen))
    axes.set_xlim(min(seen) - pad, max(seen) + pad)
    for row, (values, one) in enumerate(zip(alive, settings, strict=True)):
        if len(values) < one.ended:
            axes.annotate(
                f"{one.ended - len(values)} of {one.ended} never learned", (min(seen) - 0.5 * pad, row), color=RED, fontsize=8.5, va="bottom",
            )  # fmt: skip


def _tried_schedules(ran: Ran) -> int:
    return len({run.config["schedule.name"] for run in ran.runs})


def _tuned(ran: Ran, place: int) -> Setting:
    """The chosen setting: of those with most seeds the one with the highest mean validation accuracy, where a diverged run counts as 0."""
    runs = ran.of(place)
    name = runs[0].config["optimizer.name"]
    settings = group(
        [*runs, *(run for run in ran.again() if run.config["optimizer.name"] == name)], Metric(DEFAULT)
    ).settings
    most = max(one.ended for one in settings)
    return max((one for one in settings if one.n and one.ended == most), key=lambda one: one.mean * one.n / one.ended)


def _told_rate(ran: Ran, place: int) -> str:
    """The tuned rate; where it is the lowest or highest tried, a better one may lie beyond it, and that is said."""
    best, rates = _rate(_tuned(ran, place)), sorted(_rate(one) for one in ran.grouped(place).settings)
    end = ", the lowest tried" if best == rates[0] else ", the highest tried" if best == rates[-1] else ""
    return f"{best:g}{end}"


def _window(ran: Ran, place: int) -> str:
    """The rates at which, with the chosen schedule, validation accuracy is within a point of the best."""
    best = _tuned(ran, place)
    beside = [one for one in ran.grouped(place).settings if one.n and _schedule(one) == _schedule(best)]
    at_best = next(one.mean for one in beside if _rate(one) == _rate(best))
    rates = sorted(_rate(one) for one in beside if one.mean >= at_best - 0.01)
    return f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"


def _apart(found: Comparison) -> str:
    return f"{100 * found.difference:+.2f} ± {100 * found.half:.2f} points"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _optimizer(setting: Setting) -> str:
    return str(setting.runs[0].config["optimizer.name"])


def _schedule(setting: Setting) -> str:
    return str(setting.runs[0].config["schedule.name"])


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


def _commands(*more: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (BASE, *more, f"optimizer={name}", f"optimizer.lr=logspace({ends},5)", "seed=0") for name, ends in GRIDS.items()
    )


_CIFAR = (
    "data=image_folder", f"data.root={PICTURES}", "data.image_size=32", "trainer.max_epochs=null", "trainer.max_steps=200",
    "schedule=constant",
)  # fmt: skip
_QUICK = ("trainer.max_epochs=null", "trainer.max_steps=10", "optimizer.lr=0.01,0.1", "schedule=constant", "seed=0")

EXPERIMENT = Experiment(
    name="optimizer-study",
    folder="06-optimizers",
    question="SGD, momentum, Nesterov, Adam, AdamW, RMSprop, Lion, Muon: which, when each is tuned under the same budget?",
    text=f"""
LeNet on MNIST; and, with `--data`, on CIFAR-10 (here compressed again as JPEG) or any other pictures. Every optimizer gets the same budget:

* **Tuning**, seed 0: five learning rates over two decades (around those that are customary for it) times two schedules, constant and
  cosine; every run is one epoch in batches of 128. On CIFAR-10 it is 200 steps, about half an epoch, with a constant rate. Of the {BEST} settings with the
  highest validation accuracy (on a tenth of the training images) two further seeds choose, by the mean of all three
  (with one seed alone, what was chosen failed with others: [LOG.md](../LOG.md)).
* **The table**, {FRESH} fresh seeds (three on CIFAR-10): the chosen setting once more, so that what was lucky in tuning is not counted again. The test
  images are read once a run and choose nothing.

Everything else is what `configs/optimizer/` has: momentum 0.9, betas 0.9 and 0.999 (Lion 0.99), weight decay 0.1 for AdamW, 1 for Lion, 0.01 for
Muon, 0 for the others; Muon moves vectors and the last layer by AdamW at 0.003. The budget is small because two CPU cores
made this record, on CIFAR-10 with half an epoch smaller still; so it says which optimizer gets far *in so few steps*; in a longer training the order may be another. `--full` is the
same study with LeNet for 20 epochs on MNIST, and with a ResNet-20 for 30 epochs of cropped and flipped CIFAR-10. It is meant for a GPU
and has not been run.

*Data.* MNIST's files below `data/` (`--with data.root=…` where they lie elsewhere, `data.download=true` fetches them); CIFAR-10 as a folder or archive of
pictures, one folder for each class (`--data`), in whose place any pictures will do. Without any: handwritten digits and an MLP (`--data digits`).
""",
    forms=(
        Form("mnist", _commands(), _QUICK, 1, follow, ("trainer.max_epochs=20",), published=True, refine=refine),
        Form(
            "cifar10", _commands(*_CIFAR), _QUICK, 1, partial(follow, fresh=3),
            (
                "model=resnet", "model.depth=20", "augment=[crop,flip]", "schedule=constant,cosine", "trainer.max_epochs=30", "trainer.max_steps=null",
                "trainer.threads=null",
            ),
            refine=refine,
        ),
        Form("digits", _commands("data=digits", "model=mlp", "trainer.max_epochs=10"), _QUICK, 1, follow, refine=refine),
    ),
    examine=examine,
)  # fmt: skip
