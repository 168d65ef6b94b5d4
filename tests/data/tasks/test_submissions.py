"""Official files of predictions: their forms, beside examples of the benchmarks themselves."""

import json

import numpy as np
import pytest

from ptft_jax.data.tasks.catalogue import TASKS, load_task, tasks_of
from ptft_jax.data.tasks.submissions import ById, IndexedRows, JsonLines, Passages, check_file
from ptft_jax.errors import DataError
from ptft_jax.objectives.scores.metrics import distinct_choices

# What gluebenchmark.com/faq and super.gluebenchmark.com/faq ask for.
GLUE = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX"
SUPERGLUE = "BoolQ CB COPA MultiRC ReCoRD RTE WiC WSC AX-b AX-g"
# CLUE, submit_examples/README.md, the names of version 1.1.
CLUE = "afqmc tnews11 iflytek ocnli_50k cmnli cluewsc11 csl chid11 c311 bustm eprstmt"


@pytest.mark.parametrize(
    ("suite", "names", "ending"),
    [("glue", GLUE, ".tsv"), ("superglue", SUPERGLUE, ".jsonl"), ("clue", CLUE, "_predict.json")],
)
def test_every_file_has_its_official_name(suite, names, ending):
    """The servers go by the name."""
    files = [file for task in tasks_of(suite).values() for file in task.submission.files.values()]
    assert sorted(files) == sorted(f"{name}{ending}" for name in names.split())


