"""Ladder 1: logistic regression by gradient descent at three learning rates."""

import math

import numpy as np

from gradlab.analysis.figures import series
from gradlab.analysis.grouping import Setting
from gradlab.experiments.drawing import curve, figure
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, TRAIN_LOSS, mean, table
from gradlab.tracking.folder import RunFolder

BASE = "experiment=ladder/learning_rate"


def examine(ran: Ran) -> Outcome:
    settings = sorted(ran.grouped(0).settings, key=_rate, reverse=True)
    ended = [setting for setting in settings if setting.n]
    best = min(ended, key=lambda setting: mean(setting, TRAIN_LOSS))
    order = " < ".join(f"{_rate(setting):g}" for setting in sorted(ended, key=lambda s: mean(s, TRAIN_LOSS)))
    costs = "; ".join(
        f"{mean(s, TRAIN_LOSS):.4f} at {_rate(s):g}" if s.n else f"diverged at {_rate(s):g}" for s in settings
    )
    steps = max(
        int(result)
        for result in (series(RunFolder(run.folder).journal, TRAIN_LOSS)[0][-1] for run in ran.runs if run.folder)
    )
    findings = [
        Finding(
            "costs in order of the rates", order,
            f"After {steps:,} steps the cost is {costs}: of these rates {_rate(best):g} descends farthest.",
        ),
        Finding(
            "the gap between training and test",
            "wide" if _gap(best) > 0.1 else "narrow",
            f"At {_rate(best):g} it answers {mean(best, TRAIN_ACCURACY):.1%} of the training images rightly and {mean(best, TEST):.1%} of the "
            f"test images, {100 * abs(_gap(best)):.1f} points {'fewer: what it has learned of the training images holds for others only in part' if _gap(best) > 0.1 else 'fewer' if _gap(best) >= 0 else 'more'}.",
        ),
    ]  # fmt: skip
    if len(ran.sources) > 1:
        findings.append(_two_outputs(ran))
    headings, rows = table(
        [*settings, *(ran.grouped(1).settings if len(ran.sources) > 1 else [])],
        {"cost": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "test accuracy": TEST},
    )
    for row, setting in zip(rows, [*settings, *(ran.grouped(1).settings if len(ran.sources) > 1 else [])], strict=True):
        outputs = "one sigmoid" if setting.runs[0].config.get("model.output") == "sigmoid" else "softmax"
        row[0] = f"{outputs}, rate {_rate(setting):g}"
    drawn = figure(7, 4)
    axes = drawn.subplots()
    for index, setting in enumerate(settings):
        test = mean(setting, TEST)
        said = f"{test:.0%} of the test images right" if math.isfinite(test) else "diverged"
        curve(axes, setting.runs, TRAIN_LOSS, f"rate {_rate(setting):g}: {said}", index)
    axes.set_ylabel("cost on the training images (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return Outcome(headings, rows, findings, drawn)


def _two_outputs(ran: Ran) -> Finding:
    """Two softmax outputs at half the rates of the same runs with one sigmoid."""
    pairs = []
    for two in ran.of(1):
        rate = float(str(two.config["optimizer.lr"]))
        one = next(run for run in ran.of(0) if math.isclose(float(str(run.config["optimizer.lr"])), 2 * rate))
        assert one.folder is not None
        assert two.folder is not None
        mine = np.array(series(RunFolder(one.folder).journal, TRAIN_LOSS)[1])
        theirs = np.array(series(RunFolder(two.folder).journal, TRAIN_LOSS)[1])
        apart = np.abs(mine - theirs)
        pairs.append((rate, float(apart.max()), float(apart[-1])))
    calm = min(pairs)
    alike = calm[1] < 1e-3
    said = [
        f"at {rate:g} beside {2 * rate:g} the costs differ by {most:.0e} at most over all logged steps and by {last:.0e} at the end"
        for rate, most, last in sorted(pairs)
    ]
    wild = [rate for rate, most, last in pairs if most > 1e-3 > last]
    return Finding(
        "two softmax outputs at half the rate", "the same descent" if alike else "another descent",
        f"Two softmax outputs at half the rate {'go the way of one sigmoid' if alike else 'go another way than one sigmoid'}: {'; '.join(said)}."
        + (f" (One sigmoid at {2 * wild[0]:g} swings to and fro at first, and every swing multiplies the two runs' different roundings.)" if wild else ""),
    )  # fmt: skip


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


def _gap(setting: Setting) -> float:
    return mean(setting, TRAIN_ACCURACY) - mean(setting, TEST)


EXPERIMENT = Experiment(
    name="learning-rate",
    folder="ladder/1-learning-rate",
    question="1. Learning rate: how far does gradient descent get?",
    text="""
Logistic regression on small pictures, cat or not: 64×64 pixels in three colours are 12,288 numbers from 0 to 1, each with a weight that
starts at 0; 1,500 steps of gradient descent over all pictures at once, at three rates. It is the first programming assignment of Andrew
Ng's Deep Learning Specialization, with one picture of 209 held out, because gradlab always validates. Nothing is chosen by it, and
what is tested is the network after the last step.

**One sigmoid or two softmax outputs?** The course has one output z and says σ(z). gradlab's networks have an output for each class;
for two classes (u, v) the softmax says σ(v − u), the same function of z = v − u. But the gradients of u and v are those of z with
opposite signs, so z = v − u moves by both: twice as far at the same rate. In logistic regression two softmax outputs at *half* the
rate therefore go the very same way. In a deeper network they do not: there the layers before the last one get the same gradient
either way, so only the last layer's rate would have to be halved (and its random start is wider, by √2). So the ladder uses
`model.output=sigmoid`, one unit whose logits are (0, z), with the course's own rates; below is measured that the two descents agree.

*Data.* Any folder or archive of pictures of two kinds, one folder for each (`--data`). Those of the figures are the course's cat set
(`train_catvnoncat.h5`, `test_catvnoncat.h5` of its assignments) as `train/cat`, `train/non-cat`, `test/cat` and `test/non-cat`. Without
any: handwritten digits, which are part of scikit-learn. They have 64 numbers in place of 12,288, so much larger rates are stable.
""",
    forms=(
        Form(
            "pictures",
            (
                (BASE, f"data.root={PICTURES}"),
                (BASE, f"data.root={PICTURES}", "model.output=softmax", "optimizer.lr=0.005,0.0005"),
            ),
            ("trainer.max_steps=30",),
        ),
        Form(
            "digits",
            ((BASE, "data=digits", "model.output=softmax", "optimizer.lr=1,0.1,0.01"),),
            ("trainer.max_steps=100",),
        ),
    ),
    examine=examine,
)
