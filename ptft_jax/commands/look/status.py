"""ptft status --run_dir=RUN

Shows how a run stands: which process does what and when it was last heard of, the last loss and the
time left, the checkpoints, where the time of all its starts went, and what to do next.

It only reads, needs no accelerator, and can look at a run from any machine that sees its folder. A
process counts as silent when it has written nothing for 40 seconds, and one of this host when it
is gone.
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import (
    count,
    facts,
    flag,
    made,
    make_console,
    resume_command,
    short,
)
from ptft_jax.data.progress import duration
from ptft_jax.runs.record import RunRecord, read_record
from ptft_jax.training.accounting.heartbeat import INTERVAL, Beat, read_heartbeats
from ptft_jax.training.accounting.time_account import (
    Start,
    account,
    end_of,
    read_events,
    totals,
)
from ptft_jax.training.checkpoints import retention

# Heartbeats come every `INTERVAL` seconds; a busy disk may hold them up.
_SILENT_SECONDS = INTERVAL + 30.0
# A table of more processes than these is a summary and those that stand out.
_MOST_ROWS = 16
_TAIL_BYTES = 1 << 18

_GOES_ON = "the run's command goes on from its last checkpoint"
_TO_DO = {
    0: "",
    1: "this is a bug: the traceback is in the output of the command",
    65: "read the message of the command: it names the file, or the step at which the run diverged",
    70: f"see which process hung, and where: its stacks are in the folder status; {_GOES_ON}",
    74: f"make room on the disk, or mend it; {_GOES_ON}",
    76: f"see why the process that is gone has ended (its host, its output); {_GOES_ON}",
}


class _Process(NamedTuple):
    """A process of the last start; `does`: its activity, or "ended: …", "silent; …" and so on."""

    number: int
    does: str
    beat: Beat | None = None
    age: float = 0.0  # seconds since it was heard of, by the clock that says less
    modified: float = 0.0  # when that was, by the file system's clock


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "run_dir")
    show(Path(values.run_dir), make_console())


def show(run_dir: Path, console: Console) -> None:
    """Prints how a run stands.

    Raises:
        ConfigError: there is no run.
        DataError: its config.json is damaged.
    """
    record = read_record(run_dir)
    processes = _processes(run_dir)
    beats = [one.beat for one in processes if one.beat is not None]
    # The first process's own words are newer than its last event.
    starts = account([*read_events(run_dir), *(beat for beat in beats if beat.process == 0)])
    manifests = retention.complete(run_dir / "checkpoints")
    logged = _last_metrics(run_dir / "metrics.jsonl")
    training = logged.pop("", {})
    state, code = _state(processes, run_dir, record)
    saved = max(manifests, default=0)
    step = max([saved, training.get("step", 0), *(beat.step or 0 for beat in beats)])
    if code == 0 and saved < step:
        state, code, step = f"finished, and taken back to step {saved:,} since", None, saved
    until = starts[-1].last.until if starts else record.config.get("steps")
    if code == 0 and until and step < until:
        if (run_dir / "results.json").is_file():
            state = f"finished early: no better evaluation in {record.config.get('patience')}"
        else:
            state, code = "stopped where --stop_at said", None

    share = f" of {count(until)} ({step / until:.1%})" if until else ""
    words = f"{run_dir}: {record.command} {record.config.get('task') or ''}"
    rows = {"run": words.rstrip(), "state": state, "step": f"{count(step)}{share}"}
    pace = starts[-1].steps_per_second if starts and state.startswith("running") else 0.0
    if pace > 0 and until:
        rows["pace"] = f"{pace:.3g} steps/s, about {duration((until - step) / pace)} left"
    if training:
        speed = training.get("tokens_per_second")
        rate = f", {speed:,.0f} tokens/s" if isinstance(speed, int | float) else ""
        rows["loss"] = f"{short(training.get('loss'))} at step {training['step']:,}{rate}"
    for split, entry in logged.items():
        shown = {n: v for n, v in entry.items() if n not in ("step", "split") and "/" not in n}
        values = [f"{name} {short(value)}" for name, value in shown.items()]
        rows[split] = f"{', '.join(values)} at step {entry['step']:,}"
    rows["checkpoints"] = _checkpoint_words(run_dir / "checkpoints", record, manifests)
    if len(starts) > 1:
        ends = Counter(end_of(start.last.code) for start in starts[:-1])
        after = ", ".join(f"{end} x {n}" if n > 1 else end for end, n in ends.items())
        rows["restarts"] = f"{count(len(starts) - 1)}, after: {after}"
    facts(console, rows)
    if processes:
        console.print(_process_table(processes, pace))
    if starts:
        _print_account(starts, console)
    _print_next(console, run_dir, record, state, code, len(processes), bool(manifests))


def _processes(run_dir: Path) -> list[_Process]:
    """Returns all processes of the last start, [] without files."""
    heard = read_heartbeats(run_dir)
    now, found = time.time(), {}
    for beat, modified in heard:
        # Clocks of hosts differ; one that vouches for the process is enough.
        age = max(0.0, min(now - beat.time, now - modified))
        is_heard = age <= _SILENT_SECONDS and not _is_gone(beat)
        does = beat.activity if is_heard else f"silent; was {beat.activity}"
        if beat.code is not None:
            does = f"ended: {end_of(beat.code)}"
        if beat.start == heard[0][0].start:
            found[beat.process] = _Process(beat.process, does, beat, age, modified)
    numbers = range(heard[0][0].processes if heard else 0)
    return [found.get(one, _Process(one, "not heard of")) for one in numbers]


def _is_gone(beat: Beat) -> bool:
    """Says whether a process of this host is not there any more, as after SIGKILL."""
    if beat.host != socket.gethostname():
        return False
    try:
        os.kill(beat.pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def _state(
    processes: Sequence[_Process], run_dir: Path, record: RunRecord
) -> tuple[str, int | None]:
    """Returns what the job does in words, and its exit code if it has ended."""
    beats = [one.beat for one in processes if one.beat is not None]
    if not beats and (run_dir / "results.json").is_file():
        return "finished", 0
    if not beats:
        return "imported" if record.command == "import" else "not known: no status files", None
    lost = [str(one.number) for one in processes if one.does.startswith("silent")]
    which = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
    silent = f"nothing is heard of {len(lost)} of {len(processes)} processes ({which})"
    codes = [beat.code for beat in beats if beat.code is not None]
    if len(lost) + len(codes) < len(beats):
        return f"running, but {silent}" if lost else "running", None
    if lost:
        return f"dead: {silent}", None
    # The code of a process that failed tells more than those of the ones that followed it.
    code = max(codes, key=lambda code: (code not in (0, 75, 76, 129, 130), code))
    return "finished" if code == 0 else f"ended: {end_of(code)}", code


def _last_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the last line of each split in metrics.jsonl, that of training under ''."""
    last: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for line in file:
            # The first one is cut off, the last one may be.
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                last[entry.get("split", "")] = {**entry, "step": int(entry["step"])}
    return last


