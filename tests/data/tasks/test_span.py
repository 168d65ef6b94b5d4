"""Files in the format of SQuAD, the windows of their contexts, and answers from logits.

Windows and targets are compared with Hugging Face's tokenizers, answers with what transformers'
`postprocess_qa_predictions` made of the same logits (hf_span_answers.json).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizer_checks import wordpiece
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from ptft_jax.data.tasks.catalogue import load_task
from ptft_jax.data.tasks.span.examples import SpanExamples
from ptft_jax.data.tasks.span.splits import Answer, SpanSettings, SpanSplit, read_squad
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.objectives.scores.squad import score_answers

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"])
CONTEXT = "The cat sat on the mat. It was fat."


def question(name="q1", answers=(("sat", 8),), **more):
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "What did it do?", "answers": found} | more


def write(path, *questions, context=CONTEXT):
    paragraphs = [{"context": context, "qas": list(questions)}]
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]}))
    return path


def split_of(questions, contexts, answers=None):
    """A split with a context for each question."""
    ids = [f"q{number}" for number in range(len(questions))]
    return SpanSplit(contexts, list(range(len(contexts))), questions, ids, answers, "here")


def test_real_files(shared_data):
    """Counts are those of the files; all but CMRC's answers stand where they say."""
    squad = read_squad(shared_data / "squad" / "squad-v2.0.half_no_xquad.json", unanswerable=True)
    assert (len(squad), len(squad.contexts), squad.misplaced) == (5349, 568, ())
    assert squad.questions[0] == "In what country is Normandy located?"
    assert squad.answers is not None
    assert squad.answers[0][0] == Answer("France", 159)
    assert not any(text[:1].isspace() for text in squad.questions)
    # 193 answers of CMRC were made up by their annotators and are marked with answer_start -1; 7
    # are one or two characters off, and are where they occur.
    cmrc = read_squad(shared_data / "cmrc2018" / "cmrc2018_dev.json")
    assert (len(cmrc), len(cmrc.misplaced)) == (3219, 200)
    assert sum(one.start is None and one.stated == -1 for one in cmrc.misplaced) == 193
    for split in (squad, cmrc):
        assert split.answers is not None
        for row, answers in enumerate(split.answers):
            context = split.contexts[split.context_of[row]]
            for text, start in answers:
                assert start is None or context[start : start + len(text)] == text


def test_no_answer_has_a_place(tmp_path):
    """All questions were left out, and a division by their number came to light."""
    question = {"id": "1", "question": "q", "answers": [{"text": "nowhere", "answer_start": 0}]}
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.json", question)
    with pytest.raises(DataError, match=r"train\.json: no answer of any question stands in its"):
        load_task("squad", tmp_path, SpanSettings(misplaced_answers_allowed=1.0))


def test_misplaced_answers(tmp_path):
    """What occurs once is mended; what does not is scored, not learnt; too many are refused."""
    questions = [question(f"q{n}") for n in range(7)]
    off = [question("off", [("cat", 5)]), question("twice", [("at", 7)])]
    write(tmp_path / "train.json", *questions, *off)
    with pytest.raises(DataError, match=r"train\.json: 2 of 9 answers .* off: 'cat' is said"):
        read_squad(tmp_path / "train.json")
    found = read_squad(tmp_path / "train.json", misplaced_allowed=0.25)
    assert found.answers is not None
    assert found.answers[7:] == [(Answer("cat", 4),), (Answer("at", None),)]
    assert str(found.misplaced[1]) == (
        "twice: 'at' is said to be at 7, where ' s' stands; it was found in no one place"
    )
    (tmp_path / "dev.json").write_text((tmp_path / "train.json").read_text())
    data = load_task("squad", tmp_path, SpanSettings(misplaced_answers_allowed=0.25))
    assert (len(data.splits["train"]), data.splits["train"].unplaced) == (8, 1)
    assert len(data.splits["dev"]) == 9
    assert data.splits["dev"].fingerprint() != data.splits["train"].fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([question(answers=[("dog", 4)])], r"1 of 1 answers .* q1: 'dog' .* 'cat' stands"),
        (
            [question(), question()],
            r"qas\[1\] \(id 'q1'\) has the id of data\[0\]",
        ),
        ([question(answers=[])], r"\(id 'q1'\) has no answer; expected one, or --config.version"),
        ([question(question=None)], r"\(id 'q1'\) holds None as 'question'; expected a text"),
        ([{"id": "q1", "answers": []}], r"\(id 'q1'\) has no key 'question'; its keys are: id, an"),
        ([{"question": "What?"}], r"qas\[0\] has no key 'id'"),
        ([question(), {"id": "q2", "question": "?"}], r"\(id 'q2'\) has no key 'answers', unlike"),
        ([question(answers=[("sat", 8.0)])], r"\(id 'q1'\) holds 8.0 as 'answer_start'"),
        (["q1"], r"qas\[0\] holds a str where an object with 'id'"),
        ([], r"bad\.json has no questions"),
    ],
)
def test_bad_files(tmp_path, content, message):
    """Each fault is one error that names the file and the question."""
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "bad.json", *content))


