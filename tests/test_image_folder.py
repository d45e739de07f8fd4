import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gradlab.data.decoding
from folders import image_folder, make_folder, pack
from gradlab.data.cache import Cache, cache_folder, key_of
from gradlab.data.datasets.base import Examples, Splits, StreamedExamples
from gradlab.data.memory import available_memory
from gradlab.errors import ConfigError, DataError, FieldError
from gradlab.interruption import Interrupted, Interruption
from processes import environment, train

TWO = {"cat": 20, "dog": 10}


def parts(splits: Splits) -> list[Examples]:
    return [splits.train, splits.val, splits.test]


def same(one: Splits, other: Splits) -> bool:
    return one.fingerprint == other.fingerprint and all(
        np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
        for a, b in zip(parts(one), parts(other), strict=True)
    )


# ------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        (TWO, [19, 5, 6]),
        ({"train/cat": 10, "train/dog": 10, "test/cat": 3, "test/dog": 4}, [16, 4, 7]),
        ({"train/a": 6, "train/b": 4, "val/a": 3, "test/b": 2}, [10, 3, 2]),
        ({"Train/a": 6, "Train/b": 4, "valid/a": 3, "TEST/b": 2}, [10, 3, 2]),
        ({"train/a": 10, "train/b": 10, "validation/a": 3}, [16, 3, 4]),
        ({"train/a": 20, "train/b": 10}, [19, 5, 6]),
        ({"cat/tabby": 10, "cat/black/young": 10, "dog": 10}, [19, 5, 6]),
        ({"train": 10, "plane": 20}, [19, 5, 6]),
    ],
)
def test_what_the_folders_say_is_kept_and_the_rest_split_off(
    tmp_path: Path, counts: dict[str, int], sizes: list[int]
) -> None:
    dataset = image_folder(make_folder(tmp_path / "pictures", counts))
    splits, spec = dataset.load(), dataset.spec()
    assert [len(part) for part in parts(splits)] == sizes
    assert spec.train_examples == sizes[0]
    assert spec.image_shape == (3, 8, 6)
    assert set(splits.train.labels) == set(range(len(spec.classes)))
    images = [image.tobytes() for part in parts(splits) for image in part.images]
    assert len(set(images)) == len(images) == sum(counts.values())


