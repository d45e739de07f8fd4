"""The reader of pickles reads arrays of numbers, and runs nothing that a pickle names."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradlab.data.files import Content, Place
from gradlab.data.pickles import dictionary_of_arrays
from gradlab.errors import DataError


def content(data: bytes) -> Content:
    return Content(data, Place("some/file"), "/data/some/file")


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_of_bytes_and_lists_come_back(protocol: int) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    written = pickle.dumps({"rows": array, "columns": np.asfortranarray(array), "labels": [1, 2]}, protocol)
    found = dictionary_of_arrays(content(written))
    for key in ("rows", "columns"):
        assert found[key].dtype == np.uint8
        assert found[key].tolist() == array.tolist()
    assert found["labels"] == [1, 2]


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "O", "S3", [("a", "u1")]])
def test_arrays_of_anything_else_are_refused(dtype: Any) -> None:
    with pytest.raises(DataError, match="is refused"):
        dictionary_of_arrays(content(pickle.dumps({"data": np.zeros(3, dtype=dtype)}, 4)))


class Runs:
    """A pickle of it calls ``function(*arguments)`` in the standard reader."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_the_standard_reader_would_have_run_it(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Runs(Path.touch, mark)))
    assert mark.exists()


def malicious(mark: Path) -> dict[str, bytes]:
    import builtins
    import os
    import subprocess

    return {
        "os.system": pickle.dumps({"data": Runs(os.system, f"touch '{mark}'")}),
        "eval": pickle.dumps({"data": Runs(builtins.eval, f"open({str(mark)!r}, 'w')")}),
        "subprocess": pickle.dumps({"data": Runs(subprocess.check_call, ["touch", str(mark)])}),
        "getattr": pickle.dumps({"data": Runs(getattr, np.empty(0), "tofile")}),
        "numpy's own file reader": pickle.dumps({"data": Runs(np.load, str(mark))}),
        "a class": pickle.dumps({"data": Path("x")}),
        "a name with dots": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile.x\x93.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent object": b"Psomething\n.",
        "an instance": b"(ios\nsystem\n.",
        "setting what a name has": b"cnumpy\nndarray\n}S'__call__'\nI1\nsb.",
        "setting what a class has": b"cnumpy\ndtype\n(N}S'__init__'\nI1\nstb.",
        "setting what the allowed function has": b"cnumpy.core.multiarray\n_reconstruct\n(N}S'x'\nI1\nstb.",
    }


@pytest.mark.parametrize("which", malicious(Path("x")))
def test_nothing_else_is_run(which: str, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    with pytest.raises(DataError, match="/data/some/file is refused") as caught:
        dictionary_of_arrays(content(malicious(mark)[which]))
    assert not mark.exists()
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("thing", [[1, 2], 5, "text", None])
def test_what_is_no_dictionary_is_refused(thing: Any) -> None:
    with pytest.raises(DataError, match="no pickle of arrays alone"):
        dictionary_of_arrays(content(pickle.dumps(thing, 4)))


def test_a_pickle_cut_or_changed_anywhere_raises_nothing_but_a_data_error() -> None:
    """The checksum comes first; behind it a damaged pickle must still not bring the program down."""
    written = pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3]}, 4)
    random = np.random.default_rng(0)
    damaged = [written[:length] for length in range(len(written))]
    for _ in range(2000):
        changed = bytearray(written)
        changed[random.integers(len(written))] = random.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        try:
            dictionary_of_arrays(content(data))
        except DataError:
            refused += 1
    assert refused > len(written)


def test_a_pickle_of_python_2_is_read() -> None:
    """Written by hand as Python 2 wrote them: texts are bytes there, the array's numbers too."""
    written = (
        b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x06\x00\x7f\x80\xff\x01\x02tbU\x06labels](K\x06K\x09eu."
    )
    pickletools.dis(written, out=io.StringIO())  # it is well-formed
    found = dictionary_of_arrays(content(written))
    assert found["data"].tolist() == [[0, 127, 128], [255, 1, 2]]
    assert found["labels"] == [6, 9]
