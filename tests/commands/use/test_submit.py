"""`ptft predict --split=test`: official files of one run, and a zip of all tasks."""

import csv
import json
import shutil
import zipfile

import pytest
from command_line import finetune_flags, run
from small_encoder import write_encoder

from ptft_jax.data.tasks.catalogue import tasks_of

TEXTS = ["the river is lovely", "a stone is awful", "the bird sings", "water and light"]
# The columns of each task's official files: of its train and dev files, and of its test file.
GLUE = {
    "cola": ("CoLA", None, "index\tsentence"),
    "sst2": ("SST-2", "sentence\tlabel", "index\tsentence"),
    "mrpc": ("MRPC", "Quality\t#1 String\t#2 String", "index\t#1 String\t#2 String"),
    "stsb": ("STS-B", "sentence1\tsentence2\tscore", "index\tsentence1\tsentence2"),
    "qqp": ("QQP", "question1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "mnli": ("MNLI", "sentence1\tsentence2\tgold_label", "index\tsentence1\tsentence2"),
    "qnli": ("QNLI", "question\tsentence\tlabel", "index\tquestion\tsentence"),
    "rte": ("RTE", "sentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "wnli": ("WNLI", "sentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}


def write_glue(place):
    """Writes all tasks in their official columns: four rows a file, five in the test files."""
    for name, task in tasks_of("glue").items():
        folder, columns, test_columns = GLUE[name]
        (place / folder).mkdir(parents=True)
        words = task.labels_in_file or task.label_names or ("0.5", "4.0")
        header = (columns or "source\tis_acceptable\tmark\tsentence").split("\t")
        lines = [] if columns is None else [columns]
        for number, text in enumerate(TEXTS):
            values = dict.fromkeys(header, "") | dict.fromkeys(task.texts, text)
            lines.append("\t".join((values | {task.label: words[number % 2]}).values()))
        test = [test_columns]
        for number in range(5):
            row = {name: str(number) for name in test_columns.split("\t")}
            test.append("\t".join((row | dict.fromkeys(task.texts, TEXTS[number % 4])).values()))
        for split in task.files:
            content = test if split.startswith("test") else lines
            (place / folder / f"{split}.tsv").write_text("\n".join(content) + "\n")
    (place / "diagnostic").mkdir()
    rows = ["index\tsentence1\tsentence2", *(f"{n}\t{TEXTS[n]}\tthe bird" for n in range(3))]
    (place / "diagnostic" / "diagnostic.tsv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """GLUE in `glue`, and a finished run on each of its tasks in `runs`."""
    place = tmp_path_factory.mktemp("submit")
    write_glue(place / "glue")
    write_encoder(place / "hf", TEXTS)
    for name in GLUE:
        folders = place / "glue", place / "hf", place / "runs" / name / "seed-0"
        flags = finetune_flags(f"glue.py:{name}", *folders, steps=1)
        assert run(*flags) == 0
    return place


def test_a_zip_of_all_tasks(place, capsys):
    """What gluebenchmark.com takes: eleven files, a line for each example, in its words."""
    asked = ["predict", f"--run_dir={place}/runs", "--split=test"]
    # A seed with a lower score is not asked, and could not be.
    worse = shutil.copytree(place / "runs" / "rte" / "seed-0", place / "runs" / "rte" / "seed-1")
    results = json.loads((worse / "results.json").read_text())
    results["dev"]["accuracy"] = -1.0
    (worse / "results.json").write_text(json.dumps(results))
    shutil.rmtree(worse / "checkpoints")
    output = place / "made" / "glue_submission.zip"
    assert run(*asked, f"--output={output}") == 0
    with zipfile.ZipFile(output) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    words = {"0", "1"}
    entailment = {"entailment", "neutral", "contradiction"}
    two = {"entailment", "not_entailment"}
    expected = dict.fromkeys(("CoLA", "SST-2", "MRPC", "QQP", "WNLI"), words)
    expected |= dict.fromkeys(("MNLI-m", "MNLI-mm", "AX"), entailment)
    expected |= dict.fromkeys(("QNLI", "RTE"), two)
    assert set(files) == {f"{name}.tsv" for name in (*expected, "STS-B")}
    for name, text in files.items():
        header, *lines = text.splitlines()
        assert header == "index\tprediction"
        count = 3 if name == "AX.tsv" else 5
        assert [line.split("\t")[0] for line in lines] == [str(n) for n in range(count)]
        found = {line.split("\t")[1] for line in lines}
        if name == "STS-B.tsv":
            assert all(0 <= float(value) <= 5 for value in found)
        else:
            assert found <= expected[name.removesuffix(".tsv")]
    # Again: what is there is looked at and kept.
    capsys.readouterr()
    kept = output.with_suffix("") / "QQP.tsv"
    before = kept.stat().st_mtime_ns
    (output.with_suffix("") / "CoLA.tsv").unlink()
    assert run(*asked, f"--output={output}") == 0
    assert kept.stat().st_mtime_ns == before
    assert "QQP.tsv is there already" in capsys.readouterr().out
    assert (output.with_suffix("") / "CoLA.tsv").read_text() == files["CoLA.tsv"]
    # Predictions that end too early, and those of another task.
    kept.write_text(files["QQP.tsv"].rsplit("\n", 2)[0] + "\n")
    assert run(*asked, f"--output={output}") == 65
    assert "QQP.tsv has 4 predictions for 5 examples" in capsys.readouterr().err
    kept.write_text(files["RTE.tsv"])
    assert run(*asked, f"--output={output}") == 65
    assert "QQP.tsv, line 2: prediction" in capsys.readouterr().err


def test_a_split_as_a_table(place, tmp_path):
    """The same predictions beside the texts, of any split."""
    asked = ["predict", f"--run_dir={place}/runs/mnli/seed-0"]
    output = tmp_path / "out.jsonl"
    assert run(*asked, "--split=test_ax", f"--output={output}") == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text_a"] for row in rows] == TEXTS[:3]
    assert "label" not in rows[0]
    for suffix in (".jsonl", ".csv"):
        labelled = tmp_path / f"dev{suffix}"
        assert run(*asked, "--split=dev_matched", f"--output={labelled}") == 0
        words = ["entailment", "neutral", "entailment", "neutral"]
        assert [row["label"] for row in rows_of(labelled)] == words
    assert run(*asked, "--split=test", f"--output={tmp_path}/files") == 0
    lines = (tmp_path / "files" / "AX.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == [row["prediction"] for row in rows]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [
        "AX.tsv",
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--split=dev", "--output=files"], "expected --split=test, or an output .jsonl"),
        (["--split=test", "the river"], "expected one of texts"),
        (["--data_dir=glue", "the river"], "--data_dir: expected --split=NAME beside it"),
        (["--split=valid"], "no such split; expected one of train, dev, test"),
    ],
)
def test_mistakes_are_named(place, flags, words, capsys, monkeypatch):
    """Before anything is computed."""
    monkeypatch.chdir(place)
    assert run("predict", "--run_dir=runs/cola/seed-0", *flags) == 2
    assert words in capsys.readouterr().err


def rows_of(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_stand_beside_predicted_numbers(place, tmp_path):
    """As they are in the file, and not as float32 has them."""
    output = tmp_path / "out.csv"
    flags = [f"--run_dir={place}/runs/stsb/seed-0", "--split=dev", f"--output={output}"]
    assert run("predict", *flags) == 0
    assert [row["label"] for row in rows_of(output)] == ["0.5", "4.0", "0.5", "4.0"]


def test_all_that_is_lacking_is_said_before_the_first_prediction(place, tmp_path, capsys):
    """Hours of predictions were made before the last task's test file was missed."""
    data = shutil.copytree(place / "glue", tmp_path / "glue")
    for file in ("QQP/test.tsv", "MNLI/test_matched.tsv", "WNLI/test.tsv"):
        (data / file).unlink()
    asked = ["predict", f"--run_dir={place}/runs", "--split=test", f"--data_dir={data}"]
    assert run(*asked, f"--output={tmp_path}/x.zip") == 2
    said = capsys.readouterr().err
    for file in ("QQP/test.tsv", "MNLI/test_matched.tsv", "WNLI/test.tsv"):
        assert f"{data}/{file} is missing" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glue"]


def test_other_data_needs_no_train_file(place, tmp_path, capsys):
    """Its labels are in the run; what is asked for is what has to be there."""
    data = shutil.copytree(place / "glue" / "RTE", tmp_path / "glue" / "RTE").parent
    (data / "RTE" / "train.tsv").unlink()
    asked = [f"--run_dir={place}/runs/rte/seed-0", f"--data_dir={data}"]
    assert run("evaluate", *asked) == 0
    (data / "RTE" / "dev.tsv").unlink()
    assert run("predict", *asked, "--split=test", f"--output={tmp_path}/x.csv") == 0
    assert len(rows_of(tmp_path / "x.csv")) == 5
    capsys.readouterr()
    assert run("evaluate", *asked) == 2
    assert "RTE/dev.tsv is missing; there are: test.tsv" in capsys.readouterr().err
    assert run("evaluate", *asked, "--split=test") == 2
    assert "split='test' has no labels to score against here; `ptft" in capsys.readouterr().err


def test_runs_that_are_lacking(place, tmp_path, capsys):
    """A server takes no part of its tasks."""
    shutil.copytree(place / "runs" / "cola", tmp_path / "runs" / "cola")
    asked = ["predict", "--split=test", f"--output={tmp_path}/x.zip"]
    assert run(*asked, f"--run_dir={tmp_path}/runs") == 2
    assert "has no finished run on sst2, mrpc" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert run(*asked, f"--run_dir={tmp_path}/none") == 2
    assert "there are tasks of none" in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def multirc(data):
    """Two questions on a passage, of two answers and one."""
    questions = [
        {"question": "who?", "idx": 4, "answers": [{"text": TEXTS[0], "idx": 7, "label": 1}]},
        {"question": "what?", "idx": 5, "answers": [{"text": "x", "idx": 8, "label": 0}] * 2},
    ]
    record = {"idx": 3, "passage": {"text": TEXTS[2], "questions": questions}}
    for split in ("train", "val", "test"):
        write(data / "MultiRC" / f"{split}.jsonl", record)
    return "superglue.py:multirc", "MultiRC.jsonl"


def record(data):
    """A query about the entities of a passage; another name of the right one is right as well."""
    entities = [{"start": 0, "end": 8}, {"start": 13, "end": 18}]
    queries = [
        {
            "query": "@placeholder is lovely",
            "idx": 9,
            "answers": [{"text": "the river"}, {"text": "The River!"}],
        }
    ]
    passage = {"text": "the river is lovely", "entities": entities}
    for split in ("train", "val", "test"):
        write(data / "ReCoRD" / f"{split}.jsonl", {"passage": passage, "qas": queries})
    return "superglue.py:record", "ReCoRD.jsonl"


def chid(data):
    """Two gaps with the same two idioms, each of which fills one."""
    content = ["the #idiom000007# is lovely", "a #idiom000008# is awful"]
    for split in ("train", "dev", "test1.1"):
        write(data / "chid" / f"{split}.json", {"content": content, "candidates": TEXTS[:2]})
        answers = {"#idiom000007#": 0, "#idiom000008#": 1}
        (data / "chid" / f"{split}_answer.json").write_text(json.dumps(answers))
    (data / "chid" / "test1.1_answer.json").unlink()
    return "clue.py:chid", "chid11_predict.json"


@pytest.mark.parametrize("task", [multirc, record, chid])
def test_tasks_with_a_form_of_their_own(place, task, tmp_path):
    """Nested answers, texts for labels, and idioms by the names of their gaps."""
    config, file = task(tmp_path / "data")
    folders = tmp_path / "data", place / "hf", tmp_path / "run"
    flags = finetune_flags(config, *folders, steps=1)
    assert run(*flags) == 0
    asked = [f"--run_dir={tmp_path}/run", "--split=test", f"--output={tmp_path}/files"]
    assert run("predict", *asked) == 0
    text = (tmp_path / "files" / file).read_text()
    results = json.loads((tmp_path / "run" / "results.json").read_text())["dev"]
    if task is multirc:
        found = json.loads(text)
        labels = [one.pop("label") for q in found["passage"]["questions"] for one in q["answers"]]
        assert set(labels) <= {0, 1}
        assert found == {
            "idx": 3,
            "passage": {
                "questions": [
                    {"idx": 4, "answers": [{"idx": 7}]},
                    {"idx": 5, "answers": [{"idx": 8}, {"idx": 8}]},
                ]
            },
        }
    elif task is record:
        found = json.loads(text)
        assert found["idx"] == 9
        # As the official script scores them: articles and punctuation do not count.
        right = {"the river": (1.0, 1.0), "lovely": (0.0, 0.0)}
        assert (results["f1"], results["exact_match"]) == right[found["label"]]
    else:
        found = json.loads(text)
        assert sorted(found.values()) == [0, 1]
        assert results["accuracy"] == float(found["#idiom000007#"] == 0)
