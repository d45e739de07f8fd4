"""Thirty poisoned checkpoints, weights, caches and configurations: each is refused, and none makes its canary."""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from folders import image_folder, make_folder
from gradlab.checkpoints import STATE, TENSORS, Checkpoint, _digest, load_checkpoint, save_checkpoint
from gradlab.config import build_config
from gradlab.errors import CheckpointError, ConfigError, DataError, FieldError, GradlabError
from gradlab.hydra_guard import refuse_callables
from gradlab.models.networks.pretrained import load_weights, read_weights
from gradlab.optimizer_state import load_optimizer_state, optimizer_state
from gradlab.sweeps.clusters import Slurm
from gradlab.trained.network import open_trained
from processes import ROOT, train


class Canary:
    """A pickle of it makes the file ``path`` when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def pickled(canary: Path) -> bytes:
    return pickle.dumps({"weight": Canary(canary)})


def zipped(canary: Path) -> bytes:
    """The form of torch.save, with a pickle that is none of torch's."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
        archive.writestr("archive/version", "3\n")
    return packed.getvalue()


def header(length: int, text: bytes = b"{}") -> bytes:
    """A file that says that its header has ``length`` bytes."""
    return struct.pack("<Q", length) + text


def tensor(**changes: Any) -> bytes:
    """A safetensors file of one tensor whose description is changed."""
    said = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    return header(len(said), said) + bytes(8)


SPARSE = torch.sparse_coo_tensor(torch.tensor([[5]]), torch.tensor([1.0]), (1,), check_invariants=False)


def torch_saved(content: Any) -> bytes:
    packed = io.BytesIO()
    torch.save(content, packed)
    return packed.getvalue()


WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a pickle": ("w.pt", pickled),
    "a pickle in torch's zip": ("w.pth", zipped),
    "a whole module, not its weights": ("w.pt", lambda canary: torch_saved(torch.nn.Linear(2, 2))),
    "a pickle named safetensors": ("w.safetensors", pickled),
    "a zip named safetensors": ("w.safetensors", zipped),
    "a header of 16 exabytes": ("w.safetensors", lambda canary: header(2**63)),
    "a header of 100 GB": ("w.safetensors", lambda canary: header(10**11)),
    "a header longer than the file": ("w.safetensors", lambda canary: header(1000)),
    "no header": ("w.safetensors", lambda canary: b""),
    "a shape of 4 exabytes": ("w.safetensors", lambda canary: tensor(shape=[2**60])),
    "a negative shape": ("w.safetensors", lambda canary: tensor(shape=[-1])),
    "offsets beyond the file": ("w.safetensors", lambda canary: tensor(shape=[200], data_offsets=[0, 800])),
    "offsets backwards": ("w.safetensors", lambda canary: tensor(data_offsets=[8, 0])),
    "an unknown type": ("w.safetensors", lambda canary: tensor(dtype="os.system")),
    "a sparse tensor with an index beyond it": ("w.pt", lambda canary: torch_saved({"weight": SPARSE})),
    "numbers instead of tensors": ("w.pt", lambda canary: torch_saved({"weight": 3})),
    "a wrong shape": ("w.safetensors", lambda canary: save({"weight": torch.ones(3, 3), "bias": torch.ones(3)})),
    "other names": ("w.safetensors", lambda canary: save({"other": torch.ones(2, 2)})),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_poisoned_weights_are_refused(tmp_path: Path, kind: str) -> None:
    name, make = WEIGHTS[kind]
    (tmp_path / name).write_bytes(make(tmp_path / "canary"))
    with pytest.raises(ConfigError, match=r"model\.pretrained="):
        load_weights(torch.nn.Linear(2, 2), tmp_path / name, [])
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_be_made(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


def test_an_old_torch_opens_safetensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pt").write_bytes(torch_saved({"weight": torch.ones(2)}))
    assert set(read_weights(tmp_path / "w.pt")) == {"weight"}
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    with pytest.raises(ConfigError, match="CVE-2026-24747"):
        read_weights(tmp_path / "w.pt")


# ---------------------------------------------------------------------- checkpoints


def forge(path: Path, state: dict[str, Any], tensors: bytes) -> None:
    """A checkpoint with right checksums: whoever forges one can compute them, too."""
    import hashlib

    path.mkdir()
    (path / TENSORS).write_bytes(tensors)
    state = {**state, "tensors_sha256": hashlib.sha256(tensors).hexdigest()}
    (path / STATE).write_text(json.dumps({**state, "state_sha256": _digest(state)}))


IMAGES = {"data": "digits", "image_shape": [1, 8, 8], "classes": list("0123456789"), "train_examples": 9, "mean": [0.0], "std": [1.0]}  # fmt: skip
MODEL = {"name": "logistic"}
STATES: dict[str, tuple[dict[str, Any], bytes]] = {
    "a pickle for tensors": ({}, b"pickle"),
    "a _target_ for its model": ({"config": {"model": {"_target_": "os.system", "name": "logistic"}}}, save({})),
    "a model that is a path": ({"config": {"model": {"name": "../../os"}}}, save({})),
    "a module to import": ({"config": {"model": {"name": "own"}, "imports": ["poisonous"]}}, save({})),
    "weights of another shape": ({}, save({"model.1.weight": torch.ones(2, 2), "model.1.bias": torch.ones(10)})),
    "weights of other names": ({}, save({"model.other": torch.ones(2)})),
    "images without a shape": ({"images": {**IMAGES, "image_shape": "os"}}, save({})),
    "images of a petabyte": ({"images": {**IMAGES, "image_shape": [2**20, 2**20, 2**10]}}, save({})),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_poisoned_checkpoints_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, tensors = STATES[kind]
    canary = tmp_path / "canary"
    (tmp_path / "poisonous.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    state = {"step": 1, "config": {"model": MODEL, "trainer": {"precision": "fp32"}}, "images": IMAGES, **changes}
    forge(tmp_path / "c", state, pickled(canary) if tensors == b"pickle" else tensors)
    with pytest.raises(GradlabError):
        open_trained(tmp_path / "c", "cpu", [])
    assert not canary.exists()


OF_A_TRAINING: dict[str, Any] = {
    "step": 1, "journal_bytes": 10, "best": {}, "best_step": 0, "ledger": {}, "optimizer": {}, "wrapper": {}, "averaging": {},
    "fingerprint": {}, "data_sha256": "00",
}  # fmt: skip


@pytest.mark.parametrize("key", OF_A_TRAINING)
def test_a_forged_training_is_not_gone_on_with(tmp_path: Path, key: str) -> None:
    Checkpoint(tmp_path, {}, OF_A_TRAINING).check()
    for value in (None, -1, True, [1], {"a": 1}, "x"):
        if not isinstance(value, type(OF_A_TRAINING[key])) or value is True or value == -1:
            with pytest.raises(CheckpointError, match=rf"is not one of a training: '{key}'"):
                Checkpoint(tmp_path, {}, {**OF_A_TRAINING, key: value}).check()
    with pytest.raises(CheckpointError, match="'best'"):
        Checkpoint(tmp_path, {}, {**OF_A_TRAINING, "best": {"val/accuracy": "1"}}).check()


FORGED: dict[str, Any] = {
    "fewer numbers": (torch.zeros(3), None),
    "one number": (torch.tensor(0.0), None),
    "the numbers in another shape": (torch.zeros(10, 64), None),
    "all in one place": (torch.zeros(64, 10), [0, 0]),
    "one over the other": (torch.zeros(64, 10), [1, 1]),
    "with gaps of a petabyte": (torch.zeros(64, 10), [2**50, 1]),
    "backwards": (torch.zeros(64, 10), [-10, 1]),
}


@pytest.mark.parametrize("kind", FORGED)
def test_an_optimizer_that_reads_beyond_its_memory_is_refused(kind: str) -> None:
    """torch's fused kernels follow such tensors out of their memory: the process would crash, or worse."""
    weight = torch.nn.Parameter(torch.ones(64, 10))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    tensors, state = optimizer_state(optimizer)
    load_optimizer_state(optimizer, tensors, state)
    forged, strides = FORGED[kind]
    for name in ("exp_avg", "exp_avg_sq"):
        with pytest.raises(CheckpointError, match="optimizer"):
            load_optimizer_state(
                optimizer, {**tensors, f"0.{name}": forged}, {**state, "strides": {f"0.{name}": strides}}
            )


def test_a_checkpoint_whose_checksums_do_not_match_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"weight": torch.ones(2)}, {"step": 1})
    (tmp_path / "c" / TENSORS).write_bytes(pickled(tmp_path / "canary"))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "canary").exists()


