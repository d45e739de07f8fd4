"""Ladder 4: backpropagation against numerical gradients, by ``gradlab gradcheck``."""

import csv
import io
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import numpy as np

from gradlab.errors import GradlabError
from gradlab.experiments.drawing import COLORS, Figure, above, figure, tidy
from gradlab.experiments.experiment import PICTURES, Experiment, Finding, Form, Outcome

SMOOTH = ("gradcheck", "data=moons", "model.hidden=[5,2]", "model.output=sigmoid")
COMMANDS = (
    SMOOTH,
    (*SMOOTH, "--plant", "3.weight"),
    ("gradcheck", "model=logistic", "loss.label_smoothing=0.1"),
    ("gradcheck", "model=cnn", "model.channels=[8,16]", "model.dropout=0.2", "data.class_weights=balanced"),
    ("gradcheck", "model=vit", "model.depth=1", "model.width=16", "model.heads=2", "--entries", "3"),
)
RED = "#c0392b"


def run(commands: Sequence[Sequence[str]]) -> Outcome:
    """Run the commands, the real ones, and read their tables."""
    checked = [(command, _rows(command)) for command in commands]
    rows: list[dict[str, object]] = [
        {"command": " ".join(command), **row} for command, parameters in checked for row in parameters
    ]
    right = [(command, parameters) for command, parameters in checked if "--plant" not in command]
    planted = [(command, parameters) for command, parameters in checked if "--plant" in command]
    largest = max(float(row["relative_error"]) for _, parameters in right for row in parameters)
    count = sum(len(parameters) for _, parameters in right)
    agree = all(row["agrees"] == "true" for _, parameters in right for row in parameters)
    findings = [
        Finding(
            "right gradients", "agree" if agree else "disagree",
            f"In {len(right)} networks with {count} parameter tensors backpropagation "
            f"{'agrees' if agree else 'does NOT agree everywhere'} with the loss's own differences; the largest relative error is {largest:.1e}.",
        )
    ]  # fmt: skip
    for command, parameters in planted:
        name = command[-1]
        wrong = [row["parameter"] for row in parameters if row["agrees"] != "true"]
        error = next(float(row["relative_error"]) for row in parameters if row["parameter"] == name)
        found = wrong == [name]
        findings.append(
            Finding(
                "a planted error", "found" if found else "not found",
                f"With the gradient of {name} doubled, the check says that {' and '.join(wrong) or 'nothing'} is wrong"
                f"{', and nothing else' if found else ''}: its relative error is {error:.2f}, that is |2g − g| / (|2g| + |g|) = 1/3.",
            )
        )  # fmt: skip
    table = [
        [
            " ".join(command[1:]),
            str(len(parameters)),
            f"{max(float(row['relative_error']) for row in parameters):.1e}",
            "agrees" if all(row["agrees"] == "true" for row in parameters)
            else "wrong: " + ", ".join(row["parameter"] for row in parameters if row["agrees"] != "true"),
        ]
        for command, parameters in checked
    ]  # fmt: skip
    return Outcome(
        ["gradlab gradcheck …", "parameters", "largest relative error", ""], table, findings, _figure(checked), rows
    )


def _rows(command: Sequence[str]) -> list[dict[str, str]]:
    print(f"\n$ gradlab {' '.join(command)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gradlab", *command, "--format", "csv"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise GradlabError(f"the command above ended with exit status {done.returncode}.")
    return list(csv.DictReader(io.StringIO(done.stdout)))


def _figure(checked: list[tuple[Sequence[str], list[dict[str, str]]]]) -> Figure:
    drawn = figure(8, 0.55 * len(checked) + 1.2)
    axes = drawn.subplots()
    for place, (_, parameters) in enumerate(checked):
        errors = np.maximum([float(row["relative_error"]) for row in parameters], 1e-13)
        wrong = np.array([row["agrees"] != "true" for row in parameters])
        spread = place + np.linspace(-0.15, 0.15, len(errors))
        axes.plot(
            errors[~wrong],
            spread[~wrong],
            "o",
            ms=4,
            color=COLORS[0],
            alpha=0.7,
            label="agrees with the differences of the loss" if place == 0 else None,
        )
        if wrong.any():
            axes.plot(errors[wrong], spread[wrong], "x", ms=9, mew=2.5, color=RED, label="does not agree")
    axes.set_xscale("log")
    axes.set_xlim(3e-14, 1)
    axes.set_yticks(range(len(checked)), [_label(command) for command, _ in checked], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("relative error of a gradient (each point: one parameter of the network)")
    above(axes)
    tidy(axes)
    return drawn


def _label(command: Sequence[str]) -> str:
    """A command in lines short enough to stand beside an axis."""
    words = " ".join(command[1:]).replace(" --entries 3", "").replace("--plant ", "planted: ")
    return textwrap.fill(words, 44, break_long_words=False)


EXPERIMENT = Experiment(
    name="gradcheck",
    folder="ladder/4-gradient-checking",
    question="4. Gradient checking: does backpropagation compute the gradient?",
    text="""
A gradient is right where a small step changes the loss as the gradient says: (L(θ + ε) − L(θ − ε)) / 2ε, in float64, for single entries
of every parameter and along a random direction through all of them. `gradlab gradcheck` does that for any model, loss and data that
`train.py` takes. The course plants an error by hand; `--plant 3.weight` doubles that gradient, to see that the check finds it.

At a kink, such as that of a rectifier at 0, a loss has two slopes; a step over one is taken again and shorter, and where the kink lies
at the very point, any slope between the two is a right answer. The table of the command counts them.

*Data.* Moons and digits, which need no file; `gradlab gradcheck data=image_folder data.root=my_pictures data.image_size=64 model=cnn` takes yours.
""",
    forms=(
        Form("moons", COMMANDS, (), 2),
        Form(
            "pictures",
            (("gradcheck", "data=image_folder", f"data.root={PICTURES}", "data.image_size=64", "model=cnn"),),
            (),
        ),
    ),
    own_run=run,
)
