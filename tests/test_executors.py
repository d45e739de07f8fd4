"""What executors are made of, without a cluster; test_slurm.py and test_ray.py have real ones."""

import io
import json
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from executors.stand_ins import SLEEP, WORKER
from gradlab.config import Config, Origin, build_config
from gradlab.errors import ConfigError, GradlabError
from gradlab.sweeps.executors.job import Job, Lines, append
from gradlab.sweeps.executors.process import WorkerProcess
from gradlab.sweeps.executors.ray import stage, unpack
from gradlab.sweeps.grouping import group_of
from gradlab.sweeps.identity import identity, values_of
from gradlab.sweeps.seats import Seat, seats
from gradlab.sweeps.settings import Launching, launching
from processes import ROOT

Compose = Callable[..., DictConfig]


def settings(**changes: object) -> Launching:
    values = yaml.safe_load((ROOT / "configs/hydra/launcher/gradlab.yaml").read_text())
    del values["_target_"]
    return launching({**values, **changes})


def config(compose: Compose, *overrides: str) -> Config:
    return build_config(compose(*overrides), Origin(overrides))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"executor": "kubernetes"}, "executor must be one of local, slurm, ray"),
        ({"slurm": {"time": 0}}, "slurm.time must be at least 1, not 0"),
        ({"slurm": {"partitions": "a"}}, "slurm.partitions"),
        ({"ray": {"gpus": -1}}, "ray.gpus must be at least 0, not -1"),
    ],
)
def test_a_wrong_setting_of_an_executor_is_named(changes: dict[str, object], message: str) -> None:
    whole = yaml.safe_load((ROOT / "configs/hydra/launcher/gradlab.yaml").read_text())
    merged = {key: {**whole[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=message):
        settings(**merged)


def test_options_of_a_cluster_are_typed() -> None:
    whole = yaml.safe_load((ROOT / "configs/hydra/launcher/gradlab.yaml").read_text())
    chosen = settings(slurm={**whole["slurm"], "options": {"reservation": "school", "nice": 10}})
    assert chosen.slurm.options == {"reservation": "school", "nice": 10}
    assert chosen.executor == "local"


def test_lines_are_read_whole_and_once(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "events.jsonl")
    assert lines.read() == []
    append(lines.path, {"event": "ready"})
    with lines.path.open("a") as file:
        file.write('{"event": "do')  # another machine is writing
    assert lines.read() == [{"event": "ready"}]
    with lines.path.open("a") as file:
        file.write('ne"}\n')
    assert lines.read() == [{"event": "done"}]
    assert lines.read() == []


@pytest.fixture
def workers_that_train_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(WorkerProcess, "program", WORKER)
    monkeypatch.setenv(SLEEP, "0")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_job_does_what_is_left_of_its_commands(tmp_path: Path, workers_that_train_nothing: None) -> None:
    """The first time all; when SLURM has requeued it, what it had not done; and what a killed worker had is said."""
    runs = []
    for number in range(3):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        composed = {"optimizer": {"name": "sgd", "lr": 0.1}, "seed": number}
        point = {"point": f"{number:064x}", "name": f"seed={number}", "config": composed, "folder": str(folder)}
        runs.append({"do": "run", "parent": "sweep", "command": ["train.py"], "points": [point]})
    job = tmp_path / "job"
    job.mkdir()
    for command in runs[:2]:
        append(job / "commands.jsonl", command)
    Job(job, 1, False, list(sys.path))()
    events = Lines(job / "events.jsonl").read()
    assert [event["point"] for event in events if event["event"] == "done"] == [f"{number:064x}" for number in (0, 1)]
    assert events[-1] == {"event": "end"}
    append(job / "commands.jsonl", runs[2])
    Job(job, 1, False, list(sys.path))()
    events = Lines(job / "events.jsonl").read()
    assert [event["point"] for event in events if event["event"] == "done"] == [f"{number:064x}" for number in range(3)]
    assert (tmp_path / "run2" / "result.json").exists()


def test_a_job_whose_worker_cannot_start_says_so(
    tmp_path: Path, workers_that_train_nothing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerProcess, "program", ("-c", "raise SystemExit(3)"))
    append(tmp_path / "commands.jsonl", {"do": "run", "points": [{"point": "a", "folder": str(tmp_path / "a")}]})
    Job(tmp_path, 1, False, list(sys.path))()
    events = Lines(tmp_path / "events.jsonl").read()
    assert events == [{"event": "died", "reason": "its worker ended with exit status 3"}, {"event": "end"}]


def packed(files: dict[str, str]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_a_run_that_a_node_sends_is_put_into_its_folder(tmp_path: Path) -> None:
    journal = json.dumps({"kind": "run", "tags": {"gradlab.folder": "/scratch/x/run"}})
    run = tmp_path / "run"
    run.mkdir()
    unpack(packed({"journal.jsonl": journal, "checkpoints/last/state.json": "{}"}), "/scratch/x/run", run)
    assert json.loads((run / "journal.jsonl").read_text())["tags"] == {"gradlab.folder": str(run)}
    assert (run / "checkpoints" / "last" / "state.json").read_text() == "{}"
    with pytest.raises(GradlabError, match="outside of its run's folder"):
        unpack(packed({"../elsewhere": "x"}), "/scratch/x/run", run)
    assert not (tmp_path / "elsewhere").exists()


def test_the_code_that_nodes_need_is_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    (own / "my_package").mkdir(parents=True)
    (own / "my_package" / "__init__.py").write_text("")
    (own / "my_model.py").write_text("")
    monkeypatch.syspath_prepend(str(own))
    __import__("my_package")
    __import__("my_model")
    staged = tmp_path / "staged"
    staged.mkdir()
    stage(staged, ["my_package.parts", "my_model", "yaml"])
    assert {path.name for path in staged.iterdir()} == {"gradlab", "my_package", "my_model.py"}
    assert (staged / "gradlab" / "sweeps" / "worker.py").exists()


# ---------------------------------------------------------------------- several devices


def test_a_worker_gets_as_many_gpus_as_a_run_needs(compose: Compose) -> None:
    one_run = [config(compose, "trainer.devices=2")]
    found = seats(settings(), one_run, 16, 64 << 30, ["0", "1", "MIG-a", "MIG-b", "4"])
    assert found == [Seat(8, "0,1"), Seat(8, "MIG-a,MIG-b")]
    with pytest.raises(ConfigError, match="needs as many GPUs, and there is 1: 0"):
        seats(settings(), one_run, 16, 64 << 30, ["0"])
    cpu = [config(compose, "trainer=cpu", "trainer.devices=2")]
    assert seats(settings(), cpu, 4, 64 << 30, []) == [Seat(2, "")] * 2


def test_devices_are_part_of_a_points_identity_only_where_there_are_several(compose: Compose) -> None:
    alone, together = (config(compose, f"trainer.devices={number}") for number in (1, 2))
    assert "trainer.devices" not in values_of(alone)
    assert identity(values_of(alone)) != identity(values_of(together))
    assert group_of(alone) is not None
    assert group_of(together) is None
    assert alone.trainer.cpu_threads(10**9) == 2 * together.trainer.cpu_threads(10**9)
