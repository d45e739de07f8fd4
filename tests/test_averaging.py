"""Averages of the weights beside sums written out by hand, and which network is judged, kept and tested."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from gradlab.checkpoints import Checkpointer, load_checkpoint, parameters_sha256
from gradlab.classifier import Classifier
from gradlab.data.module import ImageData
from gradlab.durations import Horizon
from gradlab.errors import FieldError
from gradlab.learner import Learner
from tiny import choice, fit, mlp, normed, splits, weights

STEPS = 13
ADAM: Any = choice("optimizer", "adam", lr=0.02)
State = dict[str, torch.Tensor]


class Witness(pl.Callback):
    """Notes the network after every chunk."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(module, Classifier)
        self.states.append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})


def trained(network: Any, averaging: Any) -> tuple[list[State], State | None]:
    """The network after every step, the first one before any, and the average at the end where there is one."""
    witness, averages = Witness(), []

    def look(module: Classifier, *_: Any) -> None:
        average = module.learner.averaging.network()
        averages.append(None if average is None else dict(average.state_dict()))
        assert module.learner.judged is (average or module.model)
        assert average is None or not average.training

    # A round of one step is a chunk of one.
    fit(network(), ADAM, STEPS, averaging=averaging, callbacks=[witness], round_steps=1, then=look)
    return [dict(network().state_dict()), *witness.states], averages[0]


def assert_same(one: State | None, other: State) -> None:
    assert one is not None
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor.to(one[name].dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", [mlp, normed])
@pytest.mark.parametrize(("start", "every"), [(0, 1), (4, 1), (0, 3), (3, 4)])
def test_ema_is_a_weighted_mean(network: Any, start: int, every: int) -> None:
    """With bias correction: every weight taken in counts (decay to its age), divided by the sum of that."""
    decay = 0.7
    averaging = choice("averaging", "ema", decay=decay, start=f"{start} steps", every=f"{every} steps")
    states, average = trained(network, averaging)
    taken = [states[step] for step in range(start + every, STEPS + 1, every)]
    shares = [decay**age for age in reversed(range(len(taken)))]
    expected = dict(taken[-1])
    for name, last in taken[-1].items():
        if last.is_floating_point():
            sums = torch.stack([share * state[name] for share, state in zip(shares, taken, strict=True)]).sum(0)
            expected[name] = sums / sum(shares)
    assert_same(average, expected)


@pytest.mark.parametrize("start", [0, 4])
def test_ema_without_correction_begins_as_the_weights_at_its_start(start: int) -> None:
    averaging = choice("averaging", "ema", decay=0.7, bias_correction=False, start=f"{start} steps")
    states, average = trained(mlp, averaging)
    expected = dict(states[start])
    for state in states[start + 1 :]:
        expected = {name: 0.7 * expected[name] + 0.3 * state[name] for name in expected}
    assert_same(average, expected)


@pytest.mark.parametrize("network", [mlp, normed])
@pytest.mark.parametrize(("start", "every", "steps"), [("0", "1 steps", range(1, 14)), ("50%", "3 steps", [10, 13])])
def test_swa_is_the_mean(network: Any, start: str, every: str, steps: Any) -> None:
    states, average = trained(network, choice("averaging", "swa", start=start, every=every))
    taken = [states[step] for step in steps]
    expected = {
        name: torch.stack([state[name] for state in taken]).mean(0) if first.is_floating_point() else taken[-1][name]
        for name, first in states[0].items()
    }
    assert_same(average, expected)


def test_ema_is_torchs() -> None:
    """torch's AveragedModel takes the first weights whole and has no correction."""
    witness = Witness()
    averaging = choice("averaging", "ema", decay=0.7, bias_correction=False, start="1 steps")
    module, _ = fit(mlp(), ADAM, STEPS, averaging=averaging, callbacks=[witness], round_steps=1)
    torchs = torch.optim.swa_utils.AveragedModel(mlp(), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7))
    model = mlp()
    for state in witness.states:
        model.load_state_dict(state)
        torchs.update_parameters(model)
    torch.testing.assert_close(weights(module.learner.judged), weights(torchs.module), rtol=0, atol=1e-12)


