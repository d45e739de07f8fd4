"""A study: DeepOBS' 2c2d and 3c3d by its protocol, 36 constant rates and ten seeds at the best, beside its published runs."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from gradlab.analysis.grouping import Setting
from gradlab.analysis.pictures.style import COLORS, MARKERS, RED
from gradlab.analysis.statistics import Estimate, estimate
from gradlab.entry import CONFIGS
from gradlab.experiments.drawing import Figure, figure, tidy
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, VAL, best_choice, judged, mean, of, table, written
from gradlab.tracking.folder import RunFolder

BASE = "experiment=study/deepobs"
FOLDER = "07-deepobs"
PUBLISHED = CONFIGS.parent / "experiments" / FOLDER / "published.csv"
OPTIMIZERS = {"sgd": "SGD", "momentum": "momentum", "adam": "Adam"}
PROBLEMS = {"2c2d": ("fmnist_2c2d", "2c2d on Fashion-MNIST"), "3c3d": ("cifar10_3c3d", "3c3d on CIFAR-10")}
"""The published problem for each network, and what it is called."""
RATES, SEEDS = 36, 10
"""Of the protocol."""
WIDER = 1.15
"""The drawn window of good rates reaches so far beyond them, lest that of a single rate have no width."""
CHANCE = 2.0
"""A network that is right no more than so many times as often as chance has learned nothing."""


def follow(ran: Ran) -> list[list[str]]:
    """Ten fresh seeds at each optimizer's best rate; five where fewer rates than the protocol's were tried."""
    seeds = SEEDS if _tried(ran) >= RATES else SEEDS // 2
    commands = []
    for place, command in enumerate(ran.form.commands[: len(ran.sources)]):
        kept = [word for word in command if not word.startswith(("optimizer.lr=", "seed="))]
        commands.append([*kept, f"optimizer.lr={_rate(_best(ran, place)):g}", f"seed=range(1,{seeds + 1})"])
    return commands


def examine(ran: Ran) -> Outcome:
    places = {_optimizer(ran.grouped(place).settings[0]): place for place in range(len(ran.sources))}
    places = {name: places[name] for name in OPTIMIZERS if name in places}
    verdict = judged(ran.after())
    final = {_optimizer(one): one for one in verdict.grouped.settings}
    problem, called = PROBLEMS[str(ran.runs[0].config["model.name"])]
    published = published_runs(PUBLISHED, problem)
    headings, rows = table([final[name] for name in places], {"validation": VAL, "test accuracy": TEST})
    headings[1:1] = [f"best of {_tried(ran)} rates", "good rates", "fails from"]
    headings += [f"published for {called}: rate", "published test accuracy"]
    findings = [_the_best(final, *best_choice(verdict, "optimizer.name"))] if len(final) > 1 else []
    windows = {}
    for row, (name, place) in zip(rows, places.items(), strict=True):
        low, high, failing = _window(ran, place)
        windows[name] = (low, high, failing)
        rate, known = published.get(name, (math.nan, None))
        row[0] = OPTIMIZERS[name]
        row[1:1] = [
            f"{_rate(_best(ran, place)):g}",
            f"{low:g} to {high:g}",
            "none tried" if failing is None else f"{failing:g}",
        ]
        row += [f"{rate:g}", f"{written(known, TEST)}, n = {known.n}"] if known else ["", ""]
        findings.append(_its_window(name, low, high, failing, _rate(_best(ran, place))))
    if published:
        findings.append(_beside(ran, places, published, called))
    return Outcome(headings, rows, findings, _figure(ran, places, windows, published, called))


def published_runs(path: Path, problem: str) -> dict[str, tuple[float, Estimate]]:
    """For each optimizer DeepOBS' published rate for ``problem``, and the mean test accuracy of its runs in ``path``."""
    found: dict[str, tuple[float, list[float]]] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["problem"] == problem:
                _, values = found.setdefault(row["optimizer"].lower(), (float(row["learning rate"]), []))
                values.append(float(row["test accuracy"]))
    return {name: (rate, estimate(values)) for name, (rate, values) in found.items()}


