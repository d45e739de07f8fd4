"""Ladder 2: two layers or four, on the same pictures."""

from gradlab.analysis.figures import series
from gradlab.analysis.grouping import Setting
from gradlab.experiments.drawing import above, bars, curve, figure
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, TRAIN_LOSS, against, difference, of, table, written
from gradlab.tracking.folder import RunFolder

BASE = "experiment=ladder/depth"


def examine(ran: Ran) -> Outcome:
    settings = sorted(ran.grouped().settings, key=lambda setting: len(_hidden(setting)))
    shallow, deep = settings[0], settings[-1]
    findings = []
    for key, metric, what in (("training", TRAIN_ACCURACY, "training"), ("test", TEST, "test")):
        said, found = against(deep, shallow, metric)
        beside = f"{written(of(deep, metric), metric)} beside {written(of(shallow, metric), metric)}"
        if said == "not distinguishable":
            text = f"On the {what} images the deeper network cannot be told from the shallower one: {beside} ({difference(found, metric)})."
            findings.append(Finding(f"the deeper network on the {key} images", said, text, ("better", "worse")))
        else:
            better = "better" if said == "above" else "worse"
            text = f"On the {what} images the deeper network is {better}: {beside} ({difference(found, metric)})."
            findings.append(Finding(f"the deeper network on the {key} images", better, text, ("not distinguishable",)))
    spikes = {setting.name: _in_a_spike(setting) for setting in (shallow, deep)}
    if any(spikes.values()):
        caught = [
            f"{len(spikes[one.name])} of {one.n} with {_name(one)} (cost {_costs(spikes[one.name])})"
            for one in (shallow, deep)
            if spikes[one.name]
        ]
        findings.append(
            Finding(
                "networks that end in a spike of the cost", "some",
                f"Ended in a spike of its cost, twice as high as it had been or more: {'; '.join(caught)}. The rate is at the edge of what "
                "such a network bears, and where the steps end decides what is measured.",
            )
        )  # fmt: skip
    headings, rows = table(settings, {"cost": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "test accuracy": TEST})
    for row, setting in zip(rows, settings, strict=True):
        row[0] = _name(setting)
    drawn = figure(10, 3.8)
    left, right = drawn.subplots(1, 2, width_ratios=[1.2, 1])
    for index, setting in enumerate(settings):
        curve(left, setting.runs, TRAIN_LOSS, _name(setting), index)
    left.set_ylabel("cost on the training images (nats)")
    left.set_ylim(bottom=0)
    above(left)
    bars(right, settings, [_name(setting) for setting in settings], {"training": TRAIN_ACCURACY, "test": TEST})
    return Outcome(headings, rows, findings, drawn)


def _in_a_spike(setting: Setting) -> list[tuple[float, float]]:
    """For each run whose last cost is at least twice its lowest: the lowest and the last one."""
    found = []
    for run in setting.finished_runs:
        assert run.folder is not None
        _, costs = series(RunFolder(run.folder).journal, TRAIN_LOSS)
        if costs[-1] >= 2 * min(costs):
            found.append((min(costs), costs[-1]))
    return found


def _costs(spikes: list[tuple[float, float]]) -> str:
    return ", ".join(f"{last:.3g} at the end, {lowest:.3g} at its lowest" for lowest, last in spikes)


def _hidden(setting: Setting) -> list[int]:
    text = str(setting.runs[0].config["model.hidden"]).strip("[]")
    return [int(part) for part in text.split(",") if part.strip()]


def _name(setting: Setting) -> str:
    hidden = _hidden(setting)
    return f"{len(hidden) + 1} layers, hidden {'-'.join(map(str, hidden))}"


EXPERIMENT = Experiment(
    name="depth",
    folder="ladder/2-depth",
    question="2. Depth: are four layers better than two?",
    text="""
The pictures of the [first step](../1-learning-rate/README.md), now with hidden layers: 12288-7-1 and 12288-20-7-5-1, ReLU, one sigmoid,
weights drawn from N(0, 1/n) (`init=lecun`), 2,500 steps of gradient descent over all pictures at once at 0.0075. In the course each network
is trained once, with one seed. Here each is trained with several, and both are compared over the same seeds. Which two networks are
compared was not chosen here, so the test images may judge them. There are only fifty of them: one picture is two points, and the
intervals are about other seeds, not about other pictures.

*Data.* As for the first step.
""",
    forms=(
        Form("pictures", ((BASE, f"data.root={PICTURES}"),), ("trainer.max_steps=20", "seed=0,1")),
        Form(
            "digits",
            ((BASE, "data=digits", "model.output=softmax", "optimizer.lr=0.1"),),
            ("trainer.max_steps=50", "seed=0,1"),
        ),
    ),
    examine=examine,
)
