"""The verdict over sweeps written by hand, whose right answers a reader can work out."""

import html
import html.parser
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest

from conftest import CONFIGS
from gradlab.analysis.grouping import group
from gradlab.analysis.metric import DEFAULT, Metric, choosing
from gradlab.analysis.ranking import rank
from gradlab.analysis.records import read_run
from gradlab.analysis.sources import find_runs, read_sweep
from gradlab.analysis.table import of_runs, of_settings, verdicts
from gradlab.analysis.verdict import Judged, conclude, judge, metrics_of, write_report
from gradlab.config import build_config
from gradlab.errors import ConfigError
from handmade import write_run, write_sweep
from processes import environment

Points = list[dict[str, Any]]
Values = dict[tuple[str, float], list[Any]]


def points(values: Values) -> Points:
    """``{("adam", 0.01): [0.9, "diverged"]}``: a point for each seed, finished with that accuracy or ended so."""
    made: Points = []
    for (optimizer, lr), outcomes in values.items():
        for seed, outcome in enumerate(outcomes):
            status = outcome if isinstance(outcome, str) else "finished"
            val = outcome if isinstance(outcome, float) else 0.5
            made.append(
                {"optimizer": optimizer, "lr": lr, "seed": seed, "status": status, "val": val, "test": val - 0.02}
            )
    return made


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Judged]:
    def of(values: Values, **sweep: Any) -> Judged:
        return judge(read_sweep(write_sweep(tmp_path / "sweep", points(values), **sweep)), Metric(DEFAULT))

    return of


CLEAR: Values = {
    ("adam", 0.001): [0.80, 0.81, 0.82],
    ("adam", 0.01): [0.95, 0.96, 0.97],
    ("adam", 0.1): [0.50, 0.51, 0.52],
    ("sgd", 0.001): [0.20, 0.21, 0.22],
    ("sgd", 0.01): [0.30, 0.31, 0.32],
    ("sgd", 0.1): ["diverged", "diverged", "diverged"],
}


# ------------------------------------------------------------------------- reading


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", optimizer="momentum", lr=1e-5, seed=3, val=0.91, test=0.9))
    assert (run.seed, run.status, run.seconds) == (3, "finished", 2.0)
    assert run.config["optimizer.lr"] == 1e-5  # YAML writes 1e-05, which its own rules take for text
    assert run.config["model.hidden"] == "[64]"
    assert not {"seed", "name", "output_dir", "plots", "tracking.name"} & run.config.keys()
    assert run.metric(DEFAULT) == 0.91


