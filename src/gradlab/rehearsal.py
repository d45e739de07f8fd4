"""Steps of a copy of a run's network, to see whether they can be compiled and how long they take."""

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from gradlab.captured import WARM_UP as CALLS
from gradlab.compiled import CompiledStep, Uncompilable, check_compilable, not_of_tensors_alone, refusal
from gradlab.data.device import Batch
from gradlab.learner import Learner, Measured

if TYPE_CHECKING:
    from gradlab.data.module import ImageData

WARM_UP, STEPS, SECONDS = 3, 40, 0.3
"""Steps that are not timed and those that are; fewer, but one of each, where they take so many seconds together."""


class Rehearsal:
    """Tries out the steps of a run; nothing of the run is changed by it.

    Args:
        learner: of the run, which has not begun.
        data: on its device.
        key, batch_size: see ``CompiledStep``.
        like: a tensor on the run's device and of its dtype.
        context: in which a training step is made, such as autocast.
    """

    def __init__(
        self,
        learner: Learner,
        data: "ImageData",
        key: str,
        batch_size: int,
        like: torch.Tensor,
        context: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.learner = learner
        self.data = data
        self.key = key
        self.batch_size = batch_size
        self.like = like
        self.context = context

    @cached_property
    def _batches(self) -> list[Batch]:
        made = self.data.train_dataloader().made_from(0)
        batches = [batch for _, batch in zip(range(WARM_UP), made, strict=False)]
        return [batch for batch in batches if len(batch.labels) == self.batch_size]

    def eager(self) -> float | str:
        """Seconds of an eager step; or why there is nothing to be compared with it, in a few words."""
        if stranger := not_of_tensors_alone(self.learner):
            return stranger
        with self._apart():
            try:
                return self._timed(self.learner.twin(self.like))
            except torch.OutOfMemoryError:
                return "there is no memory for trying others out"

    def captured(self) -> float | str:
        """Seconds of an eager step captured in a CUDA graph; or why there is none."""
        if not self.like.is_cuda:
            return "there is no GPU"
        with self._apart():
            twin = self.learner.twin(self.like)
            try:
                twin.compiled = CompiledStep(twin, self.key, self.batch_size, compiles=False)
                for step in range(CALLS + 1):
                    _wait_for(twin.step(step, self._batches[0]))
            except Uncompilable as error:
                return str(error)
            except Exception as error:  # a library's network can do anything at all
                return refusal("a CUDA graph", error)
            return self._timed(twin)

    def compiled(self, timed: bool = True) -> tuple[float, float] | str:
        """Seconds of the compilation, and of a step of what it has made (0 if not ``timed``); or why there is none."""
        with self._apart():
            twin = self.learner.twin(self.like)
            try:
                check_compilable(twin)
                twin.make_gradients(self._batches[0])
                if any(parameter.grad is None for parameter in twin.model.parameters() if parameter.requires_grad):
                    raise Uncompilable("there are parameters of the network that get no gradient")
                twin.optimizer.zero_grad(set_to_none=True)
                # The compiler says on a machine without CUDA where CUDA would be.
                logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
                began = time.perf_counter()
                twin.compiled = CompiledStep(twin, self.key, self.batch_size)
                twin.step(0, self._batches[0])
                compiling = time.perf_counter() - began
            except Uncompilable as error:
                return str(error)
            except Exception as error:  # a compiler can fail in any way at all
                return refusal("torch.compile", error)
            return compiling, self._timed(twin) if timed else 0.0

    def _timed(self, learner: Learner) -> float:
        took: list[float] = []
        clock = clock_for(self.like.device)
        last = learner.horizon.total_steps - 1
        while len(took) < 2 or (sum(took) < SECONDS and len(took) < WARM_UP + STEPS):
            began = clock()
            told = learner.step(min(len(took), last), self._batches[len(took) % len(self._batches)])
            _wait_for(told)
            took.append(clock() - began)
        # The lower quartile: what else runs on the machine makes steps longer, never shorter.
        timed = took[min(WARM_UP, len(took) - 1) :]
        return statistics.quantiles(timed, n=4, method="inclusive")[0] if len(timed) > 1 else timed[0]

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """In which steps are those of a training, and draw nothing from its generators."""
        devices = [self.like.device] if self.like.is_cuda else []
        with torch.random.fork_rng(devices), self.context():
            yield


def clock_for(device: torch.device) -> Callable[[], float]:
    """What times steps on ``device``, in seconds.

    A step of one thread on a CPU has the time that its thread has worked: on a busy machine that is nearly what it takes on an idle one.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def _wait_for(told: Measured) -> None:
    if told[0].is_cuda:
        torch.cuda.synchronize(told[0].device)
