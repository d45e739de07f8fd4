"""Broken and strange pictures and archives, made on the fly; each says what shall come of it.

Run as a program it reads each of them, one after the other, in a folder that it is given, and prints as JSON what came of
each and the peak of its own memory.
"""

import gzip
import io
import json
import lzma
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradlab.data.archives import Limits, members
from gradlab.data.pictures import PictureError, decode, is_picture
from gradlab.errors import DataError

MAX_PIXELS = 1_000_000
LIMITS = Limits(max_files=50, max_bytes=20_000_000, max_file_bytes=9_000_000)
PICTURES: dict[str, tuple[Callable[[], bytes], str | list[list[int]]]] = {}
ARCHIVES: dict[str, tuple[Callable[[Path], object], str | int]] = {}

# Four colours in the corners, and large enough for JPEG to keep them.
CORNERS = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def scene(side: int = 32) -> Image.Image:
    """Red, green / blue, white."""
    pixels = np.array(CORNERS, dtype=np.uint8).reshape(2, 2, 3).repeat(side // 2, 0).repeat(side // 2, 1)
    return Image.fromarray(pixels)


def ramp(bits: int = 8) -> "np.ndarray[Any, Any]":
    """Grey from black to white in four corners: 0, 1/3, 2/3, 1."""
    top = 2**bits - 1
    values = np.array([[0, top / 3], [2 * top / 3, top]]).round()
    return values.repeat(16, 0).repeat(16, 1)


GREYS = [[0] * 3, [85] * 3, [170] * 3, [255] * 3]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(name: str, expected: str | list[list[int]]) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Enters a picture; ``expected`` are the colours of its corners, or a part of the reason why it is none."""

    def enter(make: Callable[[], bytes]) -> Callable[[], bytes]:
        PICTURES[name] = make, expected
        return make

    return enter


def give(name: str, expected: str | list[list[int]], content: Callable[[], bytes]) -> None:
    PICTURES[name] = content, expected


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def png(width: int, height: int, *, depth: int = 8, color: int = 2, data: bytes = b"", crc: int | None = None) -> bytes:
    header = struct.pack(">LLBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, crc) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


# ------------------------------------------------------------------------------------------------- whole and ordinary

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
for kind, suffix, options in [
    ("JPEG", "jpg", {"quality": 95, "subsampling": 0}), ("PNG", "png", {}), ("GIF", "gif", {}), ("BMP", "bmp", {}),
    ("WEBP", "webp", {"lossless": True}), ("TIFF", "tif", {}), ("PPM", "ppm", {}),
]:  # fmt: skip
    give(f"plain.{suffix}", CORNERS, lambda kind=kind, options=options: saved(scene(), kind, **options))  # type: ignore[misc]
    # A third of the file, and all of it but the last tenth.
    for share in (0.3, 0.9):
        give(
            f"cut at {share}.{suffix}", "damaged",
            lambda kind=kind, share=share: (whole := saved(NOISE, kind))[: int(share * len(whole))],  # type: ignore[misc]
        )  # fmt: skip
give("tiff in lzw.tif", CORNERS, lambda: saved(scene(), "TIFF", compression="tiff_lzw"))
give("cut tiff in lzw.tif", "damaged", lambda: saved(NOISE, "TIFF", compression="tiff_lzw")[:6000])
give("progressive.jpg", CORNERS, lambda: saved(scene(), "JPEG", quality=95, subsampling=0, progressive=True))
give("grey.jpg", GREYS, lambda: saved(Image.fromarray(ramp().astype(np.uint8)), "JPEG", quality=95))
give("cmyk.jpg", CORNERS, lambda: saved(scene().convert("CMYK"), "JPEG", quality=98, subsampling=0))
give("cmyk.tif", CORNERS, lambda: saved(scene().convert("CMYK"), "TIFF"))
give("ycbcr.tif", CORNERS, lambda: saved(scene().convert("YCbCr"), "TIFF"))
give("lab.tif", [[0, 59, 195]] * 4, lambda: saved(Image.new("LAB", (8, 8)), "TIFF"))
give("one bit.png", [[0] * 3] * 3 + [[255] * 3], lambda: saved(scene().convert("L").point(lambda v: 255 * (v > 200), "1"), "PNG"))  # fmt: skip
give("one bit.tif", [[0] * 3] * 3 + [[255] * 3], lambda: saved(scene().convert("L").point(lambda v: 255 * (v > 200), "1"), "TIFF"))  # fmt: skip
give("palette.png", CORNERS, lambda: saved(scene().quantize(4), "PNG"))
give("16 bits.png", GREYS, lambda: saved(Image.fromarray(ramp(16).astype(np.uint16)), "PNG"))
give("16 bits.tif", GREYS, lambda: saved(Image.fromarray(ramp(16).astype(np.uint16)), "TIFF"))
give("16 bits, other byte order.tif", GREYS, lambda: big_endian_tiff())
give("16 bits.pgm", GREYS, lambda: b"P5 32 32 65535\n" + ramp(16).astype(">u2").tobytes())
give("32 bits within 16.tif", GREYS, lambda: saved(Image.fromarray(ramp(16).astype(np.int32)), "TIFF"))
give("32 bits.tif", "32-bit numbers", lambda: saved(Image.fromarray((ramp(16) * 1000).astype(np.int32)), "TIFF"))
give("floats.tif", "floating-point", lambda: saved(Image.fromarray(ramp(8).astype(np.float32) / 255), "TIFF"))
give("16 bits a colour.png", CORNERS, lambda: png(32, 32, depth=16, data=b"".join(
    b"\0" + np.asarray(scene())[row].astype(np.uint16).__mul__(257).astype(">u2").tobytes() for row in range(32)
)))  # fmt: skip
give("grey and alpha.png", [[255] * 3, [85] * 3, [170] * 3, [255] * 3], lambda: grey_alpha())
give("rgba.png", [[255] * 3, CORNERS[1], [128, 128, 255], CORNERS[3]], lambda: rgba())
give("rgba.webp", [[255] * 3, CORNERS[1], [128, 128, 255], CORNERS[3]], lambda: rgba("WEBP", lossless=True))
give("rgba.tif", [[255] * 3, CORNERS[1], [128, 128, 255], CORNERS[3]], lambda: rgba("TIFF"))
give("transparent colour.png", [[255] * 3, *CORNERS[1:]], lambda: saved(scene(), "PNG", transparency=(255, 0, 0)))
give("palette with a transparent entry.gif", [[255] * 3, *CORNERS[1:]], lambda: transparent_palette("GIF"))
give("palette with a transparent entry.png", [[255] * 3, *CORNERS[1:]], lambda: transparent_palette("PNG"))
give("animated.gif", CORNERS, lambda: saved(scene(), "GIF", save_all=True, append_images=[NOISE.resize((32, 32))]))
give("animated.webp", CORNERS, lambda: saved(
    scene(), "WEBP", save_all=True, lossless=True, append_images=[NOISE.resize((32, 32))]
))  # fmt: skip
give("several pages.tif", CORNERS, lambda: saved(scene(), "TIFF", save_all=True, append_images=[NOISE]))
give("jpeg called png.png", CORNERS, lambda: saved(scene(), "JPEG", quality=95, subsampling=0))
give("bytes after the end.jpg", CORNERS, lambda: saved(scene(), "JPEG", quality=95, subsampling=0) + b"x" * 5000)
give("one pixel.png", [CORNERS[0]] * 4, lambda: saved(scene().crop((0, 0, 1, 1)), "PNG"))
give("broken exif.jpg", CORNERS, lambda: saved(scene(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))  # fmt: skip
give("orientation 9.jpg", CORNERS, lambda: oriented(9, upright=True))
for number in range(1, 9):
    give(f"orientation {number}.jpg", CORNERS, lambda number=number: oriented(number))  # type: ignore[misc]
give("orientation 6.png", CORNERS, lambda: oriented(6, "PNG"))
give("orientation 8.webp", CORNERS, lambda: oriented(8, "WEBP"))


def flipped_remark() -> bytes:
    whole = saved(scene(), "PNG")
    return whole[:33] + chunk(b"tIME", bytes(7), crc=1) + whole[33:]


def big_endian_tiff() -> bytes:
    image = Image.fromarray(ramp(16).astype(np.uint16))
    ours = bytearray(saved(image, "TIFF"))
    assert ours[:2] == b"II"
    data = ramp(16).astype(">u2").tobytes()
    tags = [(256, 3, 32), (257, 3, 32), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 32),
            (279, 4, len(data))]  # fmt: skip
    entries = b"".join(
        struct.pack(">HHL", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">L", value))
        for tag, kind, value in tags
    )
    return struct.pack(">2sHL", b"MM", 42, 8 + len(data)) + data + struct.pack(">H", len(tags)) + entries + b"\0" * 4


def grey_alpha() -> bytes:
    alpha = np.full((32, 32), 255, dtype=np.uint8)
    alpha[:16, :16] = 0
    grey = Image.fromarray(ramp().astype(np.uint8))
    grey.putalpha(Image.fromarray(alpha))
    return saved(grey, "PNG")


def rgba(kind: str = "PNG", **options: Any) -> bytes:
    """Red wholly transparent, blue half."""
    alpha = np.full((32, 32), 255, dtype=np.uint8)
    alpha[:16, :16] = 0
    alpha[16:, :16] = 127
    image = scene()
    image.putalpha(Image.fromarray(alpha))
    return saved(image, kind, **options)


def transparent_palette(kind: str) -> bytes:
    image = scene().quantize(4)
    return saved(image, kind, transparency=image.getpixel((0, 0)))


def oriented(number: int, kind: str = "JPEG", *, upright: bool = False) -> bytes:
    """The scene as a camera held that way stores it: turned, and with the note of how to turn it back."""
    stored = np.asarray(scene())
    turn: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = number
    image = Image.fromarray(np.ascontiguousarray(stored if upright else turn[number](stored)))
    known: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = known.get(kind, {})
    return saved(image, kind, exif=exif, **options)


# --------------------------------------------------------------------------------------------------- no pictures at all

give("nothing.jpg", "is empty", lambda: b"")
give("one byte.png", "no picture", lambda: b"\x89")
give("page.jpg", "a web page", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
give("text.png", "no picture", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
give("zeros.jpg", "no picture", lambda: b"\0" * 10_000)
give("noise.gif", "no picture", lambda: np.random.default_rng(1).bytes(10_000))
give("jpeg's first bytes.jpg", "no picture", lambda: b"\xff\xd8\xff\xe0")
give("postscript.png", "no picture", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) run\n")
give("pdf.jpg", "no picture", lambda: b"%PDF-1.4\n")
give("zip.png", "no picture", lambda: b"PK\3\4" + b"\0" * 100)
give("svg.png", "a web page", lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>")
give("bomb.png", "more than 178,956,970 pixels", lambda: png(30_000, 30_000, data=b"\0" * 100_000))
give(
    "bomb.jpg",
    "at most",
    lambda: saved(Image.new("L", (8, 8)), "JPEG").replace(b"\x08\x00\x08\x00\x08\x01", b"\x08\x27\x10\x27\x10\x01"),
)
give("small bomb, whole.png", "at most", lambda: png(2000, 2000, color=0, data=(b"\0" * 2001) * 2000))
give(
    "huge.gif",
    "at most",
    lambda: b"GIF89a" + struct.pack("<HH", 5000, 5000) + b"\0\0\0" + b",\0\0\0\0\x88\x13\x88\x13\0\2\0;",
)
give("huge.bmp", "at most", lambda: b"BM" + struct.pack("<LHHLLllHHLLllLL", 99, 0, 0, 54, 40, 9000, 9000, 1, 24, 0, 0, 0, 0, 0, 0))  # fmt: skip
give("negative.bmp", "more than 178,956,970 pixels", lambda: b"BM" + struct.pack("<LHHLLllHHLLllLL", 99, 0, 0, 54, 40, -9, 9, 1, 24, 0, 0, 0, 0, 0, 0))  # fmt: skip
give("no size.png", "", lambda: png(0, 0))
give("wrong header checksum.png", "damaged", lambda: png(32, 32, data=b"\0" * 3104, crc=1))
give("broken data.png", "damaged", lambda: (whole := saved(NOISE, "PNG"))[:200] + b"\xff" * 3000 + whole[3200:])
give(
    "a flipped bit.png",
    "checksum",
    lambda: (whole := saved(NOISE, "PNG"))[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
)
give("a damaged remark before the pixels.png", "first bytes are damaged", lambda: flipped_remark())
give("too little data.png", "damaged", lambda: png(32, 32, data=b"\0" * 100))
give(
    "no data.png",
    "damaged",
    lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", 9, 9, 8, 2, 0, 0, 0)),
)
give("text bomb.png", "damaged", lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", 9, 9, 8, 2, 0, 0, 0))
     + chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 5_000_000)) + chunk(b"IEND", b""))  # fmt: skip
give("tiff of a huge strip.tif", "damaged", lambda: struct.pack("<2sHL", b"II", 42, 8) + struct.pack("<H", 8) + b"".join(
    struct.pack("<HHLL", tag, 4, 1, value) for tag, value in
    [(256, 500), (257, 500), (258, 8), (259, 1), (262, 1), (273, 8), (278, 500), (279, 0xFFFFFFF0)]
) + b"\0" * 4)  # fmt: skip
give("tiff in a circle.tif", "", lambda: struct.pack("<2sHLH", b"II", 42, 8, 0) + struct.pack("<L", 8))


# ------------------------------------------------------------------------------------------------------------ archives


def archive(name: str, expected: str | int) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Enters an archive; ``expected`` is how many pictures it holds, or a part of the reason why it is refused."""

    def enter(make: Callable[[Path], object]) -> Callable[[Path], object]:
        ARCHIVES[name] = make, expected
        return make

    return enter


JPEG = saved(scene(), "JPEG")


def tar(path: Path, *entries: tuple[str, bytes | None], mode: Any = "w", **fields: Any) -> None:
    """Files of a name and a content; with ``fields`` of their TarInfo, such as its type."""
    with tarfile.open(path, mode) as file:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content) if content is not None else 0
            for key, value in fields.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content) if content is not None else None)