def test_a_diverged_run_has_no_accuracy(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", status="diverged", val=0.4))
    assert run.metrics[DEFAULT] == 0.4
    assert math.isnan(run.metric(DEFAULT))
    assert run.diverged_at == 11


def test_a_run_without_result_or_with_a_damaged_one_is_read_from_its_journal(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status="running", lr=0.3)
    assert (read_run(folder).status, read_run(folder).config["optimizer.lr"]) == ("running", 0.3)
    (folder / "result.json").write_text('{"status": "fin')
    assert read_run(folder).status == "running"


def test_a_real_run_is_read_like_one_by_hand(tmp_path: Path) -> None:
    """What run.run writes, for real: the same values as its own result.json."""
    from gradlab.run import run

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose(
            "config",
            [
                "tracking=none",
                "plots=false",
                "trainer.max_epochs=1",
                "trainer.threads=1",
                "optimizer.lr=1e-5",
                f"output_dir={tmp_path}",
            ],
        )
    outcome = run(build_config(composed), ["train.py"])
    found, result = read_run(outcome.folder), json.loads((outcome.folder / "result.json").read_text())
    assert found.metric(DEFAULT) == result["metrics"][DEFAULT]
    assert found.metric("test/accuracy") == result["metrics"]["test/accuracy"]
    assert (found.status, found.seed, found.config["optimizer.lr"]) == ("finished", 0, 1e-5)
    assert found.seconds == result["seconds"]["training_and_test"]
    assert found.about["versions"] == result["versions"]


# ------------------------------------------------------------------------ grouping


def test_what_a_choice_brings_along_is_not_swept(judged: Callable[..., Judged]) -> None:
    grouped = judged(CLEAR).grouped
    assert grouped.swept == ("optimizer.name", "optimizer.lr")  # not optimizer.betas, which sgd lacks
    assert [setting.name for setting in grouped.settings][:2] == ["adam lr=0.001", "adam lr=0.01"]
    assert [setting.n for setting in grouped.settings] == [3, 3, 3, 3, 3, 0]


def test_two_optimizers_with_a_rate_of_their_own_differ_in_name_only(judged: Callable[..., Judged]) -> None:
    grouped = judged({("adam", 0.001): [0.9, 0.91], ("sgd", 0.1): [0.8, 0.81]}).grouped
    assert grouped.swept == ("optimizer.name",)


def test_a_list_of_augmentations_is_a_choice(tmp_path: Path) -> None:
    """Its part of the configuration has no name, only the parts of those that were chosen."""
    crop = {"augment.crop": {"name": "crop", "padding": 4}}
    kinds: list[dict[str, Any]] = [{}, crop, crop | {"augment.flip": {"name": "flip"}}]
    made: Points = [{"seed": s, "more": kind} for kind in kinds for s in (0, 1)]
    grouped = group(read_sweep(write_sweep(tmp_path / "s", made)).runs, Metric(DEFAULT))
    assert grouped.swept == ("augment",)
    assert [setting.name for setting in grouped.settings] == ["augment=crop", "augment=crop+flip", "augment=none"]


def test_a_point_that_never_began_is_placed_by_its_overrides(tmp_path: Path) -> None:
    made: Points = [{"lr": lr, "seed": s} for lr in (0.1, 0.01) for s in (0, 1)]
    made += [{"lr": 0.1, "seed": 2, "status": "waiting"}, {"lr": 1.0, "seed": 0, "status": "waiting"}]
    grouped = group(read_sweep(write_sweep(tmp_path / "s", made)).runs, Metric(DEFAULT))
    assert grouped.swept == ("optimizer.lr",)
    assert [(s.name, s.n, s.pending) for s in grouped.settings] == [("lr=0.01", 2, 0), ("lr=0.1", 2, 1), ("lr=1", 0, 1)]


def test_a_run_made_twice_counts_once(tmp_path: Path) -> None:
    for number, val in enumerate([0.9, 0.9, 0.92]):
        write_run(tmp_path / f"run_{number}", seed=number // 2, val=val)
    (setting,) = group(find_runs([tmp_path], tmp_path).runs, Metric(DEFAULT)).settings
    assert (setting.n, setting.repeated, setting.by_seed) == (2, 1, {0: 0.9, 1: 0.92})


# ------------------------------------------------------------------ which is best


def test_the_numbers_are_those_of_the_raw_files(tmp_path: Path) -> None:
    """Every number of sentence one, worked from result.json again by the textbook."""
    from scipy import stats

    sweep = write_sweep(tmp_path / "sweep", points(CLEAR))
    raw = {}
    for path in sorted(sweep.glob("run_*/result.json")):
        result = json.loads(path.read_text())
        raw[path.parent.name] = result.get("metrics", {}).get(DEFAULT)
    best, second = [[raw[f"run_{i:03}"] for i in span] for span in (range(3, 6), range(3))]
    mean, half = sum(best) / 3, stats.t.ppf(0.975, 2) * stats.tstd(best) / 3**0.5
    assert (mean, half) == (pytest.approx(0.96), pytest.approx(0.0248414))
    differences = [a - b for a, b in zip(best, second, strict=True)]
    assert differences == pytest.approx([0.15, 0.15, 0.15])

    conclusion = conclude(sweep)
    assert conclusion.metrics[DEFAULT] == pytest.approx(mean)
    assert conclusion.metrics[f"{DEFAULT}_ci95"] == pytest.approx(half)
    assert conclusion.metrics["test/accuracy"] == pytest.approx(0.94)
    assert conclusion.metrics["best/optimizer.lr"] == 0.01
    assert conclusion.metrics["sweep/diverged"] == 3
    assert conclusion.tags["gradlab.best"] == "adam lr=0.01"
    assert conclusion.lines[0].startswith(
        "adam lr=0.01 is best: a mean validation accuracy of 96.00% ± 2.48% (95% confidence interval, n = 3 seeds), "
        "15.00 points higher than adam lr=0.001 (95% interval 13.99 to 16.01 points, paired over 3 seeds)"
    )
    assert conclusion.lines[1] == (
        "On the test images, which chose nothing, it reaches 94.00% ± 2.48% (n = 3), and the learning rate matters: validation "
        "accuracy is within one point of the best only at 0.01, and below 95.00% at 0.001 (81.00%) and at 0.1 (51.00%)."
    )
    assert conclusion.lines[2] == (
        "Next: the best learning rate lies inside the 3 tried: refine it with 'optimizer.lr=logspace(0.001,0.1,5)'."
    )
    summary = json.loads((sweep / "summary.json").read_text())
    assert summary["best"] == "adam lr=0.01"
    assert [entry["verdict"] for entry in summary["settings"]] == ["best", *["ruled out"] * 4, "diverged"]
    assert summary["settings"][-1]["mean"] is None  # never accuracy 0


def test_what_cannot_be_told_apart_is_not_ranked(judged: Callable[..., Judged]) -> None:
    found = judged({("adam", 0.01): [0.95, 0.90, 0.97], ("sgd", 0.01): [0.91, 0.95, 0.94]})
    assert [rival.setting.name for rival in found.ranking.rivals] == ["sgd"]
    assert "adam has the highest mean validation accuracy, 94.00%" in found.verdict.best
    assert (
        "is not distinguishable from sgd (0.67 points apart, 95% interval -11.59 to 12.92 points" in found.verdict.best
    )
    assert "fresh seeds" in found.verdict.next or "more than 100 seeds" in found.verdict.next


def test_pairs_part_what_intervals_would_not(judged: Callable[..., Judged]) -> None:
    """Two settings whose seeds rise and fall together: their intervals overlap widely, their differences do not vary."""
    found = judged({("adam", 0.01): [0.90, 0.94, 0.98, 0.92], ("sgd", 0.01): [0.88, 0.921, 0.959, 0.90]})
    adam, sgd = (setting.estimate for setting in found.grouped.settings)
    assert adam
    assert sgd
    assert adam.low < sgd.high
    assert found.ranking.rivals == []


def test_unpaired_settings_need_intervals_that_do_not_overlap(tmp_path: Path) -> None:
    made = [
        *({"optimizer": "adam", "seed": seed, "val": val} for seed, val in enumerate([0.95, 0.951, 0.952])),
        *({"optimizer": "sgd", "seed": 10 + seed, "val": val} for seed, val in enumerate([0.90, 0.901, 0.902])),
        *({"optimizer": "lion", "seed": 20 + seed, "val": val} for seed, val in enumerate([0.94, 0.96, 0.92])),
    ]
    ranking = rank(group(read_sweep(write_sweep(tmp_path / "s", made)).runs, Metric(DEFAULT)))
    assert [(o.setting.name, o.ruled_out, o.comparison.paired) for o in ranking.others] == [
        ("lion", False, False),
        ("sgd", True, False),
    ]


def test_a_setting_that_lost_runs_is_not_best_without_saying_so(judged: Callable[..., Judged]) -> None:
    found = judged({("adam", 0.1): [0.99, "diverged", 0.99], ("adam", 0.01): [0.90, 0.91, 0.92]})
    assert found.ranking.best is not None
    assert found.ranking.best.name == "lr=0.01"
    assert any(
        "lr=0.1 has a better mean, 99.00%, but is not taken for best: 1 of 3 diverged" in w
        for w in found.verdict.warnings
    )


def test_what_a_search_stopped_early_is_neither_missing_nor_best(judged: Callable[..., Judged]) -> None:
    """The seeds that were let go on are the lucky ones."""
    found = judged({("adam", 0.1): [0.99, "pruned", 0.98], ("adam", 0.01): [0.90, 0.91, 0.92]})
    assert found.ranking.best is not None
    assert found.ranking.best.name == "lr=0.01"
    assert found.verdict.warnings == [
        "1 of 6 runs was stopped early as hopeless at step 5, by the early accuracy of the setting.",
        "lr=0.1 has a better mean, 98.50%, but is not taken for best: 1 of 3 pruned.",
    ]
    assert "missing" not in found.verdict.next


def test_an_early_accuracy_is_no_result(judged: Callable[..., Judged], tmp_path: Path) -> None:
    """A pruned setting has no mean, no place and no test accuracy, and nothing is claimed of it but where it ended."""
    found = judged(
        {
            ("adam", 0.001): [0.80, 0.81, 0.82],
            ("adam", 0.01): [0.95, 0.96, 0.97],
            ("adam", 0.1): ["pruned", "pruned", "pruned"],
        }
    )
    pruned = found.grouped.settings[-1]
    assert (pruned.name, pruned.n, pruned.stopped, pruned.pending) == ("lr=0.1", 0, 3, 0)
    assert all(run.metrics and run.stopped_at == 5 for run in pruned.runs)  # an accuracy is there, and in no mean
    assert pruned not in [other.setting for other in found.ranking.others]
    assert verdicts(found.grouped, found.ranking)[-1] == (pruned, "pruned")
    assert "only at 0.01, and below 95.00% at 0.001 (81.00%); not known at 0.1 (stopped early, at step 5)" in (
        found.verdict.meaning
    )
    (warning,) = found.verdict.warnings
    assert warning.startswith(
        "3 of 9 runs were stopped early as hopeless at step 5, by the early accuracy of the setting. 1 of 3"
    )
    row = of_settings(found.grouped, found.ranking).rows[-1]
    assert [cell.text for cell in row] == [
        "0.1",
        "–",
        "–",
        "–",
        "0",
        "3 of 3 pruned at step 5",
        "–",
        "–",
        "–",
        "pruned",
    ]
    assert (
        of_runs(found.grouped).rows[-1][-1].text.startswith("stopped at step 5: 90.00% validation accuracy at step 5")
    )
    assert metrics_of(found)["sweep/pruned"] == 3
    write_report(found, tmp_path / "report.html", tmp_path / "plots")
    assert "An early accuracy is no final one" in (tmp_path / "report.html").read_text()


def test_where_every_setting_lost_runs_the_steadiest_is_best(judged: Callable[..., Judged]) -> None:
    found = judged(
        {("adam", 0.1): [0.99, 0.98, "diverged", "diverged"], ("adam", 0.01): [0.90, 0.91, 0.92, "diverged"]}
    )
    assert found.ranking.best is not None
    assert found.ranking.best.name == "lr=0.01"
    assert any("the best of settings that all lost runs: 1 of 4 diverged" in w for w in found.verdict.warnings)


def test_one_lucky_run_is_not_best_where_others_were_repeated(judged: Callable[..., Judged]) -> None:
    found = judged({("adam", 0.1): [0.99, "failed", "failed"], ("adam", 0.01): [0.90, 0.91, 0.92]})
    assert found.ranking.best is not None
    assert found.ranking.best.name == "lr=0.01"
    assert any("one seed only" in warning for warning in found.verdict.warnings)


def test_a_loss_is_better_when_lower(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", points(CLEAR))
    for number, path in enumerate(sorted(sweep.glob("run_*/result.json"))):
        result = json.loads(path.read_text())
        if result["status"] == "finished":
            result["metrics"]["final/train_loss"] = [2.0, 0.5, 1.0, 3.0, 4.0][number // 3] + 0.01 * (number % 3)
            path.write_text(json.dumps(result))
    found = judge(read_sweep(sweep), choosing("final/train_loss"))
    assert found.verdict.best.startswith("adam lr=0.01 is best: a mean final training loss of 0.51")
    assert "lower than adam lr=0.1" in found.verdict.best


def test_settings_are_not_chosen_by_the_test_set() -> None:
    with pytest.raises(ConfigError, match="not chosen by the test set"):
        choosing("test/accuracy")


# --------------------------------------------------------------- sentences at the edges


def test_one_setting(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 0.01): [0.90, 0.92, 0.94]}).verdict
    assert (
        words.best
        == "The only setting has a mean validation accuracy of 92.00% ± 4.97% (95% confidence interval, n = 3 seeds)."
    )
    assert "optimizer.lr=logspace" in words.next


def test_one_run(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 0.01): [0.90]}).verdict
    assert "single seed (n = 1), so there is no interval" in words.best
    assert "'seed=range(3)'" in words.next


