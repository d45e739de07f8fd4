"""Augmentations as a run chooses and applies them: the list in the configuration, the batches, the figure."""

import collections
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from gradlab.analysis.augmented import augmented, draw_augmented
from gradlab.config import Config, Origin, build_config
from gradlab.data.augment import AUGMENTATIONS, Augmentation
from gradlab.data.augmenter import Augmenter
from gradlab.data.datasets.base import Examples
from gradlab.data.device import Batch, DeviceImages, EvaluationBatches, Normalization, Pick, Preparation, TrainingChunks
from gradlab.data.spec import DataSpec
from gradlab.durations import Horizon
from gradlab.errors import ConfigError, FieldError
from gradlab.tracking.folder import RunFolder
from processes import ROOT

CPU = torch.device("cpu")
MEAN = torch.tensor([120.2, 100.7, 90.0])
COLOUR = DataSpec("photos", (3, 16, 12), ("cat", "dog"), 100)
GREY = DataSpec("digits", (1, 8, 8), tuple("0123456789"), 100)
POINTS = DataSpec("points", (2, 1, 1), ("in", "out"), 100)

# Numbers that do something to 16×12 images.
NUMBERS: dict[str, dict[str, Any]] = {
    "jitter": {"saturation": 0.3, "hue": 0.2, "brightness": 0.5},
    "cutout": {"size": 6},
    "erase": {"probability": 0.9},
    "trivial_augment": {"translate": 8},
    "rand_augment": {"operations": 3},
}
# Those whose images are moved or replaced, with no arithmetic that could round.
EXACT = ["crop", "translate", "flip", "cutout", "erase"]
MIXES = ["mixup", "cutmix"]
ALONE = [name for name in AUGMENTATIONS if name not in MIXES]


@functools.cache
def _numbers(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "configs" / "augment" / f"{name}.yaml").read_text()))


def augmentation(name: str, **numbers: Any) -> Augmentation:
    """The choice of its file, with ``NUMBERS`` and ``numbers`` in place of the file's."""
    return AUGMENTATIONS[name](**(_numbers(name) | NUMBERS.get(name, {}) | numbers))


def examples(count: int = 60, channels: int = 3, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, channels, 16, 12), dtype=np.uint8)
    return Examples(images, np.arange(count, dtype=np.int64))


def augmenter(*entries: Augmentation, seed: int = 0, dtype: torch.dtype = torch.float32) -> Augmenter:
    return Augmenter(entries, seed, MEAN, CPU, dtype)


def applied(
    entries: Sequence[Augmentation] | Augmenter, indices: Sequence[int] | range = range(60), epoch: int = 0
) -> Batch:
    """The images ``indices`` of ``examples()``, augmented as one batch."""
    made = entries if isinstance(entries, Augmenter) else augmenter(*entries)
    chosen = torch.tensor(list(indices))
    whole = examples()
    batch = Batch(torch.from_numpy(whole.images)[chosen], torch.from_numpy(whole.labels)[chosen])
    return made(batch, Pick(epoch, chosen))


# ------------------------------------------------------------------ the configuration


@pytest.fixture
def built(compose: Callable[..., DictConfig]) -> Callable[..., Config]:
    return lambda *overrides: build_config(compose(*overrides), Origin(overrides))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], []),
        (["augment=[]"], []),
        (["augment=none"], []),
        (["augment=flip"], ["flip"]),
        (["augment=[flip,translate,cutout]"], ["flip", "translate", "cutout"]),
        (["augment=[cutout,translate,flip]"], ["cutout", "translate", "flip"]),
        (["augment=[crop,flip]", "~augment.crop"], ["flip"]),
        (["augment.crop.padding=3", "augment=[flip,crop]"], ["flip", "crop"]),
    ],
)
def test_augmentations_are_those_listed_in_their_order(
    overrides: list[str], names: list[str], built: Callable[..., Config]
) -> None:
    config = built(*overrides)
    assert [entry.name for entry in config.augment] == names
    assert list(config.composed["augment"]) == names


def test_a_number_of_one_is_set_by_its_name(built: Callable[..., Config]) -> None:
    (_, crop) = built("augment=[flip,crop]", "augment.crop.padding=3").augment
    assert dataclasses.asdict(crop) == {"name": "crop", "padding": 3, "border": "black"}  # type: ignore[call-overload]


