import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradlab.data.datasets.base import (
    Examples,
    Splits,
    batch_examples,
    fingerprint,
    held_out,
    stratified_split,
)
from gradlab.data.datasets.digits import Digits
from gradlab.data.device import (
    Batch,
    Chunk,
    DeviceImages,
    EvaluationBatches,
    Normalization,
    Pace,
    Pick,
    Preparation,
    TrainingChunks,
)
from gradlab.durations import Horizon
from gradlab.errors import ConfigError, DataError, FieldError
from gradlab.seeds import derive


def numbered(counts: list[int], seed: int = 0) -> Examples:
    """``counts[c]`` images of class c, shuffled; the pixels of image i spell i, so that images can be told apart."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    numbers = np.arange(len(labels))
    images = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8).reshape(-1, 1, 1, 2)
    return Examples(images, labels)


def numbers_of(examples: Examples) -> list[int]:
    pixels = examples.images.reshape(-1, 2).astype(int)
    return [int(number) for number in pixels[:, 0] * 256 + pixels[:, 1]]


# -------------------------------------------------------------------------- split

SPLITS = [
    ([50, 50], 0.1),
    ([50, 50], 0.5),
    ([178, 182, 177, 183, 181, 182, 181, 179, 174, 180], 0.2),
    ([97, 3, 31, 1], 0.15),
    ([7, 7, 7], 1 / 3),
    ([5, 6, 7, 8], 0.01),
    ([5, 6, 7, 8], 0.99),
    ([1000], 0.123),
]


@pytest.mark.parametrize(("counts", "fraction"), SPLITS)
def test_a_split_parts_the_images_exactly(counts: list[int], fraction: float) -> None:
    examples = numbered(counts)
    kept, out = stratified_split(examples, fraction, seed=0, part=1)
    assert len(out) == held_out(len(examples), fraction)
    assert sorted(numbers_of(kept) + numbers_of(out)) == list(range(len(examples)))
    for part in (kept, out):
        assert numbers_of(part) == sorted(numbers_of(part))  # in their own order
        assert (part.labels == examples.labels[numbers_of(part)]).all()  # each with its own label


@pytest.mark.parametrize(("counts", "fraction"), SPLITS)
def test_each_class_gives_its_share_to_within_one(counts: list[int], fraction: float) -> None:
    _, out = stratified_split(numbered(counts), fraction, seed=0, part=1)
    exact = held_out(sum(counts), fraction) / sum(counts)
    for label, count in enumerate(counts):
        assert abs((out.labels == label).sum() - count * exact) < 1


@pytest.mark.parametrize(
    ("examples", "fraction", "expected"),
    [(1000, 0.1, 100), (1797, 0.2, 359), (60_000, 0.1, 6_000), (10, 1e-9, 1), (10, 0.999, 9), (2, 0.5, 1)],
)
def test_at_least_one_image_goes_and_one_stays(examples: int, fraction: float, expected: int) -> None:
    assert held_out(examples, fraction) == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_image_stays_in_training_while_another_can_give(seed: int) -> None:
    kept, out = stratified_split(numbered([30, 1, 1, 30, 1]), 0.1, seed, part=1)
    assert sorted(set(kept.labels.tolist())) == [0, 1, 2, 3, 4]
    assert set(out.labels.tolist()) == {0, 3}
    for fraction in (0.3, 0.5, 0.9):  # images of classes of one are all that there is
        kept, out = stratified_split(numbered([1] * 10), fraction, seed, part=1)
        assert len(out) == round(10 * fraction)
        assert len(kept) + len(out) == 10


def test_as_many_classes_as_images_are_split_like_any() -> None:
    kept, out = stratified_split(numbered([2] * 20_000), 0.1, seed=0, part=1)
    assert len(out) == 4000
    assert np.bincount(kept.labels, minlength=20_000).min() == 1


def test_fewer_than_two_images_cannot_be_split() -> None:
    for count in (0, 1):
        with pytest.raises(DataError, match=f"^{count} images cannot be split"):
            stratified_split(numbered([count]), 0.5, seed=0, part=1)


def plain_split(examples: Examples, fraction: float, seed: int, part: int) -> tuple[Examples, Examples]:
    """``stratified_split`` as it was first written, one class after the other."""
    wanted = held_out(len(examples), fraction)
    classes, counts = np.unique(examples.labels, return_counts=True)
    shares = counts * (wanted / len(examples))
    takes = np.floor(shares).astype(np.int64)
    takes[np.argsort(takes - shares, kind="stable")[: wanted - takes.sum()]] += 1
    random = np.random.default_rng(derive(seed, "split", part))
    chosen = np.zeros(len(examples), dtype=bool)
    for label, take in zip(classes, takes, strict=True):
        chosen[random.permutation(np.flatnonzero(examples.labels == label))[:take]] = True
    return examples.take(np.flatnonzero(~chosen)), examples.take(np.flatnonzero(chosen))


@pytest.mark.parametrize(("counts", "fraction"), [case for case in SPLITS if 1 not in case[0]])
def test_a_split_is_that_of_its_plain_twin(counts: list[int], fraction: float) -> None:
    for mine, plain in zip(
        stratified_split(numbered(counts), fraction, 3, 1), plain_split(numbered(counts), fraction, 3, 1), strict=True
    ):
        assert numbers_of(mine) == numbers_of(plain)


def test_a_split_is_decided_by_its_seed_and_part() -> None:
    examples = numbered([40, 60])
    chosen = {
        (seed, part): numbers_of(stratified_split(examples, 0.3, seed, part)[1]) for seed in (0, 1) for part in (0, 1)
    }
    assert chosen[0, 0] == numbers_of(stratified_split(examples, 0.3, 0, 0)[1])
    assert len({tuple(numbers) for numbers in chosen.values()}) == 4


@pytest.mark.parametrize(("one", "other"), [((0, 0), (0, 1)), ((0, 1), (1, 1))])
def test_the_parts_and_seeds_are_independent(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Of 2 × 3,000 images a half is held out twice; what both hold out is a quarter of them, to 4 σ."""
    examples = numbered([3000, 3000])
    both = set(numbers_of(stratified_split(examples, 0.5, *one)[1]))
    both &= set(numbers_of(stratified_split(examples, 0.5, *other)[1]))
    assert abs(len(both) - 1500) < 4 * math.sqrt(6000) / 4