def zip_(path: Path, *entries: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = method
            file.writestr(info, content)


for mode, suffix in [("w", "tar"), ("w:gz", "tar.gz"), ("w:xz", "tar.xz")]:
    archive(f"plain.{suffix}", 2)(
        lambda path, mode=mode: tar(path, ("a/1.jpg", JPEG), ("b/2.jpg", JPEG), ("b/notes.txt", b"x"), mode=mode)  # type: ignore[misc]
    )
archive("plain.zip", 2)(
    lambda path: zip_(path, ("a/1.jpg", JPEG), ("b/2.jpg", JPEG), ("b/", b""), ("b/notes.txt", b"x"))
)
archive("dots and slashes.tar", 2)(lambda path: tar(path, ("./a//1.jpg", JPEG), ("././b/2.jpg", JPEG)))
archive("from windows.zip", 1)(lambda path: zip_(path, ("a\\1.jpg", JPEG)))
archive("out of it.tar", "leads out")(lambda path: tar(path, ("../1.jpg", JPEG)))
archive("out of it, later.tar", "leads out")(lambda path: tar(path, ("a/../../1.jpg", JPEG)))
archive("out of it.zip", "leads out")(lambda path: zip_(path, ("../1.jpg", JPEG)))
archive("out of it, windows.zip", "leads out")(lambda path: zip_(path, ("..\\1.jpg", JPEG)))
archive("absolute.tar", "leads out")(lambda path: tar(path, ("/tmp/1.jpg", JPEG)))
archive("absolute.zip", "leads out")(lambda path: zip_(path, ("/tmp/1.jpg", JPEG)))
archive("drive.zip", "leads out")(lambda path: zip_(path, ("C:/1.jpg", JPEG)))
archive("symbolic link.tar", "a symbolic link")(
    lambda path: tar(path, ("a/1.jpg", None), type=tarfile.SYMTYPE, linkname="/etc/passwd")
)
archive("link.tar", "a hard link")(
    lambda path: tar(path, ("a/1.jpg", None), type=tarfile.LNKTYPE, linkname="/etc/passwd")
)
archive("device.tar", "a device")(
    lambda path: tar(path, ("a/1.jpg", None), type=tarfile.CHRTYPE, devmajor=1, devminor=5)
)
archive("block device.tar", "a device")(lambda path: tar(path, ("a/1.jpg", None), type=tarfile.BLKTYPE))
archive("pipe.tar", "a pipe")(lambda path: tar(path, ("a/1.jpg", None), type=tarfile.FIFOTYPE))
archive("sparse.tar", "a sparse file")(lambda path: tar(path, ("a/1.jpg", None), type=tarfile.GNUTYPE_SPARSE))
archive("unknown kind.tar", "unknown kind")(lambda path: tar(path, ("a/1.jpg", None), type=b"V"))
archive("symbolic link.zip", "a symbolic link")(
    lambda path: zip_(path, ("a/1.jpg", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
)
archive("device.zip", "a device")(lambda path: zip_(path, ("a/1.jpg", b""), mode=stat.S_IFCHR | 0o600))
archive("bomb.tar.gz", "unpacks to more")(
    lambda path: tar(path, ("a/1.jpg", bytes(5_000_000)), ("a/x", bytes(20_000_000)), mode="w:gz")
)
archive("bomb.tar.xz", "unpacks to more")(
    lambda path: tar(
        path,
        ("a/x", bytes(25_000_000)),
        mode="w:xz",
    )
)
archive("bomb.zip", "unpacks to more")(lambda path: zip_(path, *[(f"a/{n}.jpg", bytes(8_000_000)) for n in range(4)]))
archive("large member.zip", "largest picture")(lambda path: zip_(path, ("a/1.jpg", bytes(12_000_000))))
archive("large member.tar", "largest picture")(lambda path: tar(path, ("a/1.jpg", bytes(12_000_000))))
archive("zip in a zip.zip", 0)(lambda path: zip_(path, ("a/inner.zip", b"PK\5\6" + b"\0" * 18)))
archive("bzip2.zip", "packed by method 12")(lambda path: zip_(path, ("a/1.jpg", JPEG), method=zipfile.ZIP_BZIP2))
archive("lzma.zip", "packed by method 14")(lambda path: zip_(path, ("a/1.jpg", JPEG), method=zipfile.ZIP_LZMA))
archive("twice.tar", "twice")(lambda path: tar(path, ("a/1.jpg", JPEG), ("a/1.jpg", JPEG)))
archive("twice by another name.tar", "twice")(lambda path: tar(path, ("a/1.jpg", JPEG), ("./a/1.jpg", JPEG)))
archive("many.tar", "more than 50 files")(lambda path: tar(path, *[(f"a/{n}.jpg", b"") for n in range(60)]))
archive("many.zip", "more than 50 files")(lambda path: zip_(path, *[(f"a/{n}.jpg", b"") for n in range(60)]))
archive("unicode.tar", 2)(lambda path: tar(path, ("katzen/schön 猫.jpg", JPEG), ("a\u202eb/1.jpg", JPEG)))
archive("unicode.zip", 1)(lambda path: zip_(path, ("katzen/schön 猫.jpg", JPEG)))
archive("no unicode.tar", 1)(lambda path: tar(path, ("a/\udcff\udcfe.jpg", JPEG)))
archive("line ends.tar", 1)(lambda path: tar(path, ("a\nb/1\r\n.jpg", JPEG)))
archive("long name.tar", 1)(lambda path: tar(path, ("a/" + "b" * 3000 + "/1.jpg", JPEG)))
archive("very long name.tar", "a name of")(lambda path: tar(path, ("a/" + "b" * 5000 + "/1.jpg", JPEG)))
archive("very long name.zip", "a name of")(lambda path: zip_(path, ("a/" + "b" * 5000 + "/1.jpg", JPEG)))
archive("nul.zip", "leads out")(lambda path: path.write_bytes(zipped(("a/1xjpg", JPEG)).replace(b"1xjpg", b"1\0jpg")))
archive("empty.tar", 0)(lambda path: tar(path))
archive("empty.tar.gz", 0)(lambda path: tar(path, mode="w:gz"))
archive("empty.zip", 0)(lambda path: zip_(path))
for suffix in ("tar", "tar.gz", "tar.xz", "zip"):
    archive(f"no bytes.{suffix}", "damaged")(lambda path: path.write_bytes(b""))
    archive(f"no archive.{suffix}", "damaged")(lambda path: path.write_bytes(b"<html>" * 1000))


def zipped(*entries: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, content in entries:
            writer.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        info = tarfile.TarInfo("a/1.png")
        content = saved(NOISE, "PNG")
        info.size = len(content)
        writer.addfile(info, io.BytesIO(content))
    return file.getvalue()


archive("cut in a member.tar", "damaged")(lambda path: path.write_bytes(tarred()[:4000]))
archive("cut in a header.tar", "damaged")(lambda path: path.write_bytes(tarred()[:300]))
archive("cut before its end.tar", "damaged")(lambda path: path.write_bytes(tarred().rstrip(b"\0")))
archive("cut.tar.gz", "damaged")(lambda path: path.write_bytes(gzip.compress(tarred())[:-2000]))
archive("cut checksum.tar.gz", "damaged")(lambda path: path.write_bytes(gzip.compress(tarred())[:-4]))
archive("wrong checksum.tar.gz", "damaged")(lambda path: path.write_bytes(gzip.compress(tarred())[:-8] + bytes(8)))
archive("cut.tar.xz", "damaged")(lambda path: path.write_bytes(lzma.compress(tarred())[:-2000]))
archive("damaged.tar.xz", "damaged")(
    lambda path: path.write_bytes((whole := lzma.compress(tarred()))[:3000] + b"\0" * 8 + whole[3008:])
)
archive("several streams.tar.xz", 1)(
    lambda path: path.write_bytes(lzma.compress((whole := tarred())[:700]) + bytes(4) + lzma.compress(whole[700:]))
)
archive("several streams.tar.gz", 1)(
    lambda path: path.write_bytes(gzip.compress((whole := tarred())[:700]) + gzip.compress(whole[700:]))
)
archive("greedy.tar.xz", "damaged")(
    lambda path: path.write_bytes(lzma.compress(
        tarred(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    ).replace(b"\x21\x01\x00", b"\x21\x01\x28"))
)  # fmt: skip
archive("cut.zip", "damaged")(lambda path: path.write_bytes(zipped(("a/1.jpg", JPEG))[:-30]))
archive("wrong checksum.zip", "damaged")(
    lambda path: path.write_bytes(zipped(("a/1.jpg", JPEG)).replace(JPEG[300:310], b"\1" * 10))
)
archive("encrypted.zip", "encrypted")(lambda path: path.write_bytes(encrypted()))
archive("lying size.zip", "damaged")(lambda path: path.write_bytes(lying()))
archive("huge extended header.tar.gz", "extended header")(
    lambda path: path.write_bytes(gzip.compress(header_only(tarfile.XHDTYPE, 8_000_000_000)))
)
archive("huge long name.tar", "extended header")(
    lambda path: path.write_bytes(header_only(tarfile.GNUTYPE_LONGNAME, 2 << 20))
)
archive("malformed extended header.tar", "malformed")(
    lambda path: path.write_bytes(header_only(tarfile.XHDTYPE, 5) + b"99 x=".ljust(512, b"\0") + bytes(1024))
)
archive("negative size.tar", "damaged")(lambda path: path.write_bytes(header_only(tarfile.REGTYPE, -5) + bytes(1024)))
archive("huge size.tar", "largest picture")(
    lambda path: path.write_bytes(header_only(tarfile.REGTYPE, 10**12) + bytes(1024))
)


def encrypted() -> bytes:
    """A stored member whose flags say that it is encrypted."""
    content = bytearray(zipped(("a/1.jpg", JPEG)))
    content[6] |= 1
    content[content.rfind(b"PK\1\2") + 8] |= 1
    return bytes(content)


def lying() -> bytes:
    """A member that says it has 10 bytes, and has 5 million."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a/1.jpg", bytes(5_000_000))
    content = bytearray(file.getvalue())
    struct.pack_into("<L", content, 22, 10)
    struct.pack_into("<L", content, content.rfind(b"PK\1\2") + 24, 10)
    return bytes(content)


def header_only(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("a/1.jpg")
    info.type, info.size = kind, abs(size)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# -------------------------------------------------------------------------------------------------------------- reading


def corners(pixels: Any) -> list[list[int]]:
    """The colours an eighth of the picture away from its corners."""
    _, height, width = pixels.shape
    near = [(height // 8, width // 8), (height // 8, -1 - width // 8), (-1 - height // 8, width // 8)]
    return [[int(value) for value in pixels[:, y, x]] for y, x in [*near, (-1 - height // 8, -1 - width // 8)]]


def outcome_of_picture(file: Path | bytes) -> str | list[list[int]]:
    try:
        return corners(decode(file, channels=3, size=None, fit="resize", max_pixels=MAX_PIXELS))
    except PictureError as error:
        return error.reason


def outcome_of_archive(file: Path) -> str | int:
    try:
        return sum(member.content is not None for member in members(file, is_picture, LIMITS))
    except DataError as error:
        return str(error)


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    for name, (make, _) in PICTURES.items():
        content = make()
        (folder / name).write_bytes(content)
        del content
        found[name] = outcome_of_picture(folder / name)
        assert found[name] == outcome_of_picture((folder / name).read_bytes())
    for name, (make_archive, _) in ARCHIVES.items():
        make_archive(folder / name)
        found[name] = outcome_of_archive(folder / name)
    # Not getrusage: that one begins with what the process that started this one took.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    found["peak bytes"] = 1024 * int(line.split()[1])
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
