"""The models of timm, by their names; timm is an optional extra."""

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.models.base import MODELS
from gradlab.models.library import LibraryModel, check_name

if TYPE_CHECKING:
    from torch import nn


@functools.cache
def names() -> tuple[str, ...]:
    """The architectures of the installed timm, read from its source: importing it takes seconds. Empty without timm."""
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        return ()
    found: set[str] = set()
    for file in (Path(package.origin).parent / "models").glob("*.py"):
        found |= set(re.findall(r"^@register_model\ndef (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE))
    return tuple(sorted(found))


@MODELS.register("timm")
@dataclass(frozen=True)
class Timm(LibraryModel):
    """Any architecture of timm (Wightman, https://github.com/huggingface/pytorch-image-models); ``pip install 'gradlab[timm]'``.

    It is built for the data's classes, channels and, where it wants to know it, image size. Whether it takes small images is
    found out by trying, before the run begins. Nothing is downloaded.

    arch: timm's name, as ``convnext_atto``; without the tag of its weights that timm puts after a dot.
    pretrained, freeze: see LibraryModel.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not names():
            raise ConfigError(
                "model=timm needs the package timm, which is not installed. Install it with: pip install 'gradlab[timm]' "
                "(or: pip install timm)."
            )
        check_name(self.arch, names(), "timm")

    @property
    def must_be_tried(self) -> bool:
        return True

    def check(self, spec: DataSpec) -> None:
        self.check_file()

    def build(self, spec: DataSpec) -> "nn.Module":
        import timm
        from torch import nn

        from gradlab.models.networks.pretrained import last_layer

        options: dict[str, Any] = {"num_classes": len(spec.classes), "in_chans": spec.channels}
        known = timm.models.get_pretrained_cfg(self.arch)
        if known is not None and known.fixed_input_size:
            options["img_size"] = (spec.height, spec.width)
        network: nn.Module = timm.create_model(self.arch, pretrained=False, **options)
        classifier: Any = getattr(network, "get_classifier", None)
        found = classifier() if classifier else None
        # A distilled transformer has two last layers.
        heads = [
            head for head in (found if isinstance(found, tuple | list) else [found]) if isinstance(head, nn.Module)
        ]
        return self.finish(network, heads or [last_layer(network)], spec)
