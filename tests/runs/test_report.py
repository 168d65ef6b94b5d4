"""The page of a fine-tuned run: its numbers, what it makes of hostile texts, and its failures."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from command_line import finetune_flags, results, run, sentences
from foreign_folders import make_folders
from report_pages import ReportPage, check_scores
from sklearn.metrics import confusion_matrix
from tokenizer_checks import wordpiece

import ptft_jax
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.objectives.scores.squad import score_answers
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.kinds.span import Answered
from ptft_jax.runs.report.chart import Series, chart
from ptft_jax.runs.report.html import element, table
from ptft_jax.runs.report.measures import wilson
from ptft_jax.runs.report.page import write_report
from ptft_jax.runs.report.parts import Analysis, Wrong, worst_errors
from ptft_jax.runs.report.slices import Slice, by_size, text_slices, worst_slices

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"""the river is "dull" {SCRIPT} <img src=x onerror='alert(2)'> &amp; \u202e \x01 a]]>"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on single texts, one of which is hostile, as a label's name is."""
    place = make_folders(tmp_path_factory.mktemp("report"))
    (place / "hostile").mkdir()
    rows = [(text, SCRIPT if label else "bad") for text, label in sentences(40, 3)]
    for split in ("train", "dev"):
        with (place / "hostile" / f"{split}.csv").open("w", newline="") as file:
            lines = [("text", "label"), (HOSTILE, SCRIPT), *rows, (HOSTILE, "bad")]
            csv.writer(file).writerows(lines)
    changes = {"eval_every": 20, "epochs": 10, "optimizer.learning_rate": 0.005}
    changes |= {"model.hidden_dropout_prob": 0.0, "length_buckets": "(8,16)"}
    flags = finetune_flags("text.py", place / "hostile", place / "hf", place / "tuned", **changes)
    assert run(*flags) == 0
    return place


