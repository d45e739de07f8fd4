"""What ``model=torchvision`` and ``model=timm`` share: weights from a local file, and parts that are not trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.bounds import check_option
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class LibraryModel:
    """The fields of a model that a library builds by its name.

    arch: the library's name of it.
    pretrained: a local file of weights (.safetensors, or .pt and .pth that hold tensors only), or the folder of one of our
        checkpoints; or null for a fresh start. Nothing is ever downloaded. A last layer for other classes is begun anew; no
        initialiser touches what was loaded.
    freeze: what training leaves as it is: ``none``, ``backbone`` (all but the last layer), or a list of the beginnings of
        names, as ``[conv1, layer1]``. BatchNorm in it uses its running statistics, and dropout is off.
    """

    name: str
    arch: str
    pretrained: str | None
    freeze: Any

    def __post_init__(self) -> None:
        if isinstance(self.freeze, str):
            check_option(self, "freeze", ["none", "backbone"])
        elif not isinstance(self.freeze, list) or not all(isinstance(part, str) and part for part in self.freeze):
            raise FieldError("freeze", f"must be none, backbone or a list of names, as [layer1], not '{self.freeze}'")

    @property
    def must_be_tried(self) -> bool:
        """Whether only building the network can tell if it fits; see ``models.trial``."""
        return self.pretrained is not None or self.freeze not in ("none", [])

    def check_file(self) -> None:
        """Raise ``ConfigError`` where ``pretrained`` is no file that could hold weights."""
        if self.pretrained is None:
            return
        path = Path(self.pretrained).expanduser()
        if path.is_dir() and not (path / "tensors.safetensors").is_file():
            raise ConfigError(
                f"model.pretrained={self.pretrained} is a folder without tensors.safetensors. Name a file of weights, or a "
                "checkpoint's folder, as outputs/…/checkpoints/best."
            )
        if not path.exists():
            raise ConfigError(
                f"model.pretrained={self.pretrained}: there is no such file. It must be on this machine: gradlab downloads "
                "no weights."
            )
        if path.is_file() and path.suffix not in SUFFIXES:
            raise ConfigError(
                f"model.pretrained={self.pretrained} must end in {', '.join(SUFFIXES)}. Pickles are not opened, because "
                "one can run any code; save the state_dict with safetensors.torch.save_file."
            )

    def finish(self, network: "nn.Module", heads: "list[nn.Module]", spec: DataSpec) -> "nn.Module":
        """``network`` (whose last layers are ``heads``, one as a rule) for ``spec.channels``, with the weights loaded and parts frozen."""
        from gradlab.models.networks.pretrained import fit_channels, freeze, load_weights

        fit_channels(network, spec.channels)
        if self.pretrained is not None:
            load_weights(network, Path(self.pretrained).expanduser(), heads)
        return freeze(network, self.freeze, heads)


def check_name(name: str, known: "tuple[str, ...] | list[str]", library: str) -> None:
    """Raise ``FieldError``, with the nearest names, unless ``name`` is one of ``known``."""
    if name in known:
        return
    import difflib

    begun = [each for each in known if name and each.startswith(name)]
    near = begun[:6] or difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    hint = ("" if begun else did_you_mean(name, known)) + (f" Near it are {', '.join(near)}." if near else "")
    raise FieldError("arch", f"names no classification model of {library}: '{name}'.{hint}")
