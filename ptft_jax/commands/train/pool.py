"""Runs as processes, some at a time; one that fails leaves the others alone."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptft_jax.errors import StopError
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a command for several.

    Attributes:
        name: its folder below that of all.
        command: "finetune" or "pretrain".
        words: of its command line, without `--run_dir` and `--init_from`.
        config: what they make.
        folder: its folder.
        init_from: what it starts from; a callable where only the runs of `after` tell, which
            returns None where they have failed.
        after: runs that have to end before.
    """

    name: str
    command: str
    words: tuple[str, ...]
    config: Config
    folder: RunFolder
    init_from: str | Callable[[], str | None] | None = None
    after: tuple["Run", ...] = ()

    @property
    def source(self) -> str | None:
        """What the run starts from, as far as it is known now."""
        return self.init_from() if callable(self.init_from) else self.init_from

    @property
    def line(self) -> list[str]:
        """The words of the command line that makes it, after `ptft`."""
        source = [] if self.source is None else [f"--init_from={self.source}"]
        return [self.command, *self.words, *source, f"--run_dir={self.folder.path}"]


def gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that a process here may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(n) for n in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def finished(
    waiting: Sequence[Run], logs: Path, at_once: int, *more: str
) -> Iterator[tuple[Run, int | None, float, list[str]]]:
    """Makes runs, some at a time, each on a GPU where there are several.

    What runs say is added to their files in `logs`; `more` are further words of all command lines.
    A run waits for those of its `after`.

    Yields:
        Each run when it ends, its exit code (None: not started, as what it starts from is not
        there), its seconds, and the warnings that it has given.

    Raises:
        StopError: a signal came; all runs have saved.
    """
    names, ahead = gpus(), list(waiting)
    open_ = {run.name for run in waiting}
    running: dict[int, tuple[Run, subprocess.Popen[bytes], float, int]] = {}
    logs.mkdir(parents=True, exist_ok=True)
    with _saving(running):
        while ahead or running:
            ready = [run for run in ahead if not any(one.name in open_ for one in run.after)]
            for run in [run for run in ready if callable(run.init_from) and run.source is None]:
                ready.remove(run)
                ahead.remove(run)
                open_.remove(run.name)
                yield run, None, 0.0, []
            for slot, run in zip(sorted(set(range(at_once)) - running.keys()), ready, strict=False):
                ahead.remove(run)
                environment = dict(os.environ)
                if len(names) > 1:
                    environment["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
                with log_of(run, logs).open("ab") as file:
                    begun = file.tell()
                    process = subprocess.Popen(
                        [sys.executable, "-m", "ptft_jax", *run.line, *more],
                        stdout=file,
                        stderr=file,
                        env=environment,
                        # A Ctrl-C is for this process, which tells the others once.
                        start_new_session=True,
                    )
                running[slot] = run, process, time.monotonic(), begun
            time.sleep(0.2)
            for slot, (run, process, started, begun) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    open_.remove(run.name)
                    said = log_of(run, logs).read_bytes()[begun:].decode(errors="replace")
                    warned = [line for line in said.splitlines() if line.startswith("warning: ")]
                    yield run, process.returncode, time.monotonic() - started, warned


def log_of(run: Run, logs: Path) -> Path:
    """Returns the file with what a run has said, in the folder of them all."""
    return logs / f"{run.name.replace('/', '-')}.txt"


@contextmanager
def _saving(
    running: Mapping[int, tuple[Run, subprocess.Popen[bytes], float, int]],
) -> Iterator[None]:
    """Lets the runs save and end when a signal comes, or an error.

    Raises:
        StopError: after a signal.
    """

    def stop(number: int, frame: Any) -> None:
        error = StopError(
            f"stopped by {signal.Signals(number).name}; the same command goes on where the runs are"
        )
        error.exit_code = {signal.SIGTERM: 75}.get(signal.Signals(number), 128 + number)
        raise error

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        for _, process, *_ in running.values():
            process.terminate()
        for _, process, *_ in running.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