def test_single_seeds_are_not_ranked(judged: Callable[..., Judged]) -> None:
    found = judged({("adam", 0.001): [0.8], ("adam", 0.01): [0.95], ("adam", 0.1): [0.5]})
    assert "the highest validation accuracy of 3 settings, 95.00%" in found.verdict.best
    assert "nothing is ranked" in found.verdict.best
    assert all(not other.ruled_out for other in found.ranking.others)


def test_all_diverged(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 1.0): ["diverged"] * 2, ("adam", 10.0): ["diverged"] * 2}).verdict
    assert words.best == "All 4 runs diverged, so there is no best setting."
    assert words.meaning == "The loss stopped being finite at step 11 in 4 runs."
    assert "'optimizer.lr=logspace(0.0001,0.1,4)'" in words.next


def test_everything_failed(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 1.0): ["failed"], ("adam", 10.0): ["failed"]}, status="failed").verdict
    assert words.best == "No run has finished (2 failed), so there is no best setting."
    assert words.meaning == "2 runs told why; the first, adam lr=1 seed=0: RuntimeError: no memory."
    assert "resume=true" in words.next


def test_an_unfinished_sweep_says_what_is_missing(judged: Callable[..., Judged]) -> None:
    found = judged(
        {
            ("adam", 0.001): [0.8, 0.81, "running"],
            ("adam", 0.01): [0.95, 0.96, "waiting"],
            ("adam", 0.1): ["waiting"] * 3,
        },
        status="killed",
    )
    assert found.verdict.warnings[0] == (
        "This sweep is not complete: 4 waiting, 1 running of 9. Missing runs may change the verdict."
    )
    assert "finish the sweep: 5 of 9 points are missing (the same command with resume=true)" in found.verdict.next
    assert [setting.name for setting in found.grouped.settings] == ["lr=0.001", "lr=0.01", "lr=0.1"]
    assert "edge" not in found.verdict.next  # a higher rate is in the grid, and waits


