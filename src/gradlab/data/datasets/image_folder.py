"""A user's own pictures: a folder, or an archive of one, with one folder of pictures for each class."""

import collections
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradlab.bounds import check_number, check_option
from gradlab.data.archives import Limits
from gradlab.data.cache import Cache, cache_folder
from gradlab.data.datasets.base import DATASETS, Batched, Examples, Splits, StreamedExamples, stratified_indices
from gradlab.data.decoding import Bad, Decoder, Look, Pictures, cores, fingerprint_of, pixels_sha256
from gradlab.data.listing import TEST, TRAIN, VAL, Layout, layout_of, listing_of
from gradlab.data.memory import available_memory
from gradlab.data.pictures import FITS, PILLOWS_LIMIT, most_bytes
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, DataError, FieldError

_LARGEST_SIDE = 16_384


@DATASETS.register("image_folder")
@dataclass(frozen=True)
class ImageFolder(Batched):
    """Pictures in ``<class>/…``; or in ``train/<class>/…`` and ``test/<class>/…``, and ``val/<class>/…`` where there is one.

    Folders inside a class's folder are taken too. Hidden files and those that are no pictures by their suffix are passed
    over and counted. What the folders hold no test or validation images of is split off the training images, first the
    test. Pictures of any kind are taken (``gradlab.data.pictures.decode`` says how), decoded once, and kept in a cache.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder, or a .tar, .tar.gz, .tar.xz or .zip of it.
    image_size: side in pixels that every picture is given; or null where all have one size, which need not be square.
    fit: how: ``resize`` both sides to it (whatever the picture's shape), or ``crop``: the shorter side, then the middle.
    color: ``rgb``, ``grey``, or ``auto``: grey where all training pictures are stored in grey (those with a palette are not).
    test_fraction: share of all images held out for the test where there is no folder ``test``, in (0, 1).
    on_bad_image: ``fail``, or ``skip`` pictures that cannot be decoded: the run's folder has a list of them. They are then
        sought before anything else happens, because they decide the length of the run.
    stream: ``never`` keeps all decoded images in memory, ``always`` decodes them anew for every batch, in processes of
        their own; ``auto`` does that where they would fill more than memory_share. All give the same batches.
    memory_share: of the memory that is free, the share that images may fill, in (0, 1]; also of a GPU's.
    workers: processes that decode for a streamed run, ≥ 1; or null for as many as there are cores.
    cache_dir: folder for decoded images; or null for ``$XDG_CACHE_HOME/gradlab`` or ``~/.cache/gradlab``. May be deleted.
    max_pixels: a picture that says it has more is refused before it is decoded.
    max_files: an archive that holds more is refused.
    max_bytes: an archive that unpacks to more is refused.
    """

    root: str
    image_size: int | None
    fit: str
    color: str
    test_fraction: float
    on_bad_image: str
    stream: str
    memory_share: float
    workers: int | None
    cache_dir: str | None
    max_pixels: int
    max_files: int
    max_bytes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.root.strip():
            raise FieldError("root", "must name the folder or archive of the pictures")
        if self.image_size is not None:
            check_number(self, "image_size", at_least=1, at_most=_LARGEST_SIDE)
        check_option(self, "fit", FITS)
        check_option(self, "color", ["auto", "rgb", "grey"])
        check_number(self, "test_fraction", above=0, below=1)
        check_option(self, "on_bad_image", ["fail", "skip"])
        check_option(self, "stream", ["auto", "always", "never"])
        check_number(self, "memory_share", above=0, at_most=1)
        if self.workers is not None:
            check_number(self, "workers", at_least=1, at_most=256)
        check_number(self, "max_pixels", at_least=1, at_most=PILLOWS_LIMIT)
        check_number(self, "max_files", at_least=1)
        check_number(self, "max_bytes", at_least=1)

    def spec(self) -> DataSpec:
        """Shape and counts, from names and, where image_size or color leave something open, the headers of the files."""
        plan = self._plan()
        bad = self._bad(plan) if self.on_bad_image == "skip" else plan.bad
        train = self._split(plan, bad)[TRAIN]
        return DataSpec(self.name, plan.look.shape, plan.layout.classes, len(train))

    def load(self) -> Splits:
        plan = self._plan()
        look, pictures, labels = plan.look, plan.pictures, plan.layout.labels
        if self._streams(plan):
            files = pictures.files()
            of_each, of_pixels, bad = pictures.survey(look, files)
            rows = self._split(plan, bad)

            def part(number: int) -> Examples:
                chosen = rows[number]
                workers = self.workers or cores()
                reader = Decoder(files, look)
                return StreamedExamples(reader, chosen, labels[chosen], look.shape, of_each[chosen], workers)

            val = part(VAL)
            if self.stream == "auto" and val.decoded_bytes <= self.memory_share / 4 * available_memory():
                val = Examples(val.images, val.labels)  # read again and again, and small
            parts = part(TRAIN), val, part(TEST)
        else:
            images, bad = pictures.pixels(look)
            rows = self._split(plan, bad)
            of_pixels = pixels_sha256(images, _good(bad, len(labels)))
            train, val, test = (Examples(images[chosen], labels[chosen]) for chosen in rows)
            parts = train, val, test
        return Splits(
            *parts,
            fingerprint=fingerprint_of(of_pixels, plan.layout, _good(bad, len(labels)), look),
            skipped={pictures.listing.shown(row): reason for row, (reason, _) in sorted(bad.reasons.items())},
            remark=self._remark(pictures.listing.ignored, len(bad.reasons)),
            device_share=float("inf") if self.stream == "never" else self.memory_share,
        )

    def _plan(self) -> "_Plan":
        cache = Cache(cache_folder(self.cache_dir))
        limits = Limits(self.max_files, self.max_bytes, most_bytes(self.max_pixels))
        listing = listing_of(Path(self.root), limits, cache)
        layout = layout_of(listing)
        pictures = Pictures(listing, limits, cache)
        bad = Bad({})
        shape = (3 if self.color == "rgb" else 1, self.image_size, self.image_size)
        if self.image_size is None or self.color == "auto":
            headers, bad = pictures.headers()
            self._refuse_bad(pictures, bad)
            good = _good(bad, len(layout.labels))
            if not len(good):
                raise DataError(f"None of the {len(pictures):,} pictures in {listing.root} can be read.")
            if self.color == "auto":
                grey = headers[good, 2][layout.parts[good] == TRAIN].all()
                shape = (1 if grey else 3, *shape[1:])
            if self.image_size is None:
                shape = (shape[0], *self._one_size(pictures, headers, good))
        channels, height, width = shape
        assert height is not None
        assert width is not None
        return _Plan(pictures, layout, Look(channels, (height, width), self.fit, self.max_pixels), bad)

    def _one_size(
        self, pictures: Pictures, headers: npt.NDArray[np.int64], good: npt.NDArray[np.int64]
    ) -> tuple[int, int]:
        """The (height, width) that all pictures have."""
        sizes = collections.Counter(zip(headers[good, 1].tolist(), headers[good, 0].tolist(), strict=True))
        if len(sizes) > 1:
            told = []
            for (height, width), count in sizes.most_common(4):
                first = next(row for row in good if tuple(headers[row, 1::-1]) == (height, width))
                told.append(f"{width}×{height} ({count:,}, as {pictures.listing.shown(first)})")
            more = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
            raise ConfigError(
                f"The pictures have {len(sizes):,} sizes: {', '.join(told)}{more}. A network takes one: say which with "
                "data.image_size=64, and data.fit=crop keeps their proportions."
            )
        ((size, _),) = sizes.items()
        if max(size) > _LARGEST_SIDE:
            raise ConfigError(
                f"The pictures have {size[1]}×{size[0]} pixels. Set data.image_size to something smaller."
            )
        return size

    def _streams(self, plan: "_Plan") -> bool:
        """Whether images are decoded for every batch: all of them would fill too much of the memory or of the disk."""
        if self.stream != "auto":
            return self.stream == "always"
        decoded = len(plan.pictures) * plan.look.size_in_bytes
        if decoded > self.memory_share * available_memory():
            return True
        if plan.pictures.has_pixels(plan.look):
            return False
        folder = plan.pictures.cache.folder
        there = next((above for above in (folder, *folder.parents) if above.exists()), Path("/"))
        return decoded > 0.9 * shutil.disk_usage(there).free

    def _bad(self, plan: "_Plan") -> Bad:
        """The pictures that cannot be decoded, known only once all have been."""
        if self._streams(plan):
            return plan.pictures.survey(plan.look, plan.pictures.files())[2]
        return plan.pictures.pixels(plan.look)[1]

    def _split(self, plan: "_Plan", bad: Bad) -> list[npt.NDArray[np.int64]]:
        """The rows of the training, validation and test images, each in order; ``DataError`` where that cannot be."""
        self._refuse_bad(plan.pictures, bad)
        labels, of_part = plan.layout.labels, plan.layout.parts
        good = _good(bad, len(labels))
        rows = [good[of_part[good] == part] for part in (TRAIN, VAL, TEST)]
        for part, fraction, number in ((TEST, self.test_fraction, 0), (VAL, self.val_fraction, 1)):
            if (of_part == part).any():
                continue
            if len(rows[TRAIN]) < 2:
                break
            kept, out = stratified_indices(labels[rows[TRAIN]], fraction, self.split_seed, number)
            rows[part], rows[TRAIN] = rows[TRAIN][out], rows[TRAIN][kept]
        left = np.bincount(labels[rows[TRAIN]], minlength=len(plan.layout.classes))
        for name, count in zip(plan.layout.classes, left, strict=True):
            if count == 0:
                raise DataError(
                    f"{plan.pictures.listing.root}: class '{name}' has no picture left to train on, beside those held out "
                    "and those that cannot be decoded. Add some, or lower data.test_fraction and data.val_fraction."
                )
        for part, what in ((VAL, "validate"), (TEST, "test")):
            if not len(rows[part]):
                raise DataError(f"{plan.pictures.listing.root} has no picture left to {what} with. Add some.")
        return rows

    def _refuse_bad(self, pictures: Pictures, bad: Bad) -> None:
        if not bad.reasons or self.on_bad_image == "skip":
            return
        row, (reason, _) = min(bad.reasons.items())
        others = len(bad.reasons) - 1
        also = f" Nor can {others:,} other{'s' if others > 1 else ''} of {len(pictures):,}." if others else ""
        raise DataError(
            f"{pictures.listing.shown(row)} {reason}.{also} Mend or remove what is broken, or leave it out with "
            "data.on_bad_image=skip, which lists it in the run's folder."
        )

    def _remark(self, ignored: int, skipped: int) -> str:
        parts = []
        if skipped:
            parts.append(f"{skipped:,} pictures that cannot be decoded are skipped (skipped_images.csv)")
        if ignored:
            parts.append(f"{ignored:,} other files are passed over")
        return "; ".join(parts)


@dataclass(frozen=True)
class _Plan:
    """What is to be read, and how; ``bad`` are those whose header cannot be read, where headers were looked at."""

    pictures: Pictures
    layout: Layout
    look: Look
    bad: Bad


def _good(bad: Bad, count: int) -> npt.NDArray[np.int64]:
    """The rows that are not bad."""
    return np.array([row for row in range(count) if row not in bad.reasons], dtype=np.int64)