def _the_best(final: dict[str, Setting], best: str, also: Sequence[str]) -> Finding:
    left = tuple(OPTIMIZERS[name] for name in also)
    each = "; ".join(
        f"{OPTIMIZERS[name]} {written(of(final[name], TEST), TEST)}" for name in OPTIMIZERS if name in final
    )
    told = f"{' and '.join(left)} cannot be told from it" if left else "the others are ruled out as the best"
    return Finding(
        "the best optimizer at its own best rate", OPTIMIZERS[best],
        f"At its own best rate, over {final[best].n} fresh seeds, {OPTIMIZERS[best]} has the highest mean validation accuracy, {mean(final[best], VAL):.2%}; "
        f"{told}. On the test images: {each}.",
        left,
    )  # fmt: skip


def _its_window(name: str, low: float, high: float, failing: float | None, best: float) -> Finding:
    decades = math.log10(high / low)
    fails = "no rate tried fails" if failing is None else f"from {failing:g} on training fails"
    near = failing is not None and failing / best <= 10**1.001
    return Finding(
        f"how near to its best rate {OPTIMIZERS[name]} fails",
        "within a factor of ten" if near else "farther than a factor of ten",
        f"{OPTIMIZERS[name]}: validation accuracy is within a point of the best from {low:g} to {high:g} ({decades:.1f} decades); {fails}"
        + (f", a factor of {failing / best:.3g} above the best rate." if failing is not None else "."),
    )  # fmt: skip


def _beside(ran: Ran, places: dict[str, int], published: dict[str, tuple[float, Estimate]], called: str) -> Finding:
    rows = [
        f"{OPTIMIZERS[name]} {written(known, TEST)} at {rate:g} (n = {known.n}; ours is {_rate(_best(ran, places[name])) / rate:.2g} times that rate)"
        for name, (rate, known) in published.items()
        if name in places
    ]
    return Finding(
        "published", "see published.csv",
        f"DeepOBS published for {called}, 100 epochs, ten seeds of which those in [published.csv](published.csv) could be read: {'; '.join(rows)}.",
    )  # fmt: skip


def _figure(
    ran: Ran,
    places: dict[str, int],
    windows: dict[str, tuple[float, float, float | None]],
    published: dict[str, tuple[float, Estimate]],
    called: str,
) -> Figure:
    drawn = figure(11, 4.2)
    panels = drawn.subplots(1, max(len(places), 2), sharey=True)
    for index, (axes, (name, place)) in enumerate(zip(panels, places.items(), strict=False)):
        settings = sorted(ran.grouped(place).settings, key=_rate)
        done = [one for one in settings if one.n]
        axes.plot([_rate(one) for one in done], [one.mean for one in done], MARKERS[index] + "-", ms=3.5, lw=1.3, color=COLORS[index], label="seed 0, every rate")  # fmt: skip
        lost = [_rate(one) for one in settings if one.diverged]
        axes.plot(lost, [0.0] * len(lost), "x", color=RED, ms=5, label="diverged (has no accuracy)")
        low, high, _ = windows[name]
        axes.axvspan(
            low / WIDER, high * WIDER, color=COLORS[index], alpha=0.15, lw=0, label="within a point of the best"
        )
        if name in published:
            axes.axvline(published[name][0], color="#222222", ls=":", lw=1.2, label=f"published best rate ({called})")
        axes.set_xscale("log")
        axes.set_xlim(7e-6, 1.4e2)
        axes.set_xlabel("learning rate (constant)")
        axes.set_title(OPTIMIZERS[name], fontsize=10)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        tidy(axes)
    panels[0].set_ylabel("validation accuracy at the end")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, frameon=False, fontsize=8.5, ncols=4, loc="outside lower center")
    return drawn


def _tried(ran: Ran) -> int:
    """How many learning rates each optimizer was given."""
    return max(len(ran.grouped(place).settings) for place in range(len(ran.sources)))


def _best(ran: Ran, place: int) -> Setting:
    return max((one for one in ran.grouped(place).settings if one.n), key=lambda one: one.mean)


def _window(ran: Ran, place: int) -> tuple[float, float, float | None]:
    """The ends of the run of rates around the best one that are within a point of it, and the lowest rate above from which all fail."""
    settings = sorted((one for one in ran.grouped(place).settings if one.ended), key=_rate)
    best = _best(ran, place)
    index = settings.index(best)
    good = [one.n > 0 and not one.diverged and one.mean >= best.mean - 0.01 for one in settings]
    first = last = index
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(settings) - 1 and good[last + 1]:
        last += 1
    chance = CHANCE / _classes(best)
    failing = None
    for one in reversed(settings[index + 1 :]):
        if one.n and not one.diverged and one.mean > chance:
            break
        failing = _rate(one)
    return _rate(settings[first]), _rate(settings[last]), failing


