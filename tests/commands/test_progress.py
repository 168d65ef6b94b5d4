"""What a long task shows: bars on a terminal, a few lines in a log."""

import io
import os
import signal
import sys

import pytest
from rich.console import Console

from ptft_jax.commands import screen
from ptft_jax.commands.use.predict import predictions_table
from ptft_jax.data.progress import duration


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that stands until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1e-9, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (3599.6, "1:00:00"),
        (86399.6, "1 day 0:00:00"),
        (183845, "2 days 3:04:05"),
    ],
)
def test_lengths_of_time_are_written_in_one_way(seconds, text):
    """The live line, `ptft status` and the progress of long tasks each had a way of their own."""
    assert duration(seconds) == text


def test_a_log_gets_a_line_a_minute(clock):
    """A job of hours must not look dead in its log, nor fill it."""
    out = io.StringIO()
    with screen.progress_bars(Console(file=out, force_terminal=False)) as progress:
        for step in range(101):
            progress("Encoding the text", step * 1000, 100_000)
            clock[0] += 10.0
        progress("Encoding the text", 100_000, 100_000)
        progress("Checksums", 0, 0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "Encoding the text: 6%, 15:40 left"
    assert lines[-2:] == ["Encoding the text: done", "Checksums: done"]
    assert len(lines) == 16 + 2


def test_a_resumed_task_is_not_thought_faster(clock):
    """What was done before the start must not count as speed."""
    out = io.StringIO()
    with screen.progress_bars(Console(file=out, force_terminal=False)) as progress:
        progress("Encoding the text", 80, 100)
        clock[0] += 100.0
        progress("Encoding the text", 90, 100)
    assert out.getvalue() == "Encoding the text: 90%, 1:40 left\n"


def test_a_terminal_gets_share_rate_and_time(monkeypatch):
    """One bar per description, with a rate where bytes are counted and none for a few files."""
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with screen.progress_bars(console) as progress:
        for done in range(0, 50_000_001, 10_000_000):
            progress("Encoding the text", done, 100_000_000)
        for done in range(0, 5):
            progress("Reading documentation", done, 4)
    last = out.getvalue().rstrip("\n").rsplit("\n", 2)
    bytes_line, files_line = (line for line in last if "Encoding" in line or "Reading" in line)
    assert " 50%" in bytes_line
    assert "MB/s" in bytes_line
    assert "100%" in files_line
    assert "MB/s" not in files_line


def test_texts_are_never_markup(capsys):
    """`[/quote]` in a text ended `ptft predict`, `[note]` vanished, `:cat:` became a picture."""
    texts = ["see [note] below", "end of [/quote]", ":cat: [bold]", r"a\[b"]
    scores = {"[spam]": 0.75, "[/ham]": 0.25}
    console = screen.make_console()
    labelled = [{"text": text, "label": "[spam]", "scores": scores} for text in texts]
    console.print(predictions_table(labelled))
    screen.say(console, texts[1])
    screen.facts(console, {"[task]": texts[0]})
    screen.made(console, "[made]", {"[run]": texts[2]}, [f"ptft predict {texts[3]}"])
    with screen.progress_bars(console) as progress:
        progress("[b] files", 1, 1)
    said = capsys.readouterr().out
    for text in (*texts, "[spam]", "[/ham]", "[task]", "[run]", "[b] files: done"):
        assert text in said


def test_a_reader_that_goes_away_ends_the_job_as_a_closed_terminal_does(monkeypatch):
    """Into `| head` a training ended without a word and without saving."""
    reads, writes = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(writes, "w"))
    got = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: got.append(number))
    try:
        with sys.stdout, screen.output_may_end():
            screen.make_console().print("read")
            os.close(reads)
            assert not got
            for _ in range(2):
                screen.make_console().print("not read")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert got == [signal.SIGHUP]
