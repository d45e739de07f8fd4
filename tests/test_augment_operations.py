"""What augmentations compute, image by image, against torchvision's functions given the same numbers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from gradlab.data.augment.operations import boxes, colour, geometry, mixing, policy
from gradlab.data.draws import draw, keys

BATCH = 12
MODES = {"bilinear": InterpolationMode.BILINEAR, "nearest": InterpolationMode.NEAREST}
SHAPES = [(3, 16, 16), (1, 9, 14), (3, 7, 5)]


def pictures(channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth waves with noise on them, and among them a black image, a white one and one of few levels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(random.uniform(0.2, 1, (BATCH, channels, 1, 1)) * x + random.uniform(0.2, 1, (BATCH, 1, 1, 1)) * y)
    images = torch.from_numpy((127 + 100 * waves + random.uniform(-27, 27, waves.shape)).astype(np.uint8))
    images[0], images[1] = 0, 255
    images[2] = images[2] // 100 * 90
    return images


def uniforms(count: int) -> torch.Tensor:
    return draw(keys(0, "operations", count), 0, torch.arange(BATCH))


def each(images: torch.Tensor, function: object, *numbers: torch.Tensor) -> torch.Tensor:
    """``function`` of torchvision's, applied to one image after the other with its own numbers."""
    assert callable(function)
    return torch.stack(
        [function(image, *(float(own) for own in row)) for image, *row in zip(images, *numbers, strict=True)]
    )


def agree(ours: torch.Tensor, theirs: torch.Tensor, most: float, share: float = 1.0) -> None:
    """At most ``most`` levels apart, in this share of the pixels at least."""
    apart = (ours.double() - theirs.double()).abs()
    assert ours.shape == theirs.shape
    assert float((apart <= most).double().mean()) >= share, f"up to {float(apart.max())} apart"


