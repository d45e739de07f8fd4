"""Small folders of pictures, for tests."""

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradlab.data.datasets.image_folder import ImageFolder


def make_folder(
    root: Path, counts: dict[str, int], *, size: tuple[int, int] = (8, 6), mode: str = "RGB", suffix: str = "png"
) -> Path:
    """``counts["a/b"]`` pictures in the folder ``a/b`` of ``root``, (height, width), no two alike."""
    random = np.random.default_rng(sum(counts.values()))
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (*size, 3)).astype(np.uint8)
            pixels[: size[0] // 2] = pixels[: size[0] // 2] // 4 + 20 * (list(counts).index(folder) % 8)
            Image.fromarray(pixels).convert(mode).save(root / folder / f"{number:03}.{suffix}")
    return root


def pack(root: Path, path: Path, inside: str = "") -> Path:
    """``root`` as an archive, all of it below ``inside``."""
    files = [(file, f"{inside}{file.relative_to(root)}") for file in sorted(root.rglob("*"), reverse=True)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in files:
                archive.write(file, name)
    else:
        packing: Any = "w:" + path.suffix[1:].replace("tar", "")
        with tarfile.open(path, packing) as packed:
            for file, name in files:
                packed.add(file, name, recursive=False)
    return path


def image_folder(root: Path, /, **changes: Any) -> ImageFolder:
    """The dataset with the numbers of its YAML, and a cache beside ``root``."""
    numbers: dict[str, Any] = {
        "root": str(root), "batch_size": 4, "image_size": None, "fit": "resize", "color": "auto", "val_fraction": 0.2,
        "test_fraction": 0.2, "split_seed": 0, "class_weights": "none", "normalization": "standard", "on_bad_image": "fail", "stream": "auto", "memory_share": 0.5,
        "workers": 2, "cache_dir": str(root.parent / "cache"), "max_pixels": 10**6, "max_files": 10**4,
        "max_bytes": 10**8,
    }  # fmt: skip
    return ImageFolder("image_folder", **(numbers | changes))
