"""Ladder 5: L2 and dropout on a network that overfits."""

from gradlab.analysis.grouping import Setting
from gradlab.experiments.drawing import Figure, bars, figure, plane
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import (
    TEST,
    TRAIN_ACCURACY,
    TRAIN_LOSS,
    VAL,
    against,
    difference,
    judged,
    mean,
    of,
    table,
    written,
)

BASE = "experiment=ladder/regularisation"


def examine(ran: Ran) -> Outcome:
    settings = sorted(ran.grouped().settings, key=lambda setting: (_dropout(setting), _decay(setting)))
    plain = next(setting for setting in settings if not _dropout(setting) and not _decay(setting))
    verdict = judged(ran.runs)
    best = verdict.ranking.best
    assert best is not None
    gap = mean(plain, TRAIN_ACCURACY) - mean(plain, TEST)
    said, found = against(best, plain, TEST)
    rivals = tuple(_name(other.setting) for other in verdict.ranking.rivals)
    findings = [
        Finding(
            "without a remedy", "overfits" if gap > 0.02 else "does not overfit",
            f"Without a remedy the network answers {written(of(plain, TRAIN_ACCURACY), TRAIN_ACCURACY)} of the training points rightly and "
            f"{written(of(plain, TEST), TEST)} of the test points: it {'overfits' if gap > 0.02 else 'hardly overfits'}.",
        ),
        Finding("the best on validation", _name(best), f"On the validation points {_words(verdict.verdict.best, settings)}", rivals),
        Finding(
            "the best beside none on the test set",
            "is none" if best is plain else said,
            "No remedy is better than none on the validation points." if best is plain else
            f"The network that validation chose, {_name(best)}, answers {written(of(best, TEST), TEST)} of the test points rightly, "
            + ("which cannot be told from none" if said == "not distinguishable" else f"{'more' if said == 'above' else 'fewer'} than without")
            + f" ({difference(found, TEST)}).",
            ("above", "below") if said == "not distinguishable" else ("not distinguishable",),
        ),
    ]  # fmt: skip
    strongest = max((s for s in settings if _decay(s)), key=_decay)
    gaps = [mean(s, TRAIN_ACCURACY) - mean(s, TEST) for s in (plain, strongest)]
    findings.append(
        Finding(
            "the gap under the strongest L2", "smaller" if gaps[1] < gaps[0] else "not smaller",
            f"With {_name(strongest)} the gap between training and test is {100 * gaps[1]:.1f} points, beside {100 * gaps[0]:.1f} without.",
        )
    )  # fmt: skip
    headings, rows = table(
        settings, {"cost": TRAIN_LOSS, "training accuracy": TRAIN_ACCURACY, "validation": VAL, "test accuracy": TEST}
    )
    for row, setting in zip(rows, settings, strict=True):
        row[0] = _name(setting)
    return Outcome(headings, rows, findings, _figure(settings, plain, best))


def _figure(settings: list[Setting], plain: Setting, best: Setting) -> Figure:
    names = [_name(setting) for setting in settings]
    if str(plain.runs[0].config["data.name"]) not in ("moons", "circles"):
        drawn = figure(7, 0.45 * len(settings) + 1.2)
        axes = drawn.subplots()
    else:
        other = best if best is not plain else max(settings, key=_decay)
        drawn = figure(11, 0.45 * len(settings) + 1.6)
        axes, left, right = drawn.subplots(1, 3, width_ratios=[1.3, 1, 1])
        for panel, setting in ((left, plain), (right, other)):
            run = min(setting.finished_runs, key=lambda run: run.seed or 0)
            plane(panel, run)
            panel.set_title(
                f"{_told(setting)} (seed {run.seed})\n{run.metric(TEST):.1%} of the test points right", fontsize=10
            )
            panel.set_xlabel("points: trained on; colour: the answer", fontsize=8.5)
    bars(axes, settings, names, {"training": TRAIN_ACCURACY, "test": TEST})
    return drawn


def _decay(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.weight_decay"]))


def _dropout(setting: Setting) -> float:
    return float(str(setting.runs[0].config["model.dropout"]))


def _name(setting: Setting) -> str:
    if _dropout(setting):
        return f"dropout {_dropout(setting):g}"
    return f"L2 {_decay(setting):g}" if _decay(setting) else "none"


def _told(setting: Setting) -> str:
    return "no remedy" if _name(setting) == "none" else _name(setting)


def _words(sentence: str, settings: list[Setting]) -> str:
    """The verdict's sentence with this experiment's names for its settings, the longest first."""
    for setting in sorted(settings, key=lambda one: -len(one.name)):
        sentence = sentence.replace(setting.name, _name(setting))
    return sentence


_PICTURES = (
    "data=image_folder", f"data.root={PICTURES}", "data.image_size=64", "~data.examples", "~data.noise",
    "data.val_fraction=0.2", "data.test_fraction=0.2", "model.output=softmax", "optimizer.lr=0.01",
)  # fmt: skip
_DROPOUT = ("optimizer.weight_decay=0", "model.dropout=0.1,0.3,0.5")

EXPERIMENT = Experiment(
    name="regularisation",
    folder="ladder/5-regularisation",
    question="5. Regularisation: what helps a network that knows its training points by heart?",
    text="""
200 points of two moons with much noise (0.3), so that some of them lie on the wrong side; a network of two layers of 50 rectified units and
one sigmoid, 6,000 steps of gradient descent over all points at once at 0.3. Two remedies at several strengths: L2, a penalty of
½λ‖W‖² on the weights (`optimizer.weight_decay`; the course writes λ/2m and has λ = 0.7, which would be 0.0035 here), and dropout, which leaves a
share of the hidden units out in every step (`model.dropout`; the course's keep_prob of 0.86 is 0.14). Every network is judged at the end:
stopping where validation is best would be a third remedy. The strength is chosen on 800 validation points; the 1,000 test points
then say how good the choice is. The training accuracy under dropout is that of the network with units left out.

*Data.* Made when it runs (scikit-learn's `make_moons`; the course's own points come with its assignment). `--data my_pictures` takes pictures.
""",
    forms=(
        Form("moons", ((BASE,), (BASE, *_DROPOUT)), ("trainer.max_steps=100", "seed=0,1"), 1),
        Form("pictures", ((BASE, *_PICTURES), (BASE, *_PICTURES, *_DROPOUT)), ("trainer.max_steps=10", "seed=0,1")),
    ),
    examine=examine,
)
