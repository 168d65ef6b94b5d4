"""Writing a checkpoint while training goes on: Orbax, then hashes, manifest and a rename."""

import contextlib
import dataclasses
import itertools
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ptft_jax.errors import HangError, PeerError, StorageError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.cluster.agreement import Gather, alone, check_shared
from ptft_jax.training.resources.storage import refusal, remove, size_text

# Orbax's processes wait for each other's files; one that is gone is noticed elsewhere, and sooner.
_WRITE_TIMEOUT_SECONDS = 4 * 3600
# How long an error waits for a checkpoint that is being written.
_FAREWELL_SECONDS = 120.0
_numbers = itertools.count()


def numbered_tags(gather: Gather) -> tuple[str, Gather]:
    """Returns a name that no other user has, the same in all processes, and `gather` with its tags.

    What a process makes for itself, with `alone`, must not shift the numbers of the others.
    """
    name = "checkpoints" if gather is alone else f"checkpoints {next(_numbers)}"
    count = itertools.count()
    return name, lambda tag, value: gather(f"{name}/{next(count)} {tag}", value)


@dataclasses.dataclass
class _Write:
    """A checkpoint being written; `error` is what its background thread ended with."""

    step: int
    bytes: int
    thread: threading.Thread
    error: BaseException | None = None


class CheckpointWriter:
    """Writes the checkpoints of `folder`, one at a time, and then applies retention.

    `last` and `best`: see `retention.keep`. All processes of a job make the same calls, but for
    `check` and `leave`.
    """

    def __init__(
        self, folder: Path, last: int, best: retention.Best | None, name: str, gather: Gather
    ):
        self._folder = folder
        self._last = last
        self._best = best
        self._name = name
        self._gather = gather
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._write: _Write | None = None

    def begin(self) -> None:
        """Makes the folder and clears what killed runs have left there, at the first call.

        Raises ConfigError when not all processes see the same folder.
        """
        if self._orbax is not None:
            return
        first = jax.process_index() == 0
        if first:
            self._folder.mkdir(parents=True, exist_ok=True)
            retention.clear(self._folder)
        check_shared(self._gather, self._folder, first)
        # Orbax would let each replica write its part of an array, for which it compiles a program
        # per shape and device. Of use to several hosts only, which each have a disk to wait for.
        if jax.process_count() == 1:
            whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
            ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            timeout_secs=_WRITE_TIMEOUT_SECONDS,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=self._name
            ),
        )

    def start(
        self,
        step: int,
        items: Mapping[str, Any],
        size: int,
        metrics: Mapping[str, float | None],
        evaluation_due: bool,
    ) -> None:
        """Begins to write a step; returns when the arrays have been copied from the devices.

        `begin` and `wait` have been called. `items`: Orbax's arguments for each; `size`: bytes of
        the arrays, all processes together; `metrics`, `evaluation_due`: see `Manifest`.
        """
        assert self._orbax is not None
        saving = self._folder / f"{step}.saving"
        try:
            self._orbax.save(saving, args=ocp.args.Composite(**items))
        except Exception as error:
            raise self.failure(step, size, error) from error

        def finish() -> None:
            try:
                assert self._orbax is not None
                self._orbax.wait_until_finished()
                if jax.process_index() == 0:
                    last, best = self._last, self._best
                    retention.finish(saving, step, metrics, evaluation_due, last, best)
            except BaseException as error:
                write.error = error

        # No daemon: a program that ends finishes its checkpoint first.
        write = _Write(step, size, threading.Thread(target=finish, name="checkpoint"))
        self._write = write
        write.thread.start()

    def check(self) -> None:
        """Raises the error of a write that has failed in the background; costs nothing."""
        if self._write is not None and self._write.error is not None:
            raise self._failure_of(self._write) from self._write.error

    def wait(self) -> None:
        """Waits until the checkpoint being written is complete for all processes.

        Raises the error of writing it here; the others may wait for this one's part then, until
        the job tells them.
        """
        if self._write is None:
            return
        self._write.thread.join()
        self.check()
        self._gather("written", None)
        self._write = None

    def close(self) -> None:
        """Waits and releases Orbax's threads."""
        self.wait()
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None

    def leave(self, error: type[BaseException]) -> None:
        """Ends on the way out with an error, which must not be hidden; asks no other process."""
        thread = None if self._write is None else self._write.thread
        # Another process may be gone, or the person wants to leave: nothing more to wait for.
        if thread is not None and not issubclass(error, PeerError | HangError | KeyboardInterrupt):
            thread.join(_FAREWELL_SECONDS)
        if self._write is not None and self._write.error is not None:
            # The disk may be full for whoever reported the error, too.
            self._failure_of(self._write)
        if self._orbax is not None and (thread is None or not thread.is_alive()):
            with contextlib.suppress(Exception):
                self._orbax.close()
            self._orbax = None

    def failure(self, step: int, size: int, error: BaseException) -> BaseException:
        """Returns what to say of a write that failed: StorageError, or `error` when it is a bug.

        Removes what there is of the checkpoint, to make room.
        """
        reason = refusal(error)
        if reason is None:
            return error
        for path in retention.leftovers(self._folder):
            # Another process may still write there, or the disk is broken.
            with contextlib.suppress(OSError):
                remove(path)
        steps = list(retention.complete(self._folder))
        path = self._folder / str(step)
        if step in steps:
            return StorageError(
                f"checkpoint {path} is complete, but the ones that are no longer needed could not "
                f"be deleted: {reason}. Look after the disk, and start the same command again"
            )
        kept = f"earlier checkpoints are whole (steps {', '.join(map(str, steps))})"
        try:
            free = f"{size_text(shutil.disk_usage(self._folder).free)} are"
        except OSError:
            free = "an unknown amount is"
        return StorageError(
            f"checkpoint {path} could not be written: {reason}. It needs {size_text(size)}, and "
            f"{free} free there now (a quota or a limit on the size of files may allow less); "
            f"{kept if steps else 'there was no earlier one'}. Make room, or lower keep_last, and "
            "start the same command again"
        )

    def _failure_of(self, write: _Write) -> BaseException:
        assert write.error is not None
        return self.failure(write.step, write.bytes, write.error)
