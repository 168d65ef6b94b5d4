"""A preparation that is killed, interrupted or disturbed goes on, and comes to the same bytes."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.cli import main
from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import PrepareSettings, prepare_corpus
from ptft_jax.data.text import sources as inputs
from ptft_jax.data.text.files import FilePart
from ptft_jax.errors import ConfigError, DataError, PtftError

WORDS = ["the", "cat", "dog", "man", "sees", "finds", "over", "red", "old", "walks"]


@pytest.fixture
def settings(tmp_path) -> PrepareSettings:
    """Three text files and one of JSON lines, in two sources, with some copies among them."""
    rng = np.random.default_rng(0)

    def document() -> str:
        return "\n".join(
            " ".join(rng.choice(WORDS, rng.integers(3, 12))).capitalize() + "."
            for _ in range(rng.integers(1, 6))
        )

    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        documents = [document() for _ in range(15)]
        (folder / f"{name}.txt").write_text("\n\n".join([*documents, documents[3]]))
    records = [json.dumps({"text": document()}) for _ in range(20)]
    (folder / "d.jsonl").write_text("\n".join(records))
    return PrepareSettings(
        (f"{folder}/*.txt", f"{folder}/d.jsonl@2"),
        vocab_size=100,
        dev_fraction=0.2,
        shard_tokens=300,
        vocab_sample_characters=4000,
    )


@pytest.fixture
def small_steps(monkeypatch):
    """A commit after every block of a few documents."""
    monkeypatch.setattr(preparation, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(inputs, "BLOCK_CHARACTERS", 1000)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def interrupt_at(stage: str, share: float) -> Callable[[str, int, int], None]:
    """A progress display in whose hands Ctrl-C comes when a stage has done a share of its work."""

    def progress(description: str, done: int, total: int) -> None:
        if description == stage and done >= share * total:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("deduplicate", ["none", "near"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, settings, deduplicate):
    """SIGKILL before any request to the disk, among them those between the data and the journal."""
    if deduplicate == "near":
        pytest.importorskip("rensa")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(asdict(replace(settings, deduplicate=deduplicate))))
    (tmp_path / "made").mkdir()
    script = Path(__file__).parents[2] / "killed_prepare.py"
    done = subprocess.run(
        [sys.executable, str(script), str(file), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(script.parent.parent)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == {}, done.stderr
    assert result["moments"] > 100
    assert len(result["tried"]) >= 36


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    ("stage", "share"),
    [("Reading the text", 0.6), ("Encoding the text", 0.1), ("Encoding the text", 0.7)],
)
def test_an_interrupted_run_says_so_and_goes_on(tmp_path, settings, stage, share, monkeypatch):
    """Stages and files that were finished are not read again; the result is the same."""
    prepare_corpus(settings, tmp_path / "whole")
    said: list[str] = []
    out_dir = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(settings, out_dir, interrupt_at(stage, share), said.append)
    assert not out_dir.exists()
    assert said == [
        f"What was done is kept in {tmp_path}/.data.partial: the same command goes on from there."
    ]
    read: list[str] = []
    real = FilePart.read
    monkeypatch.setattr(FilePart, "read", lambda part: (read.append(part.name), real(part))[1])
    shown: list[str] = []
    said.clear()
    prepare_corpus(settings, out_dir, lambda name, *_: shown.append(name), said.append)
    assert said == [f"Going on with what an interrupted run left in {tmp_path}/.data.partial."]
    every = ["a.txt", "b.txt", "c.txt", "d.jsonl"]
    if stage == "Reading the text":
        assert read == [*every[-len(read) + 4 :], *every]
        assert len(read) < 8
    else:
        assert {"Reading the text", "Learning the vocabulary"}.isdisjoint(shown)
        assert read == every[-len(read) :]
        assert share < 0.5 or len(read) < 4
    assert digests(out_dir) == digests(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text", "whole"]


@pytest.mark.usefixtures("small_steps")
def test_ctrl_c_leaves_the_command_with_130(tmp_path, settings, monkeypatch, capsys):
    """The exit code of an interrupted command, and a line that says how to go on."""

    @contextmanager
    def interrupting(console):
        yield interrupt_at("Encoding the text", 0.5)

    monkeypatch.setattr("ptft_jax.commands.data.prepare.progress_bars", interrupting)
    command = ["prepare", "--config=configs/data/text.py", "--config.vocab_size=100"]
    command += [f"--config.inputs={','.join(settings.inputs)}", f"--out_dir={tmp_path}/data"]
    assert main(command) == 130
    output = capsys.readouterr()
    assert "ptft: interrupted" in output.err
    assert "the same command goes on from there" in output.out
    monkeypatch.undo()
    assert main(command) == 0
    assert "Going on with what an interrupted run left" in capsys.readouterr().out


@pytest.mark.usefixtures("small_steps")
def test_another_number_of_workers_may_go_on(tmp_path, settings):
    """So a run that ran out of memory can be continued with fewer."""
    prepare_corpus(settings, tmp_path / "whole")
    for workers, stage in ((1, "Reading the text"), (2, "Encoding the text")):
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(
                replace(settings, workers=workers), tmp_path / "data", interrupt_at(stage, 0.6)
            )
    prepare_corpus(settings, tmp_path / "data")
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")


@pytest.mark.usefixtures("small_steps")
def test_other_inputs_or_settings_start_anew(tmp_path, settings):
    """What was begun with other text must not be gone on with; the message says what differs."""
    text = tmp_path / "text" / "b.txt"
    changes: list[tuple[str, Callable[[], PrepareSettings]]] = [
        ("seed", lambda: replace(settings, seed=1)),
        ("deduplicate", lambda: replace(settings, deduplicate="exact")),
        ("inputs", lambda: (text.write_text(text.read_text() + " More."), settings)[1]),
    ]
    for name, change in changes:
        out_dir = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(settings, out_dir, interrupt_at("Encoding the text", 0.5))
        said: list[str] = []
        changed = change()
        prepare_corpus(changed, out_dir, say=said.append)
        (message,) = said
        assert f"was begun with other inputs or settings ({name}): starting anew" in message
        prepare_corpus(changed, tmp_path / f"{name}-whole")
        assert digests(out_dir) == digests(tmp_path / f"{name}-whole")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", ["hashes.bin", "corpus/train/sentences.bin", "journal.json"])
def test_a_damaged_work_folder_is_not_gone_on_with(tmp_path, settings, name):
    """A full disk or a curious user may have shortened a file; the run starts anew, and says so."""
    prepare_corpus(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(settings, tmp_path / "data", interrupt_at("Encoding the text", 0.7))
    path = tmp_path / ".data.partial" / name
    path.write_bytes(path.read_bytes()[:9])
    said: list[str] = []
    prepare_corpus(settings, tmp_path / "data", say=said.append)
    if name != "journal.json":
        assert "is damaged" in said[0]
        assert name in said[0]
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")


@pytest.mark.usefixtures("small_steps")
def test_an_error_in_the_middle_keeps_what_was_done(tmp_path, settings, monkeypatch):
    """A network that fails after hours must not cost the hours; bad text alone keeps nothing."""
    prepare_corpus(settings, tmp_path / "whole")
    real = FilePart.read
    reads = 0

    def fails_once(part: FilePart):
        nonlocal reads
        reads += 1
        if reads == 7:  # the third of four files, in the second reading
            raise DataError("c.txt: reading failed")
        return real(part)

    monkeypatch.setattr(FilePart, "read", fails_once)
    said: list[str] = []
    with pytest.raises(DataError, match="reading failed"):
        prepare_corpus(settings, tmp_path / "data", say=said.append)
    assert "What was done is kept" in said[0]
    prepare_corpus(settings, tmp_path / "data")
    # The second file is read again in part: a block of it was not finished.
    assert reads == 10
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")
    (tmp_path / "text" / "b.txt").write_bytes(b"\xff")
    monkeypatch.setattr(preparation, "COMMIT_SECONDS", 10.0)
    with pytest.raises(DataError, match="not UTF-8"):
        prepare_corpus(settings, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text", "whole"]


def test_two_runs_do_not_write_at_once(tmp_path, settings):
    """The second one is refused, names the first, and leaves its work alone."""
    work = tmp_path / ".data.partial"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"is being made by another process \(4711\)"):
            prepare_corpus(settings, tmp_path / "data")
    assert [path.name for path in work.iterdir()] == ["lock"]
    prepare_corpus(settings, tmp_path / "data")
    assert not work.exists()


RUN = """
import sys, json, time
from pathlib import Path
from ptft_jax.data.text import sources as inputs
from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import PrepareSettings, prepare_corpus

