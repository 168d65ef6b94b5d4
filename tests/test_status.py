"""`ptft status`: what it says of runs in every state, from nothing but their folders."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import prepare_corpus, pretrain_flags, run, tree
from rich.console import Console

from ptft_jax.commands import status
from ptft_jax.commands.run_status import (
    ABSENT,
    DEAD,
    DEGRADED,
    ENDED,
    GONE,
    RUNNING,
    SILENT,
    judge,
    read_metrics,
    seconds_left,
    slowest,
    state_of,
)
from ptft_jax.training import retention
from ptft_jax.training.checkpoint_manifest import Manifest, write_manifest
from ptft_jax.training.goodput import Goodput
from ptft_jax.training.goodput_file import Start
from ptft_jax.training.status_files import Heard, ProcessStatus, machine, process_ticks, status_file

NOW = 1_700_000_000.0


def heard(process=0, processes=1, age=1.0, modified=None, **changes):
    """What a process on another machine said `age` seconds ago, while it trained."""
    values = {
        "process": process,
        "processes": processes,
        "host": f"node{process}",
        "pid": 1000 + process,
        "machine": "another boot",
        "pid_ticks": 12345,
        "began": NOW - 1000.0,
        "time": NOW - age,
        "interval": 15.0,
        "first_step": 0,
        "step": 900,
        "activity": "training",
        "since": NOW - 900.0,
        "training": 900.0,
        "data_wait": 9.0,
        "code": None,
    } | changes
    return Heard(ProcessStatus(**values), NOW - age if modified is None else modified)


def states(*all_heard):
    return [one.state for one in judge(all_heard, NOW)]


def test_a_process_is_silent_after_two_intervals_and_a_slow_disk():
    """A job that waits for its disk must not look dead, nor a dead one alive for long."""
    assert states(heard(age=59.0)) == [RUNNING]
    assert states(heard(age=61.0)) == [SILENT]
    assert states(heard(age=41.0, interval=5.0)) == [SILENT]
    assert states(heard(age=1e6, code=0)) == [ENDED]


def test_clocks_of_hosts_differ():
    """Either clock may vouch for a process; which one is wrong is said."""
    (behind,) = judge([heard(age=600.0, modified=NOW - 5)], NOW)
    assert (behind.state, behind.age, behind.clock) == (RUNNING, 5.0, -595.0)
    (ahead,) = judge([heard(age=-600.0, modified=NOW - 5)], NOW)
    assert (ahead.state, ahead.age, ahead.clock) == (RUNNING, 0.0, 605.0)
    # A copied folder has new files: nothing can be told but from the times within.
    assert states(heard(age=600.0, modified=NOW - 500)) == [SILENT]


def test_a_process_of_this_machine_is_looked_for():
    """SIGKILL leaves no word; on the same machine the missing process is seen at once."""
    if machine() is None:
        pytest.skip("the system does not say what processes there are")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        here = {"machine": machine(), "pid": child.pid, "pid_ticks": process_ticks(child.pid)}
        one = heard(**here)
        assert states(one) == [RUNNING]
        # The number may have been given to another process, which began later.
        assert states(heard(**here | {"pid_ticks": here["pid_ticks"] - 1})) == [GONE]
        # A process that has ended but that its parent has not taken notice of is gone, too.
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert states(one) == [GONE]
    finally:
        child.kill()
        child.communicate()
    assert states(one) == [GONE]


def test_processes_that_have_said_nothing():
    """A file that is missing, or of an earlier start, is no sign of life."""
    old = heard(2, 4, age=5000.0, began=NOW - 9000.0, code=75)
    assert states(heard(0, 4), heard(1, 4), old) == [RUNNING, RUNNING, ABSENT, ABSENT]


def test_the_state_of_a_job():
    """The code that tells why a job ended comes before those of processes that followed."""

    def state(*codes, **changes):
        several = [heard(i, len(codes), code=code, **changes) for i, code in enumerate(codes)]
        return state_of(judge(several, NOW))

    assert (state(0, 0).kind, state(0, 0).words, state(0, 0).code) == (ENDED, "finished", 0)
    assert state(75, 75).words == "stopped by SIGTERM"
    assert state(130).words == "stopped by Ctrl-C"
    assert state(76, 70, 76).words == "ended with exit code 70 (hung)"
    assert state(74, 74).words == "ended with exit code 74 (error)"
    assert state(None, None).kind == RUNNING
    assert state(76, None, 76, age=500.0).words == "dead: 1 of 3 processes are gone or silent (1)"
    assert state(None, age=500.0).kind == DEAD
    mixed = state_of(judge([heard(0, 2), heard(1, 2, age=500.0)], NOW))
    assert (mixed.kind, mixed.words) == (
        DEGRADED,
        "running, but 1 of 2 processes are gone or silent (1)",
    )


def test_the_slowest_process():
    """A step behind because of when it last wrote is no lag; real lag and late batches are."""
    assert slowest(judge([heard()], NOW)) is None
    # One step a second: who wrote ten seconds ago said a step ten less.
    assert slowest(judge([heard(0, 3), heard(1, 3), heard(2, 3, age=11.0, step=890)], NOW)) is None
    assert slowest(judge([heard(0, 3), heard(1, 3), heard(2, 3, step=890)], NOW)) == 2
    late = heard(1, 3, data_wait=200.0)
    assert slowest(judge([heard(0, 3), late, heard(2, 3)], NOW)) == 1
    everyone = [heard(i, 3, data_wait=200.0) for i in range(3)]
    assert slowest(judge(everyone, NOW)) is None
    assert slowest(judge([heard(i, 2, code=0) for i in range(2)], NOW)) is None


def test_the_time_left():
    """What is done once, like compiling, does not slow down the rest."""
    seconds = dict.fromkeys(Start(0.0, 0.0).seconds, 0.0)
    seconds |= {"training": 80.0, "evaluating": 20.0, "compiling": 300.0}
    start = Start(0.0, 400.0, seconds, first_step=100, last_step=150)
    assert seconds_left(start, 250) == pytest.approx(200.0)
    assert seconds_left(start, None) is None
    assert seconds_left(Start(0.0, 400.0, seconds, first_step=100, last_step=100), 250) is None


def test_the_end_of_a_log(tmp_path):
    """Of a long file only the end is read; lines cut off at either side do not count."""
    assert read_metrics(tmp_path / "metrics.jsonl").training == {}
    lines = [json.dumps({"step": step, "loss": 1 / step, "x": "y" * 500}) for step in range(1, 999)]
    lines.insert(990, json.dumps({"step": 900, "split": "dev", "loss": 2.0}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 999, "lo')
    logged = read_metrics(tmp_path / "metrics.jsonl")
    assert logged.training["step"] == 998
    assert logged.evaluations["dev"]["loss"] == 2.0


# The command itself.

CONFIG = {
    "format": "ptft_jax run",
    "format_version": 1,
    "command": "pretrain",
    "config": {"steps": 1000},
    "model": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "heads": []},
    "init_from": None,
    "labels": None,
    "best": ["dev_loss", "min"],
    "pairs": None,
    "data": {},
}


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def checkpoint(run_dir, step, **metrics):
    folder = run_dir / "checkpoints" / str(step)
    folder.mkdir(parents=True)
    write_manifest(folder, Manifest(step, {}, metrics, False))


def shown(run_dir, capsys):
    """What the command prints, its spaces reduced to one; it must leave the folder as it is."""
    before = tree(run_dir)
    assert run("status", f"--run_dir={run_dir}") == 0
    assert tree(run_dir) == before
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def write(run_dir, *all_heard):
    for one in all_heard:
        path = status_file(run_dir, one.status.process)
        path.parent.mkdir(exist_ok=True)
        path.write_text(one.status.to_json())


def test_a_running_job(run_dir, capsys):
    """Everything that a person wants to know of a job while it runs, on one screen."""
    hosts = ["node0", "node1"]
    goodput = Goodput(run_dir, 0, 2, began=time.time() - 100.0, hosts=hosts)
    goodput.resumed(0, until=1000)
    with goodput.activity("training"):
        goodput._counted -= 50.0  # as if that long had passed
        goodput._origin -= 50.0
        goodput._start.began -= 50.0
        goodput.step(250)
        goodput.add_data_wait(10.0)
        goodput.beat()
        goodput._writer.join()
    now = time.time()
    write(run_dir, heard(1, 2, step=250, time=now - 3, began=now - 150, since=now - 50))
    lines = [{"step": 240, "loss": 2.5, "tokens_per_second": 12345.6}]
    lines.append({"step": 200, "split": "dev", "loss": 2.75})
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    checkpoint(run_dir, 100, dev_loss=2.5)
    checkpoint(run_dir, 200, dev_loss=2.75)
    (run_dir / "checkpoints" / "300").mkdir()
    text = shown(run_dir, capsys)
    for part in (
        "pretrain, BERT, 2 layers x 128, 2 heads, 30,522 tokens, float32",
        "state running step 250 of 1,000 (25.0%) time left about 2:30 min",
        "loss 2.5000 at step 240, 12,346 tokens/s",
        "dev loss 2.7500 at step 200",
        "checkpoints 100, 200; last: 200, 0.",
        "best: 100 (dev_loss 2.5000); not whole: 300",
        f"0 {socket.gethostname()} {os.getpid()} 250 training for",
        "1 node1 1001 250 training for 4",
        "training 40.0 s 26.7% 40.0 s",
        "data_wait 10.0 s 6.7% 10.0 s",
        "goodput 26.7%, 0 restarts, 0 updates made again",
    ):
        assert part in text, f"{part!r} in {text}"
    assert "to do" not in text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "finished"),
        (65, "ended with exit code 65 (error)"),
        (70, "stacks are in the folder status"),
        (74, "make room on the disk"),
        (75, "stopped by SIGTERM"),
        (76, "see why the process that is gone has ended"),
        (130, "stopped by Ctrl-C"),
    ],
)
def test_an_ended_run_says_what_to_do(run_dir, capsys, code, words):
    """The codes have their own words, and the next commands are those that make sense then."""
    goodput = Goodput(run_dir)
    goodput.resumed(0)
    goodput.step(1000)
    goodput.end(code)
    assert words in shown(run_dir, capsys)
    checkpoint(run_dir, 1000, dev_loss=2.0)
    text = shown(run_dir, capsys)
    assert ("ptft export --run_dir=" in text) == (code == 0)
    assert ("ptft ckpt ls --run_dir=" in text) == (code != 0)
    if code in (70, 74, 75, 76, 130):
        assert "goes on from its last checkpoint" in text


def test_a_run_that_was_taken_back(run_dir, capsys):
    """After a rewind the processes' last words are of steps that are no more."""
    goodput = Goodput(run_dir)
    goodput.resumed(0)
    goodput.step(1000)
    goodput.end(0)
    checkpoint(run_dir, 400)
    assert "state finished, and taken back to step 400 since step 400 of 1,000" in shown(
        run_dir, capsys
    )


