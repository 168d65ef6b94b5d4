"""Questions and answers from training to predictions, at tiny sizes.

The answer is the one word of its kind in a made-up context, so that a small model learns to find
it; every other question of the 2.0 files has none.
"""

import json

import numpy as np
import pytest
from command_line import BAD, GOOD, WORDS, finetune_flags, metrics, run
from foreign_folders import make_folders
from report_pages import ReportPage, check_scores

import ptft_jax
from ptft_jax.data.tasks.files.reading import read_table
from ptft_jax.objectives.scores.squad import score_answers

SETTINGS = {
    "max_seq_length": 28,
    "doc_stride": 4,
    "max_query_length": 10,
    "epochs": 30,
    "batch_size": 16,
    "eval_every": 0,
    "checkpoint_every": 0,
    "optimizer.learning_rate": 5e-3,
    "log_every": 50,
    "model.hidden_dropout_prob": 0.0,
}


def write_questions(path, count, seed, *, unanswerable):
    """Writes questions; contexts of 8 to 40 words, so that some have several windows."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(count):
        words = rng.choice(WORDS, rng.integers(8, 40)).tolist()
        answers = []
        if not (unanswerable and number % 2):
            place = int(rng.integers(len(words)))
            words[place] = str(rng.choice(GOOD + BAD))
            start = len(" ".join(words[:place])) + (place > 0)
            answers = [{"text": words[place], "answer_start": start}]
        question = {"id": f"q{number}", "question": " is it?", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"version": "x", "data": [{"paragraphs": paragraphs}]}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs on files of SQuAD 1.1 and 2.0, `run_1.1` and `run_2.0`, from a small encoder."""
    place = make_folders(tmp_path_factory.mktemp("questions"))
    for version in ("1.1", "2.0"):
        for split, count in (("train", 64), ("dev", 24)):
            path = place / version / f"{split}-v{version}.json"
            write_questions(path, count, len(split), unanswerable=version == "2.0")
        settings = SETTINGS | {"version": version}
        folders = place / version, place / "hf", place / f"run_{version}"
        assert run(*finetune_flags("squad.py", *folders, **settings)) == 0
    return place


def answers_of(path):
    """The texts of the answers by question, and the questions with their contexts."""
    paragraphs = json.loads(path.read_text())["data"][0]["paragraphs"]
    questions = [(qa, p["context"]) for p in paragraphs for qa in p["qas"]]
    return (
        {qa["id"]: [answer["text"] for answer in qa["answers"]] for qa, _ in questions},
        [(qa["question"], context) for qa, context in questions],
    )


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_a_run_learns_and_its_predictions_score_what_it_says(place, tmp_path, version, capsys):
    """The official predictions of dev have the F1 and exact match of results.json.

    In 2.0 that is because `predict` takes the threshold that was tuned on dev.
    """
    folder = place / f"run_{version}"
    results = json.loads((folder / "results.json").read_text())["dev"]
    assert results["f1"] > 0.8
    assert metrics(folder)[-1]["f1"] == results["f1"]
    check_scores(ReportPage(folder / "report.html"), {"dev": results})
    file = place / version / f"dev-v{version}.json"
    out = tmp_path / "made" / "predictions.json"
    assert run("predict", f"--run_dir={folder}", f"--input={file}", f"--output={out}") == 0
    said = capsys.readouterr().out
    assert "{id: text}" in said
    assert "columns" not in said
    predicted, (right, _) = json.loads(out.read_text()), answers_of(file)
    for suffix, shown in (("jsonl", list), ("csv", "|".join)):
        asked = ["--split=dev", f"--output={tmp_path}/table.{suffix}"]
        assert run("predict", f"--run_dir={folder}", *asked) == 0
        answers = read_table(tmp_path / f"table.{suffix}").columns["answers"]
        assert answers == [shown(some) for some in right.values()]
    assert predicted.keys() == right.keys()
    scores = score_answers(
        list(predicted.values()), list(right.values()), unanswerable=version == "2.0"
    )
    assert scores.f1.mean() == pytest.approx(results["f1"])
    assert scores.exact_match.mean() == pytest.approx(results["exact_match"])
    if version == "2.0":
        assert results["best_f1"] == pytest.approx(results["f1"])
        has = scores.has_answer
        assert results["HasAns_f1"] == pytest.approx(scores.f1[has].mean())
        assert results["NoAns_exact"] == pytest.approx(scores.exact_match[~has].mean())