def test_a_sweep_that_has_not_begun(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 0.001): ["waiting"], ("adam", 0.01): ["waiting"]}, status="running").verdict
    assert words.best == "No run has finished (2 waiting), so there is no best setting."


def test_ties_at_100_percent(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 0.01): [1.0, 1.0, 1.0], ("sgd", 0.01): [1.0, 1.0, 1.0]}).verdict
    assert "100.00% (all 3 seeds alike: no interval), but is not distinguishable from" in words.best
    assert "the same mean, paired over 3 seeds" in words.best
    assert "differ by 0, so no number of seeds is likely to part them" in words.next


def test_a_metric_that_is_not_a_number(judged: Callable[..., Judged]) -> None:
    found = judged({("adam", 0.01): [math.nan, 0.9, 0.92], ("sgd", 0.01): [math.nan, math.nan, math.nan]})
    assert found.ranking.best is not None
    assert found.ranking.best.n == 2
    assert found.ranking.others == []


# ----------------------------------------------------------------------- grid edges


@pytest.mark.parametrize(
    ("rates", "best", "override"),
    [
        ([0.01, 0.1, 1.0], 1.0, "optimizer.lr=logspace(1,100,5)"),
        ([0.01, 0.1, 1.0], 0.01, "optimizer.lr=logspace(0.0001,0.01,5)"),
        ([0.25, 0.5, 1.0], 1.0, "optimizer.lr=logspace(1,16,5)"),
    ],
)
def test_a_best_rate_at_the_edge_is_said_with_the_next_grid(
    judged: Callable[..., Judged], rates: list[float], best: float, override: str
) -> None:
    words = judged({("adam", lr): [0.9 if lr == best else 0.5, 0.91 if lr == best else 0.52] for lr in rates}).verdict
    end = "highest" if best == rates[-1] else "lowest"
    assert f"the learning rate {best:g} is the {end} of 3 tried with it" in words.next
    assert f"'{override}'" in words.next


