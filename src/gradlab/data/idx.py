"""IDX, the file format of MNIST and its kin (http://yann.lecun.com/exdb/mnist/): a big-endian header, then bytes."""

import math

import numpy as np
import numpy.typing as npt

from gradlab.data.files import Content
from gradlab.errors import DataError

UNSIGNED_BYTES = 8


def parse(content: Content, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, which must have this shape.

    The header: two zeros, the type of the numbers, the number of dimensions; then each size in four bytes.

    Raises:
        DataError: it is no such file, or of another shape.
    """
    data = content.data
    header = 4 + 4 * len(shape)
    expected = bytes([0, 0, UNSIGNED_BYTES, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if data[:header] != expected or len(data) != header + math.prod(shape):
        raise DataError(
            f"{content.where} is damaged: it has {len(data):,} bytes and begins with {data[:header].hex(' ', 4)}, and an "
            f"IDX file of {' × '.join(map(str, shape))} bytes has {header + math.prod(shape):,} and begins with "
            f"{expected.hex(' ', 4)}. Delete it and fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()
