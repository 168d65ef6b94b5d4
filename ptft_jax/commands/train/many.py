"""`ptft finetune` over all tasks of a benchmark and several seeds, to one table.

Each run is a process of its own, whose folder is RUN/TASK/seed-N: what is done is not done again,
what was killed goes on, and one that fails leaves the others alone.
"""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ptft_jax.commands.help import key_flags
from ptft_jax.commands.parsing import config_of, parse
from ptft_jax.commands.screen import made, make_console, say
from ptft_jax.commands.train import finetune
from ptft_jax.data.hf_datasets import is_hf
from ptft_jax.data.tasks.catalogue import find_task, tasks_of
from ptft_jax.errors import ConfigError, PtftError, StopError
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.score_table import as_csv, markdown, picture, rows_of
from ptft_jax.training.accounting.heartbeat import read_heartbeats
from ptft_jax.training.storage import write_atomically

_OWN = ("--config", "--seeds", "--at_once", "--run_dir")


@dataclasses.dataclass(frozen=True)
class _One:
    """One run: its task, seed and config, its folder, and its command's words."""

    task: str
    seed: int
    config: Config
    folder: RunFolder
    words: list[str]

    @property
    def name(self) -> str:
        return f"{self.task}/seed-{self.seed}"

    def best(self, entry: Mapping[str, Any]) -> str:
        """Returns the metric that decides which checkpoint is best."""
        name, _ = self.folder.record().best or ("dev_loss", "min")
        return name.removeprefix(f"{next(iter(entry['results']))}_")

    def early_end(self) -> str:
        """Returns its name and length where it ended before its last update, else nothing."""
        for beat, _ in read_heartbeats(self.folder.path):
            if beat.code == 0 and beat.step is not None and beat.step < beat.until:
                return f"{self.name} (update {beat.step:,} of {beat.until:,})"
        return ""

    def is_done(self, entry: Mapping[str, Any] | None) -> bool:
        """Says whether `entry` is of this very config, and its run still there."""
        if entry is None or not self.folder.exists():
            return False
        now = json.loads(self.config.to_json_best_effort())
        same = self.folder.record().config == now
        return same and self.folder.results().get("step") == entry["step"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Several runs: the words that ask for them, the folder of all, and how many run at once."""

    arguments: list[str]
    runs: list[_One]
    place: Path
    at_once: int


def is_asked(arguments: Sequence[str]) -> bool:
    """Says whether a command line asks for several runs."""
    file = config_of(arguments) or ""
    return file.endswith(":all") or any(word.startswith("--seeds") for word in arguments)


def show(plan: Plan) -> None:
    """Prints the config of each run."""
    for one in plan.runs:
        print(f"# {one.name}", *key_flags(one.config), sep="\n")


def run(plan: Plan) -> None:
    """Makes all runs, then the table of their scores.

    Raises:
        ConfigError: tasks have no folder in `data_dir`; nothing was started.
        PtftError: some runs failed; the table holds the others.
        StopError: a signal came; all runs have saved.
    """
    runs, place, at_once = plan.runs, plan.place, plan.at_once
    _check_folders(runs)
    console = make_console()
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "runs.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    waiting = [one for one in runs if not one.is_done(known.get(one.name))]
    done = len(runs) - len(waiting)
    say(console, f"{len(runs)} runs, {done} of them done already; {at_once} at once")
    started, failed = time.monotonic(), {}
    for count, (one, code, seconds) in enumerate(_finished(waiting, place, at_once), 1):
        if code:
            failed[one.name] = code
            shown = f"failed with exit code {code}"
        else:
            results = one.folder.results()
            step, before = results.pop("step"), known.get(one.name, {}).get("seconds", 0)
            known[one.name] = {"results": results, "step": step, "seconds": before + seconds}
            write_atomically(kept, json.dumps(known, indent=1) + "\n")
            split, metric = next(iter(results)), one.best(known[one.name])
            shown = f"{split} {metric} {results[split][metric]:.4f}"
        left = (time.monotonic() - started) / count * (len(waiting) - count) / 60
        say(console, f"{count}/{len(waiting)}  {one.name}: {shown}; ETA {left:.0f} min")
    made_now = [one for one in runs if one.name in known]
    if made_now:
        _write_table(plan, made_now, known, console)
    if failed:
        names = ", ".join(f"{name} (exit code {code})" for name, code in [*failed.items()][:5])
        names += ", …" if len(failed) > 5 else ""
        raise PtftError(
            f"{len(failed)} of {len(runs)} runs failed: {names}. What they said is in "
            f"{place / 'logs'}; the same command tries them again."
        )


def planned(arguments: list[str]) -> Plan:
    """Returns what a command line asks for.

    Raises:
        ConfigError: the flags do not fit together.
    """
    file, _, task = (config_of(arguments) or "").partition(":")
    tasks = list(tasks_of(Path(file).stem)) if task == "all" else [task]
    if not tasks:
        raise ConfigError(f"--config={file}:all: expected glue, superglue or clue, which have all.")
    rest = _without_own(arguments)
    own = [word for word in arguments if word.startswith(("--seeds", "--at_once", "--run_dir"))]
    values, positional = parse(
        finetune.define_flags, [_config_flag(file, tasks[0]), *rest, *own], "finetune"
    )
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --config.epochs=2.")
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of all runs.")
    if (values.num_processes or 1) > 1:
        raise ConfigError("several tasks or seeds run in one process each: leave out the job.")
    seeds = values.seeds or [str(values.config.seed)]
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds={','.join(seeds)}: expected different numbers, like 0,1,2.")
    place, runs = Path(values.run_dir), []
    for name in tasks:
        for seed in seeds:
            words = [_config_flag(file, name), *rest, f"--config.seed={seed}"]
            config = parse(finetune.define_flags, words, "finetune")[0].config
            folder = RunFolder(place / config.task / f"seed-{seed}")
            words.append(f"--run_dir={folder.path}")
            runs.append(_One(config.task, int(seed), config, folder, words))
    return Plan(arguments, runs, place, values.at_once or len(_gpus()) or 1)


def _check_folders(runs: Sequence[_One]) -> None:
    """Raises ConfigError where a task's folder is not there: found now, not after hours."""
    data_dir = runs[0].config.data_dir
    folders = {getattr(find_task(one.task), "folder", "") for one in runs} - {""}
    lacking = sorted(folder for folder in folders if not (Path(data_dir) / folder).is_dir())
    if data_dir and lacking and not is_hf(data_dir):
        raise ConfigError(
            f"--config.data_dir={data_dir} has no folder {', '.join(lacking)}: expected those of "
            "all tasks; name one task in place of :all where the others are not there."
        )


def _config_flag(file: str, task: str) -> str:
    return f"--config={file}:{task}" if task else f"--config={file}"


def _without_own(arguments: Sequence[str]) -> list[str]:
    """Returns the words of a command line that are the same for all runs."""
    kept, ahead = [], iter(arguments)
    for word in ahead:
        if word in _OWN:
            next(ahead, None)
        elif not word.startswith(tuple(f"{flag}=" for flag in _OWN)):
            kept.append(word)
    return kept


def _gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that a process here may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(n) for n in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def _finished(
    waiting: Sequence[_One], place: Path, at_once: int
) -> Iterator[tuple[_One, int, float]]:
    """Makes runs, some at a time, and yields each with its exit code and seconds when it ends."""
    gpus, ahead = _gpus(), list(waiting)
    running: dict[int, tuple[_One, subprocess.Popen[bytes], float]] = {}
    (place / "logs").mkdir(exist_ok=True)
    with _saving(running):
        while ahead or running:
            for slot in set(range(at_once)) - running.keys():
                if not ahead:
                    break
                one, environment = ahead.pop(0), dict(os.environ)
                if len(gpus) > 1:
                    environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
                log = place / "logs" / f"{one.task}-seed-{one.seed}.txt"
                with log.open("ab") as file:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "ptft_jax", "finetune", *one.words],
                        stdout=file,
                        stderr=file,
                        env=environment,
                        # A Ctrl-C is for this process, which tells the others once.
                        start_new_session=True,
                    )
                running[slot] = one, process, time.monotonic()
            time.sleep(0.2)
            for slot, (one, process, started) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    yield one, process.returncode, time.monotonic() - started