def test_every_image_is_as_likely_to_be_held_out() -> None:
    examples = numbered([10, 30])
    times = np.zeros(40)
    for seed in range(400):
        times[numbers_of(stratified_split(examples, 0.25, seed, 1)[1])] += 1
    assert abs(times - 100).max() < 4.5 * math.sqrt(400 * 0.25 * 0.75)


def test_torchs_and_numpys_own_generators_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    numpy_before = str(np.random.get_state())
    stratified_split(numbered([5, 5]), 0.5, 0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


def test_a_fingerprint_sees_every_pixel_label_and_shape() -> None:
    examples = numbered([5, 5])
    told = fingerprint(examples)
    assert fingerprint(examples) == told
    images, labels = examples.images.copy(), examples.labels.copy()
    images[3, 0, 0, 1] ^= 1
    labels[9] ^= 1
    changed = [
        fingerprint(Examples(images, examples.labels)),
        fingerprint(Examples(examples.images, labels)),
        fingerprint(Examples(examples.images.reshape(-1, 2, 1, 1), examples.labels)),
        fingerprint(examples.take(np.arange(10)[::-1].copy())),
        fingerprint(examples.take(np.arange(5)), examples.take(np.arange(5, 10))),
    ]
    assert len({told, *changed}) == 6


def test_the_fingerprint_of_bytes_is_that_of_the_first_release_and_floats_have_another() -> None:
    """Fingerprints are written into results; those of bytes may never change."""
    assert fingerprint(numbered([2, 1])) == "7660f215ad87f355561caff55bc2ef70067aa410327f3ae3414678238659ac56"
    zeros = Examples(np.zeros((4, 2, 1, 1), np.uint8), np.zeros(4, np.int64))
    fewer = Examples(np.zeros((4, 2, 1, 1), np.float32), np.zeros(4, np.int64))
    assert fingerprint(zeros) != fingerprint(fewer)


@pytest.mark.parametrize(
    ("size", "images", "expected"), [(32, 100, 32), (100, 100, 100), (101, 100, 100), ("full", 100, 100), (1, 1, 1)]
)
def test_no_batch_is_larger_than_the_set(size: int | str, images: int, expected: int) -> None:
    assert batch_examples(size, images) == expected


# ------------------------------------------------------------------------- digits


def digits(**changes: Any) -> Digits:
    numbers: dict[str, Any] = {
        "batch_size": 32, "val_fraction": 0.1, "split_seed": 0, "class_weights": "none", "normalization": "standard",
        "test_fraction": 0.2
    }  # fmt: skip
    return Digits("digits", **(numbers | changes))


@pytest.fixture(scope="module")
def digits_splits() -> Splits:
    return digits().load()


def parts(splits: Splits) -> list[Examples]:
    return [splits.train, splits.val, splits.test]


def test_digits_has_the_sizes_that_it_told(digits_splits: Splits) -> None:
    spec = digits().spec()
    assert [len(part) for part in parts(digits_splits)] == [1294, 144, 359]
    assert len(digits_splits.train) == spec.train_examples
    for part in parts(digits_splits):
        assert part.images.shape == (len(part), *spec.image_shape)
        assert (part.images.dtype.name, part.labels.dtype.name) == ("uint8", "int64")
        assert set(part.labels) == set(range(len(spec.classes)))


def test_digits_are_scikit_learns(digits_splits: Splits) -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    theirs = sorted((image.astype(int).tolist(), int(label)) for image, label in zip(pixels, labels, strict=True))
    ours = []
    for part in parts(digits_splits):
        assert (part.images % 15 == 0).all()
        assert part.images.max() == 240
        flat = (part.images // 15).reshape(len(part), 64)
        ours += [(image.tolist(), int(label)) for image, label in zip(flat, part.labels, strict=True)]
    assert sorted(ours) == theirs


def test_digits_splits_do_not_overlap(digits_splits: Splits) -> None:
    images = [image.tobytes() for part in parts(digits_splits) for image in part.images]
    assert len(images) == len(set(images)) == 1797


def test_digits_are_split_by_split_seed_alone(digits_splits: Splits) -> None:
    again, other = digits(batch_size=7).load(), digits(split_seed=1).load()
    for mine, same, different in zip(parts(digits_splits), parts(again), parts(other), strict=True):
        assert np.array_equal(mine.images, same.images)
        assert np.array_equal(mine.labels, same.labels)
        assert not np.array_equal(mine.images, different.images)
    assert digits_splits.fingerprint == again.fingerprint == other.fingerprint


def test_another_validation_share_leaves_the_test_images_alone(digits_splits: Splits) -> None:
    other = digits(val_fraction=0.3).load()
    assert np.array_equal(other.test.images, digits_splits.test.images)
    assert len(other.val) == 431


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (1e-9, 1e-9), (0.999, 0.2), (0.2, 0.99)])
def test_digits_sizes_are_told_for_every_share(val: float, test: float) -> None:
    chosen = digits(val_fraction=val, test_fraction=test)
    splits = chosen.load()
    assert chosen.spec().train_examples == len(splits.train) >= 1
    assert min(len(splits.val), len(splits.test)) >= 1
    assert sum(len(part) for part in parts(splits)) == 1797


