"""The task table against the official figures, and the ways in which files can be wrong."""

import json
import math

import numpy as np
import pytest

from ptft_jax.data.tasks.catalogue import load_task, tasks_of
from ptft_jax.data.tasks.files.reading import Needed
from ptft_jax.data.tasks.table import TableSettings
from ptft_jax.errors import ConfigError, DataError

# Official numbers of rows in train, dev and test (https://gluebenchmark.com, TFDS `glue`).
OFFICIAL_COUNTS = {
    "cola": {"train": 8551, "dev": 1043, "test": 1063},
    "sst2": {"train": 67349, "dev": 872, "test": 1821},
    "mrpc": {"train": 3668, "dev": 408, "test": 1725},
    "stsb": {"train": 5749, "dev": 1500, "test": 1379},
    "qnli": {"dev": 5463, "test": 5463},
    "mnli": {"dev_matched": 9815, "dev_mismatched": 9832},
    "rte": {"train": 2490, "dev": 277, "test": 3000},
    "wnli": {"train": 635, "dev": 71, "test": 146},
}
# Labels and first words of the first dev example, read off the files by eye.
FIRST_DEV = {
    "cola": ("acceptable", "The sailors rode", None),
    "sst2": ("positive", "it 's a charming", None),
    "mrpc": ("equivalent", "He said the foodservice", '" The foodservice pie'),
    "stsb": (5.0, "A man with a hard hat", "A man wearing a hard hat"),
    "qqp": ("duplicate", "How imminent is World War three?", "Is a third World War imminent?"),
    "mnli": ("neutral", "The new rights are nice enough", "Everyone really likes"),
    "qnli": ("entailment", "What came into force", "As of that day"),
    "rte": ("not_entailment", "Dana Reeve", "Christopher Reeve had"),
    "wnli": ("not_entailment", "The drain is clogged", "The hair has to be cleaned"),
}


@pytest.mark.parametrize("name", tasks_of("glue"))
def test_real_glue_files(name, shared_data):
    """All nine tasks are read from the standard layout, with the official number of examples."""
    data = load_task(name, shared_data / "glue")
    for split, count in OFFICIAL_COUNTS.get(name, {}).items():
        assert len(data.splits[split]) == count, split
    assert data.eval_splits == (("dev_matched", "dev_mismatched") if name == "mnli" else ("dev",))
    for split_name, split in data.splits.items():
        assert len(split.texts_a) == len(split)
        assert (split.texts_b is None) == (name in ("cola", "sst2"))
        assert (split.labels is None) == split_name.startswith("test")
        if split.labels is not None:
            assert split.labels.shape == (len(split),)
            assert split.labels.dtype == (np.float32 if name == "stsb" else np.int32)
            if data.label_names:  # every class occurs
                assert set(split.labels.tolist()) == set(range(data.num_labels))
    dev = data.splits[data.eval_splits[0]]
    assert dev.labels is not None
    label, text_a, text_b = FIRST_DEV[name]
    found = data.label_names[int(dev.labels[0])] if data.label_names else float(dev.labels[0])
    assert found == label
    assert dev.texts_a[0].startswith(text_a)
    if text_b is not None:
        assert dev.texts_b is not None
        assert dev.texts_b[0].startswith(text_b)


def test_label_order_is_that_of_tfds():
    """Label i means the same in TFDS, Hugging Face and here; the builders know it offline."""
    from tensorflow_datasets.text.glue import Glue

    for name, task in tasks_of("glue").items():
        theirs = vars(Glue.builder_configs[name])["label_classes"]
        assert task.label_names == tuple(theirs or ())


@pytest.fixture
def glue(tmp_path):
    """A GLUE folder with a tiny MRPC and QQP."""
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "QQP").mkdir()
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "MRPC" / name).write_text(header + "1\t2\t3\ta\tb\n0\t2\t3\tc\td\n", "utf-8")
        (tmp_path / "QQP" / name).write_text(
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "1\t1\t1\ta\tb\t1\n2\t2\t2\tcut off\n3\t3\t3\tc\td\t0\n"
        )
    return tmp_path


def test_cut_off_rows_of_qqp_are_left_out(glue):
    """The official QQP files have such rows, which are not in the official counts.

    A folder without the unlabelled test files is whole.
    """
    data = load_task("qqp", glue)
    assert list(data.splits) == ["train", "dev"]
    assert data.splits["train"].texts_a == ["a", "c"]
    np.testing.assert_array_equal(data.splits["train"].labels, [1, 0])


def test_wrong_label_names_file_line_value_and_set(glue):
    """A label outside the task's set must not become a class id."""
    path = glue / "MRPC" / "dev.tsv"
    path.write_text(path.read_text("utf-8") + "2\t2\t3\te\tf\n", "utf-8")
    with pytest.raises(DataError, match=r"dev\.tsv, line 4: label '2' .* not in the set: 0, 1"):
        load_task("mrpc", glue)


