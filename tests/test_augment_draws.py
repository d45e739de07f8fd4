"""Stateless random numbers: uniform, independent, and a function of key, epoch and index alone."""

import itertools
import math

import numpy as np
import pytest
import torch

from gradlab.data import draws

INDICES = torch.arange(100_000)


def splitmix64(state: int) -> int:
    """The reference in plain Python: the output function of Steele, Lea and Flood."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


def numbers(count: int = 1, *, seed: int = 0, stream: str = "test", epoch: int = 0) -> torch.Tensor:
    return draws.draw(draws.keys(seed, stream, count), epoch, INDICES)


def test_the_numbers_are_those_of_plain_arithmetic() -> None:
    keys = draws.keys(seed=3, stream="crop", count=4)
    indices = torch.tensor([0, 1, 2, 49_999, 2**40])
    for epoch in (0, 1, 199):
        drawn = draws.draw(keys, epoch, indices)
        for place, key in enumerate(keys.tolist()):
            of_epoch = splitmix64((key + 0x9E3779B97F4A7C15 * (epoch + 1)) % 2**64)
            bits = [splitmix64((of_epoch + 0x9E3779B97F4A7C15 * index) % 2**64) for index in indices.tolist()]
            assert drawn[place].tolist() == [(word >> 40) / 2**24 for word in bits]


def test_splitmix64_gives_the_published_first_numbers() -> None:
    """Of seed 1234567, as in the reference implementation's test vectors."""
    state, first = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        first.append(splitmix64(state))
    assert first == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def chi_square(cells: torch.Tensor, count: int) -> float:
    """The statistic in standard deviations from what uniform cells give: about normal for many cells."""
    observed = torch.bincount(cells, minlength=count).double()
    expected = len(cells) / count
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return (statistic - (count - 1)) / math.sqrt(2 * (count - 1))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (12345, 500)])
def test_numbers_are_uniform(seed: int, epoch: int) -> None:
    for stream in numbers(3, seed=seed, epoch=epoch):
        assert abs(chi_square(draws.below(1000, stream), 1000)) < 4
        assert 0 <= float(stream.min()) < 1e-4
        assert 1 - 1e-4 < float(stream.max()) < 1
        assert abs(float(stream.double().mean()) - 0.5) < 4 / (12 * len(stream)) ** 0.5


def test_the_low_bits_are_uniform_too() -> None:
    """Of the 24 that are drawn: the last eight."""
    assert abs(chi_square((numbers()[0] * 2**24).long() % 256, 256)) < 4


def pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    first, second = numbers(2)
    return {
        "neighbouring indices": (first[:-1], first[1:]),
        "indices apart by 2": (first[:-2], first[2:]),
        "neighbouring epochs": (first, numbers(epoch=1)[0]),
        "two numbers of an augmentation": (first, second),
        "two augmentations": (first, numbers(stream="tesu")[0]),
        "neighbouring seeds": (first, numbers(seed=1)[0]),
        "index and epoch moved together": (numbers(epoch=1)[0][:-1], first[1:]),
    }


@pytest.mark.parametrize("which", list(pairs()))
def test_numbers_are_independent(which: str) -> None:
    one, other = pairs()[which]
    assert abs(chi_square(draws.below(32, one) * 32 + draws.below(32, other), 1024)) < 4
    assert abs(float(np.corrcoef(one.numpy(), other.numpy())[0, 1])) < 4 / len(one) ** 0.5


def test_three_neighbours_are_independent() -> None:
    one, two, three = (draws.below(10, numbers()[0][start : start + 99_000]) for start in range(3))
    assert abs(chi_square(one * 100 + two * 10 + three, 1000)) < 4


def test_a_number_belongs_to_its_image() -> None:
    """Not to its place in the batch, the batch's size, or what was drawn before."""
    keys = draws.keys(0, "test", 3)
    everything = draws.draw(keys, 4, INDICES)
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    for indices in (shuffled, shuffled[:1], shuffled[10:13], shuffled.flip(0)):
        assert torch.equal(draws.draw(keys, 4, indices), everything[:, indices])
    assert torch.equal(draws.draw(keys[1:2], 4, INDICES), everything[1:2])


def test_lasting_numbers_are_the_same_in_every_epoch() -> None:
    keys, varies = draws.keys(0, "test", 2), torch.tensor([0, 1])
    first, second = (draws.draw(keys, epoch, INDICES, varies) for epoch in (0, 7))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert abs(chi_square(draws.below(1000, first[0]), 1000)) < 4


def test_several_seeds_at_once_are_each_seed_alone() -> None:
    members = [0, 1, 7]
    keys = torch.stack([draws.keys(seed, "test", 2) for seed in members], 1)  # [numbers, members]
    own_batches = torch.arange(300).view(3, 100)
    shared, own = draws.draw(keys, 2, INDICES[:100]), draws.draw(keys, 2, own_batches)
    assert shared.shape == own.shape == (2, 3, 100)
    for place, seed in enumerate(members):
        alone = draws.keys(seed, "test", 2)
        assert torch.equal(shared[:, place], draws.draw(alone, 2, INDICES[:100]))
        assert torch.equal(own[:, place], draws.draw(alone, 2, own_batches[place]))


def test_torchs_generator_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    first = numbers(2)
    torch.manual_seed(2)
    assert torch.equal(first, numbers(2))
    torch.set_rng_state(before)


def test_every_epoch_and_every_key_is_another() -> None:
    keys = torch.cat([draws.keys(seed, name, 3) for seed in range(20) for name in ("crop", "flip", "mixup")])
    every = torch.cat([draws.in_epoch(keys, epoch) for epoch in range(200)])
    assert len(every.unique()) == len(every) == 20 * 3 * 3 * 200


@pytest.mark.parametrize("largest", [1.0 - 2.0**-24, 1.0 - 2.0**-23])
def test_whole_numbers_stay_below_their_count(largest: float) -> None:
    for count in itertools.chain(range(1, 2000), (2**12, 2**16, 2**16 + 1)):
        assert int(draws.below(count, torch.tensor([largest]))) == count - 1
        assert int(draws.below(count, torch.tensor([0.0]))) == 0
