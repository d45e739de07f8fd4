"""``python train.py`` as a user runs it: a real process, a real folder, a real MLflow store."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from gradlab.checkpoints import load_checkpoint, parameters_sha256
from gradlab.tracking.journal import metric_rows, records
from processes import ROOT, Finished, environment, train

GOLDEN = Path(__file__).parent / "golden" / "digits_mlp.json"


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """``python train.py`` with no argument, in an empty folder."""
    return train(tmp_path_factory.mktemp("default run"))


def stored_run(finished: Finished) -> tuple[MlflowClient, Run]:
    """The run's record in the SQLite store of its folder."""
    client = MlflowClient(f"sqlite:///{finished.folder}/mlflow.db")
    return client, client.get_run(finished.result["mlflow_run_id"])


def test_default_run_learns_the_digits(default_run: Finished) -> None:
    assert default_run.status == 0, default_run.err
    assert default_run.result["status"] == "finished"
    assert default_run.result["metrics"]["test/accuracy"] >= 0.97


def test_default_run_is_quiet_on_stderr(default_run: Finished) -> None:
    assert default_run.err == ""


def test_default_run_tells_results_folder_run_and_command(default_run: Finished) -> None:
    said = default_run.out
    assert f"{default_run.result['metrics']['test/accuracy']:.2%}" in said
    assert f"outputs/{default_run.run.name}" in said
    assert default_run.result["mlflow_run_id"] in said
    assert re.search(r"^see it +\S.*gradlab'? ui$", said, re.MULTILINE)  # quoted where the path holds spaces
    assert "step 820/820" in said
    assert "images/s" in said


def test_run_folder_holds_what_it_promises(default_run: Finished) -> None:
    folder = default_run.run
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 0.003
    plots = {plot.name for plot in (folder / "plots").iterdir()}
    assert plots == {"curves.png", "learning_rate.png", "confusion.png", "mistakes.png", "network.png"}
    assert "Linear" in (folder / "model" / "layers.txt").read_text()
    assert folder.stat().st_mode & 0o077 == 0
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "shipper.log").exists()


def test_best_checkpoint_holds_the_tested_network(default_run: Finished) -> None:
    tensors, state = load_checkpoint(default_run.run / "checkpoints" / "best")
    assert state["step"] == default_run.result["metrics"]["best/step"]
    assert state["metrics"]["val/accuracy"] == default_run.result["metrics"]["best/val_accuracy"]
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()}["model.1.weight"] == (128, 64)
    _, last = load_checkpoint(default_run.run / "checkpoints" / "last")
    assert last["step"] == 820


def test_mlflow_has_every_row_of_the_journal(default_run: Finished) -> None:
    client, run = stored_run(default_run)
    journal: dict[str, list[tuple[int, float]]] = {}
    for step, values in metric_rows(default_run.run / "journal.jsonl"):
        for name, value in values.items():
            journal.setdefault(name, []).append((step, value))
    assert len(journal["train/loss"]) == 410
    for name, rows in journal.items():
        stored = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in stored] == rows, name


def test_mlflow_has_parameters_tags_and_status(default_run: Finished) -> None:
    _, run = stored_run(default_run)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "adamw lr=0.003 mlp digits seed=0"
    assert run.data.params["optimizer.lr"] == "0.003"
    assert run.data.params["model.hidden"] == "[128, 128]"
    assert run.data.params["data.batch_size"] == "32"
    for tag in ("gradlab.device", "gradlab.command", "gradlab.threads", "gradlab.version.torch", "gradlab.processor"):
        assert run.data.tags[tag], tag
    assert run.data.tags["gradlab.seed"] == "0"
    assert run.data.tags["gradlab.status"] == "finished"
    assert run.data.tags["gradlab.data_sha256"] == default_run.result["data_sha256"]
    assert {"test/accuracy", "best/val_accuracy", "best/step", "final/train_loss", "lr"} <= set(run.data.metrics)


def test_mlflow_has_the_artifacts(default_run: Finished) -> None:
    client, run = stored_run(default_run)
    files = {
        item.path
        for folder in ("", "plots", "checkpoints/best")
        for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "plots/curves.png", "plots/mistakes.png", "checkpoints/best/tensors.safetensors"} <= files


def test_journal_begins_with_the_run_and_ends_with_its_end(default_run: Finished) -> None:
    kinds = [record["kind"] for record, _ in records(default_run.run / "journal.jsonl")]
    assert kinds[0] == "run"
    assert kinds[-1] == "end"
    assert kinds.count("end") == 1


def test_golden_loss_curve(default_run: Finished) -> None:
    """A refactor must not change what is trained. The tolerance is for other processors' rounding.

    A deliberate change: write the new curve with ``python tests/test_train.py`` and say why in the commit.
    """
    golden = json.loads(GOLDEN.read_text())
    found = loss_curve(default_run.run, golden["steps"])
    assert found == pytest.approx(golden["train_loss"], rel=2e-3)