# --------------------------------------------------------------------------- caches


@pytest.mark.parametrize("forged", [False, True], ids=["damaged", "with right checksums"])
def test_a_poisoned_cache_is_made_anew_or_refused(tmp_path: Path, forged: bool) -> None:
    """A cached array is a file of numpy's; one of objects is a pickle."""
    import hashlib

    root = make_folder(tmp_path / "pictures", {"a": 12, "b": 12})
    first = image_folder(root).load()
    canary = tmp_path / "canary"
    poisoned = 0
    for array in (tmp_path / "cache").glob("*/*.npy"):
        packed = io.BytesIO()
        np.save(packed, np.array([Canary(canary)], dtype=object), allow_pickle=True)
        array.write_bytes(packed.getvalue())
        poisoned += 1
        if forged:
            listing = next(path for path in array.parent.glob("*.json"))
            contents = json.loads(listing.read_text())
            contents[array.name] = hashlib.sha256(packed.getvalue()).hexdigest()
            listing.write_text(json.dumps(contents))
    assert poisoned
    try:
        again = image_folder(root).load()
    except (DataError, ValueError):
        assert forged
    else:
        assert again.fingerprint == first.fingerprint
    assert not canary.exists()


# ------------------------------------------------------------------- configurations

TARGETS = [
    "hydra.callbacks.x", "hydra.launcher", "hydra.sweeper", "hydra.sweeper.sampler", "hydra.job_logging.handlers.x",
    "hydra.hydra_logging.filters.x", "hydra.help", "hydra.env",
]  # fmt: skip


@pytest.mark.parametrize("place", TARGETS)
def test_hydra_s_own_configuration_calls_nothing(place: str) -> None:
    node: dict[str, Any] = {"_target_": "os.system", "command": "touch canary"}
    for part in reversed(place.split(".")[1:]):
        node = {part: node}
    with pytest.raises(ConfigError, match=rf"{place}\._target_: 'os.system' is refused"):
        refuse_callables(node, "hydra")


