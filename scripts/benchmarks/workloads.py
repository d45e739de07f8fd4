"""The trainings that are timed, and their configurations."""

from dataclasses import dataclass
from pathlib import Path

import hydra

from gradlab.config import Config, Origin, build_config
from gradlab.entry import CONFIGS

OWN_CONFIGS = Path(__file__).parent / "configs"
ENDLESS = ["trainer.max_epochs=null", "trainer.max_steps=1000000000", "trainer.validate_every=100%", "tracking=none"]
CIFAR = ["data=random_images", "augment=[crop,flip]", "optimizer=nesterov"]


@dataclass(frozen=True)
class Workload:
    """One training: ``overrides`` as for train.py; ``published`` where it needs MNIST's files."""

    name: str
    overrides: tuple[str, ...]
    published: bool = False

    def config(self, data: Path, *more: str) -> Config:
        """Of a training that never ends by itself."""
        root = [f"data.root={data}"] if self.published else []
        return compose([*self.overrides, *root, *ENDLESS, "schedule=constant", *more])


WORKLOADS = [
    Workload("digits+mlp", ("data=digits", "model=mlp", "optimizer=adam")),
    Workload("mnist+mlp", ("data=mnist", "model=mlp", "optimizer=adam"), published=True),
    Workload("mnist+lenet", ("data=mnist", "model=lenet", "optimizer=adam"), published=True),
    Workload("cifar+resnet-9", (*CIFAR, "model=resnet", "model.depth=9")),
    Workload("cifar+resnet-9-bf16", (*CIFAR, "model=resnet", "model.depth=9", "trainer.precision=bf16")),
    Workload("cifar+resnet-18", (*CIFAR, "model=resnet", "model.depth=18")),
    Workload("cifar+speed", (*CIFAR, "model=speed", "init=default")),
]
"""Images of CIFAR's shape are noise: a step takes as long, and no file is needed."""

SMALL = Workload("digits+logistic", ("data=digits", "model=logistic", "optimizer=sgd"))
"""For trying the benchmark itself."""


def compose(overrides: list[str]) -> Config:
    """The configuration of ``python train.py`` with these overrides, and with ``data=random_images`` beside its choices."""
    from benchmarks import random_images  # noqa: F401 - registers itself

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build_config(
            hydra.compose("config", [f"hydra.searchpath=[file://{OWN_CONFIGS}]", *overrides]), Origin(overrides)
        )