def test_no_augmentation_changes_no_name(built: Callable[..., Config]) -> None:
    assert built("augment=flip").name == built().name


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["augment=crop", "augment.crop.padding=-1"], "augment.crop.padding must be at least 0, not -1 (set on the"),
        (["augment=crop", "augment.crop.padding=a"], "augment.crop.padding must be a whole number, not 'a' (set on the"),
        (["augment=crop", "augment.crop.border=reflex"], "augment.crop.border must be one of black, edge, reflect"),
        (["augment=[flip,crop]", "+augment.crop.paddin=1"], "augment=crop has no key 'paddin' (set on the command line:"),
        (["augment=flip", "~augment.flip.axis"], "augment.flip.axis is missing, and augment=flip needs it (set on the"),
        (["augment=crop", "augment.crop.name=corp"], "augment.crop.name: there is no augment 'corp' (set on the"),
        (["augment=crop", "augment.crop=3"], "augment.crop must be one of affine, crop, "),
        (["+augment.crop.padding=3"], "augment.crop has numbers, and crop is not among the chosen"),
        (["augment=[crop,flip,crop]"], "augment: 'crop' is listed twice (set on the command line: augment=[crop,flip,crop])"),
        (["augment=[ flip , flip ]"], "augment: 'flip' is listed twice"),
        (["augment=crop", "augment.crop.padding=8"], "augment.crop.padding must be less than the sides of the images"),
        (["augment=translate", "augment.translate.share=0.05"], "augment.translate.share of 0.05 moves nothing"),
        (["augment=cutout", "augment.cutout.size=9"], "augment.cutout.size must be at most the shorter side"),
        (["augment=jitter", "augment.jitter.hue=0.1"], "augment.jitter.hue must be 0, not 0.1: the images of data=digits are grey"),
        (["augment=[mixup,crop]"], "mixup mixes images with their labels, and crop cannot follow it. Write augment=[crop,mixup]."),
        (["augment=[cutmix,mixup]"], "Write augment=[cutmix]."),
        (["augment=affine", "augment.affine.scale=[1.2,0.8]"], "augment.affine.scale must be the smaller factor and then"),
        (["augment=erase", "augment.erase.area=[0.5]"], "augment.erase.area must have 2 numbers"),
        (["augment=crop", "augment.crop._target_=os.system"], "augment.crop._target_: '_target_' is not allowed"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key_and_where_it_was_made(
    overrides: list[str], says: str, compose: Callable[..., DictConfig]
) -> None:
    config = compose(*[override for override in overrides if "_target_" not in override])
    if "_target_" in overrides[-1]:
        OmegaConf.update(config, "augment.crop._target_", "os.system", force_add=True)
    with pytest.raises(ConfigError) as caught:
        build_config(config, Origin(overrides))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_file_of_an_augmentation_is_in_that_file(compose: Callable[..., DictConfig]) -> None:
    config = compose("augment=[flip,crop]")
    config.augment.crop.padding = -1
    with pytest.raises(ConfigError, match=r"\(set in configs/augment/crop.yaml\)"):
        build_config(config, Origin(["augment=[flip,crop]"]))


@pytest.mark.parametrize("wrong", ["crop", ["crop"], 3])
def test_a_value_that_is_no_list_of_augmentations(wrong: Any, compose: Callable[..., DictConfig]) -> None:
    config = compose()
    OmegaConf.set_struct(config, False)
    config.augment = wrong
    with pytest.raises(ConfigError, match=r"augment must be a list of affine, crop, .* \(set in configs/config.yaml\)"):
        build_config(config)


@pytest.mark.parametrize(
    ("name", "spec", "numbers", "says"),
    [
        *((name, POINTS, {}, "2×2 pixels") for name in AUGMENTATIONS if name not in ("mixup", "jitter")),
        ("jitter", POINTS, {}, "2 channels"),
        ("jitter", GREY, {"hue": 0.0}, "saturation"),
        ("crop", GREY, {"padding": 8}, "8×8"),
        ("translate", COLOUR, {"share": 0.97}, "out of sight"),
        ("cutout", COLOUR, {"size": 13}, "16×12"),
        ("trivial_augment", dataclasses.replace(COLOUR, image_shape=(4, 9, 9)), {}, "4 channels"),
    ],
)
def test_images_that_an_augmentation_cannot_take(name: str, spec: DataSpec, numbers: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, FieldError)) as caught:
        augmentation(name, **numbers).check(spec)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_images_that_it_takes(name: str) -> None:
    augmentation(name).check(COLOUR)
    augmentation("mixup").check(POINTS)
    if name != "jitter":
        augmentation(name).check(GREY)