def test_runs_without_status_files(run_dir, capsys):
    """An imported run, and one whose files were not copied with it, are shown as far as can be."""
    text = shown(run_dir, capsys)
    assert "state not known step 0 of 1,000" in text
    assert "it has no status files" in text
    assert "checkpoints none yet" in text
    checkpoint(run_dir, 1000)
    (run_dir / "results.json").write_text("{}")
    assert "state finished step 1,000 of 1,000 (100.0%)" in shown(run_dir, capsys)
    (run_dir / "config.json").write_text(json.dumps({**CONFIG, "command": "import", "config": {}}))
    (run_dir / "results.json").unlink()
    text = shown(run_dir, capsys)
    assert "state imported, not trained here" in text
    assert "no status files" not in text


def test_damaged_files_are_named(run_dir, capsys):
    """What cannot be read is said; the rest is shown."""
    Goodput(run_dir).end(75)
    (run_dir / "goodput.json").write_text("{")
    status_file(run_dir, 1).write_text("")
    (run_dir / "goodput.damaged-1.json").write_text("")
    text = shown(run_dir, capsys)
    assert "state stopped by SIGTERM" in text
    assert "goodput.json cannot be read" in text
    assert "process-00001.json cannot be read" in text
    assert "goodput.damaged-1.json was set aside" in text