def test_the_page_holds_the_runs_numbers(place):
    page = ReportPage(place / "tuned" / "report.html")
    check_scores(page, results(place / "tuned"))
    run_ = ptft_jax.load_run(place / "tuned")
    with (place / "hostile" / "dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with pytest.warns(UserWarning, match="2 of 42 texts are longer than the 16 tokens"):
        predicted = [one["label"] for one in run_.predict([row["text"] for row in rows])]
    labels = sorted({row["label"] for row in rows})
    expected = confusion_matrix([row["label"] for row in rows], predicted, labels=labels)
    head, *cells = page.tables["Confusion matrix"]
    assert head == ["label", *labels, "all"]
    found = [[int(cell.replace("·", "0")) for cell in row[1:-1]] for row in cells]
    assert found == expected.tolist()
    assert np.count_nonzero(expected) > 2
    wrong = int(expected.sum() - np.trace(expected))
    assert f", {min(wrong, 20)} of {wrong} that are wrong." in page.texts["Worst errors"]
    changed = {row[0]: row[1:] for row in page.tables["Settings that are not the defaults"][1:]}
    assert changed["optimizer.learning_rate"] == ["0.005", "2e-05"]
    assert changed["length_buckets"] == ["(8, 16)", "(32, 64, 96, 128)"]
    assert changed["eval_every"] == ["20", "None"]
    assert "optimizer.weight_decay" not in changed
    assert str(place / "tuned") in page.texts["To make it again"]


def test_hostile_texts_are_shown_and_not_followed(place):
    """`ReportPage` knows no script, no handler and no address; what was written is text again."""
    written = (place / "tuned" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in written
    assert "<img" not in written
    assert "http" not in written.replace("http-equiv", "")
    assert "default-src 'none'" in written
    page = ReportPage(place / "tuned" / "report.html")
    assert [row[0] for row in page.tables["Scores per class"][1:]].count(SCRIPT) == 1
    # One of the two that have this text is wrong.
    assert HOSTILE.replace("\x01", "\ufffd") in page.texts["Worst errors"]


def test_the_page_of_an_evaluation(place, tmp_path, capsys):
    """Of another checkpoint or other data, to a file of one's own; the run's page stays."""
    before = (place / "tuned" / "report.html").read_bytes()
    file = tmp_path / "again.html"
    flags = ["evaluate", f"--run_dir={place / 'tuned'}", f"--report={file}"]
    assert run(*flags) == 0
    assert str(file) in capsys.readouterr().out.replace("\n", "")
    assert ReportPage(file).scores() == ReportPage(place / "tuned" / "report.html").scores()
    assert (place / "tuned" / "report.html").read_bytes() == before
    assert run(*flags[:2], f"--report={tmp_path / 'none' / 'again.html'}") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_page_says_of_which_data_its_training_examples_are(place, tmp_path):
    """It said of a run that it was trained on as many as other data has, on which it was scored."""
    other = shutil.copytree(place / "hostile", tmp_path / "other")
    lines = (other / "train.csv").read_text().splitlines(keepends=True)
    (other / "train.csv").write_text("".join(lines[:11]))
    flags = [f"--run_dir={place / 'tuned'}", f"--data_dir={other}"]
    assert run("evaluate", *flags, f"--report={tmp_path / 'other.html'}") == 0
    for file, count in ((tmp_path / "other.html", 10), (place / "tuned" / "report.html", 42)):
        page = ReportPage(file)
        assert "trained on" not in page.texts[""]
        assert "trained for53 updates of 8 examples" in page.texts[""]
        assert f"of data with {count} training examples" in page.texts[""]
        head, *rows = page.tables["Scores per class"]
        assert head[-1] == "in this data's train"
        assert sum(int(row[-1]) for row in rows) == count


def test_a_page_that_fails_loses_no_run(place, tmp_path, monkeypatch, capsys):
    """The run is finished all the same, and says what is missing."""
    flags = finetune_flags("text.py", place / "hostile", place / "hf", tmp_path / "run", steps=1)

    def fails(path, *_):
        raise IsADirectoryError(path)

    monkeypatch.setattr("ptft_jax.runs.report.page.write_report", fails)
    assert run(*flags) == 0
    said = capsys.readouterr().out
    assert "report.html was not written: IsADirectoryError" in said
    assert results(tmp_path / "run")["step"] == 1
    assert "report  " not in said


def test_numbers_that_are_not_known_are_shown_as_such(place, tmp_path):
    """A correlation may be null in results.json, and a run may have no metrics.jsonl any more."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text((place / "tuned" / "config.json").read_text())
    found = {"dev": {"loss": 0.5, "accuracy": None, "f1/A": 0.1}}
    analyses = {"dev": Analysis("3 texts", {"loss": (0.4, 0.6)}, [None])}
    write_report(folder / "page.html", RunFolder(folder), 7, found, analyses, 5)
    page = ReportPage(folder / "page.html")
    rows = [["dev", "loss", "0.5000", "0.4000 to 0.6000"], ["dev", "accuracy", "-", "-"]]
    assert page.tables["Scores"][1:] == rows
    assert "Curves" not in page.texts
    assert "dev: 3 texts" in page.texts[""]


def test_only_parts_of_some_size_are_named():
    """Twenty examples at least, the worst first, marked where chance does not explain it."""
    right = np.ones(200)
    right[:40] = 0.0
    right[100:110] = 0.0
    rows = np.arange(200)
    slices = [
        Slice("small", rows < 19),
        Slice("bad", rows < 50),
        Slice("as the others", (rows >= 60) & (rows < 140)),
        Slice("all", rows >= 0),
    ]
    shown = str(worst_slices(slices, right, "accuracy"))
    assert "2 slices of 20 examples" in shown
    assert '<span class="apart">bad</span>' in shown
    assert "<td>small" not in shown
    assert "as the others" not in shown  # it is better than the mean
    assert worst_slices(slices[:1], right, "accuracy") is None
    errors = str(worst_slices(slices, 1 - right, "error", more_is_better=False))
    assert '<span class="apart">bad</span>' in errors


def test_slices_of_texts():
    texts = ["I don't know.", "Is it 7?", "没有", "A cat sat", "no"]
    found = {one.name: one.rows.tolist() for one in text_slices(texts)}
    assert found["with a negation"] == [True, False, True, False, True]
    assert found["with a number"] == [False, True, False, False, False]
    assert found["with a question mark"] == [False, True, False, False, False]
    pairs = text_slices(["a b", "a b", "a b c d"] * 4, ["a b", "c d", "a b"] * 4)
    shared = {one.name: one.rows[:3].tolist() for one in pairs if "shared" in one.name}
    assert shared["0% of the words shared"] == [False, True, False]
    assert any(rows[0] and not rows[1] for rows in shared.values())
    sizes = by_size(np.array([5] * 50), "tokens")
    assert sizes == []
    parts = by_size(np.arange(100), "tokens")
    assert np.stack([one.rows for one in parts]).sum(axis=0).tolist() == [1] * 100
    assert min(one.rows.sum() for one in parts) >= 24


def test_charts_of_extreme_numbers():
    """One point, equal values, NaN, nothing at all, and 100,000 points, which stay small."""
    for ys in ([1.0], [0.0, 0.0], [1.0, np.nan, 3.0], [], [1e-9, 1e9]):
        drawn = chart("A", [Series(list(range(len(ys))), ys, "a")], x="x", y="y")
        assert "nan" not in drawn.lower()
        assert "inf" not in drawn.lower()
    many = np.linspace(0, 1, 100_000)
    assert len(chart("A", [Series(many, many, "", "points")], x="x", y="y")) < 40_000


@pytest.mark.parametrize(
    "ys", [[8e-6, 1.4e-5], [1e5, 1.8e5], [1_000_000, 1_000_010], [-3e-4, 2e-3], [0.0], [0.7], [1.0]]
)
def test_the_numbers_of_an_axis_are_its_own(ys):
    """Learning rates had 1e-5 three times; one score of 0 stood between -0.4 and 0.4."""
    drawn = chart("A", [Series(list(range(len(ys))), ys)], x="x", y="y")
    shown = [float(one.replace(",", "")) for one in re.findall('class="y">([^<]+)<', drawn)]
    assert len(shown) >= 3
    assert np.diff(shown) == pytest.approx(shown[1] - shown[0], rel=1e-6)
    assert len(ys) > 1 or (min(shown) >= 0 and max(shown) <= 1)


def test_one_evaluation_is_seen():
    """It was a dot of the width of a line."""
    assert 'class="points c0"' in chart("A", [Series([3], [0.7], "dev")], x="x", y="y")
    assert "points" not in chart("A", [Series([3, 4], [0.7, 0.8], "dev")], x="x", y="y")


def test_a_text_is_shown_shorter_where_it_was_shown_before():
    """One passage stood in most errors of MultiRC, whole in each."""
    passage = "it was so. " * 60
    shown = str(worst_errors("", [Wrong("a", "b", [("A", passage), ("B", "why?")])] * 3))
    cut = re.findall(r"<bdi[^>]*>([^<]*…)</bdi>", shown)
    assert [len(one) <= most for one, most in zip(cut, (240, 80, 80), strict=True)] == [True] * 3
    assert len(cut[0]) > 200
    assert shown.count("<bdi>why?</bdi>") == 3


def answered_page(place, texts, sure):
    """The page on 40 questions of which every other has no answer; `texts` were given to them."""
    paragraphs = []
    for number, text in enumerate(["", "d"] * 20):
        answers = [{"text": text, "answer_start": 2}] if text else []
        question = {"id": str(number), "question": "who?", "answers": answers}
        paragraphs.append({"context": "b d c", "qas": [question]})
    for split in ("train", "dev"):
        (place / f"{split}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    config = ptft_jax.get_config("finetune/squad:squad_v2")
    config.data_dir = str(place)
    kind = kind_of("finetune", config)
    dev = kind.task.splits["dev"]
    right = [[answer.text for answer in some] for some in dev.answers]
    scores = score_answers(texts, right, unanswerable=True)
    examples = kind.make_examples(dev, wordpiece([*BERT_TOKENS, "b", "c", "d", "who", "?"]))
    found = kind.analysis(dev, examples, Answered(texts, np.array(sure), scores))
    (place / "page.html").write_text("".join(map(str, filter(None, found.sections))))
    return found.intervals, ReportPage(place / "page.html")


def test_a_page_on_questions_gives_one_interval_of_a_score(tmp_path):
    """It had two methods, one of which was sure of what it never saw."""
    intervals, page = answered_page(tmp_path, [""] * 40, [0.5] * 40)
    _, *rows = page.tables["With and without an answer"]
    for (_, _, value, reach, _), name, expected in zip(
        rows, ("HasAns", "NoAns"), (wilson(0, 20), wilson(20, 20)), strict=True
    ):
        assert intervals[f"{name}_f1"] == intervals[f"{name}_exact"] == expected
        low, high = map(float, reach.split(" to "))
        assert (low, high) == pytest.approx(expected, abs=6e-4)
        assert low <= float(value) <= high


def test_a_page_says_which_questions_were_given_no_answer(tmp_path):
    _, page = answered_page(tmp_path, [""] * 40, [0.5] * 40)
    assert "All 40 questions were given no answer." in page.texts["Worst errors"]
    assert "probability" not in page.texts["Worst errors"]
    _, page = answered_page(tmp_path, ["c", ""] * 20, [0.5] * 40)
    about = "20 of 40, those of the highest probability first, those given no answer last."
    assert about in page.texts["Worst errors"]
    _, page = answered_page(tmp_path, ["c", "d"] * 20, [0.5] * 40)
    assert "20 of 20, those of the highest probability first." in page.texts["Worst errors"]


def test_elements_escape_what_they_hold():
    assert element("p", "a<b", ["&", 3, None], title='"') == '<p title="&quot;">a&lt;b&amp;3</p>'
    shown = table([SCRIPT], [[SCRIPT]])
    assert SCRIPT not in shown


def test_gaps_that_share_their_idioms_are_shown_as_they_are_scored(tmp_path):
    """CHID: two gaps want one idiom, and the surer one takes it; the page tells of that."""
    (tmp_path / "chid").mkdir()
    record = {"content": ["他#idiom1#地走,又#idiom2#。"], "candidates": ["甲甲", "乙乙", "丙丙"]}
    for split in ("train", "dev"):
        (tmp_path / "chid" / f"{split}.json").write_text(json.dumps(record))
        (tmp_path / "chid" / f"{split}_answer.json").write_text('{"#idiom1#": 2, "#idiom2#": 1}')
    config = ptft_jax.get_config("finetune/clue:chid")
    config.data_dir = str(tmp_path)
    kind = kind_of("finetune", config)
    dev = kind.task.splits["dev"]
    examples = kind.make_examples(dev, wordpiece([*BERT_TOKENS, "甲", "乙", "丙"]))
    logits = np.log([[0.1, 0.1, 0.8], [0.1, 0.3, 0.6]])
    assert kind.score(dev, logits) == {"accuracy": 1.0}
    page = "".join(map(str, kind.analysis(dev, examples, logits).sections))
    assert "Worst errors" not in page
