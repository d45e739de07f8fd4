"""The network of a run, as its test saw it: rebuilt from its configuration, with the run's own preprocessing."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradlab.checkpoints import load_checkpoint
from gradlab.config import choice, import_user_modules
from gradlab.data.device import Normalization, Preparation, Raw
from gradlab.data.spec import DataSpec
from gradlab.errors import CheckpointError, ConfigError
from gradlab.models import MODELS
from gradlab.views import answers

LARGEST_SIDE = 2**16
"""Pixels (and channels) of an image's side that are believed."""


@dataclass(frozen=True)
class Trained:
    """A trained network, ready to be asked.

    config: the run's resolved configuration.
    spec: shape and classes of the images it was trained on.
    model: in evaluation mode, on ``device``.
    preparation: the run's normalisation.
    step: the optimizer step it is from.
    views: what it is shown of an image, see ``views.py``.
    """

    config: dict[str, Any]
    spec: DataSpec
    model: torch.nn.Module
    preparation: Preparation
    device: torch.device
    step: int
    views: str

    def logits(self, raw: Raw) -> torch.Tensor:
        """Logits [batch, classes] of stored images [batch, channels, height, width], both on ``device``."""
        with torch.inference_mode():
            return answers(self.model, self.preparation.evaluation(raw).images, self.views)


def images_record(spec: DataSpec, normalization: Normalization) -> dict[str, Any]:
    """What a checkpoint says of its images: enough to prepare others in the same way, without the data."""
    return {
        "data": spec.name,
        "image_shape": list(spec.image_shape),
        "classes": list(spec.classes),
        "train_examples": spec.train_examples,
        "mean": normalization.mean.tolist(),
        "std": normalization.std.tolist(),
    }


def _spec_of(images: dict[str, Any], checkpoint: Path) -> DataSpec:
    """What a checkpoint says of its images; each number as large as an image's can be, and no larger."""
    shape, classes, train_examples = images.get("image_shape"), images.get("classes"), images.get("train_examples")
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in shape)
        or not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
        or type(train_examples) is not int
    ):
        raise CheckpointError(f"The checkpoint {checkpoint} says impossible things of its images: {str(images)[:200]}.")
    return DataSpec(str(images.get("data")), (shape[0], shape[1], shape[2]), tuple(classes), train_examples)


def _refuse_other_shapes(entry: Any, spec: DataSpec, weights: dict[str, torch.Tensor]) -> None:
    """Raise ``RuntimeError`` where the network has other shapes than its weights, before it takes any memory.

    A forged configuration may ask for a network of any size.
    """
    try:
        with torch.device("meta"):
            sketch = entry.build(spec).state_dict()
    except Exception:  # an architecture that computes while it is built; loading its weights compares the shapes
        return
    for name, tensor in sketch.items():
        if name not in weights or weights[name].shape != tensor.shape:
            found = tuple(weights[name].shape) if name in weights else "missing"
            raise RuntimeError(f"{name} is {found} and must be {tuple(tensor.shape)}")


def open_trained(checkpoint: Path, device: str, imports: list[str]) -> Trained:
    """The network of a checkpoint.

    Args:
        checkpoint: the folder of ``tensors.safetensors`` and ``state.json``.
        device: ``auto`` (CUDA where there is a device), ``cpu`` or ``cuda``.
        imports: modules that register the user's own choices. Never taken from the checkpoint: opening one runs no
            code that it names.

    Raises:
        CheckpointError: it is damaged, or is of a network that this gradlab does not build.
        ConfigError: the device is not there, or the model is one that no module of ``imports`` registers.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was asked for, and torch finds no CUDA device. Choose --device cpu.")
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    tensors, state = load_checkpoint(checkpoint)
    config, images = state.get("config"), state.get("images")
    if not isinstance(config, dict) or not isinstance(images, dict):
        raise CheckpointError(f"The checkpoint {checkpoint} does not say what images it takes: train the run again.")
    import_user_modules(imports)
    spec = _spec_of(images, checkpoint)
    if not isinstance(config.get("model"), dict) or not isinstance(config.get("trainer"), dict):
        raise CheckpointError(f"The checkpoint {checkpoint} does not say what network it is of.")
    if config["model"].get("name") not in MODELS and config.get("imports"):
        raise ConfigError(
            f"The run's model '{config['model']['name']}' comes from {', '.join(config['imports'])}. Where you trust that "
            f"code, have it imported: {' '.join(f'--imports {module}' for module in config['imports'])}"
        )
    entry = choice("model", config["model"])
    if getattr(entry, "pretrained", None) is not None:
        entry = dataclasses.replace(entry, pretrained=None)  # the checkpoint holds every weight
    precise = config["trainer"].get("precision") == "fp64"
    views = str(config["trainer"].get("views", "plain"))
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    try:
        _refuse_other_shapes(entry, spec, weights)
        model: torch.nn.Module = entry.build(spec)
        if precise:
            model = model.double()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"The weights in {checkpoint} do not fit model={config['model']['name']} as this gradlab builds it: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    normalization = Normalization(
        torch.tensor(images["mean"], dtype=torch.float64), torch.tensor(images["std"], dtype=torch.float64)
    )
    preparation = Preparation(normalization, where, torch.float64 if precise else torch.float32)
    return Trained(config, spec, model.to(where).eval(), preparation, where, state["step"], views)
