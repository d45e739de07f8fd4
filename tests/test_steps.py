"""What an optimizer step is: clipping, accumulation, everything with every optimizer, and going on where a training stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlab.checkpoints import Checkpointer, load_checkpoint, save_checkpoint
from gradlab.classifier import Classifier
from gradlab.data.device import Batch
from gradlab.durations import Horizon
from gradlab.errors import CheckpointError
from gradlab.learner import parts_of
from gradlab.optimizers import OPTIMIZERS
from gradlab.tracking.journal import Journal
from tiny import From, batches, choice, classifier, fit, mlp, normed, weights

STEPS = 12
SGD: Any = choice("optimizer", "momentum", lr=0.1)
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ clipping


def clipped_by_hand(model: nn.Module, *, norm: float | None = None, value: float | None = None) -> list[float]:
    """Momentum with its gradients cut by hand; the norms before."""
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD.lr, momentum=SGD.momentum)
    norms = []
    for images, labels, *_ in batches(STEPS):
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
        norms.append(float(sum((g**2).sum() for g in gradients) ** 0.5))
        for parameter, g in zip(model.parameters(), gradients, strict=True):
            if norm is not None:
                g = g * min(1.0, norm / (norms[-1] + 1e-6))
            if value is not None:
                g = g.clamp(-value, value)
            parameter.grad = g
        optimizer.step()
    return norms


def test_clipping_the_norm_is_that_by_hand_and_the_norm_is_told() -> None:
    plain = mlp()
    norms = clipped_by_hand(plain, norm=0.9)
    assert min(norms) < 0.9 < max(norms)  # some are cut and some are not
    module, rows = fit(mlp(), SGD, STEPS, clip_norm=0.9)
    torch.testing.assert_close(weights(module.model), weights(plain), rtol=0, atol=1e-10)
    told = [row["train/gradient_norm"] for _, row in rows if "train/gradient_norm" in row]
    assert told == pytest.approx(norms, rel=1e-9)


def test_a_row_has_the_mean_of_its_steps_norms() -> None:
    norms = clipped_by_hand(mlp(), norm=0.9)
    _, rows = fit(mlp(), SGD, STEPS, clip_norm=0.9, log_steps=5)
    told = [row["train/gradient_norm"] for _, row in rows if "train/gradient_norm" in row]
    assert told == pytest.approx([sum(norms[:5]) / 5, sum(norms[5:10]) / 5, sum(norms[10:]) / 2], rel=1e-9)


def test_clipping_values_is_that_by_hand() -> None:
    plain = mlp()
    clipped_by_hand(plain, value=0.02)
    module, rows = fit(mlp(), SGD, STEPS, clip_value=0.02)
    torch.testing.assert_close(weights(module.model), weights(plain), rtol=0, atol=1e-10)
    assert not any("train/gradient_norm" in row for _, row in rows)


def test_without_clipping_no_norm_is_told() -> None:
    _, rows = fit(mlp(), SGD, STEPS)
    assert not any("train/gradient_norm" in row for _, row in rows)


# -------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("parts", [2, 3, 5, 8])
@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS], ids=["alike", "weighted"])
def test_parts_make_the_step_of_the_whole(parts: int, class_weights: torch.Tensor | None) -> None:
    """Also of the last batch of an epoch, whose 5 images no number of parts here divides."""
    features = {"class_weights": class_weights, "loss": choice("loss", "cross_entropy", label_smoothing=0.1)}
    whole, rows = fit(mlp(), SGD, STEPS, **features)
    cut, cut_rows = fit(mlp(), SGD, STEPS, accumulate=parts, **features)
    torch.testing.assert_close(weights(cut.model), weights(whole.model), rtol=0, atol=1e-10)
    for (_, row), (_, cut_row) in zip(rows, cut_rows, strict=True):
        same = row.keys() - {"throughput/images_per_second"}
        assert {name: cut_row[name] for name in same} == pytest.approx({name: row[name] for name in same}, rel=1e-9)


@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS], ids=["alike", "weighted"])
def test_parts_of_mixed_images_make_the_gradient_of_the_whole(
    class_weights: torch.Tensor | None, tmp_path: Path
) -> None:
    draws = torch.Generator().manual_seed(0)
    images, labels, *_ = batches(1)[0]
    others = torch.randint(3, labels.shape, generator=draws)
    mixed = Batch(images, labels, others, torch.rand(len(labels), generator=draws, dtype=torch.float64))
    found = []
    for parts in (1, 3):
        journal = Journal(tmp_path / f"{parts}.jsonl")
        module = classifier(mlp(), SGD, STEPS, journal, accumulate=parts, class_weights=class_weights)
        loss, right = module.learner._add_gradients(mixed)
        found.append((loss, right, torch.cat([p.grad.flatten() for p in module.model.parameters()])))  # type: ignore[union-attr]
        journal.close()
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=0, atol=1e-12)
    assert found[1][1] == found[0][1]


def test_a_batch_is_cut_into_all_of_it() -> None:
    images, labels, *_ = batches(5)[4]
    assert len(labels) == 5
    sizes = [[len(part.labels) for part in parts_of(Batch(images, labels), count)] for count in (2, 3, 4, 5)]
    assert sizes == [[3, 2], [2, 2, 1], [2, 2, 1], [1, 1, 1, 1, 1]]
    mixed = Batch(images, labels, labels.flip(0), torch.linspace(0, 1, 5))
    for whole, cut in zip(mixed, zip(*parts_of(mixed, 3), strict=True), strict=True):
        assert torch.equal(torch.cat(cut), whole)  # type: ignore[arg-type]


def test_all_at_once_is_that_by_hand() -> None:
    """SAM twice over parts, clipped, no decay on vectors, slow weights; an average beside it."""
    module, _ = fit(
        mlp(),
        choice("optimizer", "adamw", lr=0.02),
        30,
        wrapper=choice("wrapper", "sam"),
        averaging=choice("averaging", "ema", decay=0.8),
        param_groups=choice("param_groups", "no_decay"),
        clip_norm=0.5,
        accumulate=3,
    )
    model = mlp()
    vectors, matrices = ([p for p in model.parameters() if (p.dim() < 2) is small] for small in (True, False))
    groups: list[dict[str, Any]] = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices}]
    optimizer = torch.optim.AdamW(groups, lr=0.02, weight_decay=0.1)
    average, share = torch.zeros_like(weights(model)), 0.0
    for images, labels, *_ in batches(30):
        here = [parameter.detach().clone() for parameter in model.parameters()]
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for parameter, g in zip(model.parameters(), gradients, strict=True):
                parameter.add_(0.05 * g / norm)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for parameter, w in zip(model.parameters(), here, strict=True):
                parameter.copy_(w)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        average, share = 0.8 * average + 0.2 * weights(model), 0.8 * share + 0.2
    torch.testing.assert_close(weights(module.model), weights(model), rtol=0, atol=1e-9)
    torch.testing.assert_close(weights(module.learner.judged), average / share, rtol=0, atol=1e-9)


# -------------------------------------------------------------------------------------- every optimizer, every feature

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_decay": {"param_groups": choice("param_groups", "no_decay")},
    "layerwise": {"param_groups": choice("param_groups", "layerwise", decay_vectors=False)},
    "sam": {"wrapper": choice("wrapper", "sam")},
    "lookahead": {"wrapper": choice("wrapper", "lookahead", k=2)},
    "ema": {"averaging": choice("averaging", "ema")},
    "swa": {"averaging": choice("averaging", "swa", start="1 steps", every="1 steps")},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 0.1},
    "accumulate": {"accumulate": 2},
}
PAIRS = [
    (name, feature)
    for name in OPTIMIZERS
    for feature in FEATURES
    if not (name.startswith("schedule_free") and feature in ("lookahead", "ema", "swa"))
]


@pytest.mark.parametrize(("name", "feature"), PAIRS)
def test_every_optimizer_learns_with_every_feature(name: str, feature: str) -> None:
    """Three epochs of the tiny problem: finite all along, and better at the end."""
    module, rows = fit(mlp(), choice("optimizer", name), 15, round_steps=15, **FEATURES[feature])
    losses = [row["train/loss"] for _, row in rows if "train/loss" in row]
    assert len(losses) == 15
    assert torch.tensor(losses).isfinite().all()
    assert weights(module.learner.judged).isfinite().all()
    assert sum(losses[-5:]) < sum(losses[:5])


# ------------------------------------------------------------------------------------------------------------ going on

CONTINUED: dict[str, dict[str, Any]] = {
    **FEATURES,
    "all": {
        "wrapper": choice("wrapper", "lookahead", k=3),
        "averaging": choice("averaging", "ema", start="3 steps", every="2 steps"),
        "param_groups": choice("param_groups", "layerwise"),
        "schedule": choice("schedule", "plateau", patience="0 validations", gamma=0.5),
        "clip_norm": 0.5,
        "accumulate": 2,
    },
    "late": {"averaging": choice("averaging", "swa", start="16 steps", every="1 steps")},
}


def continued(optimizer: Any, tmp_path: Path, network: Any = mlp, **features: Any) -> tuple[Any, Any]:
    """A training of 25 steps, and one that was stopped after 10, saved, and gone on with by another process' classifier."""

    def ends(module: Classifier, rows: list[tuple[int, dict[str, float]]]) -> Any:
        own = [
            (step, {key: value for key, value in row.items() if not key.startswith("throughput")})
            for step, row in rows
            if step > 10
        ]
        return weights(module.model), weights(module.learner.judged), own

    whole = ends(*fit(network(), optimizer, 25, **features))

    def keep(module: Classifier, *_: Any) -> None:
        save_checkpoint(tmp_path / "last", *module.learner.training_state())

    fit(network(), optimizer, 25, stop_at=10, then=keep, **features)
    go_on = From(10, *load_checkpoint(tmp_path / "last"))
    return whole, ends(*fit(network(seed=1), optimizer, 25, go_on=go_on, **features))


