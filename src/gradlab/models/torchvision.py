"""The classification models of torchvision, by their names."""

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.models.base import MODELS
from gradlab.models.library import LibraryModel, check_name

if TYPE_CHECKING:
    from torch import nn

# Here, not asked of torchvision: importing that takes seconds, and a misspelt name must be answered at once.
_NAMES = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b
    swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16
    vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
NAMES = tuple(_NAMES.split())
NAMES_OF = (0, 29)  # the torchvision that has these

# The smallest side of which the convolutions and pools of a family leave at least one pixel.
LEAST_SIDES = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception_v3": 75,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "swin": 4,
    "vgg": 32,
}


@MODELS.register("torchvision")
@dataclass(frozen=True)
class Torchvision(LibraryModel):
    """Any classification model of torchvision (https://docs.pytorch.org/vision/stable/models.html#classification).

    Its last layer is made for the data's classes, and its first convolution for their channels (one channel takes the sum
    of the three, other numbers repeat them). googlenet and inception_v3 are built without their auxiliary classifiers. Most
    were made for 224×224 images and begin by shrinking them: of small images they see little, and ``resnet``,
    ``wide_resnet``, ``speed`` or ``vit`` learn those better.

    arch: torchvision's name, as ``resnet50``.
    pretrained, freeze: see LibraryModel.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arch not in NAMES and _version() > NAMES_OF:
            import torchvision.models as models  # newer than our list

            check_name(self.arch, models.list_models(module=models), "torchvision")
        else:
            check_name(self.arch, NAMES, "torchvision")

    def check(self, spec: DataSpec) -> None:
        self.check_file()
        side, shape = min(spec.height, spec.width), f"data={spec.name} has {spec.height}×{spec.width}"
        for family, least in LEAST_SIDES.items():
            if self.arch.startswith(family) and side < least:
                made_for = " (it was made for 299×299)" if family == "inception_v3" else ""
                raise ConfigError(
                    f"model.arch={self.arch} needs images of at least {least}×{least} pixels{made_for}, because its "
                    f"convolutions and pools leave nothing of smaller ones, and {shape}. Choose one that takes any, as "
                    "model.arch=resnet18, or larger images."
                )
        patch = self._patch
        if patch and (spec.height != spec.width or side % patch):
            raise ConfigError(
                f"model.arch={self.arch} needs square images whose side is a multiple of {patch}, and {shape}. Choose "
                "model=vit, whose patches have any size, or model.arch=resnet18."
            )
        if self.arch.startswith("maxvit") and (spec.height % 224 or spec.width % 224):
            raise ConfigError(
                f"model.arch={self.arch} needs images whose sides are multiples of 224 (it cuts 1/32 of the image into "
                f"windows of 7×7), and {shape}. Choose model=vit, or model.arch=resnet18."
            )

    @property
    def _patch(self) -> int | None:
        """The side of a vision transformer's patches, which its name ends in."""
        return int(self.arch.rpartition("_")[2]) if self.arch.startswith("vit_") else None

    def build(self, spec: DataSpec) -> "nn.Module":
        import torchvision.models as models

        from gradlab.models.networks.pretrained import last_layer

        options: dict[str, Any] = {"num_classes": len(spec.classes)}
        if self.arch in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}
        if self._patch:
            options["image_size"] = spec.height
        if self.arch.startswith("maxvit"):
            options["input_size"] = (spec.height, spec.width)
        network: nn.Module = models.get_model(self.arch, weights=None, **options)
        return self.finish(network, [last_layer(network)], spec)


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("torchvision").split(".")[:2])
