"""Worker processes that apply a function to a stream of jobs, in order and in bounded memory."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from ptft_jax.errors import PtftError


class Workers:
    """A context manager of `count` processes; 1 means this process itself.

    The processes start when they are first needed, and end with the context, or with this process
    if it is killed.
    """

    def __init__(self, count: int) -> None:
        """`count` is at least 1."""
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; jobs not begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map[Job, Context, Result](
        self, function: Callable[[Job], Result], jobs: Iterable[tuple[Job, Context]]
    ) -> Iterator[tuple[Context, Result]]:
        """Apply `function` to each job and yield the results in the order of the jobs.

        A job comes with a context, which stays in this process. Two jobs for each worker are under
        way at a time. Function and job are pickled when they go to another process.
        """
        if self._count == 1:
            for job, context in jobs:
                yield context, function(job)
            return
        if self._pool is None:
            # Not fork: a forked copy of a process with threads may deadlock.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=spawn, initializer=_start_worker
            )
        waiting: deque[tuple[Context, Future[Result]]] = deque()
        try:
            for job, context in jobs:
                if len(waiting) > 2 * self._count:
                    ready_context, ready = waiting.popleft()
                    yield ready_context, ready.result()
                waiting.append((context, self._pool.submit(function, job)))
            while waiting:
                ready_context, ready = waiting.popleft()
                yield ready_context, ready.result()
        except BrokenProcessPool as error:
            raise PtftError(
                "a worker process ended abruptly (killed, perhaps for want of memory); start the "
                "same command again to go on, with fewer workers if memory is short"
            ) from error


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each worker process is one thread; threads of the libraries would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
