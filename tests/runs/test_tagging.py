"""Tagging from files to entities: trained, scored, predicted, exported."""

import json
from pathlib import Path

import datasets
import jax
import numpy as np
import pytest
import transformers
from command_line import finetune_flags, results, run
from foreign_folders import one_error
from tokenizer_checks import wordpiece

import ptft_jax
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.scores.entities import entity_scores, tag_accuracy

FIRST, LAST = ("anna", "bernd", "chloe"), ("smith", "muller", "rossi")
PLACES, OTHER = ("paris", "oslo", "rome"), ("lives", "in", "sees", "near", "and", ",", ".")
TAGS = ("O", "B-LOC", "B-PER", "I-PER")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Places are two tokens each, so that tokens and words are not the same.
PIECES = (*FIRST, *LAST, *OTHER, "par", "os", "ro", "##is", "##lo", "##me")
TEXTS = ["Anna Smith, bernd rossi lives  in Paris.", "and oslo,rome", "", "sees near"]


def sentences(count, seed, words=8, noise=0.0):
    """Sentences in which the word decides on the tag: persons of two words, places of one.

    `noise` is the share of the tags that are others, which a model cannot know.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = []
        while len(rows) < words:
            kind = rng.integers(4)
            if kind == 0:
                rows += [(rng.choice(FIRST), "B-PER"), (rng.choice(LAST), "I-PER")]
            elif kind == 1:
                rows += [(rng.choice(PLACES), "B-LOC")]
            else:
                rows += [(rng.choice(OTHER), "O")]
        found.append([(w, rng.choice(TAGS) if rng.random() < noise else t) for w, t in rows])
    return found


def columns(rows):
    return "\n\n".join("\n".join("\t".join(row) for row in some) for some in rows) + "\n"


def flags(place, name, data="data", **changes):
    settings = {"epochs": 6, "optimizer.learning_rate": 0.01, **changes}
    return finetune_flags("tagging.py", place / data, place / "hf", place / name, **settings)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An encoder of random weights, tagged sentences, and a tagger that has learnt them."""
    place = tmp_path_factory.mktemp("tagging")
    tokenizer = wordpiece([*SPECIAL, *PIECES])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        heads=("pooler",),
    )
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    write_hf_folder(place / "hf", params, config, tokenizer, "card")
    (place / "data").mkdir()
    for split, count, seed, noise in (
        ("train", 60, 0, 0),
        ("dev", 12, 1, 0.2),
        ("test", 12, 2, 0.2),
    ):
        rows = sentences(count, seed, noise=noise)
        (place / "data" / f"{split}.conll").write_text(columns(rows))
    assert run(*flags(place, "run")) == 0
    return place


@pytest.fixture(scope="module")
def tagger(place):
    return ptft_jax.load_run(place / "run")


def test_entities_are_learnt_and_scored(place, tagger, capsys):
    """Scores are those of the predictions; the test split is scored when it is asked for."""
    dev = results(place / "run")["dev"]
    assert 0.5 < dev["f1"] < 1
    by_type = {
        f"{name}/{kind}" for name in ("f1", "precision", "recall") for kind in ("LOC", "PER")
    }
    assert dev.keys() == {"loss", "f1", "precision", "recall", "accuracy", "f1_strict"} | by_type
    assert tagger.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    for split, seed in (("dev", 1), ("test", 2)):
        rows = sentences(12, seed, noise=0.2)
        found = tagger.predict([[word for word, _ in some] for some in rows])
        assert all(0 < score <= 1 for some in found for score in some["scores"])
        gold, tags = [[t for _, t in some] for some in rows], [some["tags"] for some in found]
        scores = tagger.evaluate(split=split)[split]
        assert entity_scores(gold, tags)[0].f1 == scores["f1"]
        assert tag_accuracy(gold, tags) == scores["accuracy"]
    assert run("evaluate", f"--run_dir={place}/run", "--split=test") == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["test", "f1/PER", f"{scores['f1/PER']:.4f}"] in shown


