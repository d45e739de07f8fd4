"""Ladder 8: from a folder of pictures to answers about new ones, and what lifts a network's accuracy on few pictures."""

import csv
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradlab.analysis.grouping import Setting
from gradlab.analysis.records import Run
from gradlab.data.datasets.base import Examples
from gradlab.errors import GradlabError
from gradlab.experiments.drawing import Figure, bars, figure
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome, Ran
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, VAL, against, difference, judged, mean, of, table, written
from gradlab.tracking.folder import RunFolder

BASE = "experiment=ladder/own_pictures"
DENSE, CONVOLUTIONAL = "fully connected", "convolutional"
SHIFTED, DECAYED = "changed copies", "weight decay"
SHOWN = 8
"""Mistakes in the figure, at most."""


@dataclass(frozen=True)
class Answers:
    """What ``gradlab predict`` says of test pictures that were written as files.

    examples: the pictures; labels as they are.
    said: the answered class of each, int64 [n].
    sure: its probability, from 0 to 1, [n].
    """

    examples: Examples
    classes: tuple[str, ...]
    said: npt.NDArray[np.int64]
    sure: npt.NDArray[np.float64]

    @property
    def wrong(self) -> npt.NDArray[np.int64]:
        """The pictures that are answered wrongly, the surest mistake first."""
        rows = np.flatnonzero(self.said != self.examples.labels)
        return rows[np.argsort(-self.sure[rows], kind="stable")]

    @property
    def share(self) -> float:
        return 1 - len(self.wrong) / len(self.said)


def examine(ran: Ran) -> Outcome:
    verdict = judged(ran.runs)
    own = _own_best(verdict.grouped.settings)
    best = verdict.ranking.best
    assert best is not None
    chosen = _kind(best)
    run = min(best.finished_runs, key=lambda run: run.seed or 0)
    asked = ask(run)
    headings, rows = table(
        list(own.values()), {"training accuracy": TRAIN_ACCURACY, "validation": VAL, "test accuracy": TEST}
    )
    headings.insert(1, "its own best rate")
    for row, (name, setting) in zip(rows, own.items(), strict=True):
        row[0] = name
        row.insert(1, f"{_rate(setting):g}")
    findings = [_chosen(verdict.ranking.rivals, chosen, own), *_lifts(own), _mistakes(best, run, asked)]
    return Outcome(
        headings, rows, findings, _figure(own, chosen, run, asked), files={"predictions.csv": _listed(asked)}
    )


