"""Images that do not fit on the training device: read by worker processes, a few batches ahead of the training step."""

import os
import shutil
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gradlab.data.datasets.base import Examples, StreamedExamples
from gradlab.data.device import Pick, Raw
from gradlab.errors import DataError, GradlabError

_AHEAD = 2  # batches that each worker has ready
_SHARED_MEMORY = Path("/dev/shm")


class StreamedImages:
    """One split of which only the batches at hand are on the device; the same batches as ``DeviceImages``' to the bit.

    ``StreamedExamples`` are decoded by processes of their own; images in the host's memory are copied to the device.

    Args:
        examples: the images, wherever they are.
        device: where batches go.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.examples = examples
        self.device = device
        self.index_device = torch.device("cpu")
        self.workers = examples.workers if isinstance(examples, StreamedExamples) else 0
        self._open: set[Any] = set()
        # Also when the interpreter ends, before multiprocessing would wait for the workers.
        self.close = weakref.finalize(self, _shut_down, self._open)

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, picks: Iterable[Pick]) -> Iterator[Raw]:
        return self._loaded(pick.indices.numpy() for pick in picks)

    def in_order(self, batch_size: int) -> Iterator[Raw]:
        count = len(self)
        return self._loaded(np.arange(first, min(first + batch_size, count)) for first in range(0, count, batch_size))

    def _loaded(self, groups: Iterable["np.ndarray[Any, Any]"]) -> Iterator[Raw]:
        """The images at each group of indices; the workers live as long as this iterator."""
        workers = self.workers
        first, groups = _peeked(groups)
        warnings.filterwarnings(
            "ignore", "This DataLoader will create .* worker processes"
        )  # more than cores: as wanted
        loader: DataLoader[Any] = DataLoader(
            _ByGroups(self.examples, as_arrays=bool(workers) and not _fits_shared(self.examples, first, workers)),
            batch_sampler=groups,  # type: ignore[arg-type]
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            worker_init_fn=partial(_begin_worker, run=os.getpid()),
            # Workers only decode: they need none of the threads and locks that forking leaves behind.
            multiprocessing_context="fork" if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else a seed for the workers is drawn from the run's own
        )
        iterator = iter(loader)
        _CHILDREN.install()
        self._open.add(iterator)
        try:
            while True:
                with _CHILDREN:
                    batch = next(iterator, None)
                if batch is None:
                    return
                images, labels = batch
                if isinstance(images, str):
                    raise DataError(images)
                images, labels = torch.as_tensor(images), torch.as_tensor(labels)
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # The others are said of the socket through which a worker that was ended would have handed over its batch.
            if is_lost_worker(error) or (workers and not isinstance(error, RuntimeError)):
                raise lost_worker() from error
            raise
        finally:
            self._open.discard(iterator)
            _shut_down({iterator})


class _Children:
    """Lets torch say that a worker has ended only where a batch is waited for.

    torch says it in a signal handler, which raises wherever the main thread is: in the midst of a step, or between taking
    and releasing a lock, which then stays taken.
    """

    def __init__(self) -> None:
        self.torchs: Callable[[int, FrameType | None], Any] | None = None
        self.waiting = self.noted = False

    def install(self) -> None:
        """Stand before the handler that torch has installed with its first workers."""
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self.handle:
            self.torchs = handler
            signal.signal(signal.SIGCHLD, self.handle)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.noted = True
        if self.waiting:
            self._ask()

    def __enter__(self) -> None:
        if self.noted:  # before there is anything that leaving would have to undo
            self._ask()
        self.waiting = True

    def __exit__(self, *exception: object) -> None:
        self.waiting = False

    def _ask(self) -> None:
        self.noted = False
        if self.torchs is not None:
            self.torchs(signal.SIGCHLD, None)  # raises RuntimeError where a worker has not ended in good order


_CHILDREN = _Children()


def is_lost_worker(error: BaseException) -> bool:
    """Whether torch says that a process which decodes has ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def lost_worker() -> GradlabError:
    return GradlabError(
        "A process that decodes images was ended from outside, as the system does when memory runs out. "
        "A smaller data.batch_size or fewer data.workers need less."
    )


class _ByGroups(Dataset[Any]):
    """A group of images and labels at a time: tensors in shared memory, or arrays, which go through a pipe."""

    def __init__(self, examples: Examples, *, as_arrays: bool) -> None:
        self.examples = examples
        self.as_arrays = as_arrays

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__(np.array([index]))

    def __getitems__(self, indices: "np.ndarray[Any, Any]") -> Any:
        try:
            images, labels = self.examples.at(indices), self.examples.labels[indices]
        except DataError as error:  # not raised: torch would put its traceback into the message
            return str(error), None
        if self.as_arrays:
            return images, labels
        return torch.from_numpy(images), torch.from_numpy(labels)


def _as_it_is(group: Any) -> Any:
    return group


def _peeked(groups: Iterable["np.ndarray[Any, Any]"]) -> "tuple[int, Iterable[np.ndarray[Any, Any]]]":
    """The size of the first group, and all of them."""
    rest = iter(groups)
    first = next(rest, np.empty(0, dtype=np.int64))

    def all_of_them() -> "Iterator[np.ndarray[Any, Any]]":
        if len(first):
            yield first
        yield from rest

    return len(first), all_of_them()


def _fits_shared(examples: Examples, batch: int, workers: int) -> bool:
    """Whether the batches on their way fit into shared memory, of which a container has 64 MB unless it is told otherwise."""
    needed = 2 * batch * (examples.decoded_bytes // max(1, len(examples))) * (workers * _AHEAD + 2)
    try:
        return needed < shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return False


def _begin_worker(worker: int, *, run: int) -> None:
    # Ctrl-C, and the SIGTERM of a batch system, reach every process of a run. The run ends after its step, for which it
    # needs its workers, and ends them itself; where it is killed, they end with it.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    # A worker's errors go to the run as batches do. This only prints when a run that failed hangs up on a worker.
    sys.excepthook = lambda *_: None
    threading.Thread(target=_end_with, args=(run,), daemon=True).start()


def _end_with(run: int) -> None:
    """End this worker once its run is gone.

    torch's own look asks whether the parent is still the one that the worker began with, which is another one already when
    the run was killed while it started the worker; and a worker that waits for room in a pipe does not look.
    """
    while os.getppid() == run:
        time.sleep(0.5)
    os._exit(1)


def _shut_down(iterators: set[Any]) -> None:
    waiting, _CHILDREN.waiting = (
        _CHILDREN.waiting,
        False,
    )  # Python may clear an iterator away while another is waited for
    try:
        for iterator in list(iterators):
            workers = getattr(iterator, "_workers", [])  # one without workers has nothing to shut down
            if workers:
                iterator._shutdown_workers()
            for worker in workers:
                if worker.is_alive():  # it may wait for a lock that another took with it when it was killed
                    worker.kill()
                    worker.join()
        iterators.clear()
    finally:
        _CHILDREN.waiting = waiting