if __name__ == "__main__":
    preparation.COMMIT_SECONDS = 0.0
    inputs.BLOCK_CHARACTERS = 1000
    settings = json.loads(Path(sys.argv[1]).read_text())
    settings = PrepareSettings(**{**settings, "inputs": tuple(settings["inputs"])})

    def progress(description, done, total):
        if description == "Encoding the text" and done > total // 3:
            print("ready", flush=True)
            time.sleep(60)

    prepare_corpus(settings, sys.argv[2], progress)
"""


def children_of(process: int) -> list[int]:
    """The processes that a process has started, from the list that Linux keeps."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if int(path.read_text().rpartition(")")[2].split()[1]) == process
    ]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the /proc of Linux")
def test_workers_end_with_a_killed_parent(tmp_path, settings, small_steps):
    """Orphans would keep hundreds of megabytes each, for ever."""
    prepare_corpus(settings, tmp_path / "whole")
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(replace(settings, workers=2))))
    command = [sys.executable, "run.py", "settings.json", "data"]
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        workers = children_of(run.pid)
        assert len(workers) >= 2
        with pytest.raises(ConfigError, match=rf"another process \({run.pid}\)"):
            prepare_corpus(settings, tmp_path / "data")
        run.send_signal(signal.SIGKILL)
        run.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "the workers are still there"
            time.sleep(0.05)
    prepare_corpus(settings, tmp_path / "data")
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")


def test_a_killed_worker_is_reported(tmp_path, settings, small_steps):
    """The system kills processes when memory runs out; the parent must not wait or guess."""

    def kill_workers(description: str, done: int, total: int) -> None:
        if description == "Encoding the text":
            for worker in children_of(os.getpid()):
                if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
                    os.kill(worker, signal.SIGKILL)

    with pytest.raises(PtftError, match="a worker process ended abruptly") as error:
        prepare_corpus(replace(settings, workers=2), tmp_path / "data", kill_workers)
    assert error.value.exit_code == 1
    prepare_corpus(settings, tmp_path / "data")
    prepare_corpus(settings, tmp_path / "whole")
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")