def test_choosing_augmentations_imports_no_torch() -> None:
    program = (
        "import sys, hydra; from gradlab.config import build_config; from gradlab.entry import CONFIGS\n"
        "hydra.initialize_config_dir(str(CONFIGS), version_base='1.3').__enter__()\n"
        "build_config(hydra.compose('config', ['augment=[crop,rotate,cutout,trivial_augment,mixup]']))\n"
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=900).returncode == 0


# ----------------------------------------------------------- what belongs to an image


@pytest.mark.parametrize("name", ALONE)
def test_an_image_is_augmented_alike_in_any_batch(name: str) -> None:
    """By its index and epoch: not by its place, its company or the size of its batch."""
    whole = applied([augmentation(name)], epoch=3)
    shuffled = np.random.default_rng(0).permutation(60)
    parts = [shuffled[:1], shuffled[1:8], shuffled[8:41], shuffled[41:]]
    tolerance = 0.0 if name in EXACT else 1e-3
    for part in parts:
        alone = applied([augmentation(name)], part.tolist(), epoch=3)
        assert torch.equal(alone.labels, torch.from_numpy(part))
        torch.testing.assert_close(alone.images, whole.images[part], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_other_augmentations_do_not_change_its_numbers(name: str) -> None:
    """One that leaves images as they are, listed before it, moves nothing."""
    nothing = augmentation("crop", padding=0) if name != "crop" else augmentation("translate", share=0.0)
    alone, second = applied([augmentation(name)], epoch=1), applied([nothing, augmentation(name)], epoch=1)
    assert torch.equal(alone.images, second.images)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_epoch_and_every_seed_augments_anew(name: str) -> None:
    entry = augmentation(name)
    one = applied([entry])
    assert torch.equal(one.images, applied([entry]).images)
    assert not torch.equal(one.images, torch.from_numpy(examples().images).to(one.images.dtype))
    assert not torch.equal(one.images, applied([entry], epoch=1).images)
    assert not torch.equal(one.images, applied(augmenter(entry, seed=1)).images)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_the_stored_images_stay_as_they_are(name: str) -> None:
    images = torch.from_numpy(examples().images)
    before = images.clone()
    batch = Batch(images, torch.arange(60))
    augmenter(augmentation(name))(batch, Pick(0, torch.arange(60)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_threads_change_no_bit(name: str) -> None:
    entry, found = augmentation(name), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(applied([entry]).images)
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_mixed_precision_rounds_no_image(name: str) -> None:
    """Batches are made inside of the training step, where bf16 casts what it may."""
    with torch.autocast("cpu", torch.bfloat16):
        found = applied([augmentation(name)])
    assert torch.equal(found.images, applied([augmentation(name)]).images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_levels_stay_levels(name: str, dtype: torch.dtype) -> None:
    """From 0 to 255, as bytes or floats of the dtype asked for; in both precisions the same images, to rounding."""
    found = applied(augmenter(augmentation(name), dtype=dtype))
    assert found.images.dtype in (torch.uint8, dtype)
    assert found.images.shape == (60, 3, 16, 12)
    assert -1e-3 <= float(found.images.min()) <= float(found.images.max()) <= 255 + 1e-3
    single = applied([augmentation(name)]).images.double()
    apart = (found.images.double() - single).abs() > 0.05
    assert float(apart.double().mean()) < 0.002  # a nearest pixel that is tied


@pytest.mark.parametrize(
    "entry",
    [
        augmentation("crop", padding=0),
        augmentation("translate", share=0.0),
        augmentation("rotate", degrees=0.0),
        augmentation("affine", degrees=0.0, translate=0.0, scale=[1.0, 1.0], shear=0.0),
        augmentation("jitter", brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
        augmentation("cutout", size=0),
        augmentation("erase", probability=0.0),
        augmentation("mixup", probability=0.0),
        augmentation("cutmix", probability=0.0),
        augmentation("mixup", alpha=1e-6),
    ],
    ids=lambda entry: entry.name,
)
def test_no_strength_is_no_effect(entry: Augmentation) -> None:
    found = applied([entry])
    images = torch.from_numpy(examples().images)
    torch.testing.assert_close(found.images.double(), images.double(), rtol=0, atol=1e-3)
    assert torch.equal(found.labels, torch.arange(60))
    if found.share is not None:
        assert (found.share == 1).all()


# -------------------------------------------------------------------- how often what


def many(entry: Augmentation, images: torch.Tensor, count: int = 20_000) -> Batch:
    """One image, as ``count`` images of the data set that look alike."""
    batch = Batch(images.expand(count, *images.shape[1:]), torch.arange(count))
    return augmenter(entry)(batch, Pick(0, torch.arange(count)))


def alike(counts: collections.Counter[Any], outcomes: int) -> bool:
    """Whether so many outcomes are equally likely: chi-square within four of its standard deviations."""
    expected = counts.total() / outcomes
    assert len(counts) == outcomes
    statistic = sum((count - expected) ** 2 for count in counts.values()) / expected
    return bool(abs(statistic - (outcomes - 1)) < 4 * (2 * (outcomes - 1)) ** 0.5)


@pytest.mark.parametrize(
    ("entry", "outcomes"), [(augmentation("crop", padding=3), 49), (augmentation("translate", share=0.2), 7 * 5)]
)
def test_every_shift_is_equally_likely(entry: Augmentation, outcomes: int) -> None:
    image = torch.zeros(1, 1, 16, 12, dtype=torch.uint8)
    image[0, 0, 7, 6] = 255
    moved = many(entry, image).images.flatten(1)
    assert (moved.sum(1) == 255).all()
    assert alike(collections.Counter(moved.argmax(1).tolist()), outcomes)


def test_a_flip_is_as_likely_as_none() -> None:
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    image[0, 0, 0, 0] = 255
    places = many(augmentation("flip", axis="both"), image).images.flatten(1).argmax(1)
    assert alike(collections.Counter(places.tolist()), 4)
    sides = many(augmentation("flip", axis="vertical"), image).images.flatten(1).argmax(1)
    assert set(sides.tolist()) == {0, 12}


@pytest.mark.parametrize("axis", ["horizontal", "vertical", "both"])
def test_an_alternating_flip_shows_both_sides_in_two_epochs(axis: str) -> None:
    entry = augmentation("flip", axis=axis, alternating=True)
    epochs = [applied([entry], epoch=epoch).images for epoch in range(4)]
    other = {"horizontal": [3], "vertical": [2], "both": [2, 3]}[axis]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert torch.equal(epochs[1], epochs[0].flip(other))
    kept = (epochs[0] == torch.from_numpy(examples().images)).flatten(1).all(1)
    assert 0.1 < float(kept.double().mean()) < 0.7  # drawn for each image by itself


def test_a_rotation_s_angles_are_spread_evenly() -> None:
    """A bright pixel far to the right of the centre is turned to a height of radius · sin(angle)."""
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 19:22, 38:41] = 255
    turned = many(augmentation("rotate", degrees=60.0), image, 4000).images[:, 0]
    heights = (turned.sum(2) * (torch.arange(41) - 20)).sum(1) / turned.sum((1, 2))
    sideways = (turned.sum(1) * (torch.arange(41) - 20)).sum(1) / turned.sum((1, 2))
    angles = torch.rad2deg(torch.atan2(heights, sideways)).sort().values
    assert (angles - torch.linspace(-60, 60, 4000)).abs().max() < 3


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_a_cutout_is_a_square_about_any_pixel(fill: str) -> None:
    image = torch.full((1, 3, 16, 12), 255, dtype=torch.uint8)
    cut = many(augmentation("cutout", size=5, fill=fill), image).images
    level = torch.tensor([0, 0, 0] if fill == "black" else [120, 101, 90])
    seen = cut[:100].movedim(1, 3).reshape(-1, 3).unique(dim=0)
    assert set(map(tuple, seen.tolist())) == {(255,) * 3, tuple(level.tolist())}
    holes = (cut[:, 0] != 255).int()
    areas = holes.sum((1, 2))
    assert int(areas.max()) == 25
    inside = areas == 25
    assert float(inside.double().mean()) == pytest.approx((16 - 4) * (12 - 4) / (16 * 12), abs=0.015)
    assert alike(collections.Counter(holes[inside].flatten(1).argmax(1).tolist()), 12 * 8)


def test_an_erased_rectangle_has_the_area_and_shape_asked_for() -> None:
    image = torch.full((1, 1, 40, 40), 255, dtype=torch.uint8)
    entry = augmentation("erase", probability=0.7, area=[0.1, 0.2], ratio=[0.5, 2.0], fill="black")
    holes = many(entry, image, 4000).images[:, 0] == 0
    rows, columns = holes.any(2).sum(1).double(), holes.any(1).sum(1).double()
    erased = rows > 0
    assert float(erased.double().mean()) == pytest.approx(0.7, abs=0.03)
    assert torch.equal(rows * columns, holes.sum((1, 2)).double())
    areas, ratios = (rows * columns)[erased] / 1600, (rows / columns)[erased]
    assert 0.09 < float(areas.min()) < 0.105
    assert 0.195 < float(areas.max()) < 0.215
    assert 0.45 < float(ratios.min()) < 0.55
    assert 1.85 < float(ratios.max()) < 2.2
    assert float((ratios < 1).double().mean() - (ratios > 1).double().mean()) == pytest.approx(0, abs=0.06)


# --------------------------------------------------------------------------- mixing


def halves(count: int = 400) -> Batch:
    """Image i is one level everywhere, and the level is its label: i modulo 256."""
    levels = (torch.arange(count) % 256).to(torch.uint8)
    return Batch(levels[:, None, None, None].expand(count, 3, 16, 12), torch.arange(count))


@pytest.mark.parametrize("name", MIXES)
def test_mixed_images_hold_both_labels_by_their_shares(name: str) -> None:
    entry = augmentation(name, alpha=1.0)
    before = halves()
    after = augmenter(entry)(before, Pick(0, torch.arange(400)))
    assert after.others is not None
    assert after.share is not None
    assert after.share.dtype == torch.float32
    assert ((after.share >= 0.5) & (after.share <= 1)).all()
    share = after.share.double()
    expected = share * (after.labels % 256) + (1 - share) * (after.others % 256)
    torch.testing.assert_close(after.images.double().mean((1, 2, 3)), expected, rtol=0, atol=2e-2)
    own = torch.arange(400)
    assert ((after.labels == own) | (after.others == own)).all()
    # Each image is mixed into one other.
    others = after.labels + after.others - own
    assert sorted(others.tolist()) == own.tolist()
    assert (others != own).all()


def test_mixup_is_its_formula() -> None:
    before = applied([augmentation("crop", padding=0)])
    after = applied([augmentation("mixup", alpha=0.4)])
    assert after.others is not None
    assert after.share is not None
    assert torch.equal(after.labels, before.labels)
    images, weight = before.images.double(), after.share.double()[:, None, None, None]
    expected = weight * images + (1 - weight) * images[after.others]
    torch.testing.assert_close(after.images.double(), expected, rtol=0, atol=1e-3)


def test_cutmix_is_one_box_of_the_other_image() -> None:
    after = augmenter(augmentation("cutmix"))(halves(), Pick(0, torch.arange(400)))
    for image, own in zip(after.images[:, 0], range(400), strict=True):
        pasted = image != own % 256
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        if len(rows):
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("name", MIXES)
def test_partners_follow_from_the_images_of_the_batch_not_from_their_order(name: str) -> None:
    straight = applied([augmentation(name)], range(30))
    order = np.random.default_rng(3).permutation(30)
    shuffled = applied([augmentation(name)], order.tolist())
    for one, other in zip(straight, shuffled, strict=True):
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one[order], other)


@pytest.mark.parametrize("name", MIXES)
def test_an_image_alone_in_its_batch_stays(name: str) -> None:
    found = applied([augmentation(name)], [7])
    torch.testing.assert_close(
        found.images[0].double(), torch.from_numpy(examples().images[7]).double(), rtol=0, atol=1e-3
    )
    assert found.others is not None
    assert found.labels.tolist() == found.others.tolist() == [7]


# -------------------------------------------------------------------- batches of a run

RECIPES = {
    "bytes": ["crop", "flip", "cutout"],
    "floats": ["flip", "affine", "jitter"],
    "policy": ["trivial_augment"],
    "mixed": ["crop", "mixup"],
}


def preparation(entries: Sequence[Augmentation], seed: int = 0, dtype: torch.dtype = torch.float32) -> Preparation:
    normalization = Normalization.of(examples())
    made = Augmenter(entries, seed, normalization.mean, CPU, dtype) if entries else None
    return Preparation(normalization, CPU, dtype, made)


def chunks(recipe: str, first_step: int = 0, pace: int = 8, round_steps: int = 5) -> TrainingChunks:
    entries = [augmentation(name) for name in RECIPES[recipe]]
    made = TrainingChunks(
        DeviceImages(examples(), CPU), preparation(entries), 16, 0, Horizon(3 * 4, 4), round_steps
    )  # fmt: skip
    made.next_step, made.pace.steps = first_step, pace
    return made


def batches(made: TrainingChunks) -> list[Batch]:
    found: list[Batch] = []
    while made.next_step < made.horizon.total_steps:
        for chunk in made:
            found += chunk
    return found


def same(ones: Sequence[Batch], others: Sequence[Batch]) -> bool:
    """Every bit of every tensor."""
    return all(
        (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))
        for a, b in zip(ones, others, strict=True)
        for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_chunks_rounds_and_the_first_step_change_no_batch(recipe: str) -> None:
    whole = batches(chunks(recipe))
    assert len(whole) == 12
    assert same(batches(chunks(recipe, pace=1, round_steps=12)), whole)
    assert same(batches(chunks(recipe, pace=3, round_steps=2)), whole)
    for first in (1, 4, 7, 11):
        assert same(batches(chunks(recipe, first_step=first)), whole[first:])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_training_batch_is_augmented_and_then_normalised(recipe: str, dtype: torch.dtype) -> None:
    entries = [augmentation(name) for name in RECIPES[recipe]]
    made = preparation(entries, dtype=dtype)
    raw = torch.from_numpy(examples().images), torch.from_numpy(examples().labels)
    pick = Pick(2, torch.arange(60))
    found = made.training(raw, pick)
    normalization = Normalization.of(examples())
    plain = Augmenter(entries, 0, normalization.mean, CPU, dtype)(Batch(*raw), pick)
    mean, std = (each[:, None, None] for each in (normalization.mean, normalization.std))
    expected = (plain.images.double() - mean) / std
    assert found.images.dtype == dtype
    torch.testing.assert_close(found.images.double(), expected, rtol=0, atol=1e-5)
    assert same([found._replace(images=plain.images)], [plain])


def test_evaluation_is_never_augmented() -> None:
    source = DeviceImages(examples(), CPU)
    ones = EvaluationBatches(source, preparation([augmentation("crop"), augmentation("mixup")]), 25)
    assert same(list(ones), list(EvaluationBatches(source, preparation([]), 25)))


def test_the_hole_of_a_cutout_is_what_normalisation_makes_nothing() -> None:
    """Of the mean, rounded to a level: half a level is all that is left."""
    made = preparation([augmentation("cutout", size=12)])
    white = Examples(np.full_like(examples().images, 255), examples().labels)
    found = made.training((torch.from_numpy(white.images), torch.from_numpy(white.labels)), Pick(0, torch.arange(60)))
    assert float(found.images.abs().min()) < 0.51 / float(Normalization.of(examples()).std.min())


# -------------------------------------------------------------------------- the figure


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [["crop", "flip"], ["cutmix"]])
def test_the_figure_shows_what_the_augmenter_gives(names: list[str], channels: int) -> None:
    few = examples(9, channels)
    made = Augmenter([augmentation(name) for name in names], 0, torch.zeros(channels), CPU, torch.float32)
    figure = augmented(few, tuple("abcdefghi"), made)
    assert len(figure.axes) == 6 * 9
    expected = made(Batch(torch.from_numpy(few.images[:6]), torch.arange(6)), Pick(7, torch.arange(6)))
    drawn = figure.axes[9 * 2 + 8].get_images()[0].get_array()
    picture = expected.images[2].numpy()
    assert drawn is not None
    assert np.array_equal(np.asarray(drawn), picture[0] if channels == 1 else np.moveaxis(picture, 0, -1))
    below = [axes.get_xlabel() for axes in figure.axes]
    assert any("%" in text for text in below) == (names == ["cutmix"])
    assert figure.get_suptitle() == " → ".join(names)


def test_points_are_not_drawn(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    points = Examples(np.zeros((4, 2, 1, 1), np.uint8), np.arange(4))
    draw_augmented(folder, POINTS, points, Augmenter([augmentation("mixup")], 0, MEAN[:2], CPU, torch.float32))
    draw_augmented(folder, COLOUR, examples(), None)
    assert not folder.plots.exists()