def test_a_rate_below_one_that_diverged_is_at_no_edge(judged: Callable[..., Judged]) -> None:
    words = judged({("adam", 0.01): [0.5, 0.52], ("adam", 0.1): [0.9, 0.91], ("adam", 1.0): ["diverged"] * 2}).verdict
    assert "edge" not in words.next
    assert "at 1 (diverged)" in words.meaning


@pytest.mark.parametrize(
    ("key", "values", "override"),
    [
        ("optimizer.weight_decay", [0.0, 0.1, 0.2], None),  # none at all is no edge
        ("optimizer.weight_decay", [0.2, 0.1, 0.0], "optimizer.weight_decay=linspace(0.2,0.6,5)"),
        ("data.batch_size", [16, 32, 64], "data.batch_size=4,8,16"),
        ("data.batch_size", [64, 32, 16], "data.batch_size=64,128,256"),
    ],
)
def test_other_numbers_have_edges_too(tmp_path: Path, key: str, values: list[float], override: str | None) -> None:
    """The first value is the best."""
    made = [
        {"seed": seed, "val": 0.9 - 0.1 * index + 0.01 * seed, "more": {key: value}}
        for index, value in enumerate(values)
        for seed in (0, 1)
    ]
    words = judge(read_sweep(write_sweep(tmp_path / "s", made)), Metric(DEFAULT)).verdict
    assert (f"'{override}'" in words.next) if override else ("edge" not in words.next)


