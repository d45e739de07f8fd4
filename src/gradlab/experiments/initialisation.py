"""Ladder 3: zeros, weights far too large, and He's, in the same network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gradlab.analysis.grouping import Setting
from gradlab.analysis.records import Run
from gradlab.experiments.drawing import COLORS, Figure, above, curve, figure, plane, tidy
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, TRAIN_LOSS, against, difference, mean, of, table, written
from gradlab.probe import LayerState, read_states
from gradlab.tracking.folder import RunFolder

BASE = "experiment=ladder/initialisation"
ZEROS, LARGE, HE = "zeros", "normal × 10", "He"


def examine(ran: Ran) -> Outcome:
    named = {_name(setting): setting for setting in ran.grouped().settings}
    settings = {name: named[name] for name in (ZEROS, LARGE, HE)}
    first = {name: _first(setting) for name, setting in settings.items()}
    start = {name: _states(run)[0] for name, run in first.items()}
    findings = [_zeros(settings[ZEROS], start[ZEROS]), _large(settings, start)]
    said, found = against(settings[HE], settings[LARGE], TEST)
    findings.append(
        Finding(
            "He beside weights × 10 on the test set", said,
            f"He's start reaches {written(of(settings[HE], TEST), TEST)} of the test points and weights × 10 {written(of(settings[LARGE], TEST), TEST)}: "
            + (f"He's is better ({difference(found, TEST)})." if said == "above"
               else f"He's is worse ({difference(found, TEST)})." if said == "below"
               else f"they cannot be told apart ({difference(found, TEST)})."),
            ("above", "below") if said == "not distinguishable" else ("not distinguishable",),
        )
    )  # fmt: skip
    headings, rows = table(
        list(settings.values()),
        {"cost at the end": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "test accuracy": TEST},
    )
    headings += ["spread of the first layer's activations at the start", "of its weights' gradients"]
    for row, name in zip(rows, settings, strict=True):
        row[0] = name
        row += [f"{start[name][0].activation_std:.3g}", f"{start[name][0].weight_gradient_std:.3g}"]
    return Outcome(headings, rows, findings, _figure(settings, first))


def _zeros(setting: Setting, start: Sequence[LayerState]) -> Finding:
    """Whether anything at all was learned, and what the layers looked like."""
    still = all(state.weight_gradient_std == 0 and state.activation_std == 0 for state in start[:-1])
    learned = mean(setting, TRAIN_LOSS) < 0.69
    return Finding(
        "zeros", "learns" if learned else "learns nothing",
        f"From zeros the network {'learns something after all' if learned else 'learns nothing'}: its cost stays at {mean(setting, TRAIN_LOSS):.4f} "
        f"(ln 2 = 0.6931) and it is right in {mean(setting, TEST):.1%} of the test points."
        + (" Every activation of its hidden layers is 0, so every weight has the gradient 0, at the first step and for ever." if still and not learned else ""),
    )  # fmt: skip


def _large(settings: dict[str, Setting], start: dict[str, list[LayerState]]) -> Finding:
    factor = start[LARGE][-1].activation_std / start[HE][-1].activation_std
    costs = [mean(settings[name], TRAIN_LOSS) for name in (LARGE, HE)]
    first = [_first_loss(settings[name]) for name in (LARGE, HE)]
    slower = costs[0] > costs[1]
    return Finding(
        "weights × 10 against He, cost at the end", "higher" if slower else "lower",
        f"Weights × 10 make the outputs {factor:,.0f} times as large as He's at the start: where the network errs, it is certain, and its first costs "
        f"are {first[0]:.3g} (mean over the first steps) beside {first[1]:.3g}. At the end the cost is {costs[0]:.3g} beside {costs[1]:.3g} from He's start.",
    )  # fmt: skip


def _first_loss(setting: Setting) -> float:
    from gradlab.analysis.figures import series

    values = [series(RunFolder(run.folder).journal, TRAIN_LOSS)[1][0] for run in setting.finished_runs if run.folder]
    return float(np.mean(values))


def _name(setting: Setting) -> str:
    return {"zeros": ZEROS, "normal": LARGE, "he": HE}[str(setting.runs[0].config["init.name"])]


def _first(setting: Setting) -> Run:
    return min(setting.finished_runs, key=lambda run: run.seed or 0)


def _states(run: Run) -> list[list[LayerState]]:
    """The looks into a run's layers, by step."""
    assert run.folder is not None
    states = read_states(RunFolder(run.folder).layer_states)
    return [[state for state in states if state.step == step] for step in sorted({state.step for state in states})]