@contextmanager
def _saving(running: Mapping[int, tuple[_One, subprocess.Popen[bytes], float]]) -> Iterator[None]:
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
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_table(
    plan: Plan,
    runs: Sequence[_One],
    known: Mapping[str, Any],
    console: Console,
) -> None:
    place, config = plan.place, runs[0].config
    epochs = {one.task: one.config.epochs for one in runs}
    usual = min(epochs.values())
    others = "".join(f", {n:g} for {task}" for task, n in epochs.items() if n != usual)
    protocol = [
        f"`ptft finetune {shlex.join(plan.arguments)}`",
        f"learning rate {config.optimizer.learning_rate:g}, batch {config.batch_size}, "
        f"{usual:g} epochs{others}, warm-up {config.schedule.warmup_ratio:.0%}, at most "
        f"{config.max_seq_length} tokens",
        "each task from the same model; the scores are those of the "
        f"{runs[0].folder.record().checkpoint} checkpoint, in percent",
    ]
    if config.patience:
        early = ", ".join(filter(None, (one.early_end() for one in runs)))
        words = f"no better evaluation in {config.patience}"
        protocol.append(f"ended early, for {words}: {early or 'none'}")
    entries = []
    for one in runs:
        metrics = getattr(find_task(one.task), "metrics", None) or (one.best(known[one.name]),)
        about = {"task": one.task, "seed": one.seed, "metrics": metrics}
        entries.append({**about, **known[one.name]})
    rows = rows_of(entries)
    text = markdown(rows, protocol)
    write_atomically(place / "table.md", text)
    write_atomically(place / "table.csv", as_csv(entries))
    write_atomically(place / "table.svg", picture(rows).decode())
    console.print(text, markup=False, soft_wrap=True)
    what = {"table": f"{place}/table.md", "scores": f"{place}/table.csv"}
    what["picture"] = f"{place}/table.svg"
    first = runs[0].folder.path
    made(console, "fine-tuned", what, [f"ptft export --run_dir={first} --out_dir=hf/{first.name}"])
