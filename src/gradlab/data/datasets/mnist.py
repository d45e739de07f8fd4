"""MNIST from its four IDX files, plain or gzipped, in torchvision's layout ``<root>/MNIST/raw``."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradlab.data.datasets.base import DATASETS, Batched, Examples, Splits, fingerprint, held_out, stratified_split
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, DataError

TRAIN_EXAMPLES = 60_000

# MD5 of the unpacked files, as MNIST's mirrors publish them (a check against damage, not against forgery).
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@DATASETS.register("mnist")
@dataclass(frozen=True)
class MNIST(Batched):
    """Handwritten digits, 60,000 to train and 10,000 to test, grey 28×28 (LeCun et al., 1998).

    batch_size, val_fraction, split_seed: see Batched.
    root: the folder that holds ``MNIST/raw``; a relative one is taken from the working directory.
    """

    root: str

    def spec(self) -> DataSpec:
        for name in CHECKSUMS:
            self._find(name)
        return DataSpec(
            name=self.name,
            image_shape=(1, 28, 28),
            classes=tuple("0123456789"),
            train_examples=TRAIN_EXAMPLES - held_out(TRAIN_EXAMPLES, self.val_fraction),
        )

    def load(self) -> Splits:
        full = self._examples("train")
        test = self._examples("t10k")
        train, val = stratified_split(full, self.val_fraction, self.split_seed, part=1)
        return Splits(train, val, test, fingerprint(full, test))

    def _find(self, name: str) -> Path:
        folder = Path(self.root).expanduser() / "MNIST" / "raw"
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
        raise ConfigError(
            f"data=mnist needs the file '{name}' (or '{name}.gz'), and it is not in {folder.absolute()}. "
            f"Name the folder that holds MNIST/raw with data.root=…, or fetch MNIST there once: "
            f"python -c \"from torchvision.datasets import MNIST; MNIST('{self.root}', download=True)\""
        )

    def _examples(self, prefix: str) -> Examples:
        images = self._read(f"{prefix}-images-idx3-ubyte")
        labels = self._read(f"{prefix}-labels-idx1-ubyte")
        return Examples(images[:, None], labels.astype(np.int64))

    def _read(self, name: str) -> npt.NDArray[np.uint8]:
        """One IDX file as an array: a big-endian header of magic number and sizes, then the bytes."""
        file = self._find(name)
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
            raise DataError(f"{file.absolute()} cannot be unpacked ({error}). Delete it and fetch it again.") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != CHECKSUMS[name]:
            raise DataError(
                f"{file.absolute()} is damaged: its content has the MD5 checksum {found}, and MNIST's is "
                f"{CHECKSUMS[name]}. Delete it and fetch it again."
            )
        dimensions = content[3]
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