def _checkpoint_words(folder: Path, record: RunRecord, manifests: Mapping[int, Any]) -> str:
    words = ", ".join(f"{step:,}" for step in manifests) or "none yet"
    if manifests:
        with suppress(OSError):  # retention may just have removed it: another one is the last
            age = time.time() - (folder / str(max(manifests))).stat().st_mtime
            words += f"; last: {max(manifests):,}, {duration(age)} ago"
    best = retention.best_of({s: held.metrics for s, held in manifests.items()}, record.best)
    if best is not None and record.best is not None:
        name = record.best[0]
        words += f"; best: {best:,} ({name} {short(manifests[best].metrics[name])})"
    return words


def _behind(processes: Sequence[_Process], pace: float) -> int | None:
    """Returns the process that is behind by more than a step, `pace` and its age allowed for."""
    living = [(one, one.beat) for one in processes if one.beat and one.beat.code is None]
    now = max((one.modified for one, _ in living), default=0.0)
    steps = {one.number: float(beat.step or 0) for one, beat in living}
    for one, _ in living:
        steps[one.number] += pace * (now - one.modified) if one.does == "training" else 0.0
    last = min(steps, key=lambda number: steps[number], default=None)
    return last if last is not None and median(steps.values()) - steps[last] > 1.5 else None


def _process_table(processes: Sequence[_Process], pace: float) -> Table:
    """Returns a row per process; of many, only those that stand out, under a summary."""
    behind, title, shown = _behind(processes, pace), None, list(processes)
    if len(processes) > _MOST_ROWS:
        kinds = Counter(one.does for one in processes).most_common()
        shown = [one for one in processes if one.does != kinds[0][0] or one.number == behind]
        title = f"{len(processes)} processes: {', '.join(f'{n} {does}' for does, n in kinds)}"
    columns = ["process", "host", "pid", "step", "does", "data wait", "heard of"]
    columns += [""] * (behind is not None)
    table = Table(*columns, box=SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    # So that a row with the name of a host in a cluster is one line of 80 columns.
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for one in shown[:_MOST_ROWS]:
        cells, beat = [str(one.number), "", "", "", one.does, "", ""], one.beat
        if beat is not None:
            cells[1:4] = beat.host, str(beat.pid), "" if beat.step is None else f"{beat.step:,}"
            if one.does == beat.activity:
                cells[4] += f" for {duration(beat.time - beat.since + one.age)}"
            cells[5:] = duration(beat.waited), f"{duration(one.age)} ago"
        table.add_row(*map(Text, (*cells, *["behind"] * (one.number == behind))))
    return table


def _print_account(starts: list[Start], console: Console) -> None:
    """Prints where the time of all starts went, a row per kind."""
    seconds = totals(starts)
    wall = sum(seconds.values())
    table = Table("time", "", "share", box=SIMPLE_HEAD)
    for kind, spent in {**seconds, "all": wall}.items():
        if spent >= 0.05:
            table.add_row(kind, duration(spent), f"{spent / wall:.1%}")
    console.print(table)
    lost = sum(start.lost_steps for start in starts)
    goodput = seconds["training"] / max(wall, 1e-9)
    console.print(f"goodput {goodput:.1%}, {count(lost)} steps made again")


def _print_next(
    console: Console,
    run_dir: Path,
    record: RunRecord,
    state: str,
    code: int | None,
    processes: int,
    has_checkpoint: bool,
) -> None:
    """Prints what to do next."""
    to_do, following = _TO_DO.get(code or 0, _GOES_ON), []
    resumes = bool(code) or state.startswith(("dead", "finished, and taken back", "stopped"))
    if state.startswith("dead"):
        to_do = f"see why it died, and end what is left of the job; {_GOES_ON}"
    elif state.startswith("running,"):
        to_do = "look at the hosts of the processes that are silent"
    if not has_checkpoint:
        to_do = to_do.replace("goes on from its last checkpoint", "begins it anew")
    elif not state.startswith("running"):
        if code != 0:
            following.append(f"ptft ckpt ls {flag('run_dir', run_dir)}")
        if not code:
            name = flag("out_dir", f"hf/{run_dir.resolve().name}")
            following.append(f"ptft export {flag('run_dir', run_dir)} {name}")
    if resumes:
        following.append(resume_command(record.command, run_dir))
        if processes > 1:
            to_do += f"; it ran in {processes} processes: start it through the same launcher"
    if to_do or following:
        made(console, "status", {"to do": to_do} if to_do else {}, following)
