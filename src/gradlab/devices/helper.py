"""The process of one further device: ``python -m gradlab.devices.helper``, started by ``launch.py``.

It makes the same steps as rank 0 and keeps no record: no folder, no journal, no checkpoint. Its standard input has two lines of
JSON, where to import from and what to train; its end means that rank 0 is dead, and so ends this process.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main() -> None:
    """The process, from its two lines to its end."""
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    import gradlab.lightning  # noqa: F401  # seconds, while rank 0 does the same

    told = sys.stdin.readline()
    if not told:
        return
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    train(**json.loads(told))


def _end_with_rank_0() -> None:
    sys.stdin.read()
    os._exit(1)


class NoJournal:
    """Rank 0 writes the journal."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""


def train(
    rank: int,
    size: int,
    port: int,
    config: dict[str, Any],
    threads: int,
    first_step: int,
    validate_first: bool,
    checkpoint: str | None,
    anew: list[str] | None,
) -> None:
    """Train with the others.

    Args:
        rank, size, port: see ``Ranks``.
        config: the run's, composed.
        threads: of torch.
        first_step: at which the training begins.
        validate_first: whether it begins with a validation.
        checkpoint: the folder of that which the training goes on from; or None.
        anew: see ``Checkpointer``.
    """

    import torch

    from gradlab.checkpoints import gathering, load_checkpoint
    from gradlab.classifier import Classifier
    from gradlab.config import build_config
    from gradlab.devices.ranks import Ranks
    from gradlab.lightning import pl
    from gradlab.prepare import lightning_trainer, prepare
    from gradlab.seeds import derive

    built = build_config(config)
    ranks = Ranks(rank, size, port, built.trainer.sharding == "fsdp")
    prepared = prepare([built], built.data.load(), [NoJournal()], first_step, threads)  # type: ignore[list-item]
    (learner,) = prepared.learners
    learner.ranks = ranks

    class GoOn(pl.Callback):
        """The state that rank 0 goes on from; what is drawn as training goes is drawn apart from the others'."""

        def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if checkpoint is not None:
                tensors, state = load_checkpoint(Path(checkpoint))
                own = {name: tensor for name, tensor in tensors.items() if not name.startswith("best.")}
                if anew is not None:
                    learner.start_from(own, state, anew)
                else:
                    learner.load_training_state(own, state)
            torch.manual_seed(derive(built.seed, "forward", rank, first_step))

    callbacks = [GoOn(), *([gathering(learner)] if ranks.sharded else [])]
    trainer = lightning_trainer(built, callbacks, first_step, validate_first, ranks)
    module = Classifier(learner)
    trainer.fit(module, datamodule=prepared.data)
    status = ranks.status("finished", trainer.strategy.root_device)
    if status == "finished":
        if ranks.sharded:
            learner.adopt_later(None)
        else:
            learner.adopt(learner.model.state_dict())
        trainer.test(module, datamodule=prepared.data, verbose=False)
    prepared.data.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the thread waits for its end of file
