"""Ladder 6: gradient descent, momentum and Adam at the course's rate, and each at its own best."""

from collections.abc import Sequence

from gradlab.analysis.grouping import Setting
from gradlab.analysis.metric import DEFAULT
from gradlab.analysis.records import Run
from gradlab.analysis.verdict import Judged
from gradlab.experiments.drawing import Figure, curve, figure, over_rates, plane
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, TRAIN_LOSS, VAL, best_by, best_choice, judged, mean, table

BASE = "experiment=ladder/optimizers"
OPTIMIZERS = {"sgd": "gradient descent", "momentum": "momentum", "adam": "Adam"}
CHANCE = 0.6
"""Of two classes: a network below it has learned nothing."""
PROTOCOL = 2
"""How many of the commands, the first ones, are the course's own; the others are grids of rates."""


def examine(ran: Ran) -> Outcome:
    course = Ran(ran.form, ran.sources[:PROTOCOL])
    grid = (
        Ran(ran.form, ran.sources[PROTOCOL:]) if len(ran.sources) > PROTOCOL else course
    )  # the quick form has no grids
    at_course = {_optimizer(setting): setting for setting in course.grouped().settings}
    present = [name for name in OPTIMIZERS if name in at_course]
    at_course = {name: at_course[name] for name in present}
    verdict = judged(grid.runs)
    own = best_by(verdict.grouped.settings, "optimizer.name")
    findings = [_at_the_courses_rate(at_course), *_at_their_own(verdict, own)]
    headings, rows = table(
        [*at_course.values(), *(own[name] for name in present)],
        {"cost": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "validation": VAL, "test accuracy": TEST},
    )
    windows = [_window([s for s in verdict.grouped.settings if _optimizer(s) == name], own[name]) for name in present]
    headings.append("rates within a point of its best")
    for place, row in enumerate(rows):
        name = present[place % len(present)]
        setting = at_course[name] if place < len(present) else own[name]
        what = "the course's rate" if place < len(present) else "its own best rate"
        row[0] = f"{OPTIMIZERS[name]}, {what}, {_rate(setting):g}"
        row.append("" if place < len(present) else windows[place - len(present)])
    return Outcome(headings, rows, findings, _figure(at_course, verdict.grouped.settings, own))


def _at_the_courses_rate(settings: dict[str, Setting]) -> Finding:
    lowest = min(settings, key=lambda name: mean(settings[name], TRAIN_LOSS))
    told = "; ".join(
        f"{OPTIMIZERS[name]} {mean(one, TRAIN_ACCURACY):.1%} (cost {mean(one, TRAIN_LOSS):.3f})"
        for name, one in settings.items()
    )
    rate = _rate(settings[lowest])
    beside = ""
    if "momentum" in settings and "sgd" in settings:
        apart = abs(mean(settings["sgd"], TRAIN_LOSS) - mean(settings["momentum"], TRAIN_LOSS))
        beside = (
            "; momentum in its exponentially weighted form takes steps no larger than gradient descent's, and their costs "
            f"differ by {apart:.3f}"
        )
    return Finding(
        "the lowest cost at the course's rate", OPTIMIZERS[lowest],
        f"At the rate {rate:g}, training accuracy is: {told}. {OPTIMIZERS[lowest][0].upper()}{OPTIMIZERS[lowest][1:]} gets farthest{beside}.",
    )  # fmt: skip


def _at_their_own(verdict: Judged, own: dict[str, Setting]) -> list[Finding]:
    best, also = best_choice(verdict, "optimizer.name")
    left = [OPTIMIZERS[name] for name in also]
    out = [text for name, text in OPTIMIZERS.items() if name in own and name != best and name not in also]
    each = "; ".join(
        f"{OPTIMIZERS[name]} {own[name].mean:.2%} at {_rate(own[name]):g}" for name in OPTIMIZERS if name in own
    )
    tests = "; ".join(f"{OPTIMIZERS[name]} {mean(own[name], TEST):.2%}" for name in OPTIMIZERS if name in own)
    told = (
        f"{' and '.join(left)} cannot be told from it" + (f", {' and '.join(out)} ruled out" if out else "")
        if left
        else "the others are ruled out as the best"
    )
    seeds = own[best].n
    dead = [_dead(OPTIMIZERS[name], own[name]) for name in OPTIMIZERS if name in own]
    return [
        Finding(
            "the best optimizer, each at its own best rate", OPTIMIZERS[best],
            f"Each with its own best rate, over {seeds} seeds, mean validation accuracy is: {each}. Of all settings {OPTIMIZERS[best]} has the highest; {told}. "
            f"On the test points: {tests}.{''.join(dead)}",
            tuple(left),
        ),
        Finding("gradlab's verdict over all rates", own[best].name, f"gradlab's verdict over all rates: {verdict.verdict.best}",
                tuple(other.setting.name for other in verdict.ranking.rivals)),
    ]  # fmt: skip


def _dead(name: str, setting: Setting) -> str:
    """What must be said where some of the networks answer by chance: their mean is of two kinds."""
    alive = [value for value in setting.by_seed.values() if value > CHANCE]
    lost = setting.n - len(alive)
    if not lost or not alive:
        return ""
    return (
        f" {lost} of the {setting.n} networks of {name} never learned; the mean of the others is "
        f"{sum(alive) / len(alive):.2%}."
    )