def ask(run: Run) -> Answers:
    """Write the test pictures of a run as files, and have ``gradlab predict`` answer them, as for anybody's pictures.

    Raises:
        GradlabError: the command failed.
    """
    from PIL import Image

    from gradlab.config import choice
    from gradlab.trained.network import open_trained

    assert run.folder is not None
    trained = open_trained(RunFolder(run.folder).checkpoints / "best", "cpu", [])
    examples = choice("data", trained.config["data"]).load().test
    with tempfile.TemporaryDirectory() as folder:
        for row, image in enumerate(examples.images):
            pixels = np.moveaxis(image, 0, -1)
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(Path(folder) / f"{row:05}.png")
        command = [
            sys.executable,
            "-P",
            "-m",
            "gradlab",
            "predict",
            str(run.folder),
            folder,
            "--format",
            "csv",
            "--device",
            "cpu",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise GradlabError(f"gradlab predict ended with exit status {done.returncode}: {done.stderr.strip()}")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    said = np.array([trained.spec.classes.index(row["class"]) for row in rows])
    return Answers(examples, trained.spec.classes, said, np.array([float(row["probability"]) for row in rows]))


def _chosen(rivals: Sequence[object], chosen: str, own: dict[str, Setting]) -> Finding:
    left = tuple(dict.fromkeys(_kind(rival.setting) for rival in rivals if _kind(rival.setting) != chosen))  # type: ignore[attr-defined]
    each = "; ".join(f"{name} {written(of(setting, VAL), VAL)}" for name, setting in own.items())
    told = f"{', '.join(left)} cannot be told from it" if left else "the others are ruled out as the best"
    return Finding(
        "the best on validation", chosen,
        f"Each at its own best rate, validation accuracy is: {each} ({own[chosen].n} seeds). {_begun(chosen)} has the highest; {told}. "
        f"It answers {written(of(own[chosen], TEST), TEST)} of the test pictures rightly, which chose nothing.",
        left,
    )  # fmt: skip


def _lifts(own: dict[str, Setting]) -> list[Finding]:
    """What each step brings on the test pictures, beside the one before it."""
    pairs = (
        ("a convolutional network", CONVOLUTIONAL, DENSE),
        (SHIFTED, f"{CONVOLUTIONAL} + {SHIFTED}", CONVOLUTIONAL),
        (DECAYED, f"{CONVOLUTIONAL} + {DECAYED}", CONVOLUTIONAL),
        ("both", f"{CONVOLUTIONAL} + {SHIFTED} + {DECAYED}", CONVOLUTIONAL),
    )
    findings = []
    for what, better, plain in pairs:
        if better not in own or plain not in own:
            continue
        said, found = against(own[better], own[plain], TEST)
        word = {"above": "lifts", "below": "lowers"}.get(said, "cannot be seen to change")
        text = (
            f"{_begun(what)} {word} the test accuracy: {mean(own[better], TEST):.1%} beside {mean(own[plain], TEST):.1%} "
            f"({difference(found, TEST)})."
        )
        also = ("above", "below") if said == "not distinguishable" else ("not distinguishable",)
        findings.append(Finding(f"{what} on the test pictures", said, text, also))
    return findings


def _mistakes(best: Setting, run: Run, asked: Answers) -> Finding:
    from gradlab.trained.evaluate import wilson

    low, high = wilson(len(asked.said) - len(asked.wrong), len(asked.said))
    kinds = [
        f"{count} of the {int((asked.examples.labels == index).sum())} of class {name}"
        for index, name in enumerate(asked.classes)
        if (count := int((asked.examples.labels[asked.wrong] == index).sum()))
    ]
    same = abs(asked.share - run.metric(TEST)) < 1e-9
    return Finding(
        "gradlab predict on the test pictures as files",
        "says what the test said" if same else "says something else than the test",
        f"Written as files and handed to `gradlab predict`, {len(asked.said) - len(asked.wrong)} of {len(asked.said)} test pictures are answered "
        f"rightly by the network of seed {run.seed}: {asked.share:.2%}, {'as' if same else 'where'} its test said{'' if same else f' {run.metric(TEST):.2%}'}. "
        f"For other pictures of this kind that means anything from {low:.0%} to {high:.0%} (95% interval over pictures; the intervals above are over seeds)."
        + (f" It errs on {' and '.join(kinds)}." if kinds else ""),
    )  # fmt: skip


def _listed(asked: Answers) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test picture", "is", "answered", "probability"])
    for row, (said, sure) in enumerate(zip(asked.said, asked.sure, strict=True)):
        writer.writerow([row, asked.classes[asked.examples.labels[row]], asked.classes[said], f"{sure:.6f}"])
    return text.getvalue()


def _figure(own: dict[str, Setting], chosen: str, run: Run, asked: Answers) -> Figure:
    drawn = figure(11, 0.62 * len(own) + 1.9)
    left, right = drawn.subfigures(1, 2, squeeze=False, width_ratios=[1.25, 1])[0]
    axes = left.subplots()
    names = [name.replace(" + ", "\n+ ") for name in own]
    bars(axes, list(own.values()), names, {"validation": VAL, "test": TEST})
    shown = asked.wrong[:SHOWN]
    right.suptitle(
        f"{len(asked.wrong)} of {len(asked.said)} test pictures wrong ({chosen}, seed {run.seed})"
        + (", the surest:" if len(asked.wrong) > len(shown) else ""),
        fontsize=9,
    )
    columns = SHOWN // 2
    panels = right.subplots(2, columns, squeeze=False).flat
    for panel in panels:
        panel.axis("off")
    for panel, row in zip(right.axes, shown, strict=False):
        image = np.moveaxis(asked.examples.at(np.array([row]))[0], 0, -1)
        panel.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        said, true = asked.classes[asked.said[row]], asked.classes[asked.examples.labels[row]]
        panel.set_title(f"{true}, taken for\n{said} ({asked.sure[row]:.0%} sure)", fontsize=8)
    return drawn


def _own_best(settings: Sequence[Setting]) -> dict[str, Setting]:
    """Of each kind of network the setting with the highest mean validation accuracy, the plainest kind first."""
    found: dict[str, Setting] = {}
    for setting in sorted((one for one in settings if one.n), key=lambda one: -one.mean):
        found.setdefault(_kind(setting), setting)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] != DENSE, pair[0].count("+"), pair[0])))


