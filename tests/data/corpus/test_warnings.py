"""`ptft prepare` says what is wrong with text that can be read, and nothing against good text."""

import json
import lzma
import textwrap
from dataclasses import replace
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import run, tree, write_corpus

from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Manifest
from ptft_jax.data.text import sources as inputs
from ptft_jax.demo.documentation import gather_documentation

WORDS = [*command_line.WORDS, "of", "the", "and", "under", "with"]


def sentence(rng: np.random.Generator, words: int) -> str:
    return f"{' '.join(rng.choice(WORDS, words)).capitalize()}."


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Paragraphs of six sentences."""
    rng = np.random.default_rng(seed)
    return [" ".join(sentence(rng, 12) for _ in range(6)) for _ in range(count)]


def records(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def settings_for(*items: object, **changes) -> PrepareSettings:
    settings = PrepareSettings(tuple(map(str, items)), vocab_size=120, dev_fraction=0.2)
    return replace(settings, **changes)


def warned(folder: Path, *items: object, **changes) -> tuple[str, ...]:
    """The warnings about a corpus of some inputs."""
    return prepare_corpus(settings_for(*items, **changes), folder / "data").warnings


# Unknown tokens.


def test_a_vocabulary_that_does_not_know_the_text_is_noticed(tmp_path):
    """A third of the tokens were unknown, and a run on them looked like a success."""
    path = records(tmp_path / "a.jsonl", [*paragraphs(40), "Πάντα ῥεῖ"])
    assert not warned(tmp_path, path)
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."])
    )
    (warning,) = warned(tmp_path / "other", path, vocab=str(tmp_path / "vocab.txt"))
    assert "of the tokens are the one for what the tokenizer does not know" in warning


# Wrapped lines.


@pytest.mark.parametrize("width", [40, 72, 100])
def test_wrapped_lines_are_noticed(tmp_path, width):
    """With the share of line ends, and not after they were joined as the warning says."""
    path = tmp_path / "a.txt"
    path.write_text("\n\n\n".join(textwrap.fill(text, width) for text in paragraphs(40)))
    (warning,) = warned(tmp_path, path)
    share = int(warning.partition("%")[0].rpartition(" ")[2])
    assert 70 < share < 99
    assert warning.startswith(f"{tmp_path.name}/a.txt: ")
    assert "join_lines=True joins them" in warning
    joined = prepare_corpus(settings_for(path, join_lines=True), tmp_path / "joined")
    assert joined.warnings == ()
    path.write_text("\n\n".join(paragraphs(40)))
    apart = prepare_corpus(settings_for(path), tmp_path / "apart")
    assert joined.splits == apart.splits


def test_wrapped_chinese_is_noticed(tmp_path):
    """It has no small letters; its verse has lines of equal length, too, but short ones."""
    rng = np.random.default_rng(0)
    characters = [chr(code) for code in range(0x4E00, 0x4E40)]

    def text(length: int) -> str:
        return "".join(rng.choice(characters, length))

    def lines(width: int) -> str:
        return "\n\n".join("\n".join([*(text(width) for _ in range(7)), "。"]) for _ in range(40))

    (tmp_path / "prose.txt").write_text(lines(38))
    (tmp_path / "verse.txt").write_text(lines(7))
    files = tmp_path / "prose.txt", tmp_path / "verse.txt"
    (warning,) = warned(tmp_path, *files, vocab_size=300)
    assert warning.startswith(f"{tmp_path.name}/prose.txt: ")
    assert "of the line ends are in the middle of a sentence" in warning


def test_verse_and_lists_are_not_taken_for_wrapped_lines(tmp_path):
    """Their lines begin in small letters and end without stops, too, but are not full."""
    rng = np.random.default_rng(0)
    words = [*WORDS, "imagination", "everlasting"]

    def verse() -> str:
        return "\n".join(" ".join(rng.choice(words, rng.integers(6, 11))) for _ in range(14))

    def items() -> str:
        many = rng.integers(1, 16, 20)
        return "\n".join([f"{sentence(rng, 9)}", *(" ".join(rng.choice(words, n)) for n in many)])

    (tmp_path / "verse.txt").write_text("\n\n".join(verse() for _ in range(60)))
    (tmp_path / "lists.txt").write_text("\n\n".join(items() for _ in range(60)))
    (tmp_path / "words.txt").write_text("\n\n".join("\n".join(WORDS) + "\n." for _ in range(60)))
    assert warned(tmp_path, *sorted(tmp_path.glob("*.txt"))) == ()


# Markup.


@pytest.mark.parametrize(
    ("markup", "is_noticed"),
    [
        ("one<br /><br />two", True),
        ('a <a href="x">link</a>', True),
        ("salt &amp; pepper", True),
        ("a&#8217;b", True),
        ("if a < b and c > d", False),
        ("std::vector<int>, <name>, List<T>", False),
        ("AT&T; R&D, Q&A &c.", False),
    ],
)
def test_markup_is_noticed(tmp_path, markup, is_noticed):
    """With the share of the source's documents and where the first one stands."""
    texts = [
        text if n % 5 else f"{text[:100]} {markup} {text[100:]}"
        for n, text in enumerate(paragraphs(40))
    ]
    found = warned(tmp_path, records(tmp_path / "a.jsonl", texts))
    assert len(found) == is_noticed
    for warning in found:
        assert warning.startswith(f"{tmp_path.name}/a.jsonl: 20% of the documents have markup")
        assert markup[:12] in warning