def loss_curve(run: Path, steps: list[int]) -> list[float]:
    losses = {
        step: values["train/loss"] for step, values in metric_rows(run / "journal.jsonl") if "train/loss" in values
    }
    return [losses[step] for step in steps]


def test_same_seed_same_bits_other_seed_other_bits(default_run: Finished, tmp_path: Path) -> None:
    again = train(tmp_path, "seed=0", "tracking=none", "plots=false")
    assert again.result["parameters_sha256"] == default_run.result["parameters_sha256"]
    assert loss_curve(again.run, [2, 400, 820]) == loss_curve(default_run.run, [2, 400, 820])
    (tmp_path / "other").mkdir()
    other = train(tmp_path / "other", "seed=1", "tracking=none", "plots=false")
    assert other.result["parameters_sha256"] != default_run.result["parameters_sha256"]
    assert other.result["data_sha256"] == default_run.result["data_sha256"]


def test_without_tracking_no_store_is_made(tmp_path: Path) -> None:
    finished = train(tmp_path, "tracking=none", "trainer.max_epochs=null", "trainer.max_steps=7", "optimizer=sgd")
    assert finished.status == 0, finished.err
    assert finished.result["steps"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_full_batch_gradient_descent(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "data.batch_size=full", "optimizer=sgd", "optimizer.lr=0.5", "model=logistic", "init=zeros",
        "schedule=constant", "trainer.max_epochs=60", "tracking=none", "plots=false",
    )  # fmt: skip
    assert finished.result["steps"] == 60
    losses = [
        values["train/loss"] for _, values in metric_rows(finished.run / "journal.jsonl") if "train/loss" in values
    ]
    # Zero weights say 1/10 for each class; gradient descent on a convex loss at a small rate never goes up.
    assert losses[0] == pytest.approx(2.302585, abs=1e-6)
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert finished.result["metrics"]["test/accuracy"] > 0.9


def test_divergence_is_a_result(tmp_path: Path) -> None:
    finished = train(tmp_path, "optimizer=sgd", "optimizer.lr=1e6", "schedule=constant")
    assert finished.status == 0, finished.err
    assert finished.result["status"] == "diverged"
    at = finished.result["diverged"]["step"]
    assert 1 < at < 40
    assert finished.result["diverged"]["lr"] == 1e6
    assert "test/accuracy" not in finished.result["metrics"]
    assert f"diverged at step {at}" in finished.out
    last = [
        record for record, _ in records(finished.run / "journal.jsonl") if "train/loss" in record.get("values", {})
    ][-1]
    assert last["step"] == at
    assert last["values"]["train/loss"] in ("nan", "inf")
    _, run = stored_run(finished)
    assert run.data.tags["gradlab.status"] == "diverged"
    assert run.data.tags["gradlab.diverged_at_step"] == str(at)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path: Path, signum: signal.Signals, status: int) -> None:
    process = start_endless(tmp_path)
    process.send_signal(signum)
    out, err = process.communicate(timeout=900)
    assert process.returncode == status, out + err
    assert "Traceback" not in out + err
    finished = Finished(process.returncode, out, err, tmp_path)
    assert finished.result["status"] == "killed"
    _, state = load_checkpoint(finished.run / "checkpoints" / "last")
    assert state["step"] == finished.result["steps"] > 0
    _, run = stored_run(finished)
    assert run.info.status == "KILLED"


def test_a_killed_run_is_killed_in_mlflow_too(tmp_path: Path) -> None:
    """The shipper outlives the run, ships its last rows and says in MLflow that it is over."""
    process = start_endless(tmp_path)
    process.kill()
    process.communicate(timeout=900)
    (run,) = (tmp_path / "outputs").iterdir()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if (run / "mlflow.json").exists() and (state := json.loads((run / "mlflow.json").read_text()))["ended"]:
            break
        time.sleep(0.2)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(state["run_id"]).info.status == "KILLED"
    rows = sum("train/loss" in values for _, values in metric_rows(run / "journal.jsonl"))
    assert len(client.get_metric_history(state["run_id"], "train/loss")) == rows > 0


@pytest.mark.slow
def test_a_run_gone_on_with_is_running_in_mlflow_again(tmp_path: Path) -> None:
    """KILLED, then RUNNING as the same run, then KILLED: by SIGTERM, with exit status 143."""
    process = start_endless(tmp_path)
    process.kill()
    process.communicate(timeout=900)
    (run,) = (tmp_path / "outputs").iterdir()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((run / "mlflow.json").read_text())["run_id"]

    def becomes(status: str) -> None:
        deadline = time.monotonic() + 600
        while client.get_run(run_id).info.status != status:
            assert time.monotonic() < deadline, client.get_run(run_id).info.status
            time.sleep(0.2)

    becomes("KILLED")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "resume=latest"], cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    becomes("RUNNING")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 143, out + err
    becomes("KILLED")
    (experiment,) = [found for found in client.search_experiments() if found.name == "gradlab"]
    assert [each.info.run_id for each in client.search_runs([experiment.experiment_id])] == [run_id]