# ----------------------------------------------------------------------- geometry


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("border", ["black", "edge", "reflect"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_is_torchvisions_pad_and_crop(shape: tuple[int, int, int], border: str, dtype: torch.dtype) -> None:
    images = pictures(*shape).to(dtype)
    down, right = 4, 2
    height, width = shape[1:]
    mode = {"black": "constant", "edge": "edge", "reflect": "reflect"}[border]
    padded = V.pad(images, [right, down, right, down], padding_mode=mode)
    assert torch.equal(geometry.padded(images, down, right, border), padded)
    drawn = uniforms(2)
    ours = geometry.shifted(images, drawn, down, right, border)
    assert ours.dtype == dtype
    for image, one, (top, left) in zip(padded, ours, drawn.T.tolist(), strict=True):
        place = int(top * (2 * down + 1)), int(left * (2 * right + 1))
        assert torch.equal(one, V.crop(image, *place, height, width))


def test_a_crop_of_any_memory_format_is_the_same() -> None:
    images = pictures(3, 16, 16)
    other = images.contiguous(memory_format=torch.channels_last)
    top, left = torch.arange(BATCH) % 5, torch.arange(BATCH) % 7
    assert torch.equal(geometry.cropped(images, top, left, 10, 8), geometry.cropped(other, top, left, 10, 8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", [2, 3])
def test_a_mirror_is_torchvisions_flip(dimension: int, dtype: torch.dtype) -> None:
    images = pictures(3, 7, 5).to(dtype)
    chosen = torch.arange(BATCH) % 3 == 0
    flip = {2: V.vertical_flip, 3: V.horizontal_flip}[dimension]
    expected = torch.stack([flip(image) if turn else image for image, turn in zip(images, chosen, strict=True)])
    assert torch.equal(geometry.mirrored(images, chosen, dimension), expected)


@pytest.mark.parametrize("interpolation", list(MODES))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_rotation_is_torchvisions(shape: tuple[int, int, int], interpolation: str) -> None:
    """Clockwise, where torchvision's angle is counter-clockwise. To a hundredth of a level; nearest pixels may be tied."""
    images = pictures(*shape).float()
    degrees = geometry.between(-180, 180, uniforms(1)[0])
    ours = geometry.warped(images, geometry.affine(degrees=degrees), interpolation)
    theirs = each(images, lambda image, angle: V.rotate(image, angle, MODES[interpolation]), -degrees)
    agree(ours, theirs, 0.01, 1.0 if interpolation == "bilinear" else 0.99)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("interpolation", list(MODES))
@pytest.mark.parametrize("shape", SHAPES)
def test_an_affine_map_is_torchvisions(shape: tuple[int, int, int], interpolation: str, dtype: torch.dtype) -> None:
    images = pictures(*shape).to(dtype)
    turn, down, right, size, shear = uniforms(5)
    degrees, shear = geometry.between(-40, 40, turn), geometry.between(-20, 20, shear)
    scale = geometry.between(0.7, 1.4, size)
    down, right = geometry.between(-4, 4, down).round(), geometry.between(-3, 3, right).round()
    matrices = geometry.affine(degrees, down, right, scale, shear)
    ours = geometry.warped(images, matrices, interpolation)
    assert ours.dtype == dtype
    theirs = each(
        images,
        lambda image, degrees, down, right, scale, shear: V.affine(
            image, degrees, [right, down], scale, [shear, 0.0], MODES[interpolation]
        ),
        degrees, down, right, scale, shear,
    )  # fmt: skip
    agree(ours, theirs, 0.02, 1.0 if interpolation == "bilinear" else 0.98)


@pytest.mark.parametrize("border", ["black", "edge", "reflect"])
@pytest.mark.parametrize("interpolation", list(MODES))
def test_the_map_that_moves_nothing_leaves_images_alone(interpolation: str, border: str) -> None:
    images = pictures(3, 7, 5).double()
    agree(geometry.warped(images, geometry.affine(degrees=torch.zeros(BATCH)), interpolation, border), images, 1e-6)


@pytest.mark.parametrize(("border", "expected"), [("black", 0.0), ("edge", 1.0), ("reflect", 2.0)])
def test_what_comes_in_at_the_border(border: str, expected: float) -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    moved = geometry.warped(row, geometry.affine(right=torch.tensor([2.0])), "nearest", border)
    assert moved[0, 0, 0].tolist()[2:] == [1.0, 2.0]
    assert moved[0, 0, 0, 0] == expected


# ------------------------------------------------------------------------- colour


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (colour.brightness, V.adjust_brightness, 1e-3),
        (colour.contrast, V.adjust_contrast, 1e-3),
        (colour.saturation, V.adjust_saturation, 1e-3),
        (colour.sharpness, V.adjust_sharpness, 1e-3),
    ],
)
def test_a_factor_does_what_torchvisions_does(
    ours: object, theirs: object, tolerance: float, shape: tuple[int, int, int]
) -> None:
    """On floats: on bytes torchvision cuts off the fractions."""
    assert callable(ours)
    images = pictures(*shape).float()
    factor = geometry.between(0, 2, uniforms(1)[0])
    agree(ours(images, factor), each(images / 255, theirs, factor) * 255, tolerance)
    agree(ours(images, torch.ones(BATCH)), images, 0)


def test_a_hue_is_moved_as_torchvisions() -> None:
    images = pictures(3, 16, 16).float()
    turn = geometry.between(-0.5, 0.5, uniforms(1)[0])
    agree(colour.hue(images, turn), each(images / 255, V.adjust_hue, turn) * 255, 0.01)
    agree(colour.hue(images, torch.zeros(BATCH)), images, 1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_levels_are_changed_as_torchvision_changes_bytes(shape: tuple[int, int, int]) -> None:
    images = pictures(*shape)
    floats = images.float()
    bits = torch.arange(BATCH) % 8
    agree(colour.posterize(floats, bits), each(images, lambda image, drop: V.posterize(image, int(8 - drop)), bits), 0)
    threshold = geometry.between(0, 255, uniforms(1)[0])
    agree(colour.solarize(floats, threshold), each(images, V.solarize, threshold), 0)
    agree(colour.equalize(floats), each(images, V.equalize), 0)
    agree(colour.autocontrast(floats), each(floats / 255, V.autocontrast) * 255, 1e-3)
    agree(colour.autocontrast(floats), each(images, V.autocontrast), 1.001)


# -------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_hole_is_torchvisions_erased_part(dtype: torch.dtype) -> None:
    images = pictures(3, 16, 12).to(dtype)
    top, left = torch.arange(BATCH), torch.arange(BATCH) % 7
    bottom, right = top + 4, left + 5
    level = torch.tensor([3, 200, 90], dtype=torch.uint8)[:, None, None]
    ours = boxes.filled(images, boxes.inside(top, left, bottom, right, 16, 12), level)
    assert ours.dtype == dtype
    theirs = each(
        images,
        lambda image, top, left: V.erase(image, int(top), int(left), 4, 5, level.to(dtype).expand(3, 4, 5)[:, :16 - int(top)]),
        top, left,
    )  # fmt: skip
    assert torch.equal(ours, theirs)


def test_a_box_may_reach_over_the_edge() -> None:
    box = boxes.inside(torch.tensor([-2]), torch.tensor([3]), torch.tensor([2]), torch.tensor([9]), 4, 5)
    assert box[0, 0].int().tolist() == [[0, 0, 0, 1, 1]] * 2 + [[0] * 5] * 2


def test_replacing_is_choosing() -> None:
    images = pictures(3, 9, 14)
    chosen = torch.rand(BATCH, 1, 9, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    for dtype in (torch.uint8, torch.float32):
        here, there = images.to(dtype), images.roll(1, 0).to(dtype)
        assert torch.equal(boxes.replaced(here, chosen, there), torch.where(chosen, there, here))


# ------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 3.0])
def test_shares_have_a_beta_distribution(alpha: float) -> None:
    """Against its cumulative distribution (Kolmogorov and Smirnov) and its moments."""
    from scipy.stats import beta

    drawn = mixing.beta(alpha, draw(keys(0, "beta", 1), 0, torch.arange(50_000))[0]).double().numpy()
    assert ((drawn >= 0) & (drawn <= 1)).all()
    # The table's steps are 2⁻¹⁶ of the probability; below 1e-30 floats are 0 and all alike.
    places = np.linspace(0.01, 0.99, 99)
    found = (drawn[:, None] <= places).mean(0)
    assert np.abs(found - beta.cdf(places, alpha, alpha)).max() < 1.63 / len(drawn) ** 0.5
    assert abs(drawn.mean() - 0.5) < 4 * drawn.std() / len(drawn) ** 0.5
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_beta_of_one_is_the_uniform_number() -> None:
    drawn = uniforms(1)[0]
    assert torch.allclose(mixing.beta(1.0, drawn), drawn, atol=2**-16)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_every_image_has_one_partner_that_is_another(batch: int) -> None:
    drawn = draw(keys(0, "partners", 1), 0, torch.arange(batch))[0]
    partner = mixing.partners(drawn)
    assert sorted(partner.tolist()) == list(range(batch))
    if batch > 1:
        assert (partner != torch.arange(batch)).all()


def test_partners_do_not_depend_on_the_order_in_the_batch() -> None:
    indices = torch.arange(40)
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    of_key = keys(0, "partners", 1)
    straight = mixing.partners(draw(of_key, 3, indices)[0])
    other = mixing.partners(draw(of_key, 3, shuffled)[0])
    assert torch.equal(shuffled[other], straight[shuffled])


# ----------------------------------------------------------------------- policies

WIDE = policy.Range(shear=0.99, down=8, right=6, degrees=135, blend=0.99, bits=6)


def torchvision_operation(image: torch.Tensor, name: str, level: float, negative: bool, mode: str) -> torch.Tensor:
    """As torchvision's own ``_apply_op`` (v2/_auto_augment.py) does it, on a uint8 image."""
    sign = -1 if negative else 1
    turned = {
        "shear_x": ([0, 0], [math.degrees(math.atan(sign * level * 0.99)), 0.0], [0, 0]),
        "shear_y": ([0, 0], [0.0, math.degrees(math.atan(sign * level * 0.99))], [0, 0]),
        "translate_x": ([int(sign * level * 6), 0], [0.0, 0.0], None),
        "translate_y": ([0, int(sign * level * 8)], [0.0, 0.0], None),
    }
    if name in turned:
        move, shear, center = turned[name]
        return V.affine(image, 0.0, move, 1.0, shear, MODES[mode], center=center)  # type: ignore[no-any-return]
    factor = 1.0 + sign * level * 0.99
    others: dict[str, Callable[[], torch.Tensor]] = {
        "identity": lambda: image,
        "rotate": lambda: V.rotate(image, sign * level * 135, MODES[mode]),
        "brightness": lambda: V.adjust_brightness(image, factor),
        "saturation": lambda: V.adjust_saturation(image, factor),
        "contrast": lambda: V.adjust_contrast(image, factor),
        "sharpness": lambda: V.adjust_sharpness(image, factor),
        "posterize": lambda: V.posterize(image, 8 - round(level * 6)),
        "solarize": lambda: V.solarize(image, 255 * (1 - level)),
        "autocontrast": lambda: V.autocontrast(image),
        "equalize": lambda: V.equalize(image),
    }
    return others[name]()


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("place", range(len(policy.OPERATIONS)), ids=policy.OPERATIONS)
def test_an_operation_is_torchvisions(place: int, negative: bool, mode: str) -> None:
    """To two levels, as torchvision cuts off fractions on the way and at the end; a nearest pixel may be tied."""
    images = pictures(3, 16, 12)
    for level in (0, 7, 15, 23, 30):
        ours = policy.operated(
            images.float(), torch.full((BATCH,), place), torch.full((BATCH,), level / 30),
            torch.full((BATCH,), negative), WIDE, mode,
        )  # fmt: skip
        theirs = [
            torchvision_operation(image, policy.OPERATIONS[place], level / 30, negative, mode) for image in images
        ]
        agree(ours, torch.stack(theirs), 2, 0.97)


def test_every_image_gets_its_own_operation() -> None:
    images = pictures(3, 16, 12).float()
    which = torch.arange(BATCH) + 2
    level, negative = uniforms(1)[0], uniforms(2)[1] < 0.5
    together = policy.operated(images, which, level, negative, WIDE, "nearest")
    for place in range(BATCH):
        row = slice(place, place + 1)
        alone = policy.operated(images[row], which[row], level[row], negative[row], WIDE, "nearest")
        agree(together[row], alone, 1e-4)


def test_what_a_gpu_does_is_what_a_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images calculated and the chosen ones taken, against the chosen ones calculated alone."""
    images = pictures(3, 16, 12).float()
    which, level, negative = torch.arange(BATCH) + 2, uniforms(1)[0], uniforms(2)[1] < 0.5
    alone = policy.operated(images, which, level, negative, WIDE, "bilinear")
    monkeypatch.setattr(policy, "_waits", lambda images: True)
    agree(policy.operated(images, which, level, negative, WIDE, "bilinear"), alone, 1e-4)
