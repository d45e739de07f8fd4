"""scikit-learn's digits: 1,797 grey 8×8 images of handwritten digits, inside the package. Needs no file."""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradlab.bounds import check_number
from gradlab.data.datasets.base import DATASETS, Batched, Examples, Splits, fingerprint, held_out, stratified_split
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

EXAMPLES = 1797


@DATASETS.register("digits")
@dataclass(frozen=True)
class Digits(Batched):
    """Optical recognition of handwritten digits (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49).

    The set comes in one piece; the test images are split off first, by split_seed, then the validation images.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    test_fraction: share of all images held out for the test, in (0, 1).
    """

    test_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "test_fraction", above=0, below=1)
        if EXAMPLES - held_out(EXAMPLES, self.test_fraction) < 2:
            raise FieldError("test_fraction", f"of {self.test_fraction} leaves one image to train and to validate on")

    def spec(self) -> DataSpec:
        rest = EXAMPLES - held_out(EXAMPLES, self.test_fraction)
        return DataSpec(
            name=self.name,
            image_shape=(1, 8, 8),
            classes=tuple("0123456789"),
            train_examples=rest - held_out(rest, self.val_fraction),
        )

    def load(self) -> Splits:
        everything = _read()
        rest, test = stratified_split(everything, self.test_fraction, self.split_seed, part=0)
        train, val = stratified_split(rest, self.val_fraction, self.split_seed, part=1)
        return Splits(train, val, test, fingerprint(everything))


def _read() -> Examples:
    # load_digits() reads this same file, after 1.5 s of importing scipy and pandas for its other loaders.
    package = importlib.util.find_spec("sklearn")
    file = Path(str(package and package.origin)).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    # 0…16 becomes 0…240: all of it a byte, and a multiple, so that nothing is rounded.
    images = (np.asarray(pixels) * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Examples(images, np.asarray(labels, dtype=np.int64))
