"""Tests, benchmarks and trainings on a GPU within nine minutes; see scripts/gpu_check.sh."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))
NOISE = [
    f"hydra.searchpath=[file://{SCRIPTS / 'benchmarks' / 'configs'}]",
    "data=random_images",
    "imports=[benchmarks.random_images]",
]
SEEDS, BY_HAND, COMPILED = "cifar-seeds", "by-hand", "by-hand-compiled"
GRACE = 5.0  # seconds between asking a part to end and ending it


@dataclass(frozen=True)
class Part:
    """One command with the seconds that it may take. ``runs``: a folder in which train.py leaves runs, to be read afterwards."""

    name: str
    command: list[str]
    seconds: float
    runs: Path | None = None


def parts(parsed: argparse.Namespace, work: Path) -> list[Part]:
    """What is done, in the order of how much one wants to know it. The seconds add up to nine minutes."""
    python, rehearsal = sys.executable, parsed.cpu_rehearsal
    bench = [python, str(SCRIPTS / "bench.py"), "--into", str(parsed.into), "--data", str(parsed.data)]
    train = [python, str(ROOT / "train.py")]
    quick = ["--quick"] if rehearsal else []
    images, by_hand = NOISE, ["data=random_images"]
    if parsed.images:
        images = by_hand = [
            "data=image_folder",
            f"data.root={parsed.images}",
            f"data.cache_dir={work / 'cache'}",
        ]
    if rehearsal:
        little = ["data.examples=600", "data.batch_size=100", "model.widths=[8,8,8]"]
        little += ["trainer.max_epochs=1", "trainer.precision=fp32"]
        images, by_hand = [*NOISE, *little], ["data=random_images", *little]
    populations = ["digits+mlp"] if rehearsal else ["mnist+mlp", "mnist+lenet"]
    cifar = ["experiment=cifar10_speed", *images, "plots=false"]
    loop = [python, "-m", "benchmarks.cifar_by_hand", "--seeds", "2" if rehearsal else "5"]

    def training(name: str, arguments: list[str], seconds: float) -> Part:
        return Part(name, [*train, *arguments, f"output_dir={work / name}"], seconds, work / name)

    # Plugins that a machine's Python may have: one warns beside xdist, and warnings are errors. The session ends, and says what
    # has failed, before it is ended.
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n6",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "--session-timeout=120",
    ]
    return [
        Part("tests", [*tests, "-m", "gpu", str(ROOT / "tests")], 140),
        training(SEEDS, ["-m", *cifar, f"seed=range(1,{3 if rehearsal else 22})", "hydra.launcher.population=off"], 90),
        Part(BY_HAND, [*loop, "--into", str(work / f"{BY_HAND}.json"), *by_hand], 40),
        Part(COMPILED, [*loop, "--compiled", "--into", str(work / f"{COMPILED}.json"), *by_hand], 60),
        Part("steps", [*bench, "--only", "steps", "cifar+resnet-9", "mnist+mlp", "--seconds", "0.3", *quick], 130),
        Part("population", [*bench, "--only", "population", *populations, "--turns", "3", *quick], 80),
    ]


def run(part: Part, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a part in a process group of its own, for as long as it may take; what came of it."""
    began = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            part.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            cwd=log.parent, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(part.seconds)
            ended = "ok" if process.returncode == 0 else f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {part.seconds:.0f} s"
            for signum in (signal.SIGTERM, signal.SIGKILL):
                os.killpg(process.pid, signum)
                try:
                    process.wait(GRACE)
                    break
                except subprocess.TimeoutExpired:
                    continue
    found: dict[str, Any] = {"ended": ended, "seconds": round(time.perf_counter() - began, 1)}
    if part.runs is not None:
        found["runs"] = runs = read_runs(part.runs)
        found["summary"] = summary(runs)
    if ended != "ok":
        found["said"] = log.read_text(errors="replace").splitlines()[-15:]
    return found


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """What the runs below ``folder`` came to: status, accuracies and seconds."""
    told = []
    for file in sorted(folder.rglob("result.json")):
        result = json.loads(file.read_text())
        metrics = {key: value for key, value in result["metrics"].items() if "accuracy" in key}
        told.append(
            {
                "status": result["status"],
                "metrics": metrics,
                "seconds": result.get("seconds", {}),
                "device": result.get("device"),
            }
        )
    return told


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many runs finished, and the mean and spread of their accuracies on the test set and of the seconds of their steps."""
    finished = [run for run in runs if run["status"] == "finished"]
    columns = {
        "test_accuracy": [run["metrics"].get("test/accuracy") for run in finished],
        "training_seconds": [run["seconds"].get("training_steps") for run in finished],
    }
    told: dict[str, Any] = {"finished": len(finished), "of": len(runs)}
    for name, values in columns.items():
        numbers = [float(value) for value in values if value is not None]
        if len(numbers) > 1:
            told[name] = {"mean": statistics.fmean(numbers), "std": statistics.stdev(numbers)}
    return told


def record_of_cifar(parsed: argparse.Namespace, work: Path, record: dict[str, Any]) -> None:
    """Put the trainings on CIFAR-10 beside those by hand, for the page of all records; of noise, only to try it."""
    from bench import device_and_hardware
    from benchmarks import cifar, report

    ways = {"gradlab": cifar.finished(record["parts"][SEEDS]["runs"])}
    ways |= {"by hand": cifar.by_hand(work / f"{BY_HAND}.json")}
    ways |= {"by hand, compiled": cifar.by_hand(work / f"{COMPILED}.json")}
    told = {key: record[key] for key in ("hardware", "versions")} | {
        "results": {way: runs for way, runs in ways.items() if runs}
    }
    into = parsed.into if parsed.images else work
    (into / f"cifar_{device_and_hardware()[0]}.json").write_text(json.dumps(told, indent=1) + "\n")
    report.write(into)


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument(
        "--into", type=Path, default=ROOT / "experiments" / "speed", help="(default: experiments/speed)"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", help="the folder that holds MNIST/raw (default: data)"
    )
    parser.add_argument(
        "--images", type=Path, help="CIFAR-10 as pictures, such as cifar10-jpeg.tar.xz; without: noise, no accuracies"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="of tests, cifar-seeds, by-hand, by-hand-compiled, steps, population"
    )
    parser.add_argument("--cpu-rehearsal", action="store_true", help="every part on the CPU with next to no work")
    parsed = parser.parse_args()
    for name in ("into", "data", "images"):
        if getattr(parsed, name) is not None:
            setattr(parsed, name, getattr(parsed, name).absolute())

    import torch

    if not torch.cuda.is_available() and not parsed.cpu_rehearsal:
        print(
            "gpu_check: torch finds no CUDA device here. --cpu-rehearsal walks through all parts on the CPU.",
            file=sys.stderr,
        )
        return 1
    hardware = "none: a rehearsal on the CPU" if parsed.cpu_rehearsal else torch.cuda.get_device_name()
    from gradlab.environment import versions

    parsed.into.mkdir(parents=True, exist_ok=True)
    work = parsed.into / "gpu_check"
    work.mkdir(exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH", "")]))
    }
    if parsed.cpu_rehearsal:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    record: dict[str, Any] = {"hardware": hardware, "versions": versions(), "parts": {}}
    began = time.perf_counter()
    for part in parts(parsed, work):
        if parsed.only and part.name not in parsed.only:
            continue
        print(f"gpu_check: {part.name}, at most {part.seconds:.0f} s …", flush=True)
        found = record["parts"][part.name] = run(part, work / f"{part.name}.log", environment)
        record["seconds"] = round(time.perf_counter() - began, 1)
        (parsed.into / "gpu_check.json").write_text(json.dumps(record, indent=1) + "\n")  # whatever comes next
        print(f"gpu_check: {part.name}: {found['ended']}, {found['seconds']} s", flush=True)
    if SEEDS in record["parts"]:
        record_of_cifar(parsed, work, record)
    failed = [name for name, found in record["parts"].items() if found["ended"] != "ok"]
    print(f"gpu_check: {record['seconds']:.0f} s in all, on {hardware}; written to {parsed.into / 'gpu_check.json'}")
    if failed:
        print(f"gpu_check: not whole: {', '.join(failed)} (logs in {work})", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