def _kind(setting: Setting) -> str:
    config = setting.runs[0].config
    if str(config["model.name"]) == "mlp":
        return DENSE
    parts = [CONVOLUTIONAL]
    if any(key.startswith("augment.") for key in config):
        parts.append(SHIFTED)
    if float(str(config["optimizer.weight_decay"])):
        parts.append(DECAYED)
    return " + ".join(parts)


def _begun(text: str) -> str:
    return text[0].upper() + text[1:]


def _rate(setting: Setting) -> float:
    return float(str(setting.runs[0].config["optimizer.lr"]))


_DENSE = (
    "model=mlp",
    "~model.channels",
    "model.hidden=[20,7,5]",
    "optimizer.lr=0.001,0.003",
    "optimizer.weight_decay=0",
)
_ANY_PICTURES = (BASE, f"data.root={PICTURES}", "seed=range(5)")
_DIGITS = (BASE, "data=digits", "~data.image_size", "trainer.max_epochs=10", "seed=range(5)")

EXPERIMENT = Experiment(
    name="own-pictures",
    folder="ladder/8-own-pictures",
    question="8. One's own pictures: from a folder to answers, and what lifts the accuracy?",
    text="""
A folder with one folder of pictures for each class is all that gradlab needs (`my_pictures/cat`, `my_pictures/non-cat`; or the same below
`train` and `test`; a `.zip` or `.tar.xz` of it will do). The way from there:

```bash
python train.py data=image_folder data.root=my_pictures data.image_size=32 model=cnn           # 1. does it learn at all?
python train.py -m experiment=ladder/own_pictures data.root=my_pictures                        # 2. tune: rate and weight decay, five seeds
python train.py -m experiment=ladder/own_pictures data.root=my_pictures 'augment=[flip,crop]'  # 3. and with changed copies
gradlab compare outputs/*_sweep_*                                                              # 4. which is best, and how sure?
gradlab evaluate best                                                                          # 5. on the test pictures, class by class
gradlab predict best holiday.jpg more_pictures/                                                # 6. what it says of new pictures
```

Every run leaves `plots/mistakes.png`, the test pictures that it got wrong, the surest first: labels that are wrong, kinds of pictures that
the training lacks, things at the edge are found by looking there.

What is measured here is how far each step helps on few pictures: the fully connected network of [step 2](../2-depth/README.md) (hidden layers of 20,
7 and 5), a small convolutional one (8, 16 and 32 channels), the same on changed copies (`augment`: flips and shifts, drawn anew in every epoch),
the same with weight decay (AdamW's, 1), and with both. All have 40 epochs of AdamW with a cosine schedule, pictures of 32×32 pixels, and
their own best of two learning rates. A fifth of the training pictures validate and choose everything; the test pictures choose
nothing. So few pictures make wide intervals: more seeds narrow those below, more pictures alone would say more about other pictures.

*Data.* As for the first step; on digits the changed copies are shifted, not flipped.
""",
    forms=(
        Form(
            "pictures",
            (
                _ANY_PICTURES,
                (*_ANY_PICTURES, "augment=[flip,crop]", "augment.crop.padding=3"),
                (*_ANY_PICTURES, *_DENSE),
            ),
            ("trainer.max_epochs=null", "trainer.max_steps=10", "optimizer.lr=0.003", "seed=0,1"),
            1,
        ),
        Form(
            "digits",
            (_DIGITS, (*_DIGITS, "augment=[translate]"), (*_DIGITS, *_DENSE)),
            ("trainer.max_epochs=null", "trainer.max_steps=10", "optimizer.lr=0.003", "seed=0,1"),
            1,
        ),
    ),
    examine=examine,
)