def _classes(setting: Setting) -> int:
    """How many classes its networks tell apart."""
    from gradlab.checkpoints import load_checkpoint

    folder = setting.finished_runs[0].folder
    assert folder is not None
    _, state = load_checkpoint(RunFolder(folder).checkpoints / "best")
    return len(state["images"]["classes"])


def _optimizer(setting: Setting) -> str:
    return str(setting.runs[0].config["optimizer.name"])


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


def _commands(*more: str, decay: str | None = None) -> tuple[tuple[str, ...], ...]:
    chosen = (("optimizer=sgd",), ("optimizer=momentum", "optimizer.momentum=0.99"), ("optimizer=adam",))
    with_decay = (f"optimizer.weight_decay={decay}",) if decay else ()
    return tuple((BASE, *more, *which, *with_decay, "seed=0") for which in chosen)


_QUICK = ("trainer.max_epochs=null", "trainer.max_steps=10", "optimizer.lr=0.001,0.1", "seed=0")
_FULL = ("trainer.max_epochs=100", "trainer.max_steps=null", "trainer.threads=null")
_CIFAR = (
    "data=image_folder",
    f"data.root={PICTURES}",
    "data.image_size=16",
    "model=3c3d",
    "trainer.max_epochs=null",
    "trainer.max_steps=100",
    "optimizer.lr=logspace(1e-5,63.0957,18)",
)

EXPERIMENT = Experiment(
    name="deepobs",
    folder=FOLDER,
    question="DeepOBS: how wide is the window of good learning rates, and where does training fail?",
    text="""
The optimizer benchmark DeepOBS (Schneider, Balles and Hennig, 2019, https://arxiv.org/abs/1903.05499) tunes a constant learning rate over 36
values from 1e-5 to 1e2, a factor of 10^0.2 apart, and then trains ten seeds at the best one. Here are its networks 2c2d and 3c3d with their own
initialisation, batches of 128, SGD, momentum (0.99, as in its published runs) and Adam, 3c3d with an L2 penalty of 0.002 on weights but not on
biases. Points that differ in rate or seed only are what gradlab's populations are for; on a CPU its measurement finds these networks faster alone.

**Scaled down.** DeepOBS trains 100 epochs; two CPU cores do not. 2c2d is trained here for 20 epochs of handwritten digits of 8×8 pixels. So accuracies
are not to be compared with the published ones; windows and failing rates are of the same network and optimizers, but shorter trainings like higher
rates. 3c3d wants larger pictures: with CIFAR-10 (`--data`) it is trained for 100 steps, a quarter of an epoch, at 16×16 pixels, at every second of the
36 rates and with five seeds at the best: enough to see at which rates training fails, but not how good a network gets.
`--full` is the protocol whole (100 epochs; `--data mnist`, with `data=fashion_mnist` among `--with` for the published problem, or CIFAR-10 at 32×32
pixels). It is meant for a GPU and has not been run.

Three things differ from DeepOBS also then: the rate is chosen by validation accuracy, not on the test set; a tenth of the training images is kept for that; and
the ten seeds are fresh ones. *Good* are rates around the best whose validation accuracy is within a point of it; a rate *fails* if it diverges or ends at
no more than twice chance, and "from" means that every higher one fails too.

**Published.** [published.csv](published.csv) holds the final test accuracies of DeepOBS' own runs at its best rates, read from its repository
(github.com/fsschneider/DeepOBS at commit 873bbc2, folder `baselines/`; each row names its file). Its ten seeds are 42 to 51; those rows are the files that could be read.

*Data.* Digits come with scikit-learn. CIFAR-10 as a folder or archive of pictures, one folder for each class (`--data`), in whose place any pictures will do;
MNIST's files below `data/` (`--data mnist`).
""",
    forms=(
        Form("digits", _commands("data=digits", "trainer.max_epochs=20"), _QUICK, 1, follow),
        Form(
            "cifar10",
            _commands(*_CIFAR, decay="0.002"),
            _QUICK,
            1,
            follow,
            (*_FULL, "data.image_size=32", "optimizer.lr=logspace(1e-5,1e2,36)"),
        ),
        Form(
            "mnist",
            _commands("trainer.max_epochs=null", "trainer.max_steps=50"),
            _QUICK,
            1,
            follow,
            _FULL,
            published=True,
        ),
    ),
    examine=examine,
)
