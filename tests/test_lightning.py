"""A start imports what it needs and nothing more; and whatever was left out is there as soon as it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from gradlab.entry import CONFIGS
from gradlab.hydra_shortcuts import says_no_mode

HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "torchvision",
    "scipy",
    "matplotlib",
    "pandas",
    "torchmetrics.functional",
)

RUN = f"""
import sys
sys.argv = ['train.py', 'tracking=none', 'plots=false', 'trainer.max_epochs=null', 'trainer.max_steps=3']
from gradlab.entry import main
status = main()
heavy = sorted(set({(*HEAVY, "mlflow", "sklearn")!r}) & set(sys.modules))
sys.exit(f'imported: {{heavy}}' if heavy else status)
"""

ASKED = """
import sys
from gradlab.lightning import OptimizedModule, pl
import torch
from lightning.pytorch.utilities.compile import from_compiled
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric

class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def forward(self, x):
        return self.layer(x)

def steps(optimizer, model):
    for _ in range(2):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.layer.weight.detach().clone()

def trained():
    torch.manual_seed(0)
    model = Small()
    return steps(torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1), model)

model = Small()
assert not isinstance(model, OptimizedModule)
before = trained()
assert 'torch._dynamo' not in sys.modules

compiled = torch.compile(model, backend='eager')
assert 'torch._dynamo' in sys.modules and hasattr(torch._dynamo, 'convert_frame')
assert isinstance(compiled, OptimizedModule) and not isinstance(model, OptimizedModule)
assert from_compiled(compiled) is not None
assert torch.equal(compiled(torch.ones(2, 3)), model(torch.ones(2, 3)))
assert torch.equal(trained(), before)

import torchmetrics
assert 'torchmetrics.functional' not in sys.modules
accuracy = torchmetrics.Accuracy(task='multiclass', num_classes=3)
assert accuracy(torch.tensor([0, 1]), torch.tensor([0, 2])) == 0.5
assert isinstance(accuracy, torchmetrics.Metric) and issubclass(_ResultMetric, torchmetrics.Metric)
from torchmetrics.utilities import plot
assert plot._AX_TYPE is sys.modules['matplotlib'].axes.Axes
"""

OTHER_VERSIONS = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
asked = []
def find_spec(name, path=None, target=None):
    if name == 'torchmetrics.utilities.imports' and not asked:
        return asked.append(name)
    return find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
from gradlab.lightning import pl
assert asked and 'torchmetrics.functional' in sys.modules and issubclass(pl.Trainer, object)
"""


def _run(program: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_imports_no_compiler_and_no_metrics(tmp_path: Path) -> None:
    """By what is imported, not by the clock."""
    _run(RUN, tmp_path)


def test_what_was_left_out_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    _run(ASKED, tmp_path)


@pytest.mark.slow
def test_other_versions_are_imported_as_they_are(tmp_path: Path) -> None:
    _run(OTHER_VERSIONS, tmp_path)


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ([], True),
        (["optimizer=adam", "optimizer.lr=0.1", "+optimizer.x=1", "augment=[crop]"], True),
        (["-m", "seed=1,2"], True),
        (["experiment=lr_sweep"], False),
        (["hydra.mode=MULTIRUN"], False),
        (["++hydra.mode=MULTIRUN"], False),
        (["hydra/sweeper=basic"], False),
        (["--config-dir=mine", "seed=1"], False),
        (["--config-name", "mine"], False),
    ],
)
def test_a_configuration_is_composed_once_where_it_cannot_ask_for_a_sweep(
    monkeypatch: pytest.MonkeyPatch, words: list[str], plain: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    overrides = [word for word in words if not word.startswith("-")]
    assert says_no_mode(CONFIGS, ["optimizer", "augment", "seed"], overrides) is plain


def test_a_mode_in_the_map_itself_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert not says_no_mode(tmp_path, ["seed"], [])
