"""One picture file, as whatever camera, scanner or web page left it, made into uint8 pixels of a wanted size.

Needs Pillow, which is imported with the first picture. Nothing here trusts a file: whatever is wrong with one is a
``PictureError`` that says what.
"""

import contextlib
import functools
import importlib
import io
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from gradlab.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".webp",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
FITS = ("resize", "crop")
PILLOWS_LIMIT = 178_956_970
"""Pixels above which Pillow itself refuses to open a picture."""

# The commonest first: Pillow asks them in this order. No others: Pillow also reads formats that start other programs.
_FORMATS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm")
_ORIENTATION = 0x0112
_BLOCK = 1 << 20

# What Pillow remarks on while it reads a strange file is either an error, and then said as one, or of no use to the reader.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class PictureError(DataError):
    """A picture that cannot be used.

    reason: what is wrong, as it follows the picture's name: ``is empty (0 bytes)``.
    lasting: whether it is the content that is wrong; else the file could not be read now, and may be another time.
    """

    def __init__(self, reason: str, name: str | None = None, *, lasting: bool = True) -> None:
        super().__init__(f"{name} {reason}" if name else f"The picture {reason}")
        self.reason = reason
        self.lasting = lasting


@dataclass(frozen=True)
class Header:
    """What a picture says of itself: ``width`` and ``height`` in pixels as it is to be looked at, and whether it is grey."""

    width: int
    height: int
    grey: bool


def printable(name: str) -> str:
    """``name`` with whatever would garble a terminal (line ends, bytes of no character) written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by the suffix of its name."""
    return Path(name).suffix.lower() in SUFFIXES


def most_bytes(max_pixels: int) -> int:
    """The size of the largest file that a picture of ``max_pixels`` can need: four channels of 16 bits, and some text."""
    return 8 * max_pixels + (1 << 20)


def decode(
    file: Path | bytes, *, channels: int, size: tuple[int, int] | None, fit: str, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """A picture as uint8 [channels, height, width].

    Turned upright as its EXIF orientation says; of an animation the first frame; transparent parts over white; 16 bits
    scaled to 8. Colour is made grey by the luma of ITU-R BT.601. Of a JPEG much larger than ``size`` only the detail that
    is needed is decoded.

    Args:
        file: the file, or its content.
        channels: 1 for grey or 3 for RGB.
        size: (height, width) to give it; or None for its own.
        fit: ``resize`` gives both sides their new length whatever the picture's shape, with antialiasing; ``crop`` takes
            the largest rectangle of the wanted shape from the middle first, which is to resize the shorter side and to
            crop the longer.
        max_pixels: a picture that says it has more is refused before it is decoded.

    Raises:
        PictureError: the file cannot be read, or is no whole picture within ``max_pixels``.
    """
    if fit not in FITS or channels not in (1, 3):
        raise ValueError(f"no such fit or number of channels: {fit!r}, {channels}")
    with _explained(file), _opened(file) as (stream, image):
        if image.width * image.height > max_pixels:
            raise PictureError(
                f"says it has {image.width:,}×{image.height:,} pixels, and at most {max_pixels:,} are allowed"
            )
        if image.format == "PNG":
            _check_png(stream)
        if size is not None:
            image.draft(None, (2 * max(size), 2 * max(size)))
        orientation = _orientation(image)
        plain = _fitted(_interpolable(image), size if orientation < 5 or size is None else size[::-1], fit)
        pixels = np.asarray(_turned(_over_white(plain), orientation).convert("L" if channels == 1 else "RGB"))
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def header(file: Path | bytes) -> Header:
    """Size and colour of a picture, from its first bytes where they tell.

    Raises:
        PictureError: as ``decode`` does, for what can be seen without decoding.
    """
    with _explained(file), _opened(file) as (_, image):
        turned = image.width != image.height and _orientation(image) >= 5
        width, height = image.size[::-1] if turned else image.size
        return Header(width, height, image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16"))


@contextlib.contextmanager
def _explained(file: Path | bytes) -> Iterator[None]:
    """Whatever goes wrong within is a ``PictureError``: what decoders raise for damaged files has no common base."""
    name = printable(str(file)) if isinstance(file, Path) else None
    try:
        yield
    except PictureError as error:
        raise PictureError(error.reason, name, lasting=error.lasting) from error.__cause__
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise PictureError(f"cannot be read: {error.strerror}", name, lasting=False) from error
        if type(error).__name__ == "DecompressionBombError":
            raise PictureError(f"says it has more than {PILLOWS_LIMIT:,} pixels", name) from error
        if isinstance(error, MemoryError):
            raise PictureError("does not fit into memory", name, lasting=False) from error
        said = printable(str(error)) or type(error).__name__
        raise PictureError(f"cannot be decoded, it is damaged or cut off ({said})", name) from error


@contextlib.contextmanager
def _opened(file: Path | bytes) -> "Iterator[tuple[BinaryIO, Image.Image]]":
    """The file and its picture, of which the header is read and nothing else."""
    from PIL import Image, UnidentifiedImageError

    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    with _stream(file) as stream:
        start = stream.read(512)
        if not start:
            raise PictureError("is empty (0 bytes)")
        stream.seek(0)
        try:
            image = Image.open(stream, formats=_formats())
        except UnidentifiedImageError as error:
            text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
            what = "a web page" if text.startswith((b"<!doctype html", b"<html", b"<?xml")) else "no picture"
            raise PictureError(
                f"is {what}, or its first bytes are damaged: its content is none of {', '.join(_formats())}"
            ) from error
        with image:
            yield stream, image


def _check_png(stream: BinaryIO) -> None:
    """Raise where the checksum of a part that the pixels need is wrong: Pillow does not look at those of the pixels."""
    at = stream.tell()
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        if kind[0] & 0x20 or kind == b"IEND":  # a remark may be damaged
            if kind == b"IEND":
                break
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        checksum = zlib.crc32(kind)
        while length > 0 and (piece := stream.read(min(length, _BLOCK))):
            length -= len(piece)
            checksum = zlib.crc32(piece, checksum)
        if length or int.from_bytes(stream.read(4)) != checksum:
            raise PictureError(
                f"is damaged or cut off: the checksum of its part {printable(kind.decode('latin-1'))} is wrong"
            )
    stream.seek(at)


def _stream(file: Path | bytes) -> BinaryIO:
    if isinstance(file, bytes):
        return io.BytesIO(file)
    if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe would wait for ever
        raise PictureError("is not a regular file")
    return file.open("rb")


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    for name in _FORMATS:
        importlib.import_module(f"PIL.{name}ImagePlugin")  # which enters its format
    return tuple(name.upper() for name in _FORMATS if name.upper() in Image.OPEN)


def _orientation(image: "Image.Image") -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none. EXIF data that cannot be read spoil no picture."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except PictureError:
        raise
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(image: "Image.Image", orientation: int) -> "Image.Image":
    from PIL.Image import Transpose

    if orientation == 1:
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation])


