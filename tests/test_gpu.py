"""The same run on a CUDA device. Not run where there is none."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from gradlab.captured import WARM_UP, Captured
from gradlab.config import build_config
from gradlab.population import Population
from gradlab.run import run_together
from processes import train
from test_population import CNN, MLP, VIT, Trained, assert_same, members, trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_default_run_learns_on_a_gpu(tmp_path: Path, precision: str) -> None:
    finished = train(tmp_path, "trainer=cuda", f"trainer.precision={precision}", "tracking=none")
    assert finished.status == 0, finished.err
    assert finished.result["device"] == torch.cuda.get_device_name()
    assert finished.result["metrics"]["test/accuracy"] >= 0.97


@pytest.mark.parametrize("speed", ["auto", "max"])
def test_captured_and_compiled_steps_are_the_eager_ones_up_to_rounding(tmp_path: Path, speed: str) -> None:
    losses = []
    for asked in ("safe", speed):
        folder = tmp_path / asked
        folder.mkdir()
        finished = train(
            folder, "trainer=cuda", "tracking=none", "plots=false", "model=cnn", f"trainer.speed={asked}",
            "trainer.max_epochs=null", "trainer.max_steps=100", "trainer.precision=fp64", "trainer.clip_norm=1",
            XDG_CACHE_HOME=str(tmp_path / "cache"),
        )  # fmt: skip
        assert finished.status == 0, finished.err
        assert finished.result["speed"] == {"safe": "eager", "auto": "captured", "max": "compiled"}[asked]
        losses.append(finished.result["metrics"]["final/train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_captured_function_is_called_four_times_and_replayed_with_what_is_given() -> None:
    calls, weights = [], torch.ones(3, device="cuda")

    def step(given: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        calls.append(given)
        images, nothing = given
        assert images is not None
        assert nothing is None
        weights.add_(images)
        return weights.sum(), images.argmax()

    captured, expected = Captured(step), 3.0
    for number in range(10):
        images = torch.full((3,), float(number), device="cuda")
        images[number % 3] += 0.5
        total, largest = captured([images, None])
        expected += 3 * number + 0.5
        assert (float(total), int(largest)) == (expected, number % 3)
    assert len(calls) == WARM_UP + 1


def test_what_cannot_be_captured_says_so_and_the_gpu_goes_on() -> None:
    def waits(given: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        assert given[0] is not None
        return (given[0] * float(given[0]),)

    captured, two = Captured(waits), torch.full((), 2.0, device="cuda")
    for _ in range(WARM_UP):
        assert float(captured([two])[0]) == 4
    with pytest.raises(RuntimeError):
        captured([two])
    assert float(two + two) == 4
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def runs(compose: Callable[..., DictConfig], folder: Path, own: list[list[str]], together: bool) -> list[Trained]:
    fixed = ["trainer=cuda", "trainer.max_epochs=null", "tracking=none", "plots=false", "trainer.precision=fp64"]
    configs = [build_config(compose(*fixed, f"output_dir={folder}", *each)) for each in own]
    if together:
        return [trained(outcome.folder) for outcome in run_together(configs, ["train.py"])]
    return [trained(run_together([config], ["train.py"])[0].folder) for config in configs]


@pytest.mark.parametrize(
    "feature",
    [
        [*MLP, "optimizer=sgd"],
        [*MLP, "optimizer=rmsprop", "averaging=ema", "averaging.decay=0.8"],
        [*CNN, "augment=[flip,crop]", "optimizer=muon"],
        [*CNN, "augment=[mixup]", "loss.label_smoothing=0.1"],
        [*CNN, "trainer.clip_norm=0.5", "data.class_weights=balanced"],
        [*CNN, "trainer.clip_value=0.01"],
        [*CNN, "trainer.accumulate=3", "param_groups=no_decay", "optimizer.weight_decay=0.1"],
        VIT,
        ["model=resnet", "model.depth=20", "optimizer=momentum"],
    ],
    ids=" ".join,
)
def test_a_member_of_a_captured_population_is_the_run_alone(
    compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feature: list[str]
) -> None:
    captures: list[bool] = []
    stop = Population.on_train_end

    def note(self: Population) -> None:
        captured = self._whole._captured if self._whole else None
        captures.append(self._launches and captured is not None and captured._graph is not None)
        stop(self)

    monkeypatch.setattr(Population, "on_train_end", note)
    own = members(*feature)
    pairs = zip(runs(compose, tmp_path, own, True), runs(compose, tmp_path, own, False), strict=True)
    for member, alone in pairs:
        member.tensors = {name: tensor for name, tensor in member.tensors.items() if not name.startswith("random.")}
        alone.tensors = {name: tensor for name, tensor in alone.tensors.items() if not name.startswith("random.")}
        member.best = {name: tensor for name, tensor in member.best.items() if not name.startswith("random.")}
        alone.best = {name: tensor for name, tensor in alone.best.items() if not name.startswith("random.")}
        assert_same(member, alone, 1e-9)
    assert captures == [True]


def test_a_member_that_diverges_leaves_a_captured_population(
    compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    own = [[*MLP, "optimizer=sgd", "trainer.max_steps=60", f"optimizer.lr={rate}"] for rate in (0.1, 1e30, 0.2)]
    pairs = list(zip(runs(compose, tmp_path, own, True), runs(compose, tmp_path, own, False), strict=True))
    assert [member.result["status"] for member, _ in pairs] == ["finished", "diverged", "finished"]
    for member, alone in (pairs[0], pairs[2]):
        for name, tensor in alone.tensors.items():
            if not name.startswith("random."):
                torch.testing.assert_close(member.tensors[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("speed", ["safe", "auto"])
def test_a_run_that_is_gone_on_with_has_the_bits_of_one_that_was_not_stopped(tmp_path: Path, speed: str) -> None:
    fixed = [
        "trainer=cuda", "trainer.deterministic=true", "tracking=none", "plots=false", "schedule=constant", "model=cnn",
        "model.dropout=0.2", f"trainer.speed={speed}", "trainer.max_epochs=null", "trainer.validate_every=30 steps",
    ]  # fmt: skip
    found = {}
    for name, parts in (("whole", [120]), ("parted", [60, 120])):
        folder = tmp_path / name
        folder.mkdir()
        for steps in parts:
            again = ["resume=latest"] if steps != parts[0] else fixed
            finished = train(folder, *again, f"trainer.max_steps={steps}", XDG_CACHE_HOME=str(tmp_path / "cache"))
            assert finished.status == 0, finished.err
        found[name] = finished.result
    assert found["whole"]["speed"] == {"safe": "eager", "auto": "captured"}[speed]
    assert found["parted"]["parameters_sha256"] == found["whole"]["parameters_sha256"]


def test_a_gpu_starts_from_the_cpu_s_network_and_batches(tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        finished = train(
            folder, f"trainer={device}", "tracking=none", "plots=false",
            "trainer.max_epochs=null", "trainer.max_steps=20", "schedule=constant", "trainer.precision=fp64",
        )  # fmt: skip
        losses.append(finished.result["metrics"]["final/train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
