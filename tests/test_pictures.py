import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from gradlab.data.pictures import Header, PictureError, decode, header, is_picture, most_bytes, printable
from pictures_corpus import corners, oriented, saved, scene

NOISE = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)


def read(content: bytes | Path, **changes: Any) -> "np.ndarray[Any, Any]":
    return decode(content, **({"channels": 3, "size": None, "fit": "resize", "max_pixels": 10**6} | changes))


def png(pixels: "np.ndarray[Any, Any]") -> bytes:
    return saved(Image.fromarray(pixels), "PNG")


def test_a_picture_of_its_own_size_keeps_every_bit() -> None:
    pixels = read(png(NOISE))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, NOISE.transpose(2, 0, 1))
    assert np.array_equal(read(png(NOISE), size=(48, 80)), pixels)
    assert np.array_equal(read(png(NOISE), size=(48, 80), fit="crop"), pixels)


def test_a_file_and_its_bytes_are_one_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(NOISE))
    assert np.array_equal(read(tmp_path / "a.png"), read(png(NOISE)))


def test_grey_is_the_luma_of_colour_and_grey_stays_grey() -> None:
    exact = NOISE @ np.array([0.299, 0.587, 0.114])
    grey = read(png(NOISE), channels=1)
    assert grey.shape == (1, 48, 80)
    assert abs(grey[0] - exact).max() < 1
    for channels in (1, 3):
        assert (read(png(NOISE[..., 0]), channels=channels) == NOISE[None, ..., 0]).all()


def test_16_bits_are_scaled_and_rounded_everywhere() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = read(png(values), channels=1)[0]
    assert np.array_equal(found, np.rint(values * (255 / 65535)).astype(np.uint8))


def test_resizing_averages_instead_of_leaving_pixels_out() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[::2] = 255
    small = read(png(stripes), size=(8, 8))
    assert small.shape == (3, 8, 8)
    assert abs(small.astype(int) - 127.5).max() < 8


def test_resize_changes_proportions_and_crop_keeps_them() -> None:
    wide = np.zeros((30, 90, 3), dtype=np.uint8)
    wide[:, 30:60] = 200  # the middle third
    resized, cropped = (read(png(wide), size=(30, 30), fit=fit) for fit in ("resize", "crop"))
    assert [int(resized[0, 15, x]) for x in (2, 15, 27)] == [0, 200, 0]
    assert (cropped == 200).all()


def test_a_crop_is_the_shorter_side_resized_and_then_the_middle() -> None:
    plain = Image.fromarray(NOISE).resize((40, 24), Image.Resampling.BILINEAR).crop((8, 0, 32, 24))
    found = read(png(NOISE), size=(24, 24), fit="crop").transpose(1, 2, 0)
    # At the cut itself, the plain way also sees pixels from beyond it.
    assert abs(found[:, 2:-2].astype(int) - np.asarray(plain)[:, 2:-2]).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (1, 1), (7, 3)])
@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_any_shape_fits(shape: tuple[int, int], fit: str) -> None:
    pixels = read(png(np.full((*shape, 3), 77, dtype=np.uint8)), size=(9, 5), fit=fit)
    assert pixels.shape == (3, 9, 5)
    assert (pixels == 77).all()


@pytest.mark.parametrize("number", range(1, 9))
def test_a_turned_picture_is_turned_before_it_is_fitted(number: int) -> None:
    tall = np.zeros((32, 16, 3), dtype=np.uint8)
    tall[:16] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = number
    stored = saved(Image.fromarray(tall), "PNG", exif=exif)
    plain = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    assert plain is not None
    whole = read(stored)
    assert np.array_equal(whole, np.asarray(plain).transpose(2, 0, 1))
    assert header(stored) == Header(whole.shape[2], whole.shape[1], False)
    fitted = read(stored, size=(8, 4))
    assert fitted.shape == (3, 8, 4)
    expected = np.asarray(plain.resize((4, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert abs(fitted.astype(int) - expected).max() <= 1


def test_a_large_jpeg_decoded_at_a_lower_scale_is_the_same_picture() -> None:
    smooth = Image.fromarray(NOISE[:8, :8]).resize((800, 800), Image.Resampling.BICUBIC)
    content = saved(smooth, "JPEG", quality=95)
    plain = np.asarray(Image.open(io.BytesIO(content)).resize((50, 50), Image.Resampling.BILINEAR))
    found = read(content, size=(50, 50)).transpose(1, 2, 0)
    assert abs(found.astype(int) - plain).max() <= 6


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (scene(), False), (scene().convert("L"), True), (scene().convert("1"), True), (scene().convert("LA"), True),
        (scene().convert("RGBA"), False), (scene().convert("L").quantize(8), False),
        (Image.fromarray(np.zeros((4, 4), dtype=np.uint16)), True),
    ],
)  # fmt: skip
def test_a_header_tells_whether_a_picture_is_stored_in_grey(image: Image.Image, grey: bool) -> None:
    assert header(saved(image, "PNG")) == Header(*image.size, grey)


def test_what_cannot_be_read_may_be_another_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"x")
    for name, reason, lasting in [
        ("gone.jpg", "cannot be read: No such file or directory", False),
        ("pipe.jpg", "is not a regular file", True),
        ("bad.jpg", "is no picture", True),
    ]:
        with pytest.raises(PictureError) as caught:
            read(tmp_path / name)
        assert reason in caught.value.reason
        assert caught.value.lasting is lasting
        assert str(caught.value) == f"{tmp_path / name} {caught.value.reason}"


def test_no_bit_flip_anywhere_raises_anything_else() -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        whole = saved(scene(16), kind)
        for position in random.integers(0, len(whole), 60):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(random.integers(0, 8))
            for look_at in (read, header):
                with contextlib.suppress(PictureError):
                    look_at(bytes(damaged))


def test_wrong_arguments_are_a_mistake_of_the_caller() -> None:
    for changes in ({"fit": "stretch"}, {"channels": 2}):
        with pytest.raises(ValueError, match="no such"):
            read(oriented(1), **changes)


def test_names_of_pictures() -> None:
    assert is_picture("a/b.JPG")
    assert is_picture("b.tiff")
    assert not is_picture("b.txt")
    assert not is_picture("jpg")
    assert printable("a\nb\udcff\x1b[0m ü") == "a\\nb\\udcff\\x1b[0m ü"
    assert most_bytes(1000) > 8000


def test_corners_are_the_scene_s() -> None:
    assert corners(np.asarray(scene()).transpose(2, 0, 1)) == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]