def test_many_processes_are_summed_up(run_dir, capsys):
    """Of a thousand processes those that are not like the others are the ones to look at."""
    now = time.time()
    usual = {"time": now, "began": now - 1000}
    others = {
        17: {"activity": "data_wait"},
        400: {"time": now - 500},
        900: {"step": 700},
    }
    for number in range(1000):
        if number != 999:
            write(run_dir, heard(number, 1000, **usual | others.get(number, {})))
    os.utime(status_file(run_dir, 400), (now - 500, now - 500))
    text = shown(run_dir, capsys)
    assert "state running, but 1 of 1000 processes are gone or silent (400)" in text
    assert (
        "1000 processes on 999 hosts: 998 running, 1 silent, 1 not heard of; steps 700 to 900; "
        "those that differ:" in text
    )
    assert "17 node17 1017 900 data_wait for" in text
    assert "400 node400 1400 900 silent; was training" in text
    assert "900 node900 1900 700 training" in text
    assert "999 not heard of" in text
    assert "node1 " not in text
    assert "ago slowest" in text


def test_mistakes(run_dir, tmp_path, capsys):
    """The same errors as those of the other commands that read a run."""
    for arguments, code, words in (
        ([], 2, "--run_dir is missing"),
        ([str(run_dir)], 2, "expected flags only, like --run_dir=RUN"),
        ([f"--run_dir={tmp_path}"], 2, "there is no run here (no config.json)"),
    ):
        assert run("status", *arguments) == code
        assert words in capsys.readouterr().err
    (run_dir / "config.json").write_text("{")
    assert run("status", f"--run_dir={run_dir}") == 65
    assert "config.json is not JSON" in capsys.readouterr().err