def test_score_out_of_range(tmp_path):
    """STS-B's scores lie in 0–5; another number means another column was read."""
    (tmp_path / "STS-B").mkdir()
    for name, score in (("train.tsv", "5.000"), ("dev.tsv", "5.5")):
        (tmp_path / "STS-B" / name).write_text(f"sentence1\tsentence2\tscore\na\tb\t{score}\n")
    with pytest.raises(DataError, match=r"dev\.tsv, line 2: score '5\.5' .* from 0 to 5"):
        load_task("stsb", tmp_path)


def test_missing_folder_file_and_column(glue, tmp_path):
    """The message says what is there, so that a wrong data_dir is seen at once."""
    with pytest.raises(ConfigError, match=r"no task 'sst-2' \(did you mean 'sst2'\?\)"):
        load_task("sst-2")
    with pytest.raises(ConfigError, match=r"no folder 'RTE'.*there are: MRPC/, QQP/"):
        load_task("rte", glue)
    with pytest.raises(ConfigError, match="give the folder above it"):
        load_task("mrpc", glue / "MRPC")
    with pytest.raises(ConfigError, match="does not exist"):
        load_task("mrpc", glue / "nowhere")
    (glue / "MRPC" / "dev.tsv").unlink()
    with pytest.raises(ConfigError, match=r"dev\.tsv is missing; there are: train\.tsv"):
        load_task("mrpc", glue)
    (glue / "MRPC" / "train.tsv").write_text("quality\t#1 String\t#2 String\n1\ta\tb\n")
    with pytest.raises(DataError, match=r"no column 'Quality' \(did you mean 'quality'\?\)"):
        load_task("mrpc", glue)


def rows(path, columns, values):
    """Writes a table in the format of the path's suffix."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in values]
    else:
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(map(str, row)) for row in (columns, *values)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_any_table(tmp_path, suffix):
    """Labels come from the train file, sorted; a pair column and column names are settings."""
    columns = ("first", "second", "kind")
    rows(tmp_path / f"train{suffix}", columns, [("a", "b", "y"), ("c", "d", "x")])
    rows(tmp_path / f"dev{suffix}", columns, [("e", "f", "y")])
    rows(tmp_path / f"test{suffix}", columns[:2], [("g", "h")])
    data = load_task("text", tmp_path, TableSettings("first", "second", "kind"))
    assert (data.label_names, data.num_labels) == (("x", "y"), 2)
    assert data.eval_splits == ("dev",)
    train, dev, test = (data.splits[name] for name in ("train", "dev", "test"))
    assert (train.texts_a, train.texts_b) == (["a", "c"], ["b", "d"])
    np.testing.assert_array_equal(train.labels, [1, 0])
    np.testing.assert_array_equal(dev.labels, [1])
    assert test.labels is None


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 1], ("1", "9", "10")),
        (["10", "b", "9"], ("10", "9", "b")),
        ([True, False, True], ("false", "true")),
        ([0.5, -1, 2], ("-1", "0.5", "2")),
    ],
)
def test_label_order_of_a_table(tmp_path, labels, names):
    """Labels that are all numbers are ordered by value, so that ids 0, 1, 2 stay what they were."""
    for split in ("train", "dev"):
        rows(tmp_path / f"{split}.jsonl", ("text", "label"), [("t", label) for label in labels])
    assert load_task("text", tmp_path).label_names == names


def test_scores_of_a_table(tmp_path):
    """Scores are float32, any finite number, and there are no label names."""
    for split in ("train", "dev"):
        rows(tmp_path / f"{split}.csv", ("text", "label"), [("t", -1.5), ("u", 20)])
    data = load_task("text", tmp_path, TableSettings(regression=True))
    assert (data.label_names, data.num_labels) == (None, 1)
    np.testing.assert_array_equal(data.splits["train"].labels, np.float32([-1.5, 20]), strict=True)
    rows(tmp_path / "train.csv", ("text", "label"), [("t", n / 10) for n in range(40)])
    with pytest.raises(ConfigError, match=r"40 different numbers, like 0\.0; .*table\.regression="):
        load_task("text", tmp_path)
    rows(tmp_path / "dev.csv", ("text", "label"), [("t", "nan")])
    with pytest.raises(DataError, match=r"dev\.csv, line 2: score 'nan' .* a finite number"):
        load_task("text", tmp_path, TableSettings(regression=True))


def test_bad_tables(tmp_path):
    """Each fault of one's own table is one error that names it."""
    with pytest.raises(ConfigError, match=r"needs --config\.data_dir"):
        load_task("text")
    with pytest.raises(ConfigError, match="is not a folder"):
        load_task("text", tmp_path / "nowhere")
    rows(tmp_path / "train.csv", ("text", "label"), [("a", "x"), ("b", "y")])
    with pytest.raises(ConfigError, match=r"no dev\.csv, .*; there are: train\.csv"):
        load_task("text", tmp_path)
    rows(tmp_path / "dev.csv", ("text", "label"), [("a", "x"), ("b", "z")])
    with pytest.raises(DataError, match=r"dev\.csv, line 3: label 'z' .* not in the set: x, y"):
        load_task("text", tmp_path)
    columns = r"no column 'sentence'; its columns are: text, label"
    other = TableSettings(text_column="sentence")
    with pytest.raises(DataError, match=rf"{columns}; --config\.table\.text_column names another"):
        load_task("text", tmp_path, other)
    # A finished run has its columns: there is no flag to name others.
    with pytest.raises(DataError, match=f"{columns}$"):
        load_task("text", tmp_path, other, Needed(("dev",), ("x", "y")))
    rows(tmp_path / "train.csv", ("text", "label"), [("a", "x"), ("b", "x")])
    with pytest.raises(DataError, match="at least two different labels"):
        load_task("text", tmp_path)
    rows(tmp_path / "train.csv", ("text", "label"), [("a", "x"), ("b", "")])
    with pytest.raises(DataError, match=r"line 3: column 'label' holds ''; expected a label"):
        load_task("text", tmp_path)


