"""A preparation that is killed, interrupted or disturbed goes on, and comes to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from command_line import tree

from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
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
        # Two blank lines: documents whether lines are joined or not.
        (folder / f"{name}.txt").write_text("\n\n\n".join([*documents, documents[3]]))
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


@pytest.fixture
def whole(tmp_path, settings, small_steps) -> dict[str, bytes | None]:
    """The content of the corpus when nothing goes wrong."""
    prepare_corpus(settings, tmp_path / "whole")
    return tree(tmp_path / "whole")


def interrupt_at(stage: str, share: float) -> Callable[[str, int, int], None]:
    """A progress display in whose hands Ctrl-C comes when a stage has done a share of its work."""

    def progress(description: str, done: int, total: int) -> None:
        if description == stage and done >= share * total:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("deduplicate", "join_lines"), [("none", False), ("near", True)])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path, settings, deduplicate, join_lines
):
    """SIGKILL before any request to the disk, among them those between the data and the journal."""
    if deduplicate == "near":
        pytest.importorskip("rensa")
    file = tmp_path / "settings.json"
    settings = replace(settings, deduplicate=deduplicate, join_lines=join_lines)
    file.write_text(json.dumps(asdict(settings)))
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
    ("stage", "share", "workers"),
    [("Reading the text", 0.6, 1), ("Encoding the text", 0.1, 2), ("Encoding the text", 0.7, 1)],
)
def test_an_interrupted_run_says_so_and_goes_on(
    tmp_path, settings, whole, stage, share, workers, monkeypatch
):
    """Stages and files that were finished are not read again, with any number of workers."""
    said: list[str] = []
    out_dir = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(
            replace(settings, workers=workers), out_dir, interrupt_at(stage, share), said.append
        )
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
    assert tree(out_dir) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text", "whole"]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("changed", ["seed", "inputs", "hashes.bin", "corpus/train/sentences.bin"])
def test_other_text_or_a_damaged_folder_start_anew(tmp_path, settings, whole, changed):
    """What was begun with other text must not be gone on with; the message says what differs."""
    other = replace(settings, seed=1) if changed == "seed" else settings
    text = tmp_path / "text" / "b.txt"
    if changed == "inputs":
        text.write_text(f"Other. {text.read_text()}")
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(other, tmp_path / "data", interrupt_at("Encoding the text", 0.7))
    if changed == "inputs":
        text.write_text(text.read_text().removeprefix("Other. "))
    damaged = tmp_path / ".data.partial" / changed
    if damaged.is_file():
        damaged.write_bytes(damaged.read_bytes()[:9])
    said: list[str] = []
    prepare_corpus(settings, tmp_path / "data", say=said.append)
    why = "is damaged" if changed.endswith("bin") else "was begun with other inputs or settings"
    assert said == [f"{tmp_path}/.data.partial {why} ({changed}): starting anew."]
    assert tree(tmp_path / "data") == whole


@pytest.mark.usefixtures("small_steps")
def test_an_error_in_the_middle_keeps_what_was_done(tmp_path, settings, whole, monkeypatch):
    """A network that fails after hours must not cost the hours; bad text alone keeps nothing."""
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
    assert tree(tmp_path / "data") == whole
    (tmp_path / "text" / "b.txt").write_bytes(b"\xff")
    monkeypatch.setattr(preparation, "COMMIT_SECONDS", 10.0)
    with pytest.raises(DataError, match="not UTF-8"):
        prepare_corpus(settings, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text", "whole"]


RUN = """
import sys, json, time
from pathlib import Path
from ptft_jax.data.text import sources as inputs
from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings

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
def test_workers_end_with_a_killed_parent(tmp_path, settings, whole):
    """Orphans would keep hundreds of megabytes each, for ever."""
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
    assert tree(tmp_path / "data") == whole


def test_a_killed_worker_is_reported(tmp_path, settings, whole):
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
    assert tree(tmp_path / "data") == whole
