"""How much memory a streamed run takes, and how fast it is: a folder of many pictures, made on the fly.

    .venv/bin/python scripts/measure_streaming.py                   100,000 pictures of 224×224, 60 steps: about five minutes
    .venv/bin/python scripts/measure_streaming.py --pictures 5000   a quick look

The pictures are a few hundred distinct JPEGs under many names (hard links), so that the folder is small; to gradlab they are
files like any others. Memory is that of all processes of the run together, four times a second: PSS, which counts a page
that is shared by n processes as 1/n in each, so that the sum is what the run takes of the machine. The run is made
twice: the second finds the statistics of the pictures in the cache.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 10
NETWORK = ["model=cnn", "model.channels=[8,16,32]"]


def make_pictures(folder: Path, count: int, side: int, distinct: int = 300) -> int:
    """``count`` JPEGs in ``CLASSES`` folders; returns the bytes of one, on average."""
    random = np.random.default_rng(0)
    originals, size = [], 0
    for number in range(distinct):
        label = number % CLASSES
        small = random.integers(0, 256, (28, 28, 3))
        small[..., label % 3] = small[..., label % 3] // 2 + 12 * label
        picture = Image.fromarray(small.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=85)
        original = folder.with_name("originals") / f"{number}.jpg"
        original.parent.mkdir(exist_ok=True)
        original.write_bytes(content.getvalue())
        originals.append(original)
        size += len(content.getvalue())
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    for number in range(count):
        original = originals[number % distinct]
        os.link(original, folder / f"class_{number % CLASSES}" / f"{number:06}.jpg")
    return size // distinct


def tree(process: int) -> list[int]:
    """``process`` and all that descend from it."""
    found = [process]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def memory(process: int) -> tuple[int, int]:
    """PSS of the whole tree below ``process``, in bytes, and how many processes it has."""
    total, alive = 0, 0
    for pid in tree(process):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
                    alive += 1
        except OSError:  # it has ended, or is ending
            continue
    return total, alive


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Run ``command`` in ``folder``; its peak memory, processes and seconds."""
    began, peak, most = time.perf_counter(), 0, 0
    environment = {**os.environ, "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        while process.poll() is None:
            used, alive = memory(process.pid)
            peak, most = max(peak, used), max(most, alive)
            time.sleep(0.25)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {"peak_pss_gb": peak / 1e9, "processes": most, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="as for train.py; default: " + " ".join(NETWORK))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradlab-streaming-") as temporary:
        folder = Path(temporary)
        average = make_pictures(folder / "pictures", arguments.pictures, arguments.side)
        decoded = arguments.pictures * 3 * arguments.side**2
        print(f"{arguments.pictures:,} pictures of {average:,} bytes, {decoded / 1e9:.1f} GB decoded", flush=True)
        few = 200 / arguments.pictures
        command = [
            sys.executable, str(ROOT / "train.py"), "data=image_folder", f"data.root={folder / 'pictures'}",
            f"data.cache_dir={folder / 'cache'}", "data.stream=always", f"data.val_fraction={few}",
            f"data.test_fraction={few}", "data.batch_size=32",
            "trainer.max_epochs=null", f"trainer.max_steps={arguments.steps}", "tracking=none", "plots=false",
            *(arguments.overrides or NETWORK),
        ]  # fmt: skip
        for number in range(1, arguments.runs + 1):
            found = measure(command, folder)
            result = json.loads(sorted((folder / "outputs").glob("*/result.json"))[-1].read_text())
            images = 32 * arguments.steps / result["seconds"]["training_steps"]
            print(
                f"run {number}: peak {found['peak_pss_gb']:.2f} GB in {found['processes']} processes, {images:,.0f} images/s "
                f"in training, {result['seconds']['until_training']:.0f} s before it, {found['seconds']:.0f} s in all",
                flush=True,
            )


if __name__ == "__main__":
    main()
