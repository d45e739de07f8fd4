import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.checkpoints import STATE, TENSORS, load_checkpoint, parameters_sha256, save_checkpoint
from gradlab.errors import CheckpointError

SAVED: dict[str, Any] = {
    "step": 7,
    "best": {"val/loss": 0.1, "val/accuracy": 1 / 3},
    "optimizer": {"param_groups": [{"lr": 1e-3, "betas": [0.9, 0.999], "fused": True, "foreach": None}]},
}


def some_tensors() -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return {
        "model.weight": torch.randn(3, 4, generator=draws),
        "model.double": torch.randn(5, generator=draws, dtype=torch.float64),
        "model.half": torch.randn(5, generator=draws).bfloat16(),
        "model.counter": torch.tensor(3),
        "model.mask": torch.tensor([True, False]),
        "model.bytes": torch.arange(6, dtype=torch.uint8),
        "model.empty": torch.empty(0, 3),
        "model.wild": torch.tensor([float("nan"), float("inf"), -0.0]),
        "optimizer.0.step": torch.tensor(7.0),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last"
    save_checkpoint(path, some_tensors(), SAVED)
    return path


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether names, shapes, types and bits are equal."""

    def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
        return tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes()

    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


def files_below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_what_was_saved_is_loaded(checkpoint: Path) -> None:
    tensors, state = load_checkpoint(checkpoint)
    assert same(tensors, some_tensors())
    state.pop("tensors_sha256")
    assert state == SAVED


def test_a_checkpoint_is_two_files_and_nothing_else(checkpoint: Path) -> None:
    assert files_below(checkpoint.parent) == {"last", f"last/{TENSORS}", f"last/{STATE}"}


def test_memory_layout_is_no_part_of_a_tensor(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    tensors = {
        "last": images.to(memory_format=torch.channels_last),
        "turned": images.transpose(0, 3),
        "part": images[:, 1:],
        "leaf": nn.Parameter(images),
    }
    save_checkpoint(tmp_path / "c", tensors, {})
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_state_is_json_and_its_tuples_become_lists(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {}, {"betas": (0.9, 0.999), "loss": float("inf")})
    tensors, state = load_checkpoint(tmp_path / "c")
    assert tensors == {}
    assert state["betas"] == [0.9, 0.999]
    assert state["loss"] == float("inf")


@pytest.mark.parametrize(
    "keys",
    [
        ["1", "2", "10"],
        [1, 2, 10],
    ],
)
def test_a_state_with_any_keys_is_whole(tmp_path: Path, keys: list[Any]) -> None:
    save_checkpoint(tmp_path / "c", {}, {"numbers": dict.fromkeys(keys, 0.5)})
    _, state = load_checkpoint(tmp_path / "c")
    assert list(state["numbers"]) == ["1", "2", "10"]


# ------------------------------------------------------------------------- damage


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
@pytest.mark.parametrize("name", [TENSORS, STATE])
def test_no_flipped_byte_goes_unnoticed(checkpoint: Path, name: str, flip: int) -> None:
    file = checkpoint / name
    whole = file.read_bytes()
    for offset in [*range(0, len(whole), 7), len(whole) - 2]:
        damaged = bytearray(whole)
        damaged[offset] ^= flip
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(checkpoint)
        assert str(checkpoint) in str(caught.value)
    file.write_bytes(whole)
    load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", [TENSORS, STATE])
def test_a_file_cut_off_is_noticed(checkpoint: Path, name: str) -> None:
    file = checkpoint / name
    whole = file.read_bytes()
    for length in [0, 1, 7, 8, len(whole) // 2, len(whole) - 2]:
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(checkpoint)):
            load_checkpoint(checkpoint)


def test_bytes_added_to_the_tensors_are_noticed(checkpoint: Path) -> None:
    with (checkpoint / TENSORS).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", [TENSORS, STATE])
def test_a_missing_file_is_noticed(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(checkpoint)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "5", "null", '"text"', '{"state_sha256": 3}', "\0\xff"])
def test_a_state_that_is_none_is_noticed(checkpoint: Path, content: str) -> None:
    (checkpoint / STATE).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint)


def test_an_edited_state_is_noticed(checkpoint: Path) -> None:
    state = json.loads((checkpoint / STATE).read_text())
    (checkpoint / STATE).write_text(json.dumps({**state, "step": 8}))
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", [TENSORS, STATE])
def test_files_of_two_checkpoints_do_not_mix(checkpoint: Path, name: str) -> None:
    other = checkpoint.with_name("other")
    save_checkpoint(other, {"model.weight": torch.ones(3)}, {"step": 8})
    (other / name).replace(checkpoint / name)
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(checkpoint)


# ------------------------------------------------------------------------ writing


def test_a_new_checkpoint_takes_the_place_of_the_old_one(checkpoint: Path) -> None:
    for step in (8, 9):
        save_checkpoint(checkpoint, {"model.weight": torch.full((3,), float(step))}, {"step": step})
        tensors, state = load_checkpoint(checkpoint)
        assert state["step"] == step
        assert tensors["model.weight"].tolist() == [step] * 3
        both = {f"{name}{file}" for name in ("last", "last.previous") for file in ("", f"/{TENSORS}", f"/{STATE}")}
        assert files_below(checkpoint.parent) == both
    _, state = load_checkpoint(checkpoint.with_name("last.previous"))
    assert state["step"] == 8


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "c", {"first": shared, "second": shared, "turned": shared.T}, {})
    tensors, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(tensors["first"], shared)
    assert torch.equal(tensors["second"], shared)
    assert torch.equal(tensors["turned"], shared.T)


@pytest.mark.parametrize("state", [{"step": object()}, {"step": {1, 2}}])
def test_a_failed_writing_leaves_the_old_checkpoint_and_no_temporary_file(
    checkpoint: Path, state: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(checkpoint, {"model.weight": torch.ones(3)}, state)
    tensors, _ = load_checkpoint(checkpoint)
    assert same(tensors, some_tensors())
    assert files_below(checkpoint.parent) == {"last", f"last/{TENSORS}", f"last/{STATE}"}


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, some_tensors(), SAVED)
    for file in (TENSORS, STATE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# ------------------------------------------------------------------ parameters_sha256


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_equal_networks_have_one_checksum() -> None:
    assert parameters_sha256(network()) == parameters_sha256(network())
    assert len(parameters_sha256(network())) == 64


def test_one_bit_anywhere_changes_the_checksum() -> None:
    told = parameters_sha256(network())
    for name in network().state_dict():
        for place in (0, -1):
            model = network()
            content = model.state_dict()[name].view(-1).view(torch.uint8)
            content[place] ^= 1
            assert parameters_sha256(model) != told, name
            content[place] ^= 1
            assert parameters_sha256(model) == told


def test_the_sign_of_zero_and_the_type_change_the_checksum() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        told = parameters_sha256(model)
        model.weight.fill_(-0.0)
    assert parameters_sha256(model) != told
    assert parameters_sha256(network()) != parameters_sha256(network().double())


def test_a_swap_of_two_layers_changes_the_checksum() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    assert parameters_sha256(nn.Sequential(one, two)) != parameters_sha256(nn.Sequential(two, one))


def test_memory_layout_leaves_the_checksum_alone() -> None:
    model = nn.Conv2d(3, 4, 3)
    told = parameters_sha256(model)
    assert parameters_sha256(model.to(memory_format=torch.channels_last)) == told


def test_the_same_bytes_in_another_shape_are_another_network() -> None:
    wide, tall = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    tall.weight.data = wide.weight.data.reshape(3, 2)
    assert parameters_sha256(wide) != parameters_sha256(tall)