PASSAGE = (
    '{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 0}, '
    '{"idx": 1, "label": 1}]}, {"idx": 1, "answers": [{"idx": 2, "label": 1}]}]}}\n'
    '{"idx": 1, "passage": {"questions": [{"idx": 13, "answers": [{"idx": 68, "label": 0}]}]}}\n'
)
EXAMPLES = {
    "GLUE": (
        IndexedRows(),
        ([0, 1], ["entailment", "not_entailment"]),
        "index\tprediction\n0\tentailment\n1\tnot_entailment\n",
    ),
    # From the instructions of the two servers.
    "SuperGLUE": (
        JsonLines("idx"),
        ([0, 1], ["entailment", "not_entailment"]),
        '{"idx": 0, "label": "entailment"}\n{"idx": 1, "label": "not_entailment"}\n',
    ),
    "CLUE": (
        JsonLines("id"),
        ([0, 1], ["0", "1"]),
        '{"id": 0, "label": "0"}\n{"id": 1, "label": "1"}\n',
    ),
    # In the structure of the data, as they ask for.
    "MultiRC": (
        Passages(),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 13, 68)], [0, 1, 1, 0]),
        PASSAGE,
    ),
    "CMRC": (ById(), (["TEST_0_QUERY_1"], ["第二艘"]), '{\n "TEST_0_QUERY_1": "第二艘"\n}\n'),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_file_is_as_its_server_wants_it(name, tmp_path):
    """Letter by letter, and read again as it was written."""
    layout, (ids, answers), text = EXAMPLES[name]
    assert layout.write(ids, answers) == text
    path = tmp_path / ("file.tsv" if name == "GLUE" else "file.json")
    path.write_text(text)
    assert [(found.id, found.answer) for found in layout.read(path)] == [
        *zip(ids, answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\tprediction\n0\t1\n1\t0\n", r"file\.tsv has 2 predictions for 3 examples"),
        ("index\tprediction\n0\t1\n2\t0\n", r"line 3: a prediction for 2 where that for 1 is"),
        ("index\tprediction\n0\tneutral\n1\t0\n2\t0\n", "line 2: prediction 'neutral'; expected"),
        ("id\tlabel\n0\t1\n", "line 1: 'id.tlabel.n'; expected index and prediction"),
        ("index\tprediction\n0 1\n", "line 2: '0 1.n'; expected an index, a tab"),
        ("", "line 1: ''; expected index and prediction"),
    ],
)
def test_a_file_of_other_predictions_is_named(text, message, tmp_path):
    """Shorter than the texts, or of another task: it would be scored as nonsense."""
    (tmp_path / "file.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        check_file(tmp_path / "file.tsv", IndexedRows(), [0, 1, 2], ("0", "1"))


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def test_the_diagnostic_sets(tmp_path):
    """MNLI's and RTE's: labelled or not, under either name of GLUE's columns."""
    header = "sentence1\tsentence2\tgold_label\n"
    (tmp_path / "MNLI").mkdir()
    for split in ("train", "dev_matched", "dev_mismatched"):
        (tmp_path / "MNLI" / f"{split}.tsv").write_text(header + "A.\tB.\tneutral\n")
    (tmp_path / "diagnostic").mkdir()
    (tmp_path / "diagnostic" / "diagnostic.tsv").write_text(
        "index\tsentence1\tsentence2\n0\tThe cat.\tA cat.\n"
    )
    found = load_task("mnli", tmp_path).splits["test_ax"]
    assert (found.texts_a, found.texts_b, found.labels) == (["The cat."], ["A cat."], None)
    (tmp_path / "diagnostic" / "diagnostic-full.tsv").write_text(
        "Logic\tPremise\tHypothesis\tLabel\nNegation\tThe cat.\tNo cat.\tcontradiction\n"
    )
    found = load_task("mnli", tmp_path).splits["test_ax"]
    assert (found.texts_b, list(found.labels)) == (["No cat."], [2])
    assert found.metrics == ("matthews_correlation",)
    pair = {"premise": "A.", "hypothesis": "B.", "label": "entailment", "idx": 5}
    for split in ("train", "val", "test"):
        write(tmp_path / "RTE" / f"{split}.jsonl", pair)
    write(tmp_path / "AX-g" / "AX-g.jsonl", pair)
    other = {"sentence1": "A.", "sentence2": "B.", "label": "not_entailment", "idx": 7}
    write(tmp_path / "AX-b" / "AX-b.jsonl", other)
    splits = load_task("superglue_rte", tmp_path).splits
    assert (splits["test"].ids, splits["test_ax_b"].ids) == ([5], [7])
    assert list(splits["test_ax_b"].labels) == [1]


def test_gaps_that_share_their_idioms(tmp_path):
    """CHID as CLUE has it: answers in a file beside, each idiom for one gap at most."""
    record = {
        "content": ["他#idiom000001#地走,又#idiom000002#。", "她#idiom000003#。"],
        "candidates": ["一目了然", "画蛇添足", "兴高采烈"],
    }
    answers = {"#idiom000001#": 2, "#idiom000002#": 1, "#idiom000003#": 0}
    for split in ("train", "dev"):
        write(tmp_path / "chid" / f"{split}.json", record)
        (tmp_path / "chid" / f"{split}_answer.json").write_text(json.dumps(answers))
    write(tmp_path / "chid" / "test1.1.json", record)
    data = load_task("chid", tmp_path)
    dev = data.splits["dev"]
    assert list(dev.labels) == [2, 1, 0]
    assert dev.choices[0][2] == "他兴高采烈地走,又()。"
    assert dev.choices[1][0] == "他()地走,又一目了然。"
    assert (data.splits["test"].ids, data.splits["test"].labels) == (list(answers), None)
    # The surest gap takes the idiom that two want.
    scores = np.array([[0.1, 0.1, 0.8], [0.0, 0.3, 0.7], [0.5, 0.3, 0.2]])
    assert scores.argmax(axis=1).tolist() == [2, 2, 0]
    assert distinct_choices(scores, dev.groups).tolist() == [2, 1, 0]
    assert distinct_choices(scores, np.array([0, 1, 2])).tolist() == [2, 2, 0]
    write(tmp_path / "chid" / "long.json", {**record, "content": ["字" * 200 + "#idiom1#"]})
    split = TASKS["chid"].read(tmp_path / "chid" / "long.json")
    assert split.choices[0][0] == "字" * 60 + "一目了然"


def test_rows_that_are_cut_off_are_no_rows_to_leave_out_of_a_test_set(tmp_path):
    """All predictions behind one would belong to other questions."""
    (tmp_path / "QQP").mkdir()
    train = "question1\tquestion2\tis_duplicate\nA?\tB?\t0\nA?\n"
    for split in ("train", "dev"):
        (tmp_path / "QQP" / f"{split}.tsv").write_text(train)
    (tmp_path / "QQP" / "test.tsv").write_text("question1\tquestion2\nA?\tB?\nA?\n")
    with pytest.raises(DataError, match=r"test\.tsv, line 3: 1 columns where 2"):
        load_task("qqp", tmp_path)
