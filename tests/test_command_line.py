"""Mistakes on the command line, as real processes: one message, exit status 2, nothing left behind, and quickly."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradlab.config import AXES, LISTED
from processes import environment, gradlab, train

MISTAKES = [
    (["optimizer=adamm"], ["there is no optimizer 'adamm'", "Did you mean 'adam'?", "nesterov"]),
    (["data=minst"], ["there is no data 'minst'", "'mnist'"]),
    (["optimzer=adam"], ["no key 'optimzer'", "on the command line: optimzer=adam", "'optimizer'"]),
    (["optimizer.lrr=1"], ["optimizer=adamw has no key 'lrr'", "'lr'"]),
    (["optimizer=sgd", "optimizer.momentum=0.9"], ["optimizer=sgd has no key 'momentum'", "It has lr, weight_decay."]),
    (["+optimizer.momentum=0.9"], ["optimizer=adamw has no key 'momentum'", "+optimizer.momentum=0.9"]),
    (["++model.hiden=[3]"], ["model=mlp has no key 'hiden'", "'hidden'"]),
    (["optimizer.lr=fast"], ["optimizer.lr must be a number, not 'fast'", "optimizer.lr=fast"]),
    (["optimizer.lr=-1"], ["optimizer.lr must be above 0, not -1"]),
    (["optimizer.betas=[0.9]"], ["optimizer.betas must have 2 numbers"]),
    (["seed=-1"], ["seed must be at least 0"]),
    (["schedule=step", "schedule.every=0"], ["schedule.every must be above 0"]),
    (["schedule.warmup=10"], ["schedule.warmup has no unit", "'10 steps'"]),
    (["schedule.warmup=20 epochs"], ["fills the whole run"]),
    (["model=lenet"], ["at least 12×12", "8×8"]),
    (["model=vit", "model.patch=3"], ["model.patch=3 does not divide the 8×8", "1, 2, 4, 8"]),
    (["model=torchvision", "model.arch=resnt50"], ["model.arch names no classification model", "'resnet50'"]),
    (["model=torchvision", "model.arch=inception_v3"], ["at least 75×75", "8×8"]),
    (["model=torchvision", "model.pretrained=nowhere.pt"], ["model.pretrained=nowhere.pt", "no such file"]),
    (["model=torchvision", "model.freeze=[layr1]"], ["no part of the network is called 'layr1'", "'layer1'"]),
    (["data=mnist", "data.root=nowhere"], ["train-images-idx3-ubyte", "nowhere/MNIST/raw", "data.root="]),
    (["data=cifar10"], ["'cifar-10-binary.tar.gz'", "/data/cifar-10-batches-bin", "data.download=true"]),
    (["data=emnist", "data.split=upper"], ["data.split must be one of byclass, bymerge", "not 'upper'"]),
    (["data=moons", "trainer.views=mirrored"], ["trainer.views=mirrored mirrors images", "Choose trainer.views=plain"]),
    (["data=moons", "model=cnn"], ["model=cnn needs images", "model=mlp"]),
    (["data.class_weights=ballanced"], ["data.class_weights must be one of none, balanced", "'balanced'?"]),
    (["trainer.max_steps=5"], ["trainer.max_steps", "ambiguous"]),
    (["+model._target_=os.system"], ["model._target_", "not allowed"]),
    (["optimizer.lr=1", "optimizer.lr=2"], ["optimizer.lr is given twice"]),
    (["optimizer.lr=[1"], ["cannot be read"]),
    (["~optimizer"], ["optimizer"]),
    (["optimizer=adam", "optimizer.momentum=0.9"], ["optimizer=adam has no key 'momentum'", "It has lr, betas"]),
    (["optimizer=schedule_free_adamw"], ["replaces the schedule", "schedule=constant"]),
    (["wrapper=smm"], ["there is no wrapper 'smm'", "Did you mean 'sam'?"]),
    (["wrapper.rho=1"], ["wrapper=none has no key 'rho'"]),
    (["averaging=ema", "averaging.start=900 steps"], ["averaging.start of 900 steps", "the run has 820 steps"]),
    (["trainer.accumulate=64"], ["trainer.accumulate=64", "32 images"]),
    (["trainer.clip_norm=1", "trainer.clip_value=1"], ["trainer.clip_value and trainer.clip_norm are both given"]),
    (["optimizer=timm", "optimizer.opt=adabelif"], ["timm has no optimizer 'adabelif'", "Did you mean 'adabelief'?"]),
    (["optimizer=timm", "optimizer.options={epsilon: 1}"], ["timm's adabelief has no option 'epsilon'", "'eps'"]),
    (["--experimental-rerun=x.pickle"], ["pickle"]),
    (["seed=${nope}"], ["seed", "nope"]),
    (["-m", "seed=0,1", "seed=2"], ["seed is given twice"]),
    (["seed=0,1", "optimizer.lr=logspace(0,1,3)", "-m"], ["logspace(first,last,how many)", "must be above 0"]),
    (["seed=0,1"], ["seed=0,1"]),
    (["-m", "seed=0,1", "hydra.launcher.workers=0"], ["hydra.launcher.workers must be at least 1"]),
    (["-m", "seed=0,1", "optimizer.lr=-1"], ["optimizer.lr must be above 0, not -1"]),
    (["resume=true"], ["resume=true goes on with a sweep"]),
    (["-m", "seed=0,1", "resume=maybe"], ["resume must be true or false", "resume=RUN goes on with one run"]),
    (["resume=latest"], ["there is no run in outputs"]),
    (["resume=no/such_lr=0.1_run", "optimizer.lr=1"], ["resume=no/such_lr=0.1_run: there is no such run"]),
    (["fork=true"], ["fork=true needs the run that it starts from"]),
    (["trainer.threads=100000"], ["trainer.threads must be at most"]),
    (["tracking.uri=foo"], ["tracking.uri must be the address of an MLflow store"]),
    (["augment=[crop,flpi]"], ["there is no augment 'flpi'", "Did you mean 'flip'?"]),
    (["augment=[flip,crop,flip]"], ["augment: 'flip' is listed twice", "augment=[flip,crop,flip]"]),
    (["augment=flip", "augment.crop.padding=2"], ["augment.crop is not chosen", "augment=[flip,crop]"]),
    (["augment=[3]"], ["augment is chosen by a name or a list of names", "'augment=[3]'"]),
    (["augment=null"], ["augment is chosen by a name or a list of names", "'augment=null'"]),
    (["output_dir=/dev/null/x"], ["output_dir=/dev/null/x", "is a file"]),
]


@pytest.mark.parametrize(("arguments", "messages"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_gives_one_message_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], messages: list[str]
) -> None:
    finished = train(tmp_path, *arguments)
    assert finished.status == 2, finished.out + finished.err
    assert finished.out == ""
    assert finished.err.count("\n") == 1, finished.err
    for message in messages:
        assert message in finished.err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    """By what is imported, not by the clock: a loaded machine must not fail this test."""
    program = (
        "import sys; sys.argv = ['train.py', 'optimizer.lr=-1']\n"
        "from gradlab.entry import main; status = main()\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2, done.stderr


def test_help_lists_every_choice(tmp_path: Path) -> None:
    finished = train(tmp_path, "--help")
    assert finished.status == 0
    for axis, registry in AXES.items():
        listed = re.search(rf"^\s*{axis}: (.*)$", finished.out, re.MULTILINE)
        assert listed, finished.out
        assert sorted(listed[1].split(", ")) == sorted([*registry, "none"] if axis == LISTED else registry)
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_configuration(tmp_path: Path) -> None:
    finished = train(tmp_path, "--cfg", "job", "optimizer=nesterov", "optimizer.lr=0.3")
    assert finished.status == 0
    assert "name: nesterov\n  lr: 0.3" in finished.out
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_data_file_is_a_failed_run(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"not MNIST")
    finished = train(tmp_path, "data=mnist", "tracking=none")
    assert finished.status == 1, finished.err
    assert "is damaged" in finished.err
    assert "Traceback" not in finished.err
    assert finished.result["status"] == "failed"


def test_a_store_that_cannot_be_reached_does_not_stop_a_run_and_sync_ships_it_later(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where the store's folder should be")
    finished = train(tmp_path, "tracking.uri=sqlite:///blocked/mlflow.db", "trainer.max_epochs=1", "plots=false")
    assert finished.status == 0, finished.err
    assert "rows pending: " in finished.out
    assert "sync" in finished.out
    (tmp_path / "blocked").unlink()
    for expected in ("rows shipped", "0 rows shipped"):
        synced = gradlab(tmp_path, "sync", str(finished.run))
        assert synced.status == 0, synced.out + synced.err
        assert expected in synced.out
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/blocked/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("gradlab").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == finished.result["metrics"]["test/accuracy"]


def test_sync_into_another_or_a_deleted_store_ships_everything_again(tmp_path: Path) -> None:
    finished = train(tmp_path, "trainer.max_epochs=1", "plots=false", "output_dir='outputs'", "name='[/b] a=b'")
    assert finished.status == 0, finished.err
    records = (finished.run / "journal.jsonl").read_text().count("\n")
    synced = gradlab(tmp_path, "sync", str(finished.run), "--uri", "sqlite:///other.db")
    assert f"{records} rows shipped" in synced.out, synced.out + synced.err
    assert (tmp_path / "other.db").exists()
    (tmp_path / "other.db").unlink()
    synced = gradlab(tmp_path, "sync", str(finished.run))
    assert synced.status == 0, synced.out + synced.err
    assert (tmp_path / "other.db").exists()


@pytest.mark.slow
def test_a_missing_artifact_does_not_keep_the_rest_from_mlflow(tmp_path: Path) -> None:
    finished = train(tmp_path, "trainer.max_epochs=1", "tracking=none")
    shutil.rmtree(finished.run / "plots")
    synced = gradlab(tmp_path, "sync", str(finished.run))
    assert synced.status == 0, synced.out + synced.err
    assert gradlab(tmp_path, "sync", str(finished.run)).out.startswith(f"{finished.run.name}: 0 rows")


def test_gradlab_without_a_store_says_what_to_do(tmp_path: Path) -> None:
    finished = gradlab(tmp_path, "ui")
    assert finished.status == 2
    assert "Train one first" in finished.err


def test_sync_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    finished = gradlab(tmp_path, "sync", str(tmp_path))
    assert finished.status == 2
    assert "not a run's folder" in finished.err


@pytest.mark.slow
def test_ui_serves_the_runs_on_this_machine_only(tmp_path: Path) -> None:
    train(tmp_path, "trainer.max_epochs=1", "plots=false")
    process = subprocess.Popen(
        [sys.executable, "-m", "gradlab", "ui", "--port", "5217"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(
            r"http://127\.0\.0\.1:52\d\d/#/experiments/1/runs\?workflowType=machine_learning&.*", address
        )
        import urllib.request

        port = address.split(":")[2].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=900) as page:
            assert b"MLflow" in page.read()
    finally:
        process.terminate()
        process.communicate(timeout=900)
    time.sleep(0.5)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