def _interpolable(image: "Image.Image") -> "Image.Image":
    """The picture in a mode of 8 bits whose values may be averaged: L, LA, RGB or RGBA."""
    mode = image.mode
    if mode.startswith("I"):
        return _eight_bits(image)
    if mode == "F":
        raise PictureError("stores floating-point numbers, and nothing says which is white; save it with 8 or 16 bits")
    if mode in ("1", "L", "P", "RGB") and "transparency" in image.info:
        image.load()  # a PNG's transparency may be said again, or a GIF's forgotten, by what follows the header
        return image.convert("RGBA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if mode in ("La", "RGBa"):
        return image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    return image.convert({"1": "L", "PA": "RGBA"}.get(mode, "RGB"))


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """0…65535 to 0…255, rounded; by blocks of rows, because a look-up widens its indices to eight bytes each."""
    from PIL import Image

    wide = np.asarray(image)
    if wide.dtype.itemsize > 2 and (wide.min() < 0 or wide.max() > 65535):
        raise PictureError(
            f"stores 32-bit numbers from {wide.min()} to {wide.max()}, and nothing says which is white; "
            "save it with 8 or 16 bits"
        )
    scaled = ((np.arange(65536) + 128) // 257).astype(np.uint8)
    narrow = np.empty(wide.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, wide.shape[1]))
    for first in range(0, len(wide), rows):
        narrow[first : first + rows] = scaled[wide[first : first + rows]]
    return Image.fromarray(narrow)


def _fitted(image: "Image.Image", size: tuple[int, int] | None, fit: str) -> "Image.Image":
    from PIL.Image import Resampling

    if size is None:
        return image
    height, width = size
    left = top = 0.0
    if fit == "crop":
        scale = min(image.width / width, image.height / height)
        left = max(0.0, (image.width - width * scale) / 2)
        top = max(0.0, (image.height - height * scale) / 2)
    if (left, top) == (0, 0) and image.size == (width, height):
        return image
    # One step, never the whole picture at the new scale: of 1×50,000,000 pixels that would be more than any memory.
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Resampling.BILINEAR, box)


def _over_white(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode not in ("LA", "RGBA"):
        return image
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return page
