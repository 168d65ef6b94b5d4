"""`--protocol` as a table is made: a search of settings, and tasks that start from MNLI."""

import csv
from pathlib import Path

import pytest
from command_line import finetune_flags, run, sentences
from small_encoder import write_encoder

from ptft_jax.runs.folder import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny encoder, a table, and MNLI and RTE as GLUE has them."""
    place = tmp_path_factory.mktemp("protocols")
    rows = sentences(16, 1)
    write_encoder(place / "encoder", [text for text, _ in rows])
    (place / "table").mkdir()
    for split in ("train", "dev"):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (place / "table" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    for folder, header, names, splits in (
        ("MNLI", "gold_label", ("entailment", "neutral"), ("dev_matched", "dev_mismatched")),
        ("RTE", "label", ("entailment", "not_entailment"), ("dev",)),
    ):
        (place / "glue" / folder).mkdir(parents=True)
        for split in ("train", *splits):
            lines = [f"{header}\tsentence1\tsentence2"]
            lines += [f"{names[label]}\t{text}\t{text}" for text, label in rows]
            (place / "glue" / folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return place


def test_a_task_starts_from_its_seeds_run_on_mnli(place, capsys):
    """With two at once, RTE waits for the run on MNLI; the table names rates and STILTs."""
    flags = finetune_flags("glue.py:rte", place / "glue", place / "encoder", place / "mosaic")
    assert run(*flags, "--protocol=mosaic", "--seeds=1", "--at_once=2") == 0
    assert "2 runs, 0 of them done already" in capsys.readouterr().out
    mnli, rte = (place / "mosaic" / task / "seed-1" for task in ("mnli", "rte"))
    assert RunFolder(mnli).record().init_from == str(place / "encoder")
    assert RunFolder(rte).record().init_from == str(mnli)
    said = (place / "mosaic" / "logs" / "rte-seed-1.txt").read_text()
    assert "new, from the seed: classification" in said
    table = (place / "mosaic" / "table.md").read_text()
    assert "- protocol mosaic: MosaicML" in table
    assert "learning rate 1e-05 (5e-05: mnli)" in table
    assert "length 1 epochs, weight decay 1 (0.1: mnli), warm-up 6%" in table
    assert "- STILTs: rte start from the same seed's run on mnli" in table
    assert table.index("| rte | dev |") < table.index("| mnli | dev_matched |")
    assert run(*flags, "--protocol=mosaic", "--seeds=1", "--at_once=2") == 0
    assert "2 runs, 2 of them done already" in capsys.readouterr().out


def test_the_best_of_the_settings_is_the_one_in_the_table(place, capsys):
    """All are in the CSV; the table has the best median and says that dev has chosen it."""
    flags = finetune_flags("text.py", place / "table", place / "encoder", place / "paper")
    # What is left of the grid are its two batches.
    flags = [word for word in flags if not word.startswith("--config.batch_size")]
    flags.append("--config.optimizer.learning_rate=1e-2")
    assert run(*flags, "--protocol=bert_paper", "--at_once=2") == 0
    with (place / "paper" / "table.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] == "accuracy"]
    scores = {line["settings"]: float(line["score"]) for line in lines}
    assert list(scores) == ["batch_size=16", "batch_size=32"]
    table = (place / "paper" / "table.md").read_text()
    assert f"| text | dev | accuracy | 1 | {100 * max(scores.values()):.2f} |" in table
    assert "best of those tried (text 2) by their median on the very dev set" in table
    assert "no STILTs" in table
    best = max(scores, key=lambda name: scores[name])
    assert f"batch {best.partition('=')[2]}, length 1 epochs" in table
    assert (place / "paper" / "text" / best / "seed-0" / "results.json").is_file()
