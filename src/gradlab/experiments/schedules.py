"""Ladder 7: a constant rate, one that falls as 1/(1 + t), and half a cosine, for three optimizers."""

from collections.abc import Sequence

from gradlab.analysis.grouping import Setting
from gradlab.analysis.metric import DEFAULT
from gradlab.experiments.drawing import figure, over_rates
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.optimizers import OPTIMIZERS
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, TRAIN_LOSS, VAL, best_by, best_choice, judged, table

BASE = "experiment=ladder/schedules"
SCHEDULES = {"constant": "constant", "inverse_time": "1/(1 + t)", "cosine": "cosine"}


def examine(ran: Ran) -> Outcome:
    findings, chosen = [], []
    lines: dict[str, dict[str, Sequence[Setting]]] = {}
    for name, text in OPTIMIZERS.items():
        runs = [run for run in ran.runs if run.config["optimizer.name"] == name]
        if not runs:
            continue
        verdict = judged(runs)
        own = best_by(verdict.grouped.settings, "schedule.name")
        best, also = best_choice(verdict, "schedule.name")
        tried = sorted({_rate(one) for one in verdict.grouped.settings})
        ends = {tried[0]: ", the lowest tried", tried[-1]: ", the highest tried"}
        each = "; ".join(
            f"{SCHEDULES[key]} {own[key].mean:.2%} at {_rate(own[key]):g}{ends.get(_rate(own[key]), '')}"
            for key in SCHEDULES
        )
        left = tuple(SCHEDULES[key] for key in also)
        told = f"{' and '.join(left)} cannot be told from it" if left else "the others are ruled out as the best"
        findings.append(
            Finding(
                f"the best schedule for {text}", SCHEDULES[best],
                f"{text[0].upper()}{text[1:]}, each schedule at its own best rate: {each} (mean validation accuracy, {own[best].n} seeds). "
                f"{SCHEDULES[best][0].upper()}{SCHEDULES[best][1:]} has the highest; {told}.",
                left,
            )
        )  # fmt: skip
        chosen += [(text, SCHEDULES[key], own[key]) for key in SCHEDULES]
        lines[text] = {
            said: [one for one in verdict.grouped.settings if one.values["schedule.name"] == key]
            for key, said in SCHEDULES.items()
        }
    headings, rows = table(
        [setting for _, _, setting in chosen],
        {"cost": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "validation": VAL, "test accuracy": TEST},
    )
    for row, (optimizer, schedule, setting) in zip(rows, chosen, strict=True):
        row[0] = f"{optimizer}, {schedule}, best rate {_rate(setting):g}"
    drawn = figure(3.7 * max(len(lines), 2), 4.4)
    panels = drawn.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, (text, groups) in zip(panels, lines.items(), strict=True):
        over_rates(axes, groups, DEFAULT)
        axes.set_title(text, fontsize=10)
        axes.set_xlabel("learning rate at its highest")
    panels[0].set_ylabel("validation accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(
        handles,
        labels,
        title=f"schedule of the learning rate (lines: mean of {chosen[0][2].n} seeds; small points: each seed)",
        frameon=False,
        ncols=3,
        loc="outside lower center",
    )
    return Outcome(headings, rows, findings, drawn)


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


_PICTURES = (
    "data=image_folder", f"data.root={PICTURES}", "data.image_size=64", "~data.examples", "~data.noise",
    "data.val_fraction=0.2", "data.test_fraction=0.2", "model.output=softmax", "trainer.max_epochs=100",
)  # fmt: skip


def _commands(*more: str) -> tuple[tuple[str, ...], ...]:
    descending = "optimizer.lr=logspace(0.1,10,5)"
    return (
        (BASE, *more, "optimizer=sgd", descending, "seed=range(5)"),
        (BASE, *more, "optimizer=momentum", "optimizer.dampening=0.9", descending, "seed=range(5)"),
        (BASE, *more, "optimizer=adam", "optimizer.lr=logspace(0.01,1,5)", "seed=range(5)"),
    )


EXPERIMENT = Experiment(
    name="schedules",
    folder="ladder/7-schedules",
    question="7. Schedules: does the learning rate want to fall?",
    text="""
The moons, the network and the three optimizers of the [sixth step](../6-optimizers/README.md), 200 epochs. Each optimizer at five rates,
a factor of √10 apart up to where training fails, with three schedules: the rate stays (`constant`); it falls as 1/(1 + t), t in tenths of the run (`inverse_time`, the course's decay); it
falls along half a cosine to 0 (`cosine`). A schedule changes which rate is the best one, so each is judged at its own.

*Data.* As for the sixth step.
""",
    forms=(
        Form("moons", _commands(), ("trainer.max_epochs=6", "optimizer.lr=0.1", "seed=0,1"), 1),
        Form("pictures", _commands(*_PICTURES), ("trainer.max_epochs=2", "optimizer.lr=0.1", "seed=0,1"), 1),
    ),
    examine=examine,
)
