"""Jobs of real processes, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_line import DROPOUT, pretrain_flags, write_corpus

from ptft_jax.cli import main as ptft
from ptft_jax.commands.launch.local import free_port
from ptft_jax.errors import DataError
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import verify

ROOT = Path(__file__).resolve().parents[2]
WRAPPED = Path(__file__).with_name("wrapped.py")
BATCH_SIZE = 8


@dataclass
class Result:
    """What came of a scenario: how often it was tried, what went wrong, and figures to show."""

    name: str
    tries: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def expect(self, holds: bool, what: str) -> bool:
        if not holds:
            self.failures.append(what)
        return holds


def make_corpus(place: Path) -> Path:
    """Prepares a corpus of a few hundred examples; returns its folder."""
    write_corpus(place / "text.txt", 80)
    flags = ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={place}/data"]
    inputs = f"--config.inputs={place}/text.txt"
    assert ptft(["prepare", "--config=configs/data/text.py", inputs, *flags]) == 0
    return place / "data"


def flags_of(place: Path, run_dir: Path, **changes: Any) -> list[str]:
    """Returns the command line of a tiny run on all devices, dropout on."""
    settings = {"batch_size": BATCH_SIZE, "mesh.data": -1, "mesh.fsdp": 1, "eval_examples": 16}
    # Runs of all lengths have the same compiled step.
    settings |= DROPOUT | {
        "schedule.name": "constant",
        "schedule.warmup_ratio": 0,
        "schedule.warmup_steps": 4,
    }
    data = changes.pop("data_dir", place / "data")
    return pretrain_flags(data, run_dir, **(settings | changes))


class Job:
    """A command line in `count` processes with `devices` CPU devices each."""

    def __init__(
        self,
        place: Path,
        flags: Sequence[str],
        count: int = 1,
        devices: int = 1,
        plans: Sequence[dict[str, Any]] | dict[str, Any] = (),
        more: Sequence[str] = (),
        prefixes: Sequence[Sequence[str]] = (),
        host: str = "127.0.0.1",
        own: dict[int, list[str]] | None = None,
    ):
        environment = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices))
        # Not one cache with other tests: the processes of a job all have the same.
        environment["XDG_CACHE_HOME"] = str(place / "cache")
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        address = f"{host}:{free_port()}"
        self.began = time.monotonic()
        self.logs = [place / f"log-{time.time_ns()}-{index}.txt" for index in range(count)]
        self.processes: list[subprocess.Popen] = []
        for index in range(count):
            joins = [f"--coordinator_address={address}", f"--num_processes={count}"]
            joins += [f"--process_id={index}", "--start_timeout_seconds=120"]
            plan = plans if isinstance(plans, dict) else (plans[index] if plans else {})
            command = [*(prefixes[index] if prefixes else ()), sys.executable, str(WRAPPED)]
            command += [json.dumps({"batch_size": BATCH_SIZE, **plan}), *flags, *more]
            command += (own or {}).get(index, [])
            with self.logs[index].open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        command + (joins if count > 1 else []),
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL,
                        cwd=ROOT,
                    )
                )

    def said(self, index: int = 0) -> str:
        return self.logs[index].read_text(errors="replace")

    def everything(self) -> str:
        return "\n".join(f"--- {i}\n{self.said(i)[-3000:]}" for i in range(len(self.processes)))

    def running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def wait_until(self, reached: Callable[[], bool], what: str, seconds: float = 180) -> None:
        until = time.monotonic() + seconds
        while not reached():
            if not self.running() or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"not reached: {what}\n{self.everything()}")
            time.sleep(0.002)

    def codes(self, seconds: float = 900) -> list[int]:
        """Waits for all processes; returns their exit codes."""
        try:
            until = time.monotonic() + seconds
            return [p.wait(max(0.1, until - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            said = self.everything()
            self.kill()
            raise AssertionError(f"still running after {seconds} s\n{said}") from None

    def ends(self, seconds: float = 60) -> tuple[dict[int, int], dict[int, float]]:
        """Returns code and seconds from now of each process that ends in time."""
        began, codes, times = time.monotonic(), {}, {}
        while len(codes) < len(self.processes) and time.monotonic() < began + seconds:
            for index, process in enumerate(self.processes):
                if index not in codes and process.poll() is not None:
                    codes[index], times[index] = process.returncode, time.monotonic() - began
            time.sleep(0.005)
        return codes, times

    def send(self, number: signal.Signals, *indices: int) -> None:
        for index in indices or range(len(self.processes)):
            self.processes[index].send_signal(number)

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()

    def succeed(self) -> "Job":
        """Waits for a job that has to end well."""
        codes = self.codes()
        assert codes == [0] * len(codes), f"{codes}\n{self.everything()}"
        return self


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def losses(run_dir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(run_dir) if "split" not in line}


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """Returns what was logged, evaluations too, without what depends on time."""
    timed = {"tokens_per_second", "data_wait"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(run_dir)]


def last_step(run_dir: Path) -> int:
    return max(losses(run_dir), default=0)


def ids(path: Path) -> dict[int, list[int]]:
    """Returns the example ids that one process asked for, by the number of the batch."""
    asked: dict[int, list[int]] = {}
    for line in path.read_text().splitlines():
        indices = json.loads(line)
        asked[indices[0] // BATCH_SIZE] = indices
    return asked


def whole_steps(run_dir: Path) -> dict[int, float | None]:
    """Returns the checkpoints whose files are those of their manifest, with their dev loss."""
    folder = run_dir / "checkpoints"
    found = {}
    for step in retention.numbered(folder) if folder.is_dir() else ():
        with suppress(DataError, OSError):
            found[step] = verify(folder / str(step)).metrics.get("dev_loss")
    return found