def start_endless(folder: Path) -> "subprocess.Popen[str]":
    """A run that would train for hours, once it trains and is in MLflow."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=100000", "trainer.speed=safe", "trainer.log_every=20 steps"],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        runs = list((folder / "outputs").glob("*"))
        if runs and (runs[0] / "mlflow.json").exists() and "val/loss" in (runs[0] / "journal.jsonl").read_text():
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_two_runs_at_once_make_the_store_once(tmp_path: Path) -> None:
    """Both meet a database that does not exist yet, in the same second, under the same name."""
    command = [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=1", "plots=false", "optimizer=sgd"]
    started = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out + err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "gradlab"]
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_everything_around_a_step_at_once(tmp_path: Path) -> None:
    """SAM, an average, groups, clipping and accumulation, in bfloat16, with a plateau schedule."""
    finished = train(
        tmp_path, "wrapper=sam", "averaging=ema", "param_groups=no_decay", "trainer.clip_norm=1", "trainer.accumulate=3",
        "schedule=plateau", "schedule.patience=0 validations", "schedule.threshold=0.5", "trainer.precision=bf16",
        "trainer.max_epochs=8", "tracking=none",
    )  # fmt: skip
    assert finished.status == 0, finished.err
    assert finished.err == ""
    assert "no_decay · sam · ema · plateau schedule" in finished.out
    assert finished.result["metrics"]["test/accuracy"] > 0.9
    rows = [values for _, values in metric_rows(finished.run / "journal.jsonl")]
    assert all(row["train/gradient_norm"] > 0 for row in rows if "lr" in row)
    rates = [row["lr"] for row in rows if "lr" in row]
    assert rates[0] == 0.003
    assert rates[-1] < 0.003  # the loss does not halve at every validation
    best, _ = load_checkpoint(finished.run / "checkpoints" / "best")
    assert sha256_of(best) == finished.result["parameters_sha256"]
    last, state = load_checkpoint(finished.run / "checkpoints" / "last")
    assert {name.split(".")[0] for name in last} == {"model", "optimizer", "averaging", "best", "random"}
    assert 0.003 * state["plateau"]["factor"] <= rates[-1]


def sha256_of(tensors: dict[str, torch.Tensor]) -> str:
    """What a result would say of a network of these tensors."""
    network = torch.nn.Module()
    for name, tensor in tensors.items():
        network.register_buffer(name.removeprefix("model.").replace(".", "_"), tensor)
    network.state_dict = lambda: {name.removeprefix("model."): tensor for name, tensor in tensors.items()}  # type: ignore[method-assign,assignment]
    return parameters_sha256(network)


@pytest.mark.parametrize(
    "choices",
    [
        ["optimizer=schedule_free_sgd", "schedule=constant", "schedule.warmup=5%", "wrapper=sam"],
        ["optimizer=muon", "param_groups=layerwise", "wrapper=lookahead", "averaging=swa"],
        ["optimizer=timm", "optimizer.opt=adan", "optimizer.options={betas: [0.9,0.9,0.9]}"],
    ],
    ids=lambda choices: choices[0],
)
def test_other_optimizers_and_wrappers_learn_the_digits(tmp_path: Path, choices: list[str]) -> None:
    finished = train(tmp_path, *choices, "tracking=none", "plots=false", "trainer.max_epochs=10")
    assert finished.status == 0, finished.err
    assert finished.err == ""
    assert finished.result["metrics"]["test/accuracy"] > 0.9
    best, _ = load_checkpoint(finished.run / "checkpoints" / "best")
    assert sha256_of(best) == finished.result["parameters_sha256"]


@pytest.mark.slow
def test_bf16_and_fp64_train(tmp_path: Path) -> None:
    for precision in ("bf16", "fp64"):
        folder = tmp_path / precision
        folder.mkdir()
        finished = train(
            folder, f"trainer.precision={precision}", "trainer.max_epochs=3", "tracking=none", "plots=false"
        )
        assert finished.status == 0, finished.err
        assert finished.result["metrics"]["test/accuracy"] > 0.8
        tensors, _ = load_checkpoint(finished.run / "checkpoints" / "best")
        assert tensors["model.1.weight"].dtype == {"bf16": torch.float32, "fp64": torch.float64}[precision]


if __name__ == "__main__":
    # Writes the golden curve from the newest run below the folder named on the command line.
    newest = sorted((Path(sys.argv[1]) / "outputs").iterdir())[-1]
    steps = [2, 10, 20, 40, 80, 120, 160, 200, 300, 400]
    GOLDEN.write_text(json.dumps({"steps": steps, "train_loss": loss_curve(newest, steps)}, indent=1) + "\n")