def test_averaging_does_not_change_what_is_trained() -> None:
    ends = [
        fit(normed(), ADAM, STEPS, averaging=choice("averaging", name, **changes), round_steps=rounds)[0]
        for name, changes, rounds in (("none", {}, 5), ("ema", {}, 5), ("swa", {"every": "1 steps"}, 2))
    ]
    assert torch.equal(weights(ends[0].model), weights(ends[1].model))
    assert torch.equal(weights(ends[0].model), weights(ends[2].model))


def test_validation_judges_the_average_and_before_its_start_the_network() -> None:
    class Judge(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float, bool]] = []

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            assert isinstance(module, Classifier)
            normalize, val = trainer.datamodule._preparations[0].normalize, splits().val  # type: ignore[attr-defined]
            images = normalize(torch.from_numpy(val.images))
            loss = F.cross_entropy(module.learner.judged(images), torch.from_numpy(val.labels)).item()
            self.seen.append((module.learner.ledger.last_val["val/loss"], loss, module.learner.judged is module.model))

    judge = Judge()
    fit(mlp(), ADAM, 20, averaging=choice("averaging", "ema", start="10 steps"), callbacks=[judge])
    assert [is_model for *_, is_model in judge.seen] == [True, True, False, False]
    assert [told for told, *_ in judge.seen] == pytest.approx([found for _, found, _ in judge.seen], abs=1e-12)


def test_the_best_and_the_tested_network_is_the_average_and_last_holds_both(tmp_path: Path) -> None:
    checkpointers: list[Checkpointer] = []

    def keep(learner: Learner) -> Checkpointer:
        checkpointers.append(Checkpointer(learner, tmp_path, seconds=0, about={}))
        return checkpointers[0]

    found: dict[str, Any] = {}

    def test(module: Classifier, trainer: pl.Trainer, data: ImageData) -> None:
        average, model = module.learner.judged, module.model
        found["average"], found["model"] = weights(average), weights(model)
        assert not torch.equal(found["average"], found["model"])
        checkpointers[0].restore_best()
        trainer.test(module, datamodule=data, verbose=False)
        assert module._judged is module.learner.judged is module.model
        images = data._preparations[0].normalize(torch.from_numpy(splits().test.images))
        assert torch.equal(module.learner.test_logits, module.model.eval()(images))
        found["sha"] = parameters_sha256(module.model)

    # The accuracy of a single validation is the best there is.
    averaging = choice("averaging", "ema", decay=0.9)
    fit(normed(), ADAM, 20, round_steps=20, averaging=averaging, of_learner=[keep], then=test)
    best, _ = load_checkpoint(tmp_path / "best")
    last, state = load_checkpoint(tmp_path / "last")
    model = normed()
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in best.items()})
    assert torch.equal(weights(model), found["average"])
    assert parameters_sha256(model) == found["sha"]
    for part in ("average", "model"):
        prefix = {"average": "averaging.", "model": "model."}[part]
        model.load_state_dict({n.removeprefix(prefix): t for n, t in last.items() if n.startswith(prefix)})
        assert torch.equal(weights(model), found[part])
    assert state["averaging"] == {"taken_in": 20}


@pytest.mark.parametrize(
    ("name", "changes", "field", "says"),
    [
        ("ema", {"decay": 1.0}, "decay", "below 1"),
        ("ema", {"decay": 0.0}, "decay", "above 0"),
        ("ema", {"every": "0"}, "every", "above 0"),
        ("ema", {"every": "3"}, "every", "has no unit"),
        ("swa", {"start": "5 validations"}, "start", "not in validations"),
        ("swa", {"start": "100%"}, "start", "never comes: the run has 100 steps"),
        ("swa", {"start": "200 steps"}, "start", "never comes"),
        ("swa", {"start": "75%", "every": "26 steps"}, "every", "the run has 25 steps after averaging.start"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(FieldError) as caught:
        choice("averaging", name, **changes).check(Horizon(100, 10))
    assert caught.value.field == field
    assert says in caught.value.message