def test_classes_are_the_names_of_the_folders_and_labels_belong_to_their_pictures(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", {"dog": 6, "Cat": 6, "ärger": 6})
    dataset = image_folder(root)
    splits, classes = dataset.load(), dataset.spec().classes
    assert classes == ("Cat", "dog", "ärger")
    stored = {np.asarray(Image.open(file)).tobytes(): file.parent.name for file in root.rglob("*.png")}
    for part in parts(splits):
        for image, label in zip(part.images, part.labels, strict=True):
            assert stored[image.transpose(1, 2, 0).tobytes()] == classes[label]


def test_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    for name in ("notes.txt", "cat/Thumbs.db", "cat/.DS_Store", "dog/._001.png", "dog/readme.md"):
        (root / name).write_text("x")
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        (root / folder).mkdir()
        (root / folder / "001.png").write_text("x")
    (root / "cat" / "again.png").symlink_to(root / "dog" / "001.png")
    (root / "cat" / "circle").symlink_to(root / "cat")
    splits = image_folder(root).load()
    assert sum(map(len, parts(splits))) == 31
    assert splits.remark == "5 other files are passed over"


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("inside", ["", "wrapped up/"])
def test_an_archive_is_its_folder(tmp_path: Path, kind: str, inside: str) -> None:
    root = make_folder(tmp_path / "pictures", {"train/a": 7, "train/b/c": 7, "test/a": 3})
    packed = pack(root, tmp_path / f"packed.{kind}", inside)
    dataset = image_folder(packed)
    assert same(dataset.load(), image_folder(root).load())
    assert dataset.spec() == image_folder(root).spec()


MISTAKES: list[tuple[dict[str, int], dict[str, Any], str]] = [
    ({}, {}, "holds no pictures. It must hold one folder of pictures for each class"),
    ({"cat": 9}, {}, "pictures of one class only, 'cat'"),
    ({"cat": 9, "dog": 9, "cow": 0}, {}, "the folder 'cow' holds no pictures"),
    ({"cat": 9, "dog": 9, ".": 1}, {}, "'000.png' lies in no class's folder"),
    ({"train/a": 9, "train/b": 9, "train/c": 0}, {}, "the folder 'train/c' holds no pictures"),
    ({"train/a": 9, "train/b": 9, "test": 0}, {}, "the folder 'test' holds no pictures"),
    ({"train/a": 9, "train/b": 9, "test/c": 1}, {}, "'c' is a class that train does not have. Classes of train: a, b."),
    ({"train/a": 9, "train/b": 9, "val/a": 1, "valid/a": 1}, {}, "two of them mean the same part"),
]


@pytest.mark.parametrize(("counts", "changes", "said"), MISTAKES)
def test_a_folder_of_another_layout_is_refused(
    tmp_path: Path, counts: dict[str, int], changes: dict[str, Any], said: str
) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for folder, count in counts.items():
        make_folder(tmp_path / "made" / str(len(list(tmp_path.rglob("*")))), {"x": count}).joinpath("x").rename(
            root / "loose"
        )
        if folder == ".":
            (root / "loose" / "000.png").rename(root / "000.png")
            (root / "loose").rmdir()
        else:
            (root / folder).parent.mkdir(exist_ok=True)
            (root / "loose").rename(root / folder)
    with pytest.raises(ConfigError) as caught:
        image_folder(root, **changes).spec()
    assert said in str(caught.value)
    assert str(root) in str(caught.value)


def test_a_root_that_is_not_there_or_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_text("x")
    for name, said in [("nowhere", "No such file or directory"), ("a.rar", "neither a folder nor an archive")]:
        with pytest.raises(ConfigError, match=said):
            image_folder(tmp_path / name).spec()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", " "), ("image_size", 0), ("image_size", 10**6), ("fit", "stretch"), ("color", "gray"),
        ("test_fraction", 1.0), ("on_bad_image", "ignore"), ("stream", "yes"), ("memory_share", 0.0), ("workers", 0),
        ("max_pixels", 0), ("max_pixels", 10**9), ("max_files", 0), ("max_bytes", 0),
    ],
)  # fmt: skip
def test_a_wrong_number_is_refused_by_its_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        image_folder(tmp_path, **{field: value})
    assert caught.value.field == field


