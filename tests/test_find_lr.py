"""The learning-rate finder: what curves support, ramps of real networks, and the commands as real processes."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradlab.checkpoints import load_checkpoint
from gradlab.config import Config, build_config
from gradlab.finder.curve import AGREEMENT, CLIMB, GROWTH, MARGIN, completed, exploded, points, read, smooth
from gradlab.finder.ramp import Ramp, ramp
from gradlab.finder.search import RAMP_STEPS, after_trials, find
from gradlab.interruption import Interrupted, Interruption
from gradlab.sweeps.identity import identity, values_of
from gradlab.tracking.journal import records
from processes import gradlab, train

PNG = b"\x89PNG\r\n\x1a\n"
RATES = np.geomspace(1e-4, 1e-1, 240)
SHORT = ("trainer.max_epochs=null", "trainer.max_steps=25", "trainer.threads=1", "tracking=none")
PATIENCE = 280  # seconds, for a machine with much else to do; a search takes two, importing a few more


def valley(rates: Any, lowest: float, floor: float = 0.2) -> Any:
    """A loss that falls from 2.3 to ``floor`` at ``lowest``, and climbs as the square of the rate from there."""
    logs, end = np.log(rates), math.log(lowest)
    down = np.clip((logs - logs[0]) / (end - logs[0]), 0, 1) * math.log(floor / 2.3)
    return 2.3 * np.exp(down + 2 * np.clip(logs - end, 0, None))


# ------------------------------------------------------------------ curves


def test_smoothing_is_bias_corrected_and_shifts_nothing() -> None:
    level = np.full(50, 2.0)
    np.testing.assert_allclose(smooth(level, 7), level)  # without the correction the ends would be near 0
    bump = np.zeros(101)
    bump[50] = 1.0
    smoothed = smooth(bump, 5)
    np.testing.assert_allclose(smoothed, smoothed[::-1])
    assert smoothed.argmax() == 50


def test_smoothing_is_the_mean_of_two_plain_averages() -> None:
    losses = np.random.default_rng(0).normal(size=12)
    keep = 1 - 1 / 4

    def plain(values: Any, step: int) -> float:
        weights = [keep ** (step - other) for other in range(step + 1)]
        return float(np.dot(weights, values[: step + 1]) / sum(weights))

    expected = [(plain(losses, step) + plain(losses[::-1], 11 - step)) / 2 for step in range(12)]
    np.testing.assert_allclose(smooth(losses, 4), expected)
    np.testing.assert_allclose(smooth(np.stack([losses, -losses]), 4)[1], -np.array(expected))


def test_smoothing_over_one_step_changes_nothing() -> None:
    losses = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(smooth(losses, 1), losses)


def test_the_suggestion_is_below_where_the_loss_climbs() -> None:
    reading = read(RATES, np.stack([valley(RATES, 0.02)] * 3))
    assert reading.doubt is None
    assert reading.points.climbs is not None
    assert reading.points.falling < reading.points.lowest < reading.points.climbs
    assert reading.points.lowest == pytest.approx(0.02, rel=0.3)
    # The loss has climbed by its share where 2·log(rate/lowest) is CLIMB of the fall; averaging adds a little.
    exact = 0.02 * math.exp(CLIMB * math.log(2.3 / 0.2) / 2)
    assert reading.suggestion == pytest.approx(exact / MARGIN, rel=0.25)
    np.testing.assert_allclose([vote or 0 for vote in reading.votes], reading.suggestion or 0)


def test_the_suggestion_moves_with_the_curve_and_with_the_margin() -> None:
    near, far = (read(RATES, valley(RATES, edge)[None]).suggestion for edge in (0.01, 0.03))
    assert near is not None
    assert far == pytest.approx(3 * near, rel=0.1)
    assert read(RATES, valley(RATES, 0.01)[None], margin=3.0).suggestion == pytest.approx(near * MARGIN / 3)


def test_noise_hardly_moves_the_suggestion() -> None:
    noise = np.random.default_rng(0).lognormal(0, 0.2, (3, len(RATES)))
    clean = read(RATES, valley(RATES, 0.02)[None]).suggestion
    noisy = read(RATES, valley(RATES, 0.02) * noise)
    assert noisy.doubt is None
    assert clean is not None
    assert noisy.suggestion is not None
    assert clean / 1.5 < noisy.suggestion < clean * 1.5


def test_doubt_where_the_loss_never_falls() -> None:
    reading = read(RATES, np.full((3, len(RATES)), 2.3))
    assert reading.suggestion is None
    assert reading.doubt is not None
    assert "falls by no more than" in reading.doubt


def test_doubt_where_the_loss_never_climbs() -> None:
    reading = read(RATES, np.stack([np.geomspace(2.3, 0.1, len(RATES))] * 3))
    assert reading.suggestion is None
    assert reading.doubt is not None
    assert "does not climb" in reading.doubt


def test_doubt_where_ramps_disagree() -> None:
    apart = np.stack([valley(RATES, edge) for edge in (0.003, 0.003 * 1.5 * AGREEMENT)])
    reading = read(RATES, apart)
    assert reading.suggestion is not None
    assert reading.doubt is not None
    assert "do not agree" in reading.doubt


def test_doubt_where_weights_grow_behind_normalising_layers() -> None:
    losses = np.stack([valley(RATES, 0.02)] * 3)
    still = np.full(losses.shape, 1.1)
    assert read(RATES, losses, still).doubt is None
    grown = read(RATES, losses, still * GROWTH)
    assert grown.growth == pytest.approx(1.1 * GROWTH)
    assert grown.doubt is not None
    assert "normalising layers" in grown.doubt
    assert read(RATES, losses, np.full(losses.shape, np.nan)).doubt is None  # they started at 0


def test_doubt_where_the_suggestion_fails_from_a_cold_start() -> None:
    reading = read(RATES, np.stack([valley(RATES, 0.02)] * 3))
    assert reading.suggestion is not None
    fine = np.array([0.5, 0.6, 0.7])
    assert after_trials(reading, fine, fine / 1.2) is reading
    failed = after_trials(reading, np.array([0.5, 2.3, 0.7]), fine)
    assert failed.suggestion == pytest.approx(reading.suggestion / 3)
    assert failed.doubt is not None
    assert "1 of 3 trainings of 60 steps" in failed.doubt


def test_an_explosion_is_noticed_and_cut() -> None:
    assert not exploded([])
    assert not exploded([2.0] * 100)
    assert exploded([2.0, math.inf])
    assert exploded([2.0, math.nan])
    assert not exploded([2.0] * 20 + [100.0] * 5)  # too early to tell from a bad start
    assert exploded([2.0] * 40 + [100.0] * 5)
    whole = completed(np.array([2.0] * 6 + [1.0, math.inf]), 12)
    np.testing.assert_array_equal(whole, [2.0] * 6 + [1.0] + [6.0] * 5)


def test_points_of_a_curve_by_hand() -> None:
    rates = np.array([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    found = points(rates, np.array([1.0, 0.9, 0.1, 0.101, 0.9]))
    assert (found.lowest, found.climbs, found.steepest) == (100.0, 10_000.0, 10.0)
    assert found.fall == pytest.approx(0.9)


# ------------------------------------------------------------------ ramps


def setting(compose: Callable[..., DictConfig], *overrides: str) -> Config:
    return build_config(compose("trainer=cpu", "trainer.threads=1", *overrides))


def test_a_ramp_trains_at_rates_that_rise_by_one_factor(compose: Callable[..., DictConfig]) -> None:
    config = setting(compose, "optimizer=sgd")
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: Any, *arguments: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        run = ramp(config, config.data.load(), 1e-4, 1e-1, 31, 0)
    np.testing.assert_allclose(seen, np.geomspace(1e-4, 1e-1, 31))
    assert len(run.losses) == 31
    assert run.losses[-1] < run.losses[0]
    assert not run.normalised


def test_a_ramp_ends_where_the_loss_explodes(compose: Callable[..., DictConfig]) -> None:
    config = setting(compose, "optimizer=sgd")
    run = ramp(config, config.data.load(), 1e-3, 1e6, 200, 0)
    assert len(run.losses) < 200
    assert len(run.growth) == len(run.losses)
    assert exploded(run.losses.tolist())


def test_groups_keep_their_proportions_and_their_own_rates(compose: Callable[..., DictConfig]) -> None:
    seen: dict[str, list[list[float]]] = {"layers": [], "muon": []}
    for name, overrides in {
        "layers": ("optimizer=adam", "param_groups=layerwise"),
        "muon": ("optimizer=muon",),
    }.items():
        config = setting(compose, *overrides)

        def hook(optimizer: Any, arguments: Any, named: Any, into: list[list[float]] = seen[name]) -> None:
            into.append([group["lr"] for group in optimizer.param_groups])

        handle = register_optimizer_step_post_hook(hook)
        try:
            ramp(config, config.data.load(), 1e-5, 1e-3, 11, 0)
        finally:
            handle.remove()
    layers = np.array(seen["layers"])
    assert layers.shape[1] > 2
    np.testing.assert_allclose(layers / layers[:, :1], np.tile(layers[0] / layers[0, 0], (11, 1)))
    np.testing.assert_allclose(layers.max(1), np.geomspace(1e-5, 1e-3, 11))
    muon = np.array(seen["muon"])
    np.testing.assert_allclose(muon[:, 0], np.geomspace(1e-5, 1e-3, 11))
    np.testing.assert_array_equal(muon[:, 1], 0.003)  # adamw_lr: what is searched for does not set it


def test_a_search_leaves_every_generator_as_it_was(compose: Callable[..., DictConfig]) -> None:
    config = setting(compose, "data=moons", "model=mlp", "model.hidden=[8]", "optimizer=adam")
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    first = find(config, config.data.load)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]
    other_seed = find(
        setting(compose, "data=moons", "model=mlp", "model.hidden=[8]", "optimizer=adam", "seed=5"), config.data.load
    )
    assert other_seed.suggestion == first.suggestion  # the answer is the setting's, not the seed's
    np.testing.assert_array_equal(other_seed.reading.losses, first.reading.losses)


def test_a_signal_ends_a_ramp(compose: Callable[..., DictConfig]) -> None:
    config, interruption = setting(compose, "optimizer=sgd"), Interruption()
    interruption.signum = 15
    with pytest.raises(Interrupted) as raised:
        ramp(config, config.data.load(), 1e-4, 1e-2, 1000, 0, interruption)
    assert raised.value.signum == 15


@pytest.mark.parametrize(
    "optimizer",
    ["nesterov", "rmsprop", "adagrad", "adadelta", "lion", "lamb", "adamax", "nadam", "radam", "schedule_free_adamw"],
)
def test_every_family_of_optimizers_can_be_ramped(compose: Callable[..., DictConfig], optimizer: str) -> None:
    needs = ("schedule=constant",) if optimizer.startswith("schedule_free") else ()
    if needs:
        pytest.importorskip("schedulefree")
    config = setting(compose, f"optimizer={optimizer}", *needs)
    run = ramp(config, config.data.load(), 1e-6, 1.0, 40, 0)
    assert 30 < len(run.losses) <= 40
    assert np.isfinite(run.losses[:30]).all()


def test_the_ramp_is_a_schedule() -> None:
    from gradlab.durations import Horizon

    found = [Ramp("ramp", 0.01, 100.0).factor(step, Horizon(5, 2)) for step in range(5)]
    np.testing.assert_allclose(found, [0.01, 0.1, 1.0, 10.0, 100.0])
    assert Ramp("ramp", 0.5, 2.0).factor(0, Horizon(1, 1)) == pytest.approx(0.5)


def test_a_searched_rate_is_part_of_what_a_point_is(compose: Callable[..., DictConfig]) -> None:
    plain, searched = setting(compose), setting(compose, "find_lr=true")
    assert "find_lr" not in values_of(plain)
    assert identity(values_of(plain)) != identity(values_of(searched))
    assert "find_lr" not in plain.composed
    assert searched.composed["find_lr"] is True


# ------------------------------------------------------------------ commands


def test_find_lr_suggests_draws_and_writes(tmp_path: Path) -> None:
    found = gradlab(tmp_path, "find-lr", "optimizer=adam", "trainer.threads=1", timeout=PATIENCE)
    assert found.status == 0, found.err
    assert found.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adam_mlp_digits_find_lr.json",
        "adam_mlp_digits_find_lr.png",
    ]
    assert (tmp_path / "adam_mlp_digits_find_lr.png").read_bytes().startswith(PNG)
    told = json.loads((tmp_path / "adam_mlp_digits_find_lr.json").read_text())
    assert told["sure"] is True
    assert told["doubt"] is None
    assert 0.003 < told["suggestion"] < 0.03  # the full grid's best is 0.0178; experiments/04-find-lr
    assert told["configured"] == 0.001
    assert f"suggestion  optimizer.lr={told['suggestion']:.3g}" in found.out
    assert np.array(told["losses"]).shape == (3, RAMP_STEPS)
    assert len(told["rates"]) == len(told["smoothed"]) == RAMP_STEPS


def test_find_lr_says_that_it_is_not_sure(tmp_path: Path) -> None:
    """All weights of two hidden layers at 0: no gradient gets anywhere but to the last bias."""
    found = gradlab(
        tmp_path, "find-lr", "--into", "mine.png", "optimizer=sgd", "init=zeros", "trainer.threads=1", timeout=PATIENCE
    )
    assert found.status == 0, found.err
    assert "not sure: the loss falls by no more than" in found.out
    assert "suggestion" not in found.out
    told = json.loads((tmp_path / "mine.json").read_text())
    assert told["sure"] is False
    assert told["suggestion"] is None
    assert (tmp_path / "mine.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer=adm"], "there is no optimizer 'adm'"),
        (["optimizer.lr=-1"], "optimizer.lr must be above 0"),
        (["--into", "nowhere/mine.png"], "must name a .png file in a folder that is there"),
        (["--into", "mine.jpg"], "must name a .png file"),
    ],
    ids=str,
)
def test_a_mistake_is_told_at_once(tmp_path: Path, arguments: list[str], message: str) -> None:
    found = gradlab(tmp_path, "find-lr", *arguments)
    assert found.status == 2
    assert found.out == ""
    assert message in found.err
    assert found.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_find_lr_must_be_true_or_false(tmp_path: Path) -> None:
    run = train(tmp_path, "find_lr=maybe")
    assert run.status == 2
    assert "find_lr must be true or false (set on the command line: find_lr=maybe)." in run.err


def test_a_run_trains_with_the_rate_found_and_with_the_same_bits_as_without_the_search(tmp_path: Path) -> None:
    setting = (
        "model=cnn",
        "model.channels=[4]",
        "model.dropout=0.2",
        "optimizer=momentum",
        "seed=3",
        "plots=false",
        *SHORT,
    )
    (tmp_path / "searched").mkdir()
    (tmp_path / "plain").mkdir()
    searched = train(tmp_path / "searched", "find_lr=true", *setting, timeout=PATIENCE)
    assert searched.status == 0, searched.err
    told = json.loads((searched.run / "find_lr" / "find_lr.json").read_text())
    config = yaml.safe_load((searched.run / "config.yaml").read_text())
    assert config["find_lr"] is True
    rate = config["optimizer"]["lr"]
    assert rate == (told["suggestion"] if told["sure"] else 0.02)
    assert searched.result["find_lr"]["chosen"] == rate
    tags = [record["tags"] for record, _ in records(searched.run / "journal.jsonl") if record["kind"] == "tags"]
    assert any("gradlab.find_lr" in tag for tag in tags)
    plain = train(tmp_path / "plain", f"optimizer.lr={rate}", *setting, timeout=PATIENCE)
    assert plain.status == 0, plain.err
    assert "find_lr" not in plain.result
    assert searched.result["parameters_sha256"] == plain.result["parameters_sha256"]
    one, other = (load_checkpoint(finished.run / "checkpoints" / "last")[0] for finished in (searched, plain))
    assert any(name.startswith("optimizer.") for name in one)
    assert set(one) == set(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_a_run_keeps_its_rate_where_the_search_is_not_sure(tmp_path: Path) -> None:
    run = train(tmp_path, "find_lr=true", "optimizer=sgd", "init=zeros", *SHORT, timeout=PATIENCE)
    assert run.status == 0, run.err
    assert "find_lr: kept the configured 0.1; not sure: the loss falls by no more than" in run.out
    assert yaml.safe_load((run.run / "config.yaml").read_text())["optimizer"]["lr"] == 0.1
    assert (run.run / "find_lr" / "find_lr.png").read_bytes().startswith(PNG)


def test_each_setting_of_a_sweep_has_its_own_rate_and_its_seeds_share_it(tmp_path: Path) -> None:
    sweep = train(
        tmp_path,
        *("-m", "find_lr=true", "optimizer=sgd,adam", "seed=0,1", "hydra.launcher.workers=1"),
        *("data=moons", "model.hidden=[16]", *SHORT),
        timeout=PATIENCE,
    )
    assert sweep.status == 0, sweep.out + sweep.err
    (folder,) = (tmp_path / "outputs").glob("*_sweep_*")
    rates: dict[str, set[float]] = {}
    for file in folder.glob("runs/*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        rates.setdefault(config["optimizer"]["name"], set()).add(float(config["optimizer"]["lr"]))
    assert set(rates) == {"sgd", "adam"}
    assert all(len(found) == 1 for found in rates.values())
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["settings"]) == 2


def test_a_sweep_over_the_rate_that_is_searched_for_is_refused(tmp_path: Path) -> None:
    sweep = train(tmp_path, "-m", "find_lr=true", "optimizer.lr=0.1,0.01", *SHORT)
    assert sweep.status == 2
    assert "find_lr=true chooses optimizer.lr for each point" in sweep.err
    assert not (tmp_path / "outputs").exists()
