"""ptft status --run_dir=RUN

Shows how a run stands: which process does what and when it was last heard of, the last loss and the
time left, the checkpoints, where the time of all its starts went, and what to do next.

It only reads, needs no accelerator, and can look at a run from any machine that sees its folder. A
process counts as silent when it has written nothing for 40 seconds (60 after its first minutes).
"""

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.run_record import RunRecord, read_record
from ptft_jax.commands.run_status import (
    ABSENT,
    DEAD,
    DEGRADED,
    ENDED,
    RUNNING,
    UNKNOWN,
    Logged,
    Process,
    State,
    judge,
    read_metrics,
    seconds_left,
    slowest,
    state_of,
)
from ptft_jax.commands.screen import count, facts, made, make_console, short
from ptft_jax.errors import ConfigError
from ptft_jax.training import retention
from ptft_jax.training.goodput_file import end_of, read_goodput
from ptft_jax.training.status_files import read_status_files

# A table of more processes than these is a summary and those that stand out.
_MOST_ROWS = 16

_GOES_ON = "the run's command goes on from its last checkpoint"
_TO_DO = {
    0: "",
    1: "this is a bug: the traceback is in the output of the command",
    2: "mend the command line, as its message says",
    65: "read the message of the command: it names the file, or the step at which the run diverged",
    70: f"see which process hung, and where: its stacks are in the folder status; {_GOES_ON}",
    74: f"make room on the disk, or mend it; {_GOES_ON}",
    75: _GOES_ON,
    76: f"see why the process that is gone has ended (its host, its output); {_GOES_ON}",
    130: _GOES_ON,
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --run_dir=RUN.")
    if not values.run_dir:
        raise ConfigError("--run_dir is missing: name the folder of the run.")
    show(Path(values.run_dir), make_console())


def show(run_dir: Path, console: Console) -> None:
    """Prints how a run stands.

    Raises:
        ConfigError: there is no run.
        DataError: its config.json is damaged.
    """
    record = read_record(run_dir)
    heard, unreadable = read_status_files(run_dir)
    processes = judge(heard)
    account, notes = _account(run_dir)
    notes += [f"{path} cannot be read" for path in unreadable]
    until = _until(record, account)
    state = state_of(processes)
    if not processes:
        state = _without_files(run_dir, record)
        if not unreadable and record.command != "import":
            notes.append("it has no status files")
    manifests = retention.complete(run_dir / "checkpoints")
    logged = read_metrics(run_dir / "metrics.jsonl")
    saved = max(manifests, default=0)
    steps = [one.status.step or 0 for one in processes if one.status]
    step = max(*steps, saved, logged.training.get("step", 0))
    if state.code == 0 and saved < step:
        state = State(UNKNOWN, f"finished, and taken back to step {saved:,} since")
        step = saved

    rows = {"run": f"{run_dir}: {_words_of(record)}", "state": state.words}
    share = f" of {count(until)} ({step / until:.1%})" if until else ""
    rows["step"] = f"{count(step)}{share}"
    if state.kind in (RUNNING, DEGRADED) and account is not None:
        left = seconds_left(account["starts"][-1], until)
        if left is not None:
            rows["time left"] = f"about {_span(left)}"
    rows |= _metric_rows(logged)
    rows |= _checkpoint_rows(run_dir, record, manifests)
    notes += [_clock_note(one) for one in processes if one.clock]
    if notes:
        rows["note"] = "; ".join(notes)
    facts(console, rows)
    if processes:
        console.print(_process_table(processes))
    if account is not None:
        console.print(_goodput_table(account))
        made_again = f"{count(account['lost_steps'])} updates made again"
        console.print(
            f"goodput {account['goodput']:.1%}, {count(account['restarts'])} restarts, {made_again}"
        )
    _show_next(console, run_dir, state, bool(manifests))


def _words_of(record: RunRecord) -> str:
    """Returns the run's command and model in a line."""
    model = record.encoder_config
    task = f" {record.config['task']}" if record.config.get("task") else ""
    size = (
        f"{model.num_hidden_layers} layers x {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {count(model.vocab_size)} tokens, {model.dtype}"
    )
    return f"{record.command}{task}, BERT, {size}"


def _account(run_dir: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns the content of goodput.json, None without, and what is to be said of it."""
    notes = [f"{path.name} was set aside" for path in run_dir.glob("goodput.damaged-*.json")]
    try:
        return read_goodput(run_dir / "goodput.json"), notes
    except (ValueError, OSError) as error:
        return None, [*notes, f"goodput.json cannot be read ({error})"]


def _until(record: RunRecord, account: Mapping[str, Any] | None) -> int | None:
    """Returns the step at which the run is to end; None where only its data tells."""
    said = [start.until for start in account["starts"] if start.until] if account else []
    steps = record.config.get("steps")
    return said[-1] if said else steps if isinstance(steps, int) and steps > 0 else None


def _without_files(run_dir: Path, record: RunRecord) -> State:
    """Returns the state of a run of which no process has written a file."""
    if record.command == "import":
        return State(UNKNOWN, "imported, not trained here")
    if (run_dir / "results.json").is_file():
        return State(ENDED, "finished", 0)
    return State(UNKNOWN, "not known")


def _metric_rows(logged: Logged) -> dict[str, str]:
    rows = {}
    if logged.training:
        rows["loss"] = f"{short(logged.training.get('loss'))} at step {logged.training['step']:,}"
        speed = logged.training.get("tokens_per_second")
        if isinstance(speed, int | float):
            rows["loss"] += f", {speed:,.0f} tokens/s"
    for split, entry in logged.evaluations.items():
        values = [f"{n} {short(v)}" for n, v in entry.items() if n not in ("step", "split")]
        rows[split] = f"{', '.join(values)} at step {entry['step']:,}"
    return rows


def _checkpoint_rows(
    run_dir: Path, record: RunRecord, manifests: Mapping[int, Any]
) -> dict[str, str]:
    folder = run_dir / "checkpoints"
    broken = set(retention.numbered(folder)) - manifests.keys()
    if not manifests:
        words = "none yet"
    else:
        last = max(manifests)
        best = retention.best_of({s: held.metrics for s, held in manifests.items()}, record.best)
        words = ", ".join(f"{step:,}" for step in manifests)
        try:
            age = time.time() - (folder / str(last)).stat().st_mtime
            words += f"; last: {last:,}, {_span(max(0.0, age))} ago"
        except OSError:
            pass  # retention has just removed it: another one is the last
        if best is not None and record.best is not None:
            words += f"; best: {best:,} ({record.best[0]} "
            words += f"{short(manifests[best].metrics[record.best[0]])})"
    if broken:
        words += f"; not whole: {', '.join(map(str, sorted(broken)))}"
    return {"checkpoints": words}


def _clock_note(process: Process) -> str:
    assert process.status is not None
    side = "behind" if process.clock < 0 else "ahead of"
    return (
        f"the clock of process {process.number} on {process.status.host} seems "
        f"{_span(abs(process.clock))} {side} that of the folder"
    )


def _process_table(processes: Sequence[Process]) -> Table:
    """Returns a row per process; of many, only those that stand out, under a summary."""
    slow = slowest(processes)
    shown = list(processes)
    title = None
    if len(processes) > _MOST_ROWS:
        title = _summary(processes)
        usual = Counter(_kind(one) for one in processes).most_common(1)[0][0]
        shown = [one for one in processes if _kind(one) != usual or one.number == slow]
        if len(shown) > _MOST_ROWS:
            title += f"; the first {_MOST_ROWS} of {len(shown)} that differ:"
            shown = shown[:_MOST_ROWS]
        elif shown:
            title += "; those that differ:"
    columns = ("process", "host", "pid", "step", "does", "data wait", "last heard of", "")
    table = Table(*columns, box=SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    for one in shown:
        table.add_row(*map(Text, _columns(one, "slowest" if one.number == slow else "")))
    return table


def _kind(process: Process) -> tuple[str, int | None, str]:
    """What processes of a job that is well have in common."""
    status = process.status
    activity = status.activity if status and process.state == RUNNING else ""
    return process.state, status.code if status else None, activity


def _summary(processes: Sequence[Process]) -> str:
    states = Counter(one.state for one in processes)
    steps = sorted(one.status.step or 0 for one in processes if one.status)
    hosts = len({one.status.host for one in processes if one.status})
    words = ", ".join(f"{number} {state}" for state, number in states.most_common())
    at = f"; steps {steps[0]:,} to {steps[-1]:,}" if steps else ""
    return f"{len(processes)} processes on {hosts} hosts: {words}{at}"


def _columns(process: Process, mark: str) -> list[str]:
    status = process.status
    if status is None:
        return [str(process.number), "", "", "", ABSENT, "", "", mark]
    does = f"{status.activity} for {_span(max(0.0, status.time - status.since + process.age))}"
    if process.state == ENDED:
        assert status.code is not None
        does = f"ended with {status.code} ({end_of(status.code)})"
    elif process.state != RUNNING:
        does = f"{process.state}; was {status.activity}"
    total = status.training + status.data_wait
    return [
        str(process.number),
        status.host,
        str(status.pid),
        "" if status.step is None else f"{status.step:,}",
        does,
        f"{status.data_wait / total:.1%}" if total > 0 else "",
        f"{process.age:.0f} s ago" if process.age < 120 else f"{_span(process.age)} ago",
        mark,
    ]


def _goodput_table(account: Mapping[str, Any]) -> Table:
    """Returns where the time went: a row per kind, over all starts and in the last one."""
    starts, wall = account["starts"], account["wall_seconds"]
    table = Table("time", "all starts", "share", "last start", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, seconds in account["seconds"].items():
        last = starts[-1].seconds.get(kind)
        if seconds >= 0.05:
            share = f"{seconds / wall:.1%}" if wall > 0 else ""
            table.add_row(kind, _span(seconds), share, "" if last is None else _span(last))
    last_wall = starts[-1].ended - starts[-1].began
    table.add_row("all", _span(wall), "100.0%", _span(last_wall))
    return table


def _show_next(console: Console, run_dir: Path, state: State, has_checkpoint: bool) -> None:
    """Prints what to do next."""
    place = shlex.quote(str(run_dir))
    to_do = {
        DEAD: f"see why it died, and end what is left of the job; {_GOES_ON}",
        DEGRADED: "look at the hosts of the processes that are gone or silent",
    }.get(state.kind, "")
    if state.code is not None:
        to_do = _TO_DO.get(state.code, f"see the output of the command; {_GOES_ON}")
    following = []
    if has_checkpoint and state.kind in (ENDED, DEAD, UNKNOWN):
        if state.code in (0, None):
            name = shlex.quote(f"hf/{run_dir.resolve().name}")
            following.append(f"ptft export --run_dir={place} --out_dir={name}")
        if state.code != 0:
            following.insert(0, f"ptft ckpt ls --run_dir={place}")
    elif not has_checkpoint:
        to_do = to_do.replace("goes on from its last checkpoint", "begins it anew")
    if to_do or following:
        made(
            console,
            "status",
            {"run": str(run_dir), **({"to do": to_do} if to_do else {})},
            following,
        )


def _span(seconds: float) -> str:
    """Writes a length of time: '12.3 s', '4:05 min', '3:04:05', '2 d 03:04:05'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02d} min"
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{days} d {clock}" if days else clock
