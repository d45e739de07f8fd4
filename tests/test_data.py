import gzip
import hashlib
import itertools
import math
from collections.abc import Callable
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
from gradlab.data.datasets.mnist import CHECKSUMS, MNIST
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


@pytest.mark.parametrize(
    ("size", "images", "expected"), [(32, 100, 32), (100, 100, 100), (101, 100, 100), ("full", 100, 100), (1, 1, 1)]
)
def test_no_batch_is_larger_than_the_set(size: int | str, images: int, expected: int) -> None:
    assert batch_examples(size, images) == expected


# ------------------------------------------------------------------------- digits


def digits(**changes: Any) -> Digits:
    numbers: dict[str, Any] = {"batch_size": 32, "val_fraction": 0.1, "split_seed": 0, "test_fraction": 0.2}
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


# -------------------------------------------------------------------------- MNIST

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: "np.ndarray[Any, np.dtype[np.uint8]]") -> bytes:
    """An IDX file: two zeros, 8 for bytes, the number of dimensions; each size in four bytes, the largest first."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.tobytes()


def small_set() -> dict[str, "np.ndarray[Any, np.dtype[np.uint8]]"]:
    random = np.random.default_rng(0)
    return {
        IMAGES: random.integers(0, 256, (40, 28, 28), dtype=np.uint8),
        LABELS: np.arange(40, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": random.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    }


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], MNIST]:
    """MNIST with 40 and 20 images; its checksums count as MNIST's during the test."""

    def make(packed: bool) -> MNIST:
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name, values in small_set().items():
            content = idx(values)
            monkeypatch.setitem(CHECKSUMS, name, hashlib.md5(content, usedforsecurity=False).hexdigest())
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
        return mnist(tmp_path)

    return make


def mnist(root: Path) -> MNIST:
    return MNIST(name="mnist", batch_size=64, val_fraction=0.1, split_seed=0, root=str(root))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_from_plain_and_packed_files(small_mnist: Callable[[bool], MNIST], packed: bool) -> None:
    splits, truth = small_mnist(packed).load(), small_set()
    assert [len(part) for part in parts(splits)] == [36, 4, 20]
    assert np.array_equal(splits.test.images[:, 0], truth["t10k-images-idx3-ubyte"])
    assert splits.test.labels.tolist() == truth["t10k-labels-idx1-ubyte"].tolist()
    of_image = {image.tobytes(): label for image, label in zip(truth[IMAGES], truth[LABELS], strict=True)}
    for part in (splits.train, splits.val):
        assert [of_image.pop(image.tobytes()) for image in part.images] == part.labels.tolist()
    assert not of_image


def test_mnists_arrays_are_ready_for_torch(small_mnist: Callable[[bool], MNIST]) -> None:
    for part in parts(small_mnist(True).load()):
        assert (part.images.dtype.name, part.labels.dtype.name) == ("uint8", "int64")
        assert part.images.flags.writeable  # torch warns of arrays that are not
        assert part.labels.flags.writeable


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"<html>404</html>" * 10,
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "one flipped byte": lambda content: flipped(content, len(content) // 2),
    "one flipped byte in the header": lambda content: flipped(content, 3),
}


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :]


@pytest.mark.parametrize("name", CHECKSUMS.keys())
@pytest.mark.parametrize("damage", DAMAGES.keys())
def test_a_damaged_plain_file_is_named_with_both_checksums(
    small_mnist: Callable[[bool], MNIST], name: str, damage: str
) -> None:
    chosen = small_mnist(False)
    file = Path(chosen.root) / "MNIST" / "raw" / name
    content = DAMAGES[damage](file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), hashlib.md5(content, usedforsecurity=False).hexdigest(), CHECKSUMS[name]):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", CHECKSUMS.keys())
@pytest.mark.parametrize("damage", DAMAGES.keys())
def test_a_damaged_packed_file_is_named(small_mnist: Callable[[bool], MNIST], name: str, damage: str) -> None:
    chosen = small_mnist(True)
    file = Path(chosen.root) / "MNIST" / "raw" / f"{name}.gz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(DataError) as caught:
        chosen.load()
    assert str(file) in str(caught.value)
    assert "fetch it again" in str(caught.value)


def test_a_packed_file_of_other_content_is_named_with_both_checksums(small_mnist: Callable[[bool], MNIST]) -> None:
    chosen = small_mnist(True)
    file = Path(chosen.root) / "MNIST" / "raw" / f"{LABELS}.gz"
    content = flipped(gzip.decompress(file.read_bytes()), 20)
    file.write_bytes(gzip.compress(content))
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), hashlib.md5(content, usedforsecurity=False).hexdigest(), CHECKSUMS[LABELS]):
        assert part in str(caught.value)


def test_a_packed_file_cut_anywhere_is_noticed(small_mnist: Callable[[bool], MNIST]) -> None:
    chosen = small_mnist(True)
    file = Path(chosen.root) / "MNIST" / "raw" / f"{LABELS}.gz"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError):
            chosen._read(LABELS)


@pytest.mark.parametrize("name", CHECKSUMS.keys())
def test_a_missing_file_is_named_before_anything_is_read(small_mnist: Callable[[bool], MNIST], name: str) -> None:
    chosen = small_mnist(False)
    folder = Path(chosen.root) / "MNIST" / "raw"
    (folder / name).unlink()
    with pytest.raises(ConfigError) as caught:
        chosen.spec()
    for part in (f"'{name}'", f"'{name}.gz'", str(folder), "data.root=", "download=True"):
        assert part in str(caught.value)


def test_the_real_mnist_has_its_sizes_and_statistics(real_mnist: Path) -> None:
    chosen = mnist(real_mnist)
    splits = chosen.load()
    assert [len(part) for part in parts(splits)] == [chosen.spec().train_examples, 6_000, 10_000]
    every = np.concatenate([splits.train.labels, splits.val.labels])
    assert np.bincount(every).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    shares = np.bincount(splits.val.labels) / np.bincount(every)
    assert abs(shares - 0.1).max() < 1 / 5421
    # The published 0.1307 and 0.3081 are those of all 60,000 training images.
    everything = Examples(np.concatenate([splits.train.images, splits.val.images]), every)
    found = Normalization.of(everything)
    assert found.mean.item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert found.std.item() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_one_flipped_byte_of_the_real_mnist_is_noticed(real_mnist: Path, tmp_path: Path) -> None:
    name = "t10k-labels-idx1-ubyte"
    packed = real_mnist / "MNIST" / "raw" / f"{name}.gz"
    if not packed.is_file():
        pytest.skip(f"needs {packed}")
    content = gzip.decompress(packed.read_bytes())
    file = tmp_path / "MNIST" / "raw" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert mnist(tmp_path)._read(name).tolist() == list(content[8:])
    file.write_bytes(flipped(content, 5000))
    with pytest.raises(DataError) as caught:
        mnist(tmp_path)._read(name)
    assert CHECKSUMS[name] in str(caught.value)
