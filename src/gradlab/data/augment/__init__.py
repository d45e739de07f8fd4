"""Augmentations, one kind to a file. Every file in this folder is imported, so a new one registers itself."""

import importlib
import pkgutil

from gradlab.data.augment.base import AUGMENTATIONS, Augmentation, Scene

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["AUGMENTATIONS", "Augmentation", "Scene"]