def _window(settings: Sequence[Setting], best: Setting) -> str:
    """The rates around the best one at which the mean validation accuracy is within a point of its."""
    ordered = sorted((one for one in settings if one.ended), key=_rate)
    index = ordered.index(best)
    first = last = index
    good = [one.n > 0 and not one.diverged and one.mean >= best.mean - 0.01 for one in ordered]
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(ordered) - 1 and good[last + 1]:
        last += 1
    return f"{_rate(ordered[first]):g}" if first == last else f"{_rate(ordered[first]):g} to {_rate(ordered[last]):g}"


def _figure(at_course: dict[str, Setting], settings: Sequence[Setting], own: dict[str, Setting]) -> Figure:
    planar = str(own["sgd"].runs[0].config["data.name"]) in ("moons", "circles")
    drawn = figure(11, 10 if planar else 4)
    heights = [1, 1.6] if planar else [1]
    above, *below = drawn.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    costs, rates = above.subplots(1, 2)
    for index, (name, setting) in enumerate(at_course.items()):
        curve(costs, setting.finished_runs, TRAIN_LOSS, OPTIMIZERS[name], index)
    costs.set_ylabel("cost on the training points (nats)")
    costs.set_ylim(bottom=0)
    costs.set_title(
        f"all at the course's rate, {_rate(at_course['sgd']):g} (seed {_first(at_course['sgd']).seed})", fontsize=10
    )
    costs.legend(frameon=False)
    over_rates(
        rates, {text: [s for s in settings if _optimizer(s) == name] for name, text in OPTIMIZERS.items()}, DEFAULT
    )
    rates.set_ylabel("validation accuracy")
    rates.set_title(f"each over its own rates: mean of {own['sgd'].n} seeds (small: each seed)", fontsize=10)
    rates.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.15))
    if below:
        below[0].supxlabel("points: trained on; colour: what the network answers there", fontsize=9)
        panels = below[0].subplots(2, len(at_course), squeeze=False)
        for row, chosen in zip(panels, (at_course, own), strict=True):
            for axes, name in zip(row, at_course, strict=True):
                run = _first(chosen[name])
                plane(axes, run)
                axes.set_title(
                    f"{OPTIMIZERS[name]} at {_rate(chosen[name]):g} (seed {run.seed})\n{run.metric(TEST):.1%} of the test points right",
                    fontsize=9,
                )
    return drawn


def _first(setting: Setting) -> Run:
    return min(setting.finished_runs, key=lambda run: run.seed or 0)


def _optimizer(setting: Setting) -> str:
    return str(setting.runs[0].config["optimizer.name"])


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


_PICTURES = (
    "data=image_folder", f"data.root={PICTURES}", "data.image_size=64", "~data.examples", "~data.noise",
    "data.val_fraction=0.2", "data.test_fraction=0.2", "model.output=softmax", "trainer.max_epochs=100",
)  # fmt: skip
_MOMENTUM = ("optimizer=momentum", "optimizer.dampening=0.9")


def _commands(*more: str, epochs: int) -> tuple[tuple[str, ...], ...]:
    grids = (
        ("optimizer=sgd", "optimizer.lr=logspace(0.01,10,7)"),
        (*_MOMENTUM, "optimizer.lr=logspace(0.01,10,7)"),
        ("optimizer=adam", "optimizer.lr=logspace(0.001,1,7)"),
    )
    course = (("optimizer=sgd,adam",), _MOMENTUM)
    own = tuple((BASE, *more, *which, f"trainer.max_epochs={epochs}", "seed=range(10)") for which in grids)
    return (*((BASE, *more, *which) for which in course), *own)


EXPERIMENT = Experiment(
    name="optimizers",
    folder="ladder/6-optimizers",
    question="6. Gradient descent, momentum, Adam: which, and at which rate?",
    text="""
Two moons, 300 points to train on (noise 0.2), a network of 5 and 2 rectified units and one sigmoid, batches of 64. First as the course has
it: all three optimizers at the same rate of 0.0007 for 10,000 epochs; momentum 0.9 in its exponentially weighted form
(`optimizer.dampening=0.9`: v is a mean of gradients, not a sum, so its steps are as long as gradient descent's), Adam with 0.9, 0.999 and 1e-8.

Then what the course leaves open: one rate for all favours the optimizer that it suits. So each is tried at seven rates, a factor of √10
apart, each with ten seeds, and gradlab's verdict says which is best and which cannot be ruled out. These runs have 200 epochs, a fiftieth of
the course's, which is enough at a good rate. Rates are chosen on 700 validation points; the 1,000 test points choose nothing.

*Data.* Made when it runs (scikit-learn's `make_moons`). `--data my_pictures` takes a folder of pictures in their place.
""",
    forms=(
        Form("moons", _commands(epochs=200), ("trainer.max_epochs=10", "optimizer.lr=0.01,0.1", "seed=0,1"), 1),
        Form(
            "pictures",
            _commands(*_PICTURES, epochs=100),
            ("trainer.max_epochs=2", "optimizer.lr=0.01,0.1", "seed=0,1"),
            1,
        ),
    ),
    examine=examine,
)