# The held-out documents.


def test_a_document_that_is_most_of_dev_is_noticed(tmp_path):
    """Its scores would be those of one text."""
    texts = paragraphs(12)
    texts = [" ".join([text] * (1 if n % 4 else 60)) for n, text in enumerate(texts)]
    path = records(tmp_path / "a.jsonl", texts)
    found = [
        warning
        for seed in range(6)
        for warning in prepare_corpus(settings_for(path, seed=seed), tmp_path / str(seed)).warnings
    ]
    assert found
    assert all("one document has" in warning for warning in found)
    assert all("of the held-out tokens" in warning for warning in found)


def test_a_source_that_is_most_of_dev_is_noticed(tmp_path):
    """Documents are drawn, not tokens: a few long ones of another source are seldom among them."""
    short = records(tmp_path / "short.jsonl", paragraphs(200))
    long = records(tmp_path / "long.jsonl", [" ".join(paragraphs(100, n)) for n in range(3)])
    (warning,) = warned(tmp_path, short, long, dev_fraction=0.05)
    assert warning.startswith(f"{tmp_path.name}/short.jsonl has 100% of the held-out tokens, but 3")
    # A source that is most of everything is nothing to speak of.
    long = records(tmp_path / "long.jsonl", paragraphs(9, 1))
    assert prepare_corpus(settings_for(short, long), tmp_path / "even").warnings == ()


def test_documents_of_one_sentence_are_noticed(tmp_path):
    """Pairs of sentences cannot be made of them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(sentence(rng, 12) for _ in range(60)))
    (warning,) = warned(tmp_path, path)
    assert warning.startswith("100% of the documents are one sentence")
    assert "input_format=full_sentences" in warning


# Where warnings stand, and where there are none.


def test_warnings_are_said_once_and_kept(tmp_path, capsys):
    """At the end of the command, in the manifest, and in the report of `ptft data stats`."""
    place = write_corpus(tmp_path / "a.txt", 40)
    place.write_text(place.read_text().replace("bird", "<b>bird</b>"))
    flags = ["prepare", "--config=configs/data/text.py", f"--config.inputs={place}"]
    flags += ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={tmp_path}/data"]
    for _ in range(2):  # the second time the corpus is kept
        assert run(*flags) == 0
        (line,) = (s for s in capsys.readouterr().out.splitlines() if s.startswith("warning: "))
        assert "of the documents have markup in them, the first of it in '" in line
    (warning,) = Manifest.read(tmp_path / "data").warnings
    assert line == f"warning: {warning}."
    stats = ["data", "stats", "--config=configs/pretrain/bert_tiny.py", "--rows=10"]
    stats += [f"--config.data_dir={tmp_path}/data", f"--out_dir={tmp_path}/stats"]
    assert run(*stats) == 0
    assert json.loads((tmp_path / "stats/stats.json").read_text())["warnings"] == [warning]
    report = (tmp_path / "stats/README.md").read_text()
    assert "## Warnings of the preparation" in report
    assert "&lt;b>bird" in report


def test_warnings_do_not_depend_on_workers_or_interruptions(tmp_path, monkeypatch):
    """What was seen before a kill is remembered, so that the manifest is the same to the byte."""
    texts = [f"{text} &amp;" for text in paragraphs(40)]
    wrapped = [textwrap.fill(text, 72) for text in paragraphs(40, 1)]
    sources = records(tmp_path / "a.jsonl", texts), records(tmp_path / "b.jsonl", wrapped)
    settings = settings_for(*sources)
    whole = prepare_corpus(settings, tmp_path / "whole")
    assert len(whole.warnings) == 2
    monkeypatch.setattr(preparation, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(inputs, "BLOCK_CHARACTERS", 1500)

    def interrupt(description: str, done: int, total: int) -> None:
        if description == "Reading the text" and done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(settings, tmp_path / "data", interrupt)
    prepare_corpus(replace(settings, workers=2), tmp_path / "data")
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def test_nothing_is_said_against_good_text(tmp_path, shared_data):
    """Novels and textbooks, a paragraph per line."""
    paths = sorted((shared_data / "text").glob("*.txt.xz"))
    assert len(paths) == 3
    for path in paths:
        with lzma.open(path) as stream:
            text = stream.read(2_000_000).decode("utf-8", "ignore")
        (tmp_path / path.stem).write_text(text.rpartition("\n\n")[0])
    assert warned(tmp_path, f"{tmp_path}/*.txt", dev_fraction=0.05) == ()


def test_nothing_is_said_against_the_demo(tmp_path, monkeypatch):
    """The first corpus that a newcomer sees."""
    monkeypatch.setattr("ptft_jax.demo.documentation.PACKAGES", ("numpy", "flax"))
    documentation = gather_documentation(tmp_path / "documentation")
    assert warned(tmp_path, *documentation.text_files, dev_fraction=0.2) == ()
