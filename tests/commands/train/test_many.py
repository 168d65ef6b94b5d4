"""Several seeds by one command: what it makes, what it does not do twice, what fails."""

import json
import shutil

import pytest
from command_line import finetune_flags, run, sentences
from small_encoder import write_encoder

from ptft_jax.commands.train import continual, many
from ptft_jax.runs.config import HOME
from ptft_jax.runs.folder import RunFolder

SEEDS = ("--seeds=0,1", "--at_once=2")


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """The command line, with the folder of its runs as the last word."""
    place = tmp_path_factory.mktemp("many")
    rows = sentences(16, 1)
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    encoder = write_encoder(place / "encoder", [text for text, _ in rows])
    flags = finetune_flags(
        "text.py", place / "table", encoder, place / "runs", max_train_examples=8
    )
    return [*flags, *SEEDS]


def test_one_table_of_all_seeds(flags, capsys):
    """A run for each seed with its folder, and their scores in a table, a CSV and a picture.

    Started again it makes only what is not there: here the run of which the results are gone.
    """
    assert run(*flags) == 0
    place = RunFolder(flags[-3].removeprefix("--run_dir=")).path
    shown = capsys.readouterr().out
    scores = [RunFolder(place / "text" / f"seed-{n}").results()["dev"]["accuracy"] for n in (0, 1)]
    table = (place / "table.md").read_text()
    mean, best = 50 * sum(scores), 100 * max(scores)
    assert f"| text | dev | accuracy | 2 | {mean:.2f} ± " in table
    assert f" | {best:.2f} |  | " in table
    assert "- training examples 8, learning rate 2e-05, batch 8, length 1 epochs" in table
    assert table in shown
    assert (place / "table.csv").read_text().count("accuracy") == 2
    assert "<svg" in (place / "table.svg").read_text()
    seconds = json.loads((place / "runs.json").read_text())["text/seed-0"]["seconds"]
    (place / "text" / "seed-1" / "results.json").unlink()
    assert run(*flags) == 0
    assert "2 runs, 1 of them done already" in capsys.readouterr().out
    known = json.loads((place / "runs.json").read_text())
    assert known["text/seed-0"]["seconds"] == seconds
    assert (place / "table.csv").read_text().count("accuracy") == 2


def test_some_tasks_are_named(flags, capsys):
    """Small ones want more seeds than all of a benchmark."""
    glue = ["--config=configs/finetune/glue.py:mrpc,rte", *flags[2:]]
    assert run("finetune", "--print_config", *glue) == 0
    shown = capsys.readouterr().out
    runs = [line for line in shown.splitlines() if line.startswith("# ")]
    assert runs == [f"# {task}/seed-{seed}" for task in ("mrpc", "rte") for seed in (0, 1)]
    assert run("finetune", "--print_config", glue[0].replace("rte", "ret"), *glue[1:]) == 2
    assert "glue has no task 'ret'; did you mean 'rte'?" in capsys.readouterr().err


def test_a_comma_in_a_folder_names_no_tasks(tmp_path):
    """What follows the colon does; a config of tasks one after another was not known as such."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    shutil.copy(HOME / "configs" / "finetune" / "continual.py", folder)
    words = [f"--config={folder}/continual.py", "--config.tasks=('cola', 'rte')"]
    assert continual.is_asked(words)
    assert not many.is_asked(words)


def test_a_run_that_fails_leaves_the_others_alone(flags, capsys):
    """The table holds those that ended; the error names the other and where its words are."""
    place = RunFolder(flags[-3].removeprefix("--run_dir=")).path
    shutil.rmtree(place)
    (place / "text").mkdir(parents=True)
    (place / "text" / "seed-1").write_text("a file in the way")
    assert run(*flags) == 1
    said = capsys.readouterr().err
    assert "1 of 2 runs failed: text/seed-1 (exit code 2)" in said
    assert "seed-1" in (place / "logs" / "text-seed-1.txt").read_text()
    assert "| text | dev | accuracy | 1 |" in (place / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seeds=0,0"], "expected different numbers"),
        (["--seeds=a"], "expected different numbers"),
        (["--config=configs/finetune/text.py:all"], "expected glue, superglue or clue"),
        (["--seeds=0", "--config.nonsense=1"], "nonsense"),
        (["--config=configs/finetune/glue.py:all"], "has no folder CoLA, MNLI, MRPC"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(changes, message, flags, tmp_path, capsys):
    """No run of a long series is made with flags of which the last one would be refused."""
    own = [word for word in flags if word not in SEEDS and not word.startswith("--run_dir")]
    if changes[0].startswith("--config="):
        own = [word for word in own if not word.startswith("--config=")]
    assert run(*own, *changes, f"--run_dir={tmp_path / 'runs'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_tasks_that_are_there_can_be_taken_alone(tmp_path, capsys):
    """Whoever has some of a suite is told how to name them; it said to take a single one."""
    for folder in ("CB", "WiC"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    flags = finetune_flags(
        "superglue.py:all", tmp_path / "data", tmp_path / "encoder", tmp_path / "runs"
    )
    assert run(*flags) == 2
    assert "without them: --config=….py:cb,wic." in capsys.readouterr().err
