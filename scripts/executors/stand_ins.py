"""Workers that keep records like others and train nothing, so that 64 of them fit a small machine. A program of its own:

python stand_ins.py sweep …      ``train.py``, with such workers; its last line is its peak memory, as JSON
python stand_ins.py worker       such a worker
python stand_ins.py nursery      forks such workers, once it has imported what real ones need
"""

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal

SLEEP = "GRADLAB_BENCH_SLEEP"
"""The variable that has the seconds of a point."""
STAND_INS = [__file__, "sweep"]
WORKER = (__file__, "worker")


def work() -> None:
    """Speaks like ``gradlab.sweeps.worker``; a point is its record and a sleep."""
    json.loads(sys.stdin.readline())
    seconds = float(os.environ[SLEEP])
    tell({"event": "ready"})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] != "run":
            continue
        tell({"event": "begun", "points": [point["point"] for point in command["points"]]})
        for point in command["points"]:
            time.sleep(seconds)
            accuracy = 0.5 + int(point["point"][:8], 16) / 2**33
            metrics = {"best/val_accuracy": accuracy, "test/accuracy": accuracy, "best/step": 1}
            record_of_nothing(point, command["parent"], accuracy, metrics)
            done = {"status": "finished", "reason": None, "metrics": metrics, "seconds": seconds}
            tell({"event": "done", "point": point["point"], **done})


def record_of_nothing(point: dict[str, Any], parent: str, accuracy: float, metrics: dict[str, float]) -> None:
    """The files that a run leaves, as far as sweeps and comparisons read them."""
    import yaml

    folder = RunFolder(Path(point["folder"]))
    folder.config.write_text(yaml.safe_dump(point["config"]))
    journal = Journal(folder.journal)
    params = {f"optimizer.{key}": value for key, value in point["config"]["optimizer"].items()}
    identity = f"{folder.path.name}.{secrets.token_hex(4)}"
    journal.write(
        "run", id=identity, name=point["name"], experiment="gradlab", params=params, tags={"gradlab.status": "running"},
        parent=parent, point=point["point"],
    )  # fmt: skip
    journal.metrics(1, {"train/loss": 1.0, "lr": 0.1})
    journal.metrics(1, {"val/loss": 1.0, "val/accuracy": accuracy})
    result = {
        "status": "finished",
        "name": point["name"],
        "metrics": metrics,
        "point": point["point"],
        "diverged": None,
    }
    folder.write_result(
        {**result, "seed": point["config"]["seed"], "steps": 1, "total_steps": 1, "seconds": {"total": 0.0}}
    )
    journal.write("end", status="FINISHED")
    journal.close()


def tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def sweep() -> None:
    """``train.py`` in this process, with workers that train nothing; its last line is its peak memory."""
    from gradlab.entry import main
    from gradlab.sweeps.executors.process import WorkerProcess
    from gradlab.sweeps.nursery import Nursery

    WorkerProcess.program = WORKER
    Nursery.program, Nursery.forks = (__file__, "nursery"), WORKER
    sys.argv = ["train.py", *sys.argv[2:]]
    status = main()
    # Not by getrusage, which counts the process that started this one.
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:")
    print(json.dumps({"status": status, "peak_memory": 1024 * int(peak)}))


def nursery() -> None:
    """Forks as ``gradlab.sweeps.nursery`` does, with all that is imported there: only what a worker then does is replaced."""
    from gradlab.sweeps import nursery, worker

    vars(worker)["main"] = work
    nursery.main()


if __name__ == "__main__":
    {"worker": work, "sweep": sweep, "nursery": nursery}[sys.argv[1]]()