@pytest.mark.parametrize("section", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize(
    "handler", [{"()": "os.system"}, {"class": "subprocess.Popen"}, {"class": "logging.StreamHandler", "stream": "ext://os.environ"}]
)  # fmt: skip
def test_a_logging_section_calls_nothing(section: str, handler: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is refused"):
        refuse_callables({section: {"handlers": {"x": handler}}}, "hydra")


def test_hydra_s_own_plugins_are_let_through(compose: Callable[..., Any]) -> None:
    refuse_callables({"launcher": {"_target_": "hydra_plugins.gradlab_launcher.launcher.GradlabLauncher"}}, "hydra")
    refuse_callables({"sweeper": {"sampler": {"_target_": "optuna.samplers.TPESampler"}}}, "hydra")
    console = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
    refuse_callables({"job_logging": {"handlers": {"console": console}}}, "hydra")


@pytest.mark.parametrize("where", ["callbacks", "job_logging"])
def test_a_poisoned_recipe_is_a_wrong_configuration(tmp_path: Path, where: str) -> None:
    call = {"_target_" if where == "callbacks" else "()": "os.mkdir", "path": str(tmp_path / "canary")}
    section = (
        {"x": call} if where == "callbacks" else {"version": 1, "root": {"handlers": ["x"]}, "handlers": {"x": call}}
    )
    (tmp_path / "experiment").mkdir()
    recipe = {"hydra": {where: section}}
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{json.dumps(recipe)}\n")
    for sweep in ([], ["-m"]):
        finished = train(tmp_path, "--config-dir", str(tmp_path), *sweep, "experiment=evil")
        assert finished.status == 2, finished.out + finished.err
        assert "is refused" in finished.err
    assert {path.name for path in tmp_path.iterdir()} == {"experiment"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("job.env_set", {"PYTHONPATH": "/tmp/evil"}),
        ("output_subdir", "../../.config"),
        ("job_logging.handlers.file", {"class": "logging.FileHandler", "filename": "~/.bashrc"}),
        ("hydra_logging.handlers.file", {"class": "logging.handlers.RotatingFileHandler", "filename": "~/.profile"}),
    ],
)
def test_hydra_s_own_configuration_sets_no_variables_and_writes_no_file_of_its_choice(place: str, value: Any) -> None:
    node: Any = value
    for part in reversed(place.split(".")):
        node = {part: node}
    with pytest.raises(ConfigError, match=rf"hydra\.{place}.* is refused"):
        refuse_callables(node, "hydra")


@pytest.mark.parametrize(
    "changes", [{"partition": "a\nrm x"}, {"options": {"comment": "a\nrm x"}}, {"options": {"a\nrm x": 1}}]
)
def test_a_setting_of_slurm_is_no_second_line_of_its_script(changes: dict[str, Any]) -> None:
    plain: dict[str, Any] = {
        "partition": None, "account": None, "qos": None, "constraint": None, "time": 1, "cpus": 1, "gpus": 0, "mem_gb": None,
        "points_per_job": 1, "signal_seconds": 1, "options": {"exclude": "n7"},
    }  # fmt: skip
    Slurm(**plain)
    with pytest.raises(FieldError, match="must not have more than one line"):
        Slurm(**plain | changes)


@pytest.mark.slow
def test_what_lies_in_the_working_directory_is_not_imported(tmp_path: Path) -> None:
    """``python -m`` would: the processes beside a run and a sweep are started without."""
    for name in ("json", "typing", "gradlab", "mlflow"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')\n")
    finished = train(tmp_path, "-m", "seed=0,1", "trainer.max_epochs=1", "plots=false", "hydra.launcher.workers=1")
    assert finished.status == 0, finished.err
    assert train(tmp_path, "trainer.max_epochs=1", "plots=false").status == 0
    assert not list(tmp_path.rglob("canary"))


def test_processes_of_ours_do_not_look_into_the_working_directory() -> None:
    """Which may be a folder of others: ``python -m`` puts it before the standard library."""
    started = [
        (file, "-P" in call or "PYTHONSAFEPATH" in file.read_text())
        for file in (ROOT / "src").rglob("*.py")
        for call in re.findall(r"\[\s*sys\.executable,[^\]]*(?:-m\b|program)[^\]]*", file.read_text())
    ]
    assert len(started) >= 5
    assert not [file for file, safe in started if not safe]


def test_a_configuration_cannot_take_a_secret_along(
    monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary-token-1")
    with pytest.raises(
        ConfigError, match="name holds the value of the environment variable MLFLOW_TRACKING_TOKEN"
    ) as caught:
        build_config(compose("name=${oc.env:MLFLOW_TRACKING_TOKEN}"))
    assert "canary" not in str(caught.value)


def test_there_is_no_reader_of_pickles_but_the_one_that_builds_records() -> None:
    readers = ("pickle.load", "pickle.loads", "joblib", "cloudpickle", "dill", "shelve", "yaml.unsafe_load", "marshal")
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text()
        assert not [name for name in readers if f"{name}(" in text or f"import {name}" in text], file
        assert text.count("torch.load(") == text.count("weights_only=True)"), file
        assert "allow_pickle=True" not in text, file
        if "pickle.Unpickler" in text:
            assert file.name == "pickles.py"
