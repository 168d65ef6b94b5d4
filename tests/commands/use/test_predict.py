"""Predictions for files: a row out for each row in, with all that came with it."""

import csv
import datetime
import json
from pathlib import Path

import jax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run
from foreign_folders import make_folders

import ptft_jax
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.models.build import build_model

ROWS = [
    {"id": "7", "text": 'a "quoted", river', "label": "good"},
    {"id": "8", "text": "", "label": ""},
    {"id": "9", "text": "the stone", "label": "bad"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A classifier in `run` and `hf`, a masked LM in `mlm`, and the same rows as tables."""
    place = make_folders(tmp_path_factory.mktemp("predict"))
    classifier = ptft_jax.load_run(place / "hf")
    config = classifier.model_config.replace(heads=("pooler", "mlm", "nsp"))
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    write_hf_folder(place / "mlm", params, config, classifier.tokenizer, "card")
    with (place / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    lines = ["\t".join(ROWS[0]), *("\t".join(row.values()) for row in ROWS)]
    (place / "in.tsv").write_text("\n".join(lines) + "\n")
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (place / "in.txt").write_text("the river\n\nthe stone\n")
    return place


def read(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        dialect = {} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        return list(csv.DictReader(file, **dialect))


@pytest.mark.parametrize("source", ["in.csv", "in.tsv", "in.jsonl"])
@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.jsonl"])
def test_each_row_of_a_table_gets_a_prediction(place, tmp_path, source, output, capsys):
    """The header was scored as a text, quotes were kept, and rows without a text dropped."""
    path = tmp_path / "made" / output
    asked = [f"--input={place / source}", f"--output={path}"]
    assert run("predict", f"--run_dir={place}/run", *asked) == 0
    expected = ptft_jax.load_run(place / "run").predict([row["text"] for row in ROWS])
    found = read(path)
    assert [int(row["row"]) for row in found] == [1, 2, 3]
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    for row, want in zip(found, expected, strict=True):
        assert row["prediction"] == want["label"]
        assert float(row["probability"]) == want["scores"][want["label"]]
        assert row.get("scores") == (want["scores"] if output == "out.jsonl" else None)
    said = capsys.readouterr().out
    assert "3" in said
    # The columns that the file has.
    assert f"{', '.join(found[0])} " in " ".join(said.replace("│", "").split())
    assert ("scores" in said) == (output == "out.jsonl")


def test_a_file_has_the_scores_of_all_labels(place, tmp_path):
    """Five of seven labels stood in it: as many as the screen shows."""
    config = ptft_jax.load_run(place / "hf").model_config.replace(num_labels=7)
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    tokenizer = ptft_jax.load_run(place / "hf").tokenizer
    write_hf_folder(tmp_path / "seven", params, config, tokenizer, "card", tuple("abcdefg"))
    output = tmp_path / "out.jsonl"
    asked = [f"--run_dir={tmp_path}/seven", f"--input={place}/in.txt", f"--output={output}"]
    for more, count in (([], 7), (["--top=2"], 2)):
        assert run("predict", *asked, *more) == 0
        assert {len(row["scores"]) for row in read(output)} == {count}


def test_each_line_of_a_text_file_gets_a_prediction(place, tmp_path):
    """An empty one too: line 3 of the output belongs to line 3 of the input."""
    path = tmp_path / "out.jsonl"
    assert (
        run("predict", f"--run_dir={place}/hf", f"--input={place}/in.txt", f"--output={path}") == 0
    )
    assert [row["text"] for row in read(path)] == ["the river", "", "the stone"]


def test_a_masked_lm_fills_in_each_row(place, tmp_path):
    """The prediction is the text with its best words; a blank line has none."""
    (tmp_path / "in.txt").write_text("the [MASK] is [MASK].\n\n")
    asked = [f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.jsonl"]
    assert run("predict", f"--run_dir={place}/mlm", *asked) == 0
    filled, blank = read(tmp_path / "out.jsonl")
    best = [candidates[0]["token"] for candidates in filled["masks"]]
    if not any(token.startswith("##") for token in best):
        assert filled["prediction"] == "the {} is {}.".format(*best)
    assert "[MASK]" not in filled["prediction"]
    assert (blank["prediction"], blank["masks"]) == ("", [])


def test_pairs_come_from_two_columns(place, tmp_path):
    """Texts with tabs in them are texts; names that are taken get a _ behind them."""
    rows = [{"row": 3, "a": "the\triver", "b": "a bird"}, {"row": 4, "a": "one", "b": "two"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [f"--input={tmp_path}/in.jsonl", "--text_column=a", "--text_pair_column=b"]
    command = ["predict", f"--run_dir={place}/run", *asked]
    assert run(*command, f"--output={tmp_path}/out.jsonl") == 0
    found = read(tmp_path / "out.jsonl")
    assert [(row["row"], row["row_"]) for row in found] == [(3, 1), (4, 2)]
    expected = ptft_jax.load_run(place / "run").predict([("the\triver", "a bird"), ("one", "two")])
    assert [row["scores"] for row in found] == [want["scores"] for want in expected]
    assert run(*command, f"--output={tmp_path}/out.tsv") == 65
    assert not (tmp_path / "out.tsv").exists()


def test_columns_of_any_kind_come_along(place, tmp_path):
    """Lists, dates, half characters, tabs, fields that some lines have not: none moves another."""
    rows = [
        {"tags": None, "text": "the\triver", "half": "\ud83d"},
        {"tags": ["t"], "text": "a bird", "later": 1},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for output in ("out.csv", "out.jsonl"):
        asked = [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/{output}"]
        assert run("predict", f"--run_dir={place}/run", *asked) == 0
    first, second = read(tmp_path / "out.csv")
    assert (first["text"], first["half"], first["later"]) == ("the\triver", "\\ud83d", "")
    assert (second["text"], second["half"], second["later"]) == ("a bird", "", "1")
    assert "tags" not in first
    assert [row["tags"] for row in read(tmp_path / "out.jsonl")] == [None, ["t"]]
    expected = ptft_jax.load_run(place / "run").predict(["the river", "a bird"])
    assert [row["prediction"] for row in (first, second)] == [want["label"] for want in expected]
    days = [datetime.date(2020, 1, day) for day in (1, 2)]
    pq.write_table(pa.table({"text": ["a", "b"], "day": days}), tmp_path / "in.parquet")
    asked = [f"--input={tmp_path}/in.parquet", f"--output={tmp_path}/out.jsonl"]
    assert run("predict", f"--run_dir={place}/run", *asked) == 0
    assert [row["day"] for row in read(tmp_path / "out.jsonl")] == ["2020-01-01", "2020-01-02"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input=IN.csv", "--text_column=body"], "no column 'body': its columns are id, text"),
        (["--input=semicolons.csv"], "commas separate the columns of a .csv, tabs those of a .tsv"),
        (["--input=IN.txt", "--text_column=text"], "--text_column: expected a table"),
        (["--input=IN.csv", "--output=x.txt"], "ending in .csv, .tsv, .jsonl"),
    ],
)
def test_mistakes_are_named(place, tmp_path, monkeypatch, capsys, flags, words):
    """The column, its neighbours, and what would be right."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "semicolons.csv").write_text("text;label\nthe river;good\n")
    flags = [flag.replace("IN", str(place / "in")) for flag in flags]
    assert run("predict", f"--run_dir={place}/run", *flags) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["semicolons.csv"]
