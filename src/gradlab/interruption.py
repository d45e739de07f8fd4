"""Ctrl-C and SIGTERM: a training ends after the step it is in, with a checkpoint; anything else ends at once."""

import signal
from types import FrameType
from typing import Any

import lightning.pytorch as pl


class Interruption(pl.Callback):
    """Remembers the first signal that asked the run to end.

    While training, a first signal only sets ``signum``, and the training step ends the training between two steps; a
    second one, and any signal outside training, raises ``KeyboardInterrupt``.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._training = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signum is not None

    def __enter__(self) -> "Interruption":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.signum is not None
        self.signum = signum
        if again or not self._training:
            raise KeyboardInterrupt

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning put a SIGTERM handler of its own in place, which would end the process with exit status 0.
        for signum in self._before:
            signal.signal(signum, self._handle)
        self._training = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._training = False
