"""Published datasets below a folder: complete, and with the right checksums."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from gradlab.config import choice
from gradlab.data import files
from gradlab.data.datasets import DATASETS
from gradlab.data.datasets.published import Published
from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding
from gradlab.entry import CONFIGS
from gradlab.errors import DataError


def look_at_data(root: Path) -> Iterator[Finding]:
    """Every dataset of which there is a file in ``root``. Reads them all, a second for each 100 MB."""
    here = False
    for name in sorted(DATASETS):
        numbers = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / f"{name}.yaml"))
        assert isinstance(numbers, dict)
        if "root" not in numbers or not issubclass(DATASETS[name], Published):
            continue
        dataset = choice("data", {**numbers, "root": str(root), "download": False})
        pieces = dataset.pieces()
        missing = dataset.missing()
        if len(missing) == len(pieces):
            continue
        here = True
        if missing:
            names = ", ".join(piece.name for piece in missing)
            advice = f"python train.py data={name} data.root={root} data.download=true fetches what is missing."
            yield Finding("data", WRONG, f"{name} in {root} is incomplete: {names}", advice)
            continue
        try:
            files.read(dataset.folder, pieces)
        except DataError as error:
            yield Finding("data", WRONG, str(error), f"python train.py data={name} data.root={root} data.download=true")
        else:
            yield Finding("data", GOOD, f"{name} in {root}: {len(pieces)} files, checksums right")
    if not here:
        yield Finding("data", NOTE, f"no published dataset in {root}; digits, moons and circles need none")