def started(flags):
    """Starts a command line in a process of its own, with one device."""
    return subprocess.Popen(
        [sys.executable, "-m", "ptft_jax", *flags],
        env=dict(os.environ, JAX_NUM_CPU_DEVICES="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(done, process, what):
    until = time.monotonic() + 100
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, what
        time.sleep(0.05)


def test_a_real_run_killed_and_resumed(tmp_path, capsys):
    """The whole account of real processes agrees with a watch that was held beside them."""
    data = prepare_corpus(tmp_path)
    run_dir = tmp_path / "run"
    intervals = {"steps": 20_000, "eval_every": 0, "checkpoint_every": 100, "batch_size": 4}
    flags = pretrain_flags(data, run_dir, **intervals, **{"mesh.data": 1, "mesh.fsdp": 1})
    began = time.time()
    process = started(flags)
    try:
        wait_for((run_dir / "checkpoints" / "100").is_dir, process, "the first checkpoint")
        wait_for(lambda: "training" in shown_state(run_dir), process, "a word of training")
        text = shown_state(run_dir)
        assert "state running" in text
        assert f" {process.pid} " in text
        logged = read_metrics(run_dir / "metrics.jsonl").training["step"]
        wait_for(
            lambda: read_metrics(run_dir / "metrics.jsonl").training["step"] >= logged + 20,
            process,
            "more steps",
        )
        process.kill()
        process.communicate()
        last = read_metrics(run_dir / "metrics.jsonl").training["step"]
        saved = max(retention.complete(run_dir / "checkpoints"))
        if machine() is not None:
            assert "state dead: its process is gone" in shown(run_dir, capsys)
        process = started(flags)
        wait_for(lambda: len(starts(run_dir)) == 2, process, "the second start")
        wait_for(lambda: (starts(run_dir)[1]["last_step"] or 0) > saved, process, "its steps")
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    wall = (run_dir / "goodput.json").stat().st_mtime - began
    values = json.loads((run_dir / "goodput.json").read_text())
    assert values["wall_seconds"] == pytest.approx(wall, rel=0.01)
    assert sum(values["seconds"].values()) == pytest.approx(wall, rel=0.01)
    one, two = values["starts"]
    assert (one["end"], two["end"], two["code"]) == ("killed", "SIGTERM", 75)
    assert (one["last_step"], one["kept_step"], two["first_step"]) == (last, saved, saved)
    assert values["lost_steps"] == last - saved > 0
    assert values["seconds"]["lost"] > 0
    assert values["steps"] == max(retention.complete(run_dir / "checkpoints")) == two["last_step"]
    for kind in ("training", "starting", "restoring", "compiling", "saving", "stopped"):
        assert values["seconds"][kind] > 0, kind
    text = shown(run_dir, capsys)
    assert "state stopped by SIGTERM" in text
    assert f"1 restarts, {last - saved} updates made again" in text


def starts(run_dir):
    return json.loads((run_dir / "goodput.json").read_text())["starts"]


def shown_state(run_dir):
    """What the command prints of a run that goes on meanwhile."""
    console = Console(file=io.StringIO(), width=200)
    status.show(run_dir, console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_status_needs_no_jax(run_dir):
    """It must answer at once, and on a machine whose accelerators the run itself holds."""
    code = (
        "import sys; from ptft_jax.cli import main; code = main(sys.argv[1:]); "
        "print([name for name in ('jax', 'flax', 'orbax', 'torch') if name in sys.modules]); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", f"--run_dir={run_dir}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.splitlines()[-1] == "[]"