def test_shares_that_leave_nothing_to_validate_are_refused() -> None:
    with pytest.raises((ConfigError, FieldError)):
        digits(test_fraction=0.9999).spec()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "half"}, "batch_size"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": math.nan}, "val_fraction"),
        ({"test_fraction": 0.0}, "test_fraction"),
        ({"test_fraction": 1.5}, "test_fraction"),
        ({"split_seed": -1}, "split_seed"),
        ({"class_weights": "balance"}, "class_weights"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        digits(**changes)
    assert caught.value.field == field


def test_the_embedded_set_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(digits().load().train) == digits().spec().train_examples
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ normalisation


def colours(n: int = 50, seed: int = 0) -> Examples:
    """RGB images whose channels have unlike ranges."""
    random = np.random.default_rng(seed)
    images = np.stack([random.integers(low, high, (n, 4, 5)) for low, high in [(0, 256), (100, 120), (3, 250)]], axis=1)
    return Examples(images.astype(np.uint8), random.integers(0, 3, n).astype(np.int64))


def test_normalization_is_numpys_mean_and_standard_deviation() -> None:
    examples = colours()
    found = Normalization.of(examples)
    exact = examples.images.astype(np.float64)
    np.testing.assert_allclose(found.mean.numpy(), exact.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.std.numpy(), exact.std(axis=(0, 2, 3)), rtol=1e-13)


def test_a_channel_that_never_varies_becomes_zero() -> None:
    images = np.full((4, 2, 3, 3), 7, dtype=np.uint8)
    images[0, 1] = 9
    examples = Examples(images, np.zeros(4, dtype=np.int64))
    assert Normalization.of(examples).std[0] == 1
    pixels = training_batch(examples, torch.arange(4)).images
    assert (pixels[:, 0] == 0).all()
    assert pixels.isfinite().all()


def floats(n: int = 60) -> Examples:
    random = np.random.default_rng(0)
    points = random.normal([1e4, -0.3], [1e-3, 5.0], (n, 2)).astype(np.float32)
    return Examples(points.reshape(n, 2, 1, 1), random.integers(0, 2, n).astype(np.int64))


def test_floats_are_normalised_in_double_precision() -> None:
    """A mean of 10,000 and a deviation of 0.001: nothing would be left of it in single precision."""
    examples = floats()
    found = Normalization.of(examples)
    exact = examples.images.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(found.mean.numpy(), exact.mean(0), rtol=1e-15)
    np.testing.assert_allclose(found.std.numpy(), exact.std(0), rtol=1e-9)
    assert found.mean.dtype == found.std.dtype == torch.float64


def test_a_float_that_never_varies_becomes_zero() -> None:
    images = np.full((7, 2, 1, 1), 0.1, dtype=np.float32)
    assert Normalization.of(Examples(images, np.zeros(7, dtype=np.int64))).std.tolist() == [1, 1]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_a_batch_of_points_is_normalised_like_images(dtype: torch.dtype, rtol: float) -> None:
    examples = Examples(floats().images[:, 1:], floats().labels)
    exact = examples.images.astype(np.float64)
    pixels = training_batch(examples, torch.tensor([3, 0, 3]), dtype).images
    assert pixels.dtype == dtype
    expected = ((exact - exact.mean()) / exact.std())[[3, 0, 3]]
    np.testing.assert_allclose(pixels.double().numpy(), expected, rtol=rtol, atol=rtol)


CPU = torch.device("cpu")


def prepared(examples: Examples, dtype: torch.dtype = torch.float32) -> tuple[DeviceImages, Preparation]:
    return DeviceImages(examples, CPU), Preparation(Normalization.of(examples), CPU, dtype)


def training_batch(examples: Examples, indices: torch.Tensor, dtype: torch.dtype = torch.float32) -> Batch:
    source, preparation = prepared(examples, dtype)
    pick = Pick(0, indices)
    return preparation.training(next(iter(source.batches([pick]))), pick)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_a_batch_is_the_normalised_images_at_its_indices(dtype: torch.dtype, rtol: float) -> None:
    examples = colours()
    exact = examples.images.astype(np.float64)
    expected = (exact - exact.mean((0, 2, 3), keepdims=True)) / exact.std((0, 2, 3), keepdims=True)
    chosen = [3, 49, 0, 3]
    pixels, labels, others, share = training_batch(examples, torch.tensor(chosen), dtype)
    assert others is None
    assert share is None
    assert pixels.dtype == dtype
    np.testing.assert_allclose(pixels.double().numpy(), expected[chosen], rtol=rtol, atol=rtol)
    assert labels.tolist() == examples.labels[chosen].tolist()


def test_the_normalised_training_set_has_mean_zero_and_deviation_one(digits_splits: Splits) -> None:
    train = digits_splits.train
    pixels = training_batch(train, torch.arange(len(train)), torch.float64).images
    assert abs(pixels.mean()) < 1e-12
    assert abs(pixels.std(correction=0) - 1) < 1e-12


def test_a_batch_does_not_touch_the_stored_images() -> None:
    examples = colours()
    before = examples.images.copy()
    source, preparation = prepared(examples)
    for raw in source.in_order(7):
        preparation.evaluation(raw).images.zero_()
    pick = Pick(0, torch.arange(5))
    for raw in source.batches([pick]):
        preparation.training(raw, pick).images.zero_()
    assert np.array_equal(source.images.numpy(), before)


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 51, 500])
def test_evaluation_sees_every_image_once_in_order(size: int) -> None:
    examples = colours()
    batches = EvaluationBatches(*prepared(examples), size)
    for _ in range(2):
        seen = list(batches)
        assert len(seen) == len(batches)
        assert torch.cat([batch.labels for batch in seen]).tolist() == examples.labels.tolist()
        expected = training_batch(examples, torch.arange(50)).images
        assert torch.equal(torch.cat([batch.images for batch in seen]), expected)