def test_evaluate_scores_the_same(place):
    """On its own data, and on a copy of it elsewhere; other questions do not tune the threshold."""
    opened = ptft_jax.load_run(place / "run_2.0")
    expected = json.loads((place / "run_2.0" / "results.json").read_text())["dev"]
    assert opened.evaluate()["dev"] == pytest.approx(expected, rel=1e-4)
    assert opened.evaluate(place / "2.0")["dev"] == pytest.approx(expected, rel=1e-4)
    others = place / "others"
    write_questions(others / "train.json", 2, 1, unanswerable=True)
    write_questions(others / "dev.json", 40, 9, unanswerable=True)
    scored = opened.evaluate(others)["dev"]
    right, questions = answers_of(others / "dev.json")
    texts = [answer["answer"] for answer in opened.predict(questions)]
    mean = score_answers(texts, list(right.values()), unanswerable=True).f1.mean()
    assert scored["f1"] == pytest.approx(mean)
    assert scored["f1"] <= scored["best_f1"]


def test_a_fixed_threshold(place, tmp_path, capsys):
    """A threshold of the config is what scores and predictions go by: here nothing is answered."""
    settings = SETTINGS | {"version": "2.0", "epochs": 1, "null_score_threshold": -1000.0}
    folders = place / "2.0", place / "hf", tmp_path / "run"
    assert run(*finetune_flags("squad.py", *folders, **settings)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["dev"]
    assert (results["f1"], results["HasAns_f1"], results["NoAns_f1"]) == (0.5, 0.0, 1.0)
    assert "all 24 questions were given no answer, and 12 have one" in capsys.readouterr().out
    _, questions = answers_of(place / "2.0" / "dev-v2.0.json")
    found = ptft_jax.load_run(tmp_path / "run").predict(questions)
    assert {answer["answer"] for answer in found} == {""}


def test_a_hugging_face_folder_answers_alike(place, tmp_path):
    """Exported and read by PyTorch: its logits, put together by hand, give the same answers."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    opened = ptft_jax.load_run(place / "run_1.1")
    assert opened.export(tmp_path / "hf").model_class == "BertForQuestionAnswering"
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    _, questions = answers_of(place / "1.1" / "dev-v1.1.json")
    found = opened.predict(questions, top=2)
    several = 0
    for (asked, context), answer in zip(questions, found, strict=True):
        inputs = tokenizer(
            asked.lstrip(),
            context,
            truncation="only_second",
            max_length=SETTINGS["max_seq_length"],
            stride=SETTINGS["doc_stride"],
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
            padding=True,
        )
        several += len(inputs.pop("overflow_to_sample_mapping")) > 1
        places = inputs.pop("offset_mapping")
        with torch.no_grad():
            outputs = model(**inputs)
        sums = outputs.start_logits[:, :, None] + outputs.end_logits[:, None]
        of = [[part == 1 for part in inputs.sequence_ids(n)] for n in range(len(sums))]
        in_context = torch.tensor(of)
        allowed = torch.triu(in_context[:, :, None] & in_context[:, None])
        best = torch.where(allowed, sums, -torch.inf).argmax()
        window, start, end = map(int, torch.unravel_index(best, sums.shape))
        start, end = int(places[window, start, 0]), int(places[window, end, 1])
        assert (answer["start"], answer["end"]) == (start, end)
        assert answer["answer"] == context[start:end]
        assert len(answer["nbest"]) == 2
    assert several > 5
    # Of a folder the length of training is not known: what fits into one window is answered alike.
    short = [(question, " ".join(context.split()[:6])) for question, context in questions]
    again = ptft_jax.load_run(tmp_path / "hf").predict(short)
    assert [one["answer"] for one in again] == [one["answer"] for one in opened.predict(short)]


def test_tables_and_lines_of_questions(place, tmp_path):
    """JSON lines by their columns, lines with a tab; the answers are those of `Run.predict`."""
    _, questions = answers_of(place / "1.1" / "dev-v1.1.json")
    rows = [{"n": n, "context": c, "question": q} for n, (q, c) in enumerate(questions)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "in.txt").write_text("".join(f"{q}\t{c}\n" for q, c in questions))
    expected = ptft_jax.load_run(place / "run_1.1").predict(questions)
    for source in ("in.jsonl", "in.txt"):
        asked = [f"--input={tmp_path / source}", f"--output={tmp_path}/out.jsonl"]
        assert run("predict", f"--run_dir={place}/run_1.1", *asked) == 0
        found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [row["prediction"] for row in found] == [one["answer"] for one in expected]
        for row, (_, context) in zip(found, questions, strict=True):
            assert context[row["start"] : row["end"]] == row["prediction"]
            assert row["nbest"][0]["text"] == row["prediction"]
            assert 0 < row["probability"] <= 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["is it?"], 2, "'is it?' has 0 tabs: expected a question and its context"),
        (["is it?\t "], 2, "'is it?' has an empty context"),
        (["--input={place}/none.json"], 65, "none.json has no questions"),
        (
            ["--input={place}/lines.txt", "--output={place}/out.json"],
            2,
            "answers by the ids of their",
        ),
        (["--input={place}/lines.txt"], 65, "lines.txt: 'what' has 0 tabs"),
    ],
)
def test_what_cannot_be_asked(place, words, code, said, capsys):
    """Each is one line that names the file or the text."""
    (place / "none.json").write_text('{"data": []}')
    (place / "lines.txt").write_text("is it?\tit is\nwhat\n")
    arguments = [word.format(place=place) for word in words]
    assert run("predict", f"--run_dir={place}/run_1.1", *arguments) == code
    assert said in capsys.readouterr().err


def test_misplaced_answers_are_said_on_screen(place, tmp_path, capsys):
    """How many, the first of them, and how many questions are left out for it."""
    for split, count in (("train", 40), ("dev", 4)):
        write_questions(tmp_path / f"{split}.json", count, 5, unanswerable=False)
    content = json.loads((tmp_path / "train.json").read_text())
    (answer,) = content["data"][0]["paragraphs"][3]["qas"][0]["answers"]
    answer["text"] = "nowhere"
    (tmp_path / "train.json").write_text(json.dumps(content))
    folders = tmp_path, place / "hf", tmp_path / "run"
    settings = SETTINGS | {"epochs": 1}
    assert run(*finetune_flags("squad.py", *folders, **settings)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "squad: 39 training examples" in said
    assert "train: 1 answers do not stand at their answer_start; 0 were found elsewhere" in said
    assert "and 1 questions are left out, all of whose answers are lost. q3: 'nowhere' is" in said
    # Scores read texts alone: of other data all can be scored, and it is counted what is misplaced.
    others = tmp_path / "others"
    others.mkdir()
    (others / "dev.json").write_text((tmp_path / "train.json").read_text())
    content["data"][0]["paragraphs"] = content["data"][0]["paragraphs"][3:4]
    (others / "test.json").write_text(json.dumps(content))
    asked = ["evaluate", f"--run_dir={tmp_path}/run", f"--data_dir={others}"]
    capsys.readouterr()
    for split, count in (("dev", 1), ("test", 1)):
        assert run(*asked, f"--split={split}") == 0
        assert f"{split}: {count} answers do not stand" in capsys.readouterr().err
    settings["misplaced_answers_allowed"] = 0.01
    assert run(*finetune_flags("squad.py", *folders, **settings)) == 65
    assert "train.json: 1 of 40 answers do not stand" in capsys.readouterr().err