@pytest.mark.parametrize("feature", CONTINUED)
def test_a_saved_training_goes_on_with_the_same_bits(feature: str, tmp_path: Path) -> None:
    whole, again = continued(choice("optimizer", "adamw"), tmp_path, **CONTINUED[feature])
    assert torch.equal(again[0], whole[0])
    assert torch.equal(again[1], whole[1])
    assert again[2] == whole[2]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    groups = choice("param_groups", "layerwise")
    whole, again = continued(choice("optimizer", name), tmp_path, param_groups=groups)
    assert torch.equal(again[0], whole[0])
    assert torch.equal(again[1], whole[1])
    assert again[2] == whole[2]


def test_another_optimizers_state_is_refused(tmp_path: Path) -> None:
    def keep(module: Classifier, *_: Any) -> None:
        save_checkpoint(tmp_path / "last", *module.learner.training_state())

    fit(mlp(), SGD, 5, then=keep, param_groups=choice("param_groups", "no_decay"))
    with pytest.raises(CheckpointError, match="other parameter groups"):
        fit(mlp(), SGD, 10, go_on=From(5, *load_checkpoint(tmp_path / "last")))


def test_last_holds_what_a_training_goes_on_from(tmp_path: Path) -> None:
    module, _ = fit(
        normed(),
        SGD,
        10,
        of_learner=[lambda learner: Checkpointer(learner, tmp_path, seconds=0, about={"seed": 0})],
        wrapper=choice("wrapper", "lookahead"),
        averaging=choice("averaging", "ema"),
        schedule=choice("schedule", "plateau"),
    )
    tensors, state = load_checkpoint(tmp_path / "last")
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"model", "optimizer", "wrapper", "averaging", "best", "random"}
    assert {name for name in tensors if name.startswith("wrapper.")} == {
        f"wrapper.{name}" for name in module.model.state_dict()
    }
    assert (state["step"], state["seed"], state["averaging"]) == (10, 0, {"taken_in": 10})
    assert state["plateau"] == json.loads(json.dumps(module.learner.plateau.state()))  # type: ignore[union-attr]
    assert state["optimizer"]["param_groups"][0]["lr"] == SGD.lr
    assert Horizon(10, 5) == module.learner.horizon