def test_the_next_grid_stays_within_what_the_choice_takes(tmp_path: Path) -> None:
    """Momentum must be below 1: from 0.8 in steps of 0.1 there is one more, not four."""
    made = [
        {
            "optimizer": "momentum",
            "seed": seed,
            "val": 0.5 + value / 2 + 0.01 * seed,
            "more": {"optimizer.momentum": value},
        }
        for value in (0.6, 0.7, 0.8)
        for seed in (0, 1)
    ]
    words = judge(read_sweep(write_sweep(tmp_path / "s", made)), Metric(DEFAULT)).verdict
    assert "'optimizer.momentum=linspace(0.8,0.9,2)'" in words.next


# ---------------------------------------------------------------------------- report


class Checked(html.parser.HTMLParser):
    """Tags that close in order, and every address and attribute that a browser would follow."""

    EMPTY = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs), attrs
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: Path) -> Checked:
    parser = Checked()
    parser.feed(page.read_text())
    parser.close()
    assert parser.open == []
    return parser


def test_the_report_stands_alone(tmp_path: Path) -> None:
    conclusion = conclude(write_sweep(tmp_path / "sweep", points(CLEAR)))
    page = checked(conclusion.report)
    assert page.tags.count("img") >= 5
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert page.links[0] == "run_000/"
    assert all((conclusion.report.parent / link).is_dir() for link in page.links)
    text = conclusion.report.read_text()
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert "http" not in text.replace("http-equiv", "")
    for sentence in conclusion.lines[:3]:
        assert html.escape(sentence) in text
    assert "python train.py -m optimizer=sgd,adam 'optimizer.lr=logspace(1e-3,1e-1,3)' 'seed=range(3)'" in text.replace(
        "&#x27;", "'"
    )
    drawn = {path.name for path in (tmp_path / "sweep" / "plots").iterdir()}
    assert {
        "metric_by_number.png",
        "losses.png",
        "intervals.png",
        "validation_test.png",
        "time.png",
        "spread.png",
    } == drawn


