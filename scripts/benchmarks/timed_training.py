"""``train.py`` with the arguments after the first, which names a file: the processor seconds of its training and test are written there.

They are those of the training process, whatever else runs on the machine; MLflow's process beside it has its own. Beside them, as JSON,
stand the seconds within them that the journal, checkpoints and the progress bar took, drawing in its thread included: of one process
and one clock, so their share is the same on a busy machine.
"""

import functools
import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

gc.disable()  # as train.py does

_within = threading.local()
taken = {"journal": 0.0, "checkpoints": 0.0, "progress bar": 0.0}


def counted(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, whose time counts to ``part`` where it is not within another part."""

    @functools.wraps(call)
    def timed(*given: Any, **also: Any) -> Any:
        if getattr(_within, "one", False):
            return call(*given, **also)
        _within.one, began = True, time.thread_time()
        try:
            return call(*given, **also)
        finally:
            _within.one = False
            taken[part] += time.thread_time() - began

    return timed


def count_parts() -> None:
    from rich.live import Live

    from gradlab.checkpoints import Checkpointer
    from gradlab.console import ProgressReport
    from gradlab.tracking.journal import Journal

    ends = ("on_train_start", "on_train_batch_end", "on_train_end")
    for part, kind, names in (
        ("journal", Journal, ("write", "flush")),
        ("checkpoints", Checkpointer, ("on_validation_end", *ends[1:])),
        ("progress bar", ProgressReport, ends),
        ("progress bar", Live, ("refresh",)),
    ):
        for name in names:
            setattr(kind, name, counted(part, getattr(kind, name)))


def main() -> None:
    from gradlab.entry import main

    gc.freeze()
    gc.enable()
    import gradlab.run  # imports no torch

    told, run = Path(sys.argv.pop(1)), cast(Any, gradlab.run)
    take = run.lightning_trainer

    def timed(*arguments: Any, **named: Any) -> Any:
        count_parts()
        trainer = take(*arguments, **named)
        fit, test = trainer.fit, trainer.test
        began = 0.0

        def first(*given: Any, **also: Any) -> Any:
            nonlocal began
            began = time.process_time()
            return fit(*given, **also)

        def last(*given: Any, **also: Any) -> Any:
            done = test(*given, **also)
            told.write_text(json.dumps({"processor": time.process_time() - began} | taken))
            return done

        trainer.fit, trainer.test = first, last
        return trainer

    run.lightning_trainer = timed
    sys.exit(main())


if __name__ == "__main__":
    main()