@pytest.mark.parametrize("value", [3, None, ["a"]])
def test_text_that_is_no_text(tmp_path, value):
    """A number or null in the text field of JSON lines is not read as a text."""
    rows(tmp_path / "train.jsonl", ("text", "label"), [("a", "x"), (value, "y")])
    rows(tmp_path / "dev.jsonl", ("text", "label"), [("a", "x")])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: column 'text' holds"):
        load_task("text", tmp_path)


def table_task(folder, **files):
    """Loads a table from the rows of its files; the suffix is .jsonl where rows are dicts."""
    for split, rows in files.items():
        if isinstance(rows[0], dict):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text)
        else:
            (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return load_task("text", folder)


def test_one_label_is_one_class_however_it_is_written(tmp_path):
    """A blank or a character without width behind it, and 1.0 for 1, made classes of their own."""
    rows = ["a,pos", "b,neg", "c, pos", "d,pos\u200b", "e,\ufeffneg\u00a0"]
    task = table_task(tmp_path, train=rows, dev=rows[:2])
    assert task.label_names == ("neg", "pos")
    assert task.splits["train"].labels.tolist() == [1, 0, 1, 1, 0]
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    rows = [{"text": "a", "label": label} for label in (1, 0, 1.0, 2.5)]
    task = table_task(numbers, train=rows, dev=rows[:2])
    assert task.label_names == ("0", "1", "2.5")
    assert task.splits["train"].labels.tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (math.nan, r"line 3: column 'label' holds nan; expected a label on every row"),
        (math.inf, r"line 3: column 'label' holds inf"),
        (None, r"line 3: column 'label' holds None"),
        (True, r"line 3: column 'label' holds true or false here and a number in .*line 1"),
        ("1", r"line 3: column 'label' holds a text here and a number in .*line 1"),
    ],
)
def test_what_is_no_label_is_no_class(tmp_path, label, message):
    """A missing value became a class called nan, and true one beside 1."""
    rows = [{"text": "a", "label": one} for one in (1, 0, label)]
    with pytest.raises(DataError, match=message):
        table_task(tmp_path, train=rows, dev=rows[:2])


def test_half_a_character_is_no_label(tmp_path):
    """No file could be written with it: the run ended in a traceback."""
    rows = [{"text": "a", "label": "bad\ud83d"}, {"text": "b", "label": "ok"}]
    with pytest.raises(DataError, match="half of a surrogate pair"):
        table_task(tmp_path, train=rows, dev=rows)


@pytest.mark.parametrize("absent", [-1, None, ""])
def test_a_test_split_without_labels_may_have_the_column(tmp_path, absent):
    """Public test sets hold -1, null or nothing there; a label among them is still read."""
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    task = table_task(tmp_path, train=rows, dev=rows, test=[{"text": "c", "label": absent}] * 2)
    assert task.splits["test"].labels is None
    task = table_task(tmp_path, train=rows, dev=rows, test=rows)
    assert task.splits["test"].labels.tolist() == [0, 1]


def test_columns_without_a_name_are_nobodys(tmp_path):
    """Spreadsheets leave some behind; two of them were "a column that occurs more than once"."""
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text("text,label,,\na,pos,,\nb,neg,,\n")
    assert load_task("text", tmp_path).label_names == ("neg", "pos")