def test_columns_in_columns_out(place, tmp_path, capsys):
    """A line for each line, with the predicted tag behind it, also of words in windows."""
    source = tmp_path / "in.conll"
    source.write_text("# a comment\n" + columns(sentences(3, 5, words=30)))
    command = ["predict", f"--run_dir={place}/run", f"--input={source}"]
    assert run(*command) == 0
    printed = capsys.readouterr().out
    before, after = source.read_text().splitlines(), printed.splitlines()
    assert len(before) == len(after)
    for line, tagged in zip(before, after, strict=True):
        assert tagged.startswith(line)
        if "\t" in line:
            assert tagged.count("\t") == 2
    # What was learnt is learnt: the last two columns agree.
    pairs = [line.split("\t")[1:] for line in after if "\t" in line]
    assert sum(gold == tag for gold, tag in pairs) > 0.9 * len(pairs)
    assert run(*command, f"--output={tmp_path}/out.conll") == 0
    assert (tmp_path / "out.conll").read_text() == printed
    assert run(*command, f"--output={tmp_path}/out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [tag for row in rows for tag in row["prediction"]] == [tag for _, tag in pairs]
    capsys.readouterr()
    assert run(*command, f"--output={tmp_path}/out.csv") == 2
    assert "ending in .jsonl, .conll" in one_error(capsys)


def test_entities_of_texts(place, tagger, capsys):
    """Where they stand in the text, on the screen and as JSON lines; blank texts have none."""
    assert run("predict", f"--run_dir={place}/run", "--json", *TEXTS) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in found] == TEXTS
    assert found == tagger.predict(TEXTS)
    assert [[(e["type"], e["text"]) for e in one["entities"]] for one in found] == [
        [("PER", "Anna Smith"), ("PER", "bernd rossi"), ("LOC", "Paris")],
        [("LOC", "oslo"), ("LOC", "rome")],
        [],
        [],
    ]
    for one in found:
        for entity in one["entities"]:
            assert one["text"][entity["start"] : entity["end"]] == entity["text"]
    assert run("predict", f"--run_dir={place}/run", *TEXTS) == 0
    assert "Anna Smith PER 0." in capsys.readouterr().out
    with pytest.raises(ConfigError, match="expected one or the other"):
        tagger.predict(["a text", ["some", "words"]])


def test_the_exported_model_finds_the_same_entities_in_a_pipeline(place, tagger):
    """`aggregation_strategy="first"` reads tags where they were learnt, at a word's first token.

    "simple" reads them at every token, which is the same where each word is one.
    """
    assert tagger.export(place / "exported").model_class == "BertForTokenClassification"
    config = json.loads((place / "exported" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(tagger.labels)
    for strategy, texts in (("first", TEXTS), ("simple", ["Anna Smith, bernd rossi sees", "and"])):
        pipeline = transformers.pipeline(
            "token-classification", str(place / "exported"), aggregation_strategy=strategy
        )
        for text, ours in zip(texts, tagger.predict(texts), strict=True):
            theirs = pipeline(text) if text else []
            keys = ("type", "start", "end")
            assert [tuple(e[key] for key in keys) for e in ours["entities"]] == [
                (e["entity_group"], e["start"], e["end"]) for e in theirs
            ]
            scores = [e["score"] for e in ours["entities"]]
            np.testing.assert_allclose(scores, [e["score"] for e in theirs], atol=1e-4)
    again = ptft_jax.load_run(place / "exported").predict(TEXTS)
    for ours, read in zip(tagger.predict(TEXTS), again, strict=True):
        assert [e["text"] for e in ours["entities"]] == [e["text"] for e in read["entities"]]


def test_tags_of_words_are_scored_by_accuracy(place, capsys):
    """Parts of speech in another column, learnt at all tokens of a word."""
    speech = {"B-PER": "NAME", "I-PER": "NAME", "B-LOC": "NAME", "O": "OTHER"}
    (place / "speech").mkdir()
    for split, count in (("train", 40), ("dev", 8)):
        rows = [[(tag, speech[tag], word) for word, tag in some] for some in sentences(count, 3)]
        (place / "speech" / f"{split}.tsv").write_text(columns(rows))
    places = {"word_column": -1, "tag_column": 1, "label_all_subwords": True}
    assert run(*flags(place, "speech_run", "speech", **places)) == 0
    dev = results(place / "speech_run")["dev"]
    assert dev.keys() == {"loss", "accuracy"}
    assert dev["accuracy"] > 0.9
    capsys.readouterr()
    assert run("predict", f"--run_dir={place}/speech_run", "anna sees") == 0
    assert "anna NAME 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ({"train.conll": "a O\nb B-X\n"}, 2, "has no dev.conll or dev.txt or dev.tsv or dev.jsonl"),
        ({"train.txt": "a O\n", "train.tsv": "a\tO\n"}, 2, "holds train.txt and train.tsv"),
        ({"train.conll": "a O\nb B-X\n", "dev.conll": "a B-Y\n"}, 65, "dev.conll, line 1: the tag"),
        ({"train.conll": "a O\nb B-X\n", "dev.conll": "a\n"}, 65, "dev.conll has 1 column"),
        ({"train.conll": "a O\nb O\n", "dev.conll": "a O\n"}, 65, "all words have the tag 'O'"),
        ({"train.conll": "a O\nb\n", "dev.conll": "a O\n"}, 65, "train.conll, line 2: 1 columns"),
    ],
)
def test_bad_data_is_one_error(place, tmp_path, files, code, message, capsys):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert run(*finetune_flags("tagging.py", tmp_path, place / "hf", tmp_path / "run")) == code
    assert message in one_error(capsys)


