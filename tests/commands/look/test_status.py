"""`ptft status`: what it says of runs in every state, from nothing but their folders."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
from command_line import metrics, prepare_corpus, pretrain_flags, run, tree
from rich.console import Console

from ptft_jax.commands.look import status
from ptft_jax.training.accounting.heartbeat import Beat, read_heartbeats
from ptft_jax.training.accounting.time_account import account, end_of, read_events, totals
from ptft_jax.training.checkpoints import retention
from ptft_jax.training.checkpoints.manifest import Manifest, write_manifest

BEGAN = time.time() - 1000.0
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


@pytest.fixture(autouse=True)
def began():
    """The run began a thousand seconds before the test, however long the others before it took."""
    global BEGAN
    BEGAN = time.time() - 1000.0


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


def beat(age=1.0, process=0, processes=1, **changes):
    """What a process said `age` seconds ago, while it trained."""
    now, who = time.time() - age, (process, processes, f"node{process}", 1000 + process)
    said = Beat(now, BEGAN, "training", now - 50.0, 250, 1000, 9.0, None, *who)
    return replace(said, **changes)


def write(run_dir, *beats, modified=None):
    """Writes heartbeats; those of the first process become the events, too."""
    (run_dir / "status").mkdir(exist_ok=True)
    for one in beats:
        line = json.dumps(asdict(one)) + "\n"
        path = run_dir / "status" / f"process-{one.process:05d}.json"
        path.write_text(line)
        os.utime(path, (modified or one.time,) * 2)
        if one.process == 0:
            with (run_dir / "events.jsonl").open("a") as file:
                file.write(line)


def test_a_running_job(run_dir, capsys):
    """Everything that a person wants to know of a job while it runs, on one screen."""
    one = beat(age=150.0, activity="starting", step=None, waited=0.0)
    one = replace(one, start=one.time)
    write(run_dir, one, replace(one, time=one.time + 50.0, activity="training", step=0))
    now = {"start": one.start, "step": 250}
    write(run_dir, beat(age=0.0, waited=10.0, **now), beat(3.0, 1, 2, **now))
    lines = [{"step": 200, "split": "dev", "loss": 2.75}]
    lines.append({"step": 240, "loss": 2.5, "tokens_per_second": 12345.6})
    text = "".join(json.dumps({"step": 1, "x": "y" * 500}) + "\n" for _ in range(999))
    text += "\n".join(map(json.dumps, lines)) + '\n{"step": 999, "lo'
    (run_dir / "metrics.jsonl").write_text(text)
    checkpoint(run_dir, 100, dev_loss=2.5)
    checkpoint(run_dir, 200, dev_loss=2.75)
    (run_dir / "checkpoints" / "300").mkdir()
    text = shown(run_dir, capsys)
    for part in (
        "run: pretrain state running step 250 of 1,000 (25.0%)",
        "pace 2.5 steps/s, about 5:00 left",
        "loss 2.5000 at step 240, 12,346 tokens/s dev loss 2.7500 at step 200",
        "checkpoints 100, 200; last: 200, 0.",
        "best: 100 (dev_loss 2.5000)",
        "0 node0 1000 250 training for 5",
        "training 1:30 60.0%",
        "data_wait 10 s 6.7%",
        "starting 50 s 33.3%",
        "all 2:30 100.0%",
        "goodput 60.0%, 0 steps made again",
    ):
        assert part in text, f"{part!r} in {text}"
    assert "to do" not in text


def test_a_process_is_silent_when_nothing_was_heard_for_too_long(run_dir, capsys):
    """A job that waits for its disk must not look dead; of two clocks one may be wrong."""
    for age, modified, words in (
        (38.0, None, "state running step"),
        (45.0, None, "state dead: nothing is heard of 1 of 1 processes (0) step"),
        (600.0, time.time(), "state running step"),
        (-600.0, time.time() - 5, "state running step"),
    ):
        write(run_dir, beat(age), modified=modified)
        assert words in shown(run_dir, capsys)
    # The last one has not come yet: what it said is of an earlier start.
    write(run_dir, beat(processes=3), beat(500.0, 1, 3), beat(5000.0, 2, 3, start=1.0, code=75))
    text = shown(run_dir, capsys)
    assert "state running, but nothing is heard of 1 of 3 processes (1)" in text
    assert "2 not heard of" in text
    assert "1 node1 1001 250 silent; was training 9.0 s 8:20 ago" in text
    assert "look at the hosts of the processes that are silent" in text


def test_a_process_of_this_host_that_is_gone_is_silent_at_once(run_dir, capsys):
    """For 40 s after SIGKILL the run was said to go on, with a time left."""
    here = socket.gethostname()
    write(run_dir, beat(host=here, pid=os.getpid()))
    assert "state running step" in shown(run_dir, capsys)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    write(run_dir, beat(host=here, pid=ended.pid))
    assert "state dead: nothing is heard of 1 of 1 processes (0)" in shown(run_dir, capsys)


@pytest.mark.parametrize("step", [250, 240])
def test_the_process_that_others_wait_for(run_dir, capsys, step):
    """One is behind; who wrote earlier has said an earlier step."""
    write(run_dir, beat(999.0, step=0, waited=0.0))
    write(run_dir, beat(1.0, 0, 3), beat(1.0, 1, 3, step=step))
    write(run_dir, beat(21.0, 2, 3, step=245))  # at a pace of a step in 4 s it is no more
    assert ("ago behind" in shown(run_dir, capsys)) == (step == 240)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ((0,), "state finished"),
        ((65,), "state ended: error (65)"),
        ((76, 70, 76), "stacks are in the folder status"),
        ((75, 75), "state ended: SIGTERM (75)"),
        ((76,), "see why the process that is gone has ended"),
    ],
)
def test_an_ended_run_says_what_to_do(run_dir, capsys, codes, words):
    """The code that tells why comes before those of processes that followed, with its words."""
    for number, code in enumerate(codes):
        write(run_dir, beat(500.0, number, len(codes), step=1000, code=code))
    checkpoint(run_dir, 400)
    text = shown(run_dir, capsys)
    assert words in text
    # After a rewind the processes' last words are of steps that are no more.
    taken_back = "finished, and taken back to step 400 since step 400 of 1,000"
    assert (taken_back in text) == (codes == (0,))
    checkpoint(run_dir, 1000, dev_loss=2.0)
    text = shown(run_dir, capsys)
    assert ("ptft export --run_dir=" in text) == (codes == (0,))
    assert ("ptft ckpt ls --run_dir=" in text) == (codes != (0,))
    if codes[0] not in (0, 65):
        assert "goes on from its last checkpoint" in text


def test_runs_without_status_files(run_dir, capsys):
    """An imported run, and one whose files were not copied with it, are shown as far as can be."""
    text = shown(run_dir, capsys)
    assert "state not known: no status files step 0 of 1,000 (0.0%) checkpoints none yet" in text
    (run_dir / "status").mkdir()
    (run_dir / "status" / "process-00000.json").write_text("{")
    (run_dir / "events.jsonl").write_text("{")
    assert shown(run_dir, capsys) == text
    checkpoint(run_dir, 1000)
    (run_dir / "results.json").write_text("{}")
    assert "state finished step 1,000 of 1,000 (100.0%)" in shown(run_dir, capsys)
    (run_dir / "config.json").write_text(json.dumps({**CONFIG, "command": "import", "config": {}}))
    (run_dir / "results.json").unlink()
    assert "state imported step" in shown(run_dir, capsys)


def test_many_processes_are_summed_up(run_dir, capsys):
    """Of a thousand processes those that are not like the others are the ones to look at."""
    others = {17: {"activity": "saving"}, 400: {"time": 0.0}, 900: {"step": 200}}
    for number in range(999):
        write(run_dir, beat(1.0, number, 1000, **others.get(number, {})))
    text = shown(run_dir, capsys)
    for part in (
        "1000 processes: 997 training, 1 saving, 1 silent; was training, 1 not heard of",
        "17 node17 1017 250 saving for",
        "400 node400 1400 250 silent; was training",
        "900 node900 1900 200 training",
        "ago behind",
    ):
        assert part in text, f"{part!r} in {text}"
    assert "node1 " not in text


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--run_dir=", "--run_dir is missing"), ("--run_dir=PLACE", "there is no run here")],
)
def test_mistakes(tmp_path, capsys, argument, words):
    """The same errors as those of the other commands that read a run."""
    assert run("status", argument.replace("PLACE", str(tmp_path))) == 2
    assert words in capsys.readouterr().err


@contextmanager
def started(flags):
    """Starts a command line in a process of its own, with one device."""
    command, environment = [sys.executable, "-m", "ptft_jax", *flags], {"JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(done, process):
    until = time.monotonic() + 100
    while not done():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_real_run_killed_and_resumed(tmp_path, capsys):
    """The whole account of real processes agrees with a watch that was held beside them."""
    data, run_dir, text = prepare_corpus(tmp_path), tmp_path / "run", io.StringIO()
    intervals = {"steps": 20_000, "eval_every": 0, "checkpoint_every": 1000, "batch_size": 4}
    flags = pretrain_flags(data, run_dir, **intervals, **{"mesh.data": 1, "mesh.fsdp": 1})
    began = time.time()
    with started(flags) as process:
        wait_for((run_dir / "checkpoints" / "1000").is_dir, process)
        # A heartbeat is written once a second; what a kill cuts off is not known of.
        wait_for(lambda: any((b.step or 0) >= 1000 for b, _ in read_heartbeats(run_dir)), process)
        status.show(run_dir, Console(file=text, width=200))
        assert f" {process.pid} " in text.getvalue()
        assert "running" in text.getvalue()
    saved, made = max(retention.complete(run_dir / "checkpoints")), metrics(run_dir)[-1]["step"]
    with started(flags) as process:
        wait_for(lambda: len(account(read_events(run_dir))) == 2, process)
        wait_for(lambda: account(read_events(run_dir))[1].last_step, process)
        wait_for(lambda: metrics(run_dir)[-1]["step"] > saved + 20, process)
        process.terminate()
        process.wait(timeout=60)
    wall = time.time() - began
    one, two = account(read_events(run_dir))
    seconds = totals([one, two])
    # Python needs a moment to begin and to end.
    assert wall - 2.0 < sum(seconds.values()) < wall
    assert (end_of(one.last.code), end_of(two.last.code)) == ("killed", "SIGTERM (75)")
    assert saved <= (one.last_step or 0) <= made
    assert (two.points[0][0], two.last_step) == (saved, metrics(run_dir)[-1]["step"])
    for kind in ("training", "starting", "restoring", "compiling", "saving", "down"):
        assert seconds[kind] > 0, kind
    shows = shown(run_dir, capsys)
    assert "state ended: SIGTERM (75)" in shows
    assert "restarts 1, after: killed" in shows
    assert f"{(one.last_step or 0) - saved} steps made again" in shows


def test_status_needs_no_jax(run_dir):
    """It must answer at once, and on a machine whose accelerators the run itself holds."""
    code = (
        "import sys; from ptft_jax.cli import main; code = main(sys.argv[1:]); "
        "print({'jax', 'flax', 'orbax', 'torch'} & set(sys.modules)); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "status", f"--run_dir={run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
