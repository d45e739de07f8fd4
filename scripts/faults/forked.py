"""gradlab's commands in processes forked from this one, which has imported what they need: a run costs its training.

What a user starts imports for seconds; where a fault has nothing to do with that, a hundred of them need not. ``fresh`` starts
a new Python all the same.
"""

import functools
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.commands import ROOT, environment
from faults.dying import Death, die


def start(
    folder: Path,
    *arguments: str,
    fresh: bool = False,
    death: Death | None = None,
    program: str = "train.py",
    **variables: str,
) -> int:
    """A command in ``folder``; returns the process id. What it prints is in ``out.txt`` and ``err.txt``.

    death: when it kills itself; or None.
    program: ``train.py``, or ``gradlab``.
    """  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if fresh:
        words = [str(ROOT / "train.py")] if program == "train.py" else ["-m", "gradlab"]
        with (folder / "out.txt").open("a") as out, (folder / "err.txt").open("a") as err:
            process = subprocess.Popen(
                [sys.executable, *words, *arguments], cwd=folder, env=environment(**variables), stdout=out, stderr=err
            )
            process.returncode = 0  # waited for by its id
            return process.pid
    _imported()
    child = _fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a new process
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment(**variables))
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb", 0), write_through=True) for number in (1, 2))
        sys.argv = [str(ROOT / program), *arguments]
        made = die(death)
        if program == "train.py":
            from gradlab.entry import main
        else:
            from gradlab.cli import main
        status = main()
        Path("changes.txt").write_text(str(made()))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def run(folder: Path, *arguments: str, **options: Any) -> int:
    """The same, to its end; returns the exit status."""
    return ended(start(folder, *arguments, **options))


def ended(process: int) -> int:
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def work(function: Callable[[], int], errors: Path) -> int:
    """Have ``function`` called in a forked process, whose exit status it returns; returns the process id."""
    _imported()
    child = _fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        status = function()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def called(function: Callable[[], Any]) -> Any:
    """What ``function`` returns in a forked process, through JSON: what it opens and starts ends with that."""
    _imported()
    reader, writer = os.pipe()
    child = _fork()
    if not child:
        try:
            os.write(writer, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        content = file.read()
    if ended(child):
        raise RuntimeError("it failed in a forked process; its traceback is above")
    return json.loads(content)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        return os.fork()


@functools.cache
def _imported() -> None:
    """Import what runs and MLflow's client need, and leave torch without threads, which a fork would lack."""
    import torch
    from mlflow import MlflowClient  # noqa: F401

    import gradlab.checkpoints
    import gradlab.cli
    import gradlab.console
    import gradlab.data.module
    import gradlab.run
    import gradlab.tracking.sync  # noqa: F401

    torch.set_num_threads(1)