def test_long_sentences_and_words_without_a_token_are_said(place, tmp_path, capsys):
    """And a test file without tags is fine."""
    for split in ("train", "dev"):
        rows = [*sentences(4, 1), [("\u200b", "O"), ("anna", "B-PER")]]
        (tmp_path / f"{split}.conll").write_text(columns(rows))
    (tmp_path / "test.conll").write_text("anna\nsees\n")
    command = finetune_flags("tagging.py", tmp_path, place / "hf", tmp_path / "run")
    assert run(*command, "--config.max_seq_length=8", "--config.steps=1") == 0
    said = capsys.readouterr().out
    # A line of its own for each type.
    assert [line.split()[1] for line in said.splitlines() if line[:6] == "  dev "][1:] == [
        "LOC",
        "PER",
    ]
    assert "4 training sentences are longer than max_seq_length=8 tokens and are spread" in said
    assert "1 words of which the tokenizer leaves nothing stand as the unknown token" in said
    assert run("evaluate", f"--run_dir={tmp_path}/run", "--split=test") == 2
    assert "has no labels" in one_error(capsys)


@pytest.mark.parametrize("form", ["conll", "jsonl", "hf"])
def test_a_split_as_columns_wherever_it_comes_from(place, tagger, tmp_path, form):
    """A data set of `datasets` was looked for as a file; the other splits need not be there."""
    rows = sentences(3, 7)
    words, tags = ([[row[part] for row in some] for some in rows] for part in (0, 1))
    data, output = tmp_path / "data", tmp_path / "out.conll"
    if form == "hf":
        columns_of_it = {"tokens": words, "ner_tags": tags}
        table = datasets.Dataset.from_dict(columns_of_it)
        datasets.DatasetDict({"test": table}).save_to_disk(str(data))
    else:
        data.mkdir()
        lines = [json.dumps({"tokens": w, "tags": t}) for w, t in zip(words, tags, strict=True)]
        content = columns(rows) if form == "conll" else "\n".join(lines)
        (data / f"test.{form}").write_text(content)
    asked = ["predict", f"--run_dir={place}/run", f"--data_dir={data}", "--split=test"]
    assert run(*asked, f"--output={output}") == 0
    found = [one["tags"] for one in tagger.predict(words)]
    gold = tags if form == "conll" else [[None] * len(some) for some in words]
    expected = [
        ["\t".join(filter(None, parts)) for parts in zip(*some, strict=True)]
        for some in zip(words, gold, found, strict=True)
    ]
    assert output.read_text() == "\n\n".join(map("\n".join, expected)) + "\n"
    assert run("evaluate", *asked[1:]) == 0


def test_a_classifier_reads_no_columns(place, tmp_path, capsys):
    (tmp_path / "in.conll").write_text("anna O\n")
    assert run("predict", f"--run_dir={place}/hf", f"--input={tmp_path}/in.conll") == 2
    assert "is no tagger" in one_error(capsys)