def test_a_mistake_on_the_command_line_needs_no_torch(tmp_path: Path) -> None:
    make_folder(tmp_path / "pictures", {"cat": 3})
    program = (
        "import sys; sys.argv = ['train.py', 'data=image_folder', 'data.root=pictures', 'data.cache_dir=cache']\n"
        "from gradlab.entry import main; status = main()\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "of one class only" in done.stderr


# ------------------------------------------------------------------------------------------------------ sizes and colour


def test_pictures_of_many_sizes_need_one(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    Image.new("RGB", (30, 20)).save(root / "dog" / "large.png")
    with pytest.raises(ConfigError) as caught:
        image_folder(root).spec()
    for part in ("2 sizes", "6×8 (30, as", "30×20 (1, as", "dog/large.png", "data.image_size="):
        assert part in str(caught.value)
    for fit in ("resize", "crop"):
        dataset = image_folder(root, image_size=5, fit=fit)
        assert dataset.spec().image_shape == (3, 5, 5)
        assert dataset.load().train.images.shape == (len(dataset.load().train), 3, 5, 5)


def test_grey_only_where_all_training_pictures_are(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", {"train/a": 6, "train/b": 6}, mode="L")
    make_folder(root, {"test/a": 2})
    assert image_folder(root).spec().image_shape == (1, 8, 6)
    assert image_folder(root, color="rgb").spec().image_shape == (3, 8, 6)
    Image.new("RGB", (6, 8)).save(root / "train" / "a" / "colour.png")
    assert image_folder(root).spec().image_shape == (3, 8, 6)
    assert image_folder(root, color="grey").spec().image_shape == (1, 8, 6)


# ------------------------------------------------------------------------------------------------------------------ bad


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A header that cannot be read, pixels that cannot, and 30 good pictures."""
    root = make_folder(tmp_path / "pictures", TWO)
    (root / "cat" / "empty.png").write_bytes(b"")
    whole = (root / "dog" / "003.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[:-40])
    return root


@pytest.mark.parametrize("changes", [{}, {"image_size": 4, "color": "rgb"}, {"stream": "always"}])
@pytest.mark.parametrize("packed", [False, True])
def test_broken_pictures_are_named_or_skipped(broken: Path, changes: dict[str, Any], packed: bool) -> None:
    root = pack(broken, broken.parent / "broken.tar.gz") if packed else broken
    with pytest.raises(DataError) as caught:
        image_folder(root, **changes).load()
    assert f"{root}/cat/empty.png is empty (0 bytes)." in str(caught.value)
    assert "data.on_bad_image=skip" in str(caught.value)
    dataset = image_folder(root, on_bad_image="skip", **changes)
    spec, splits = dataset.spec(), dataset.load()
    assert spec.train_examples == len(splits.train)
    assert sum(map(len, parts(splits))) == 30
    assert list(splits.skipped) == [f"{root}/cat/empty.png", f"{root}/dog/cut.png"]
    assert "damaged" in splits.skipped[f"{root}/dog/cut.png"]
    assert "2 pictures that cannot be decoded are skipped" in splits.remark
    good = shutil.copytree(broken, broken.parent / "good")
    (good / "cat" / "empty.png").unlink()
    (good / "dog" / "cut.png").unlink()
    assert same(splits, image_folder(good, **changes).load())


def test_a_class_that_is_all_broken_cannot_be_skipped(broken: Path) -> None:
    for file in (broken / "dog").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DataError, match="class 'dog' has no picture left to train on"):
        image_folder(broken, on_bad_image="skip").spec()


def test_a_run_lists_what_it_skipped(broken: Path, tmp_path: Path) -> None:
    arguments = ["data=image_folder", f"data.root={broken}", "data.cache_dir=cache", "tracking=none", "plots=false"]
    refused = train(tmp_path, *arguments)
    assert refused.status == 1
    assert refused.err.count("\n") == 2
    assert "empty.png is empty" in refused.err
    assert not (tmp_path / "outputs").exists()
    finished = train(tmp_path, *arguments, "data.on_bad_image=skip", "trainer.max_epochs=2", "data.val_fraction=0.2")
    assert finished.status == 0, finished.err
    assert "2 pictures that cannot be decoded are skipped" in finished.out
    assert "on the device)" in finished.out
    table = (finished.run / "skipped_images.csv").read_text().splitlines()
    assert table[0] == "image,reason"
    assert [line.split(",")[0] for line in table[1:]] == [f"{broken}/cat/empty.png", f"{broken}/dog/cut.png"]
    assert "skipped_images.csv" in (finished.run / "journal.jsonl").read_text()


def test_a_picture_that_may_not_be_read_is_named_and_taken_once_it_may() -> None:
    if os.geteuid() == 0:  # to whom no file is forbidden
        os.seteuid(65534)
    try:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            root = make_folder(Path(folder) / "pictures", TWO)
            (root / "cat" / "003.png").chmod(0)
            with pytest.raises(DataError, match=r"cat/003\.png cannot be read: Permission denied\."):
                image_folder(root).spec()
            assert len(image_folder(root, on_bad_image="skip").load().skipped) == 1
            (root / "cat" / "003.png").chmod(0o600)
            assert image_folder(root, on_bad_image="skip").load().skipped == {}
            (root / "dog").chmod(0)
            with pytest.raises(DataError, match=r"The folder .*dog cannot be read: Permission denied\."):
                image_folder(root).spec()
            (root / "dog").chmod(0o700)
            (Path(folder) / "cache").chmod(0o500)
            with pytest.raises(
                DataError, match=r"cache cannot be used: Permission denied\. Name another with data.cache_dir"
            ):
                image_folder(root, color="grey", image_size=3).load()
            (Path(folder) / "cache").chmod(0o700)
    finally:
        os.seteuid(os.getuid())


# ---------------------------------------------------------------------------------------------------------------- cache


def no_decoding(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    packed = pack(root, tmp_path / "packed.tar.xz")
    first = {path: image_folder(path).load() for path in (root, packed)}
    for name in ("decode", "header", "members"):
        monkeypatch.setattr(gradlab.data.decoding, name, no_decoding)
    for path, splits in first.items():
        assert same(splits, image_folder(path).load())
        assert same(splits, image_folder(path, batch_size=7).load())
        assert image_folder(path, split_seed=1).load().fingerprint == splits.fingerprint
    for changes in ({"image_size": 3}, {"color": "grey"}, {"max_pixels": 99}):
        with pytest.raises(AssertionError, match="decoded again"):
            image_folder(root, **changes).load()


@pytest.mark.parametrize("how", ["flip", "cut", "no contents", "added", "emptied", "removed"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, how: str) -> None:
    dataset = image_folder(make_folder(tmp_path / "pictures", TWO))
    before = dataset.load()
    entries = [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert len(entries) == 2
    for entry in entries:
        for file in [file for file in entry.iterdir() if file.name != "contents.json"]:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            if how in ("flip", "cut"):
                file.write_bytes(bytes(content) if how == "flip" else content[:-1])
            elif how == "removed":
                file.unlink()
        if how == "no contents":
            (entry / "contents.json").unlink()
        elif how == "emptied":
            (entry / "contents.json").write_bytes(b"")
        elif how == "added":
            (entry / "more").write_bytes(b"")
    assert same(before, dataset.load())
    assert same(before, dataset.load())
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_changed_picture_is_seen(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    before = image_folder(root).load()
    file = root / "cat" / "004.png"
    status = file.stat()
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert image_folder(root).load().fingerprint != before.fingerprint


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "key.0123.tmp").mkdir()
    entry = cache.entry("key", lambda folder: (folder / "a").write_text("x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.lock"]
    assert (entry / "a").read_text() == "x"


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("x")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        Cache(tmp_path).entry("key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_runs_at_once_make_an_entry_once(tmp_path: Path) -> None:
    """Real processes, each of which notes that it made the entry; and all of them read it whole."""
    program = (
        "import sys, time; from pathlib import Path; from gradlab.data.cache import Cache\n"
        "def make(folder):\n"
        "    open('made', 'a').write('x'); time.sleep(0.3); (folder / 'a').write_text('whole')\n"
        "print((Cache(Path('cache')).entry('key', make) / 'a').read_text())\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=900)[0] for process in running] == ["whole\n"] * 4
    assert (tmp_path / "made").read_text() == "x"


def test_keys_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of("a", 1) == key_of("a", 1) != key_of("a1") != key_of("a", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "gradlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/to/be/ignored")
    assert cache_folder(None) == Path.home() / ".cache" / "gradlab"
    assert cache_folder("~/x") == Path.home() / "x"


def test_a_signal_ends_the_decoding_in_another_thread(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    caught: list[BaseException] = []

    def load() -> None:
        try:
            image_folder(root).load()
        except BaseException as error:
            caught.append(error)

    with Interruption() as interruption:
        interruption.training_begins()
        os.kill(os.getpid(), signal.SIGTERM)
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    (error,) = caught
    assert isinstance(error, Interrupted)
    assert error.signum == signal.SIGTERM
    assert not list((tmp_path / "cache").glob("*.tmp"))
    image_folder(root).load()  # once the run is over, nothing is left of the signal


# --------------------------------------------------------------------------------------------------------- where they go


def test_what_does_not_fit_into_memory_is_streamed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", TWO)
    few = 30 * 3 * 8 * 6 / available_memory() / 10
    splits = image_folder(root, memory_share=few).load()
    assert isinstance(splits.train, StreamedExamples)
    assert not isinstance(image_folder(root).load().train, StreamedExamples)
    assert not isinstance(image_folder(root, memory_share=few, stream="never").load().train, StreamedExamples)


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture
def real_cats() -> Path:
    data = Path(os.environ.get("GRADLAB_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (data / "cat-vs-noncat.tar.xz").is_file():
        pytest.skip(f"needs {data}/cat-vs-noncat.tar.xz: name its folder in GRADLAB_TEST_DATA")
    return data / "cat-vs-noncat.tar.xz"


def test_the_real_cats_have_their_counts(real_cats: Path, tmp_path: Path) -> None:
    dataset = image_folder(real_cats, cache_dir=str(tmp_path), val_fraction=0.1)
    splits = dataset.load()
    assert dataset.spec().classes == ("cat", "non-cat")
    assert dataset.spec().image_shape == (3, 64, 64)
    assert len(splits.train) + len(splits.val) == 209
    assert (splits.train.labels == 0).sum() + (splits.val.labels == 0).sum() == 72
    assert [len(splits.test), (splits.test.labels == 0).sum()] == [50, 33]