def _figure(settings: dict[str, Setting], first: dict[str, Run]) -> Figure:
    planar = all(str(run.config["data.name"]) in ("circles", "moons") for run in first.values())
    drawn = figure(11, 6.6 if planar else 3.6)
    rows = drawn.subplots(2 if planar else 1, 3, squeeze=False)
    costs, activations, gradients = rows[0]
    for index, (name, setting) in enumerate(settings.items()):
        curve(costs, setting.finished_runs, TRAIN_LOSS, name, index)
    costs.set_yscale("log")
    costs.set_ylabel("cost on the training points (nats)")
    above(costs, 1)
    _layers(activations, "activation_std", "activations", first)
    _layers(gradients, "weight_gradient_std", "weight gradients", first)
    if planar:
        for axes, (name, run) in zip(rows[1], first.items(), strict=True):
            plane(axes, run)
            axes.set_title(f"{name} (seed {run.seed})\n{run.metric(TEST):.1%} of the test points right", fontsize=10)
            axes.set_xlabel("points: trained on; colour: the answer", fontsize=8.5)
    return drawn


def _layers(axes: Axes, quantity: str, called: str, first: dict[str, Run]) -> None:
    """A quantity of every layer at a run's start and end; one that is 0 everywhere, which a logarithm cannot show, is named."""
    zero = []
    for index, (name, run) in enumerate(first.items()):
        looks = _states(run)
        lines = {"start": (looks[0], "o-"), "end": (looks[-1], "s:")}
        if not any(getattr(state, quantity) for look, _ in lines.values() for state in look):
            zero.append(name)
            continue
        for when, (look, style) in lines.items():
            values = [getattr(state, quantity) or np.nan for state in look]
            depths = [state.depth for state in look]
            axes.plot(depths, values, style, color=COLORS[index], ms=4, lw=1.2, label=f"{name}, {when}")
    axes.set_yscale("log")
    axes.set_ylabel(f"spread of {called} (std)")
    axes.set_xlabel(
        f"layer (seed {min(run.seed or 0 for run in first.values())})"
        + (f"; {', '.join(zero)}: 0 in every layer" if zero else "")
    )
    axes.set_xticks([1, 2, 3])
    above(axes)
    tidy(axes)


_PICTURES = (
    "data=image_folder", f"data.root={PICTURES}", "data.image_size=64", "~data.examples", "~data.noise", "~data.factor",
    "data.val_fraction=0.2", "data.test_fraction=0.2", "model.output=softmax",
)  # fmt: skip
_LARGE = ("init=normal", "init.std=10")

EXPERIMENT = Experiment(
    name="initialisation",
    folder="ladder/3-initialisation",
    question="3. Initialisation: what do the first weights decide?",
    text="""
A circle in a circle: 300 points to train on (noise 0.05), a network of 10 and 5 rectified units and one sigmoid, 15,000 steps of gradient
descent over all points at once at 0.01. Everything is the same but the first weights: all zero; normal numbers times 10; and He's, normal
numbers times √(2/n). On the way gradlab looks into the layers (`trainer.probe_every`): how large are activations and gradients?

*Data.* Made when it runs (scikit-learn's `make_circles`), with 700 more points to validate and 1,000 to test. `--data my_pictures` takes a
folder of pictures, one folder for each class, in their place.
""",
    forms=(
        Form("circles", ((BASE,), (BASE, *_LARGE)), ("trainer.max_steps=200", "seed=0")),
        Form("pictures", ((BASE, *_PICTURES), (BASE, *_PICTURES, *_LARGE)), ("trainer.max_steps=20", "seed=0")),
    ),
    examine=examine,
)