def test_a_name_cannot_inject_anything(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(2)> $x$ | \" ' [bold]"
    made = points({("adam", 0.01): [0.9, 0.91], (evil, 0.01): [0.8, 0.82], ("sgd", 0.01): ["failed"]})
    for point in made:
        point["name"] = evil
    conclusion = conclude(write_sweep(tmp_path / "sweep", made, name=evil))
    page = checked(conclusion.report)
    assert page.tags.count("script") == 1
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "<script>alert" not in conclusion.report.read_text()


@pytest.mark.parametrize(
    "values",
    [
        {("adam", 0.01): [0.9]},
        {("adam", 0.01): ["waiting"]},
        {("adam", 0.01): ["failed"], ("sgd", 0.1): ["failed"]},
        {("adam", 1.0): ["diverged"] * 2, ("sgd", 1.0): ["diverged"] * 2},
        {("adam", 0.01): [1.0, 1.0], ("sgd", 0.01): [1.0, 1.0]},
        {("adam", 0.01): [math.nan, 0.9]},
    ],
    ids=["one run", "waiting", "failed", "diverged", "ties", "nan"],
)
def test_every_kind_of_sweep_has_a_report(tmp_path: Path, values: Values) -> None:
    conclusion = conclude(write_sweep(tmp_path / "sweep", points(values)))
    checked(conclusion.report)
    assert len(conclusion.lines) >= 3
    assert all(math.isfinite(value) for value in conclusion.metrics.values())
    json.loads((tmp_path / "sweep" / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def test_three_swept_keys_and_two_numbers_have_pictures_of_their_own(tmp_path: Path) -> None:
    made: Points = [
        {"lr": lr, "seed": seed, "val": 0.5 + lr + decay / 2 + 0.01 * seed, "more": {"optimizer.weight_decay": decay}}
        for lr in (0.01, 0.1)
        for decay in (0.0, 0.5)
        for seed in (0, 1)
    ]
    two = conclude(write_sweep(tmp_path / "two", made))
    assert (two.report.parent / "plots" / "heat_map.png").is_file()
    wide = [{**point, "more": {**point["more"], "data.batch_size": size}} for point in made for size in (16, 64)]
    three = conclude(write_sweep(tmp_path / "three", wide))
    assert {"parallel.png", "marginals.png"} <= {path.name for path in (three.report.parent / "plots").iterdir()}


def test_it_is_concluded_again_when_more_has_finished(tmp_path: Path) -> None:
    values: Values = {("adam", 0.01): [0.9, "waiting"], ("sgd", 0.01): [0.8, 0.81]}
    first = conclude(write_sweep(tmp_path / "sweep", points(values), status="running"))
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    write_run(tmp_path / "sweep" / "late", optimizer="adam", lr=0.01, seed=1, val=0.92, test=0.9)
    record["points"][1] |= {"status": "finished", "folder": "late"}
    record["status"] = "finished"
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(record))
    second = conclude(tmp_path / "sweep")
    assert (first.metrics["sweep/finished"], second.metrics["sweep/finished"]) == (3, 4)
    assert second.metrics["best/n"] == 2


def test_it_needs_no_torch_and_no_mlflow(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", points(CLEAR))
    program = (
        "import sys; from pathlib import Path; from gradlab.analysis.verdict import conclude\n"
        "early = {'matplotlib'} & set(sys.modules)\n"
        f"conclude(Path({str(sweep)!r}))\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'sklearn', 'scipy'} & set(sys.modules) | early\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
