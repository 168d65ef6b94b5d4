"""The command line with which a run goes on is shown where a person needs it, and is true."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import losses, prepare_corpus, pretrain_flags, results, run, tree

from ptft_jax.commands import screen
from ptft_jax.commands.parsing import parse
from ptft_jax.models.config import AdapterConfig, EncoderConfig
from ptft_jax.runs.config import load_config
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.record import RunRecord

STEPS = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return prepare_corpus(tmp_path_factory.mktemp("corpus"))


def next_lines(said: str) -> list[list[str]]:
    """Returns the words of each command below 'next', as a shell reads them."""
    lines = said.rpartition("\nnext\n")[2].replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  ptft ")]
    assert commands, said
    return [words[1:] for words in commands]


def interrupted(flags: list[str], run_dir: Path) -> str:
    """Starts a command line, presses Ctrl-C once it trains and returns what it showed."""
    command = [sys.executable, "-m", "ptft_jax", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        until, file = time.monotonic() + 100, run_dir / "metrics.jsonl"
        while not (file.is_file() and len(file.read_bytes().splitlines()) > 5):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    return said


def test_a_run_goes_on_with_what_is_shown(corpus, tmp_path, capsys):
    """After Ctrl-C, in status and after a rewind; with another rate, and a name with spaces."""
    run_dir = tmp_path / "it's my run"
    changes = {"steps": STEPS, "eval_every": 0, "checkpoint_every": 40, "batch_size": 8}
    changes |= {"model.attention_probs_dropout_prob": 0.0, "optimizer.learning_rate": 3e-3}
    shown = next_lines(interrupted(pretrain_flags(corpus, run_dir, **changes), run_dir))
    resume = ["pretrain", f"--config={run_dir}", f"--run_dir={run_dir}"]
    assert shown == [resume, ["status", f"--run_dir={run_dir}"]]
    assert run(*shown[1]) == 0
    said = capsys.readouterr().out
    assert resume in next_lines(said)
    assert "ended: Ctrl-C (130)" in said
    record = RunFolder(run_dir).record()
    events = run_dir / "events.jsonl"
    assert '"restoring"' not in events.read_text(), "there was nothing to restore yet"
    assert run(*resume) == 0
    assert '"restoring"' in events.read_text()
    assert "resuming at step" in capsys.readouterr().out
    assert RunFolder(run_dir).record() == record
    assert sorted(losses(run_dir)) == list(range(1, STEPS + 1))
    first = results(run_dir)
    before = tree(run_dir)
    assert run(*resume) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert tree(run_dir) == before
    assert run("ckpt", "rewind", f"--run_dir={run_dir}", "--step=80") == 0
    shown = next_lines(capsys.readouterr().out)
    assert resume in shown
    (run_dir / "tracking.json").write_text('{"wandb": "id"}')
    assert run("status", f"--run_dir={run_dir}") == 0
    assert [*resume, "--track=wandb"] in next_lines(capsys.readouterr().out)
    for words in shown:
        assert run(*words) == 0
    assert "resuming at step 80" in capsys.readouterr().out
    assert results(run_dir)["dev"] == pytest.approx(first["dev"], rel=1e-5)


def test_a_config_comes_back_from_a_run_as_it_was(tmp_path):
    """Tuples, keys without a value and phases are what they were, so that nothing is refused."""
    for command, changes in (
        ("pretrain", ["--config.max_seq_length=64", "--config.model.unroll=2"]),
        ("finetune", ["--config.length_buckets=(16,48)", "--config.eval_every=7"]),
    ):
        file = {"pretrain": "pretrain/bert_large", "finetune": "finetune/glue:rte"}[command]
        flags = [f"--config={file}", *changes]
        config = parse(lambda _: None, flags, command).config
        folder = tmp_path / command
        folder.mkdir()
        record = {"format": "ptft_jax run", "format_version": 1, "command": command}
        record |= {"config": config.to_dict(), "model": {"heads": []}, "labels": None, "best": None}
        (folder / "config.json").write_text(json.dumps(record))
        assert load_config(str(folder)).to_dict() == config.to_dict()


def test_what_cannot_give_a_config_says_so(corpus, tmp_path, capsys):
    """An imported run was not trained, and a run of another command has other keys."""
    for folder, command, words in (
        ("imported", "import", "was made by `ptft import` and has no config"),
        ("finetuned", "finetune", "is a config of `ptft finetune`"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(
            '{"format": "ptft_jax run", "format_version": 1, "config": {}, "model": {"heads": []},'
            f'"command": "{command}", "labels": null, "best": null}}'
        )
        flags = [f"--config={tmp_path / folder}", f"--run_dir={tmp_path}/new"]
        assert run("pretrain", *flags) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_commands_can_be_copied(width, monkeypatch, capsys):
    """The box's own lines stood between theirs, and a quoted text was broken at its spaces."""
    monkeypatch.setattr(screen, "_PIPE_WIDTH", width)
    commands = [
        f'ptft predict {screen.flag("run_dir", "a run/" + "x" * 60)} "The [MASK] of a long text."',
        "ptft predict --run_dir=runs/mnli $'one text\\tanother'",
        "ptft finetune --config=configs/finetune/glue.py:sst2 --init_from=runs/a --run_dir=runs/b",
    ]
    screen.made(screen.make_console(), "made", {"run": "a run/" + "x" * 300}, commands)
    box, _, said = capsys.readouterr().out.rpartition("\nnext\n")
    assert box.count("x") == 300
    assert max(map(len, box.splitlines())) <= width
    for command, shown in zip(commands, said.replace("\\\n", " ").splitlines(), strict=True):
        assert shlex.split(shown) == shlex.split(command)
    short = [line for line in said.splitlines() if "xxx" not in line]
    assert max(map(len, short)) <= width


@pytest.mark.parametrize(
    ("adapter", "config", "form"),
    [
        ("lora", {}, "--format=peft"),
        ("lora", {"trainable": "top1"}, "--merge"),
        ("prompt", {"init_layers": (0,)}, None),
        ("houlsby", {}, None),
    ],
)
def test_no_export_is_shown_that_would_be_refused(adapter, config, form, capsys):
    """The adapter where PEFT can have it, all of it where it folds, else nothing."""
    model = EncoderConfig(heads=("pooler",), adapter=AdapterConfig(adapter))
    config = {"trainable": "all", "init_layers": (), **config}
    record = RunRecord("finetune", config, dataclasses.asdict(model), "a-model")
    line = screen.exporting(record, "RUN", "name")
    expected = f"ptft export --run_dir=RUN {form} --out_dir=hf/name" if form else ""
    assert line == expected
    screen.made(screen.make_console(), "made", {"run": "RUN"}, [line])
    assert ("next" in capsys.readouterr().out) == bool(form)