# ------------------------------------------------------------------------- chunks


def chunks(
    images: int = 23, batch: int = 5, seed: int = 0, epochs: int = 3, round_steps: int = 5, pace: int = 8
) -> TrainingChunks:
    """Over images whose label is their number."""
    examples = Examples(np.zeros((images, 1, 1, 1), dtype=np.uint8), np.arange(images, dtype=np.int64))
    per_epoch = -(-images // batch)
    made = TrainingChunks(*prepared(examples), batch, seed, Horizon(epochs * per_epoch, per_epoch), round_steps)
    made.pace.steps = pace
    return made


def rounds(made: TrainingChunks) -> list[list[Chunk]]:
    """One list of chunks for each round, until the run is over."""
    found = []
    while made.next_step < made.horizon.total_steps:
        found.append(list(made))
    return found


def joined(steps: list[list[int]]) -> list[int]:
    return [image for step in steps for image in step]


def batches(made: TrainingChunks) -> list[list[int]]:
    """The images of every step of the run."""
    return [batch.labels.tolist() for found in rounds(made) for chunk in found for batch in chunk]


@pytest.mark.parametrize(("images", "batch"), [(23, 5), (20, 5), (7, 1), (7, 6), (6, 6), (1, 1)])
def test_every_epoch_visits_every_image_once(images: int, batch: int) -> None:
    made = batches(chunks(images, batch, epochs=4))
    per_epoch = -(-images // batch)
    assert len(made) == 4 * per_epoch
    for epoch in range(4):
        steps = made[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(joined(steps)) == list(range(images))
        assert [len(step) for step in steps[:-1]] == [batch] * (per_epoch - 1)
        assert len(steps[-1]) == images - batch * (per_epoch - 1)  # what is left


@pytest.mark.parametrize("pace", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("round_steps", [1, 4, 5, 6, 1000])
def test_the_batches_do_not_depend_on_chunks_or_rounds(pace: int, round_steps: int) -> None:
    assert batches(chunks(pace=pace, round_steps=round_steps)) == batches(chunks())


def test_a_pace_that_changes_on_the_way_changes_no_batch() -> None:
    made, seen = chunks(round_steps=1000), []
    for number, chunk in enumerate(made):
        seen += [batch.labels.tolist() for batch in chunk]
        made.pace.record(len(chunk), [1e-9, 10.0][number % 2])
    assert seen == batches(chunks())


@pytest.mark.parametrize("pace", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("round_steps", [1, 4, 5, 6, 15, 1000])
def test_chunks_are_contiguous_and_end_with_their_round(pace: int, round_steps: int) -> None:
    made = chunks(pace=pace, round_steps=round_steps)  # 15 steps
    next_step = 0
    for number, found in enumerate(rounds(made), start=1):
        for chunk in found:
            assert chunk.first_step == next_step
            assert 1 <= len(chunk) <= pace
            next_step += len(chunk)
        assert next_step == min(number * round_steps, 15)
    assert next_step == made.next_step == 15
    assert list(made) == []  # over is over


def test_a_run_may_end_inside_an_epoch() -> None:
    made = chunks(round_steps=1000)
    made.horizon = Horizon(7, 5)
    assert batches(made) == batches(chunks())[:7]


def test_a_chunk_makes_its_batches_once() -> None:
    (chunk, *_) = chunks()
    assert len(list(chunk)) == len(chunk)


def test_the_order_depends_on_the_seed_and_the_epoch_only() -> None:
    whole = batches(chunks(seed=3))
    for start in range(15):  # as a run that goes on from there
        made = chunks(seed=3, epochs=30, round_steps=7)
        made.next_step = start
        assert [pick.indices.tolist() for pick in itertools.islice(made.picks(start), 15 - start)] == whole[start:]
        assert next(made.picks(start)).epoch == start // 5
        made.horizon = Horizon(15, 5)
        assert batches(made) == whole[start:]
    # Another batch size cuts the same order elsewhere.
    assert joined(batches(chunks(seed=3, batch=4))) == joined(whole)


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = set()
    for seed in range(4):
        whole = batches(chunks(seed=seed))
        orders |= {tuple(joined(whole[start : start + 5])) for start in (0, 5, 10)}
    assert len(orders) == 12


def test_torchs_own_generator_is_neither_read_nor_moved() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        one = batches(chunks())
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        assert batches(chunks()) == one


@pytest.mark.parametrize("size", [23, 24, 1000, "full"])
def test_a_batch_as_large_as_the_set_is_the_set(size: int | str) -> None:
    made = batches(chunks(batch=batch_examples(size, 23), epochs=2))
    assert [sorted(step) for step in made] == [list(range(23))] * 2


def test_a_chunk_takes_about_the_time_it_should() -> None:
    pace = Pace(seconds=0.25)
    pace.record(8, 0.08)  # 10 ms a step
    assert pace.steps == 25
    pace.record(25, 0.5)
    assert pace.steps == 12
    pace.record(12, 600.0)
    assert pace.steps == 1
    pace.record(1, 0.0)
    assert pace.steps == 4  # grows by a factor of four at most
    pace.record(4, 0.0)
    assert pace.steps == 16