def test_bad_places(tmp_path):
    with pytest.raises(DataError, match=r"data\[0\]\.paragraphs\[0\] has an empty 'context'"):
        read_squad(write(tmp_path / "bad.json", question(), context=" \n"))
    (tmp_path / "bad.json").write_text('{"data": [{"paragraphs": [{"context": "a"}]}]}')
    with pytest.raises(DataError, match=r"paragraphs\[0\] has no key 'qas'; its keys are: context"):
        read_squad(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"data": {}}')
    with pytest.raises(DataError, match="the file holds no list as 'data'"):
        read_squad(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("id,question")
    with pytest.raises(DataError, match="is not JSON"):
        read_squad(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="no such file"):
        read_squad(tmp_path / "nowhere.json")


def test_a_folder(tmp_path):
    """Official names serve as well as short ones; a test file may have no answers."""
    with pytest.raises(ConfigError, match=r"expected a folder with train\.json and dev\.json"):
        load_task("squad", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"version='3': expected 1\.1 or 2\.0"):
        SpanSettings("3")
    with pytest.raises(ConfigError, match="misplaced_answers_allowed=2: expected a share"):
        SpanSettings(misplaced_answers_allowed=2)
    write(tmp_path / "train-v1.1.json", question())
    with pytest.raises(ConfigError, match=r"no dev\.json or dev-v1\.1\.json; there are: train-v1"):
        load_task("squad", tmp_path)
    write(tmp_path / "dev.json", question())
    write(tmp_path / "test.json", {"id": "q1", "question": "What?"})
    data = load_task("squad", tmp_path)
    assert {name: split.labelled for name, split in data.splits.items()} == {
        "train": True,
        "dev": True,
        "test": False,
    }
    write(tmp_path / "train-v2.0.json", question(answers=[]))
    write(tmp_path / "dev-v2.0.json", question())
    (tmp_path / "dev.json").rename(tmp_path / "dev-v1.1.json")
    for data in (
        load_task("squad_v2", tmp_path),
        load_task("squad", tmp_path, SpanSettings("2.0")),
    ):
        assert data.unanswerable
        assert data.splits["train"].answers == [()]
    write(tmp_path / "dev.json", question())
    with pytest.raises(ConfigError, match=r"holds dev\.json and dev-v1\.1\.json: keep one file"):
        load_task("squad", tmp_path)
    (tmp_path / "dev-v1.1.json").unlink()
    write(tmp_path / "dev.json", {"id": "q1", "question": "What?"})
    with pytest.raises(DataError, match=r"dev\.json has no answers"):
        load_task("squad", tmp_path)


def tokenizers(shared_data, name):
    """Our tokenizer and Hugging Face's of a vocabulary."""
    folder = shared_data / "tokenizers"
    if name != "modernbert":
        vocabulary = folder / name / "vocab.txt"
        ours = TextTokenizer.load(vocabulary)
        return ours, BertTokenizerFast(vocab=str(vocabulary), do_lower_case=ours.lowercase)
    file = folder / "modernbert_reconstructed" / "tokenizer.json"
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return TextTokenizer.load(file), PreTrainedTokenizerFast(tokenizer_file=str(file), **names)


@pytest.mark.parametrize(
    ("vocabulary", "file", "length", "stride"),
    [
        ("bert-base-uncased", "squad/squad-v2.0.half_no_xquad.json", 384, 128),
        ("bert-base-uncased", "squad/squad-v2.0.half_no_xquad.json", 128, 40),
        ("bert-base-chinese", "cmrc2018/cmrc2018_dev.json", 256, 64),
        ("modernbert", "squad/squad-v2.0.half_no_xquad.json", 160, 32),
    ],
)
def test_windows_and_targets_are_those_of_run_qa(shared_data, vocabulary, file, length, stride):
    """Ids, types, places in the context and targets of every window, on real questions.

    One thing differs: where the answer begins at a window's last token, `run_qa` walks past it and
    has the last position of all as the target.
    """
    ours, theirs = tokenizers(shared_data, vocabulary)
    whole = read_squad(shared_data / file, unanswerable=True)
    rows = [*range(0, len(whole), 19)]
    assert whole.answers is not None
    split = split_of(
        [whole.questions[row] for row in rows],
        [whole.contexts[whole.context_of[row]] for row in rows],
        [whole.answers[row] for row in rows],
    )
    examples = SpanExamples(split, ours, length, doc_stride=stride, length_buckets=())
    encoded = theirs(
        split.questions,
        split.contexts,
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    batch = examples.batch(np.arange(len(examples)))
    np.testing.assert_array_equal(batch["input_ids"], encoded["input_ids"])
    np.testing.assert_array_equal(batch["attention_mask"], encoded["attention_mask"])
    assert examples.num_windowed > 3
    assert split.answers is not None
    found = 0
    for window, offsets in enumerate(encoded["offset_mapping"]):
        in_context = np.array([place == 1 for place in encoded.sequence_ids(window)])
        after = np.arange(length) >= np.argmax(in_context)
        types = after & (batch["attention_mask"][window] == 1)
        np.testing.assert_array_equal(batch["token_type_ids"][window], types)
        answers = split.answers[encoded["overflow_to_sample_mapping"][window]]
        answer = next((a for a in answers if a.start is not None), None)
        target = batch["start_positions"][window, 0], batch["end_positions"][window, 0]
        first, last = np.flatnonzero(in_context)[[0, -1]]
        if answer is None or answer.start is None:
            assert target == (0, 0)
            continue
        stop = answer.start + len(answer.text)
        if offsets[first][0] > answer.start or offsets[last][1] < stop:
            assert target == (0, 0)
            continue
        found += 1
        start = np.argmax([i > last or offsets[i][0] > answer.start for i in range(first, length)])
        end = last - np.argmax([offsets[i][1] < stop for i in range(last, 0, -1)])
        expected = first + start - 1, end + 1
        if vocabulary == "modernbert":  # a character may be several tokens there, with one place
            context = split.contexts[encoded["overflow_to_sample_mapping"][window]]
            texts = [context[offsets[i][0] : offsets[j][1]].strip() for i, j in (target, expected)]
            assert texts[0] == texts[1]
        else:
            assert target == expected
    assert found > 80


@pytest.mark.parametrize("vocabulary", ["bert-base-uncased", "bert-base-chinese"])
def test_a_model_that_is_right_is_given_full_marks(shared_data, tmp_path, vocabulary):
    """Logits that point at the targets give back the very answers, through windows and offsets."""
    if vocabulary == "bert-base-uncased":
        files = dict.fromkeys(("train", "dev"), "squad/squad-v2.0.half_no_xquad.json")
        name = "squad_v2"
    else:
        files = {"train": "cmrc2018/cmrc2018_trial.json", "dev": "cmrc2018/cmrc2018_dev.json"}
        name = "cmrc2018"
    for split, file in files.items():
        (tmp_path / f"{split}.json").symlink_to(shared_data / file)
    data = load_task(name, tmp_path)
    assert data.by_character == (name == "cmrc2018")
    split = data.splits["dev"].with_places()
    tokenizer, _ = tokenizers(shared_data, vocabulary)
    examples = SpanExamples(
        split, tokenizer, 192, doc_stride=64, unanswerable=data.unanswerable, max_answer_length=200
    )
    batch = examples.batch(np.arange(len(examples)))
    outputs = {}
    for end in ("start", "end"):
        outputs[end] = np.full(batch["input_ids"].shape, -9.0, np.float32)
        np.put_along_axis(outputs[end], batch[f"{end}_positions"], 9.0, axis=1)
    found = examples.decode(outputs)
    assert split.answers is not None
    scores = score_answers(
        [answer["text"] for answer in found],
        [[answer.text for answer in answers] for answers in split.answers],
        unanswerable=data.unanswerable,
        by_character=data.by_character,
    )
    assert scores.exact_match.mean() > 0.98
    assert scores.f1.mean() > 0.99


def test_offsets_of_a_byte_level_model_leave_the_space_out(shared_data):
    """As transformers' RoBERTa has them: else an answer would begin with a space."""
    tokenizer, theirs = tokenizers(shared_data, "modernbert")
    texts = ["Paris is  the capital.", " naïve 東京\u00a0café ", "", "   "]
    for text, (ids, offsets) in zip(texts, tokenizer.encode_with_offsets(texts), strict=True):
        assert ids == tokenizer.encode_batch([text])[0]
        assert offsets.shape == (len(ids), 2)
        for start, end in offsets:
            assert text[start:end] == text[start:end].strip()
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    _, offsets = tokenizer.encode_with_offsets(texts[:1])[0]
    assert [texts[0][start:end] for start, end in offsets if end > start] == [
        "Paris",
        "is",
        "the",
        "capital",
        ".",
    ]


def test_a_long_question_is_cut_and_counted():
    split = split_of(["a b c d e"], ["f g h i j"], [(Answer("h", 4),)])
    examples = SpanExamples(split, TOKENIZER, 12, max_query_length=3, doc_stride=2)
    assert (len(examples), examples.num_truncated, examples.num_windowed) == (1, 1, 0)
    batch = examples.batch(np.array([0]))
    tokens = [TOKENIZER.token(i) for i in batch["input_ids"][0]]
    assert " ".join(tokens) == "[CLS] a b c [SEP] f g h i j [SEP] [PAD]"
    assert (batch["start_positions"][0, 0], batch["end_positions"][0, 0]) == (7, 7)


def test_lengths_that_cannot_be_are_refused():
    split = split_of(["a"], ["b"])
    with pytest.raises(ConfigError, match=r"doc_stride=128: expected at least 196 tokens"):
        SpanExamples(split, TOKENIZER, 128)
    with pytest.raises(ConfigError, match="n_best=0: expected at least 1"):
        SpanExamples(split, TOKENIZER, 384, n_best=0)
    with pytest.raises(ConfigError, match="positive lengths"):
        SpanExamples(split, TOKENIZER, 384, length_buckets=(0,))


def test_every_epoch_has_an_order_of_its_own():
    """The windows of (seed, epoch), each once; without labels there are no targets."""
    contexts = ["a b c d e f g h i j " * (1 + n % 3) for n in range(20)]
    split = split_of(["a"] * 20, contexts)
    settings = {"doc_stride": 2, "max_query_length": 4}
    examples = SpanExamples(split, TOKENIZER, 16, seed=3, shuffle=True, **settings)
    size = len(examples)
    in_order = SpanExamples(split, TOKENIZER, 16, **settings).batch(np.arange(size))
    assert "start_positions" not in in_order
    epochs = [examples.batch(np.arange(size) + size * e)["input_ids"] for e in range(2)]
    for epoch in epochs:
        assert sorted(map(bytes, epoch)) == sorted(map(bytes, in_order["input_ids"]))
    assert not np.array_equal(*epochs)
    again = SpanExamples(split, TOKENIZER, 16, seed=3, shuffle=True, **settings)
    np.testing.assert_array_equal(again.batch(np.arange(size, 2 * size))["input_ids"], epochs[1])


def test_answers_are_those_of_transformers():
    """Texts, null scores and the n-best of `postprocess_qa_predictions` over several windows.

    Where no candidate fits, it writes the word "empty"; here the text is empty.
    """
    golden = json.loads(Path(__file__).with_name("hf_span_answers.json").read_text())
    split = split_of(golden["questions"], golden["contexts"])
    outputs = {name: np.array(golden[name], np.float32) for name in ("start", "end")}
    for settings in golden["settings"]:
        examples = SpanExamples(
            split,
            TOKENIZER,
            golden["max_seq_length"],
            doc_stride=golden["doc_stride"],
            max_query_length=6,
            **{key: settings[key] for key in ("unanswerable", "n_best", "max_answer_length")},
        )
        found = examples.decode(outputs, settings["threshold"])
        for number, answer in enumerate(found):
            text, nbest = settings["texts"][number], settings["nbest"][number]
            assert answer["text"] == ("" if text == "empty" else text)
            context = golden["contexts"][number]
            assert context[answer["start"] : answer["end"]] == answer["text"]
            if settings["unanswerable"]:
                expected = settings["null_score_diffs"][number]
                assert answer["null_score_diff"] == pytest.approx(expected, abs=1e-3)
            if "empty" not in [candidate for candidate, _ in nbest]:
                assert [entry["text"] for entry in answer["nbest"][:4]] == [t for t, _ in nbest]
                scores = [entry["score"] for entry in answer["nbest"][:4]]
                assert scores == pytest.approx([score for _, score in nbest], abs=1e-5)
                assert answer["score"] in scores
