"""Preparing a corpus: reproducible to the byte, all or nothing, and honest about what is wrong."""

import json
import lzma
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command_line import tree

from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.corpus.survey import VocabularySample
from ptft_jax.data.text.sentences import split_sentences
from ptft_jax.data.text.sources import Position, open_sources, read_blocks
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

WORDS = ["the", "cat", "dog", "man", "sees", "finds", "over", "red", "old", "walks", "[SEP]"]


def write_text(folder: Path, documents: int = 40, seed: int = 0) -> Path:
    """Random sentences, one paragraph per line, compressed; with a line that has no word in it."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(documents):
        lines = [
            " ".join(
                " ".join(rng.choice(WORDS, rng.integers(3, 12))).capitalize() + "."
                for _ in range(rng.integers(1, 4))
            )
            for _ in range(rng.integers(1, 6))
        ]
        parts.append("\n".join([f"Document {number}.", "\u200b", *lines]))
    path = folder / "text.txt.xz"
    path.write_bytes(lzma.compress("\n\n".join(parts).encode()))
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def settings(text) -> PrepareSettings:
    return PrepareSettings(inputs=(str(text),), vocab_size=120, dev_fraction=0.1)


def documents_of(path: Path) -> list[tuple[str, ...]]:
    blocks = read_blocks(open_sources([str(path)], "text"), Position())
    return [document for block in blocks for document in block.documents]


def sentence_ids(corpus: Corpus) -> list[list[list[int]]]:
    """Document → sentence → ids, as they are stored."""
    offsets = corpus.document_offsets
    return [
        [corpus.sentence(i).tolist() for i in range(start, end)] for start, end in pairwise(offsets)
    ]


def test_holds_the_text_it_was_given(tmp_path, settings, text):
    """Each document, sentence by sentence, is in exactly one split, in order."""
    manifest = prepare_corpus(settings, tmp_path / "data")
    assert manifest == Manifest.read(tmp_path / "data")
    tokenizer = TextTokenizer.load(tmp_path / "data" / "tokenizer")
    assert tokenizer.sha256 == manifest.tokenizer_sha256
    expected = [
        [ids for ids in tokenizer.encode_batch(sentences, plain=True) if ids]
        for document in documents_of(text)
        for sentences in [[s for line in document for s in split_sentences(line)]]
    ]
    train, dev = (sentence_ids(Corpus.open(tmp_path / "data", name)) for name in ("train", "dev"))
    assert [document for document in expected if document not in dev] == train
    assert [document for document in expected if document not in train] == dev
    assert len(train) + len(dev) == len(expected) == 40
    assert 2 <= len(dev) <= 12
    for found, counts in ((train, manifest.splits["train"]), (dev, manifest.splits["dev"])):
        lengths = [[len(sentence) for sentence in document] for document in found]
        assert counts.documents == len(found)
        assert counts.sentences == sum(map(len, lengths))
        assert counts.tokens == sum(map(sum, lengths))
        assert counts.sentence_lengths == powers_of_two(
            [n for document in lengths for n in document]
        )
        assert counts.document_lengths == powers_of_two(list(map(sum, lengths)))
        unknown = sum(s.count(tokenizer.unk_token_id) for document in found for s in document)
        assert counts.unknown_tokens == unknown
    # The text spells out [SEP]; it must not have become one.
    assert all(tokenizer.sep_token_id not in s for document in expected for s in document)


def powers_of_two(lengths: list[int]) -> tuple[int, ...]:
    """How many lengths are in 1, 2 to 3, 4 to 7, … up to the longest."""
    buckets = [length.bit_length() - 1 for length in lengths]
    return tuple(buckets.count(bucket) for bucket in range(max(buckets) + 1))


def test_workers_and_blocks_do_not_change_a_byte(tmp_path, settings, monkeypatch):
    """A corpus can be made again anywhere, and its SHA-256s compared."""
    settings = replace(settings, shard_tokens=200)
    prepare_corpus(settings, tmp_path / "one")
    for workers in (1, 2, 4):
        monkeypatch.setattr("ptft_jax.data.text.sources.BLOCK_CHARACTERS", 300 * workers)
        prepare_corpus(replace(settings, workers=workers), tmp_path / str(workers))
        assert tree(tmp_path / "one") == tree(tmp_path / str(workers))
    assert "train/tokens-00003.bin" in tree(tmp_path / "one")


def test_each_source_is_contiguous_and_counted(tmp_path, text):
    """Weights are applied when examples are drawn, which needs to know where each source lies."""
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": f"Apple number {n}. It is red."}) for n in range(30))
    )
    (tmp_path / "b.txt").write_text("\n\n".join(f"Pear {n}." for n in range(20)))
    settings = PrepareSettings(
        (f"{tmp_path}/a.jsonl@2.5", str(text), f"{tmp_path}/b.txt@0.5"),
        vocab_size=200,
        dev_fraction=0.2,
        licence="CC0",
    )
    manifest = prepare_corpus(settings, tmp_path / "data")
    assert manifest == Manifest.read(tmp_path / "data")
    assert manifest.licence == "CC0"
    tokenizer = TextTokenizer.load(tmp_path / "data" / "tokenizer")
    words = [tokenizer.encode_batch([word], plain=True)[0] for word in ("apple", "pear")]
    for split in ("train", "dev"):
        corpus = Corpus.open(tmp_path / "data", split)
        assert corpus.source_weights.tolist() == [2.5, 1, 0.5]
        documents = sentence_ids(corpus)
        first, second, third = (
            documents[start:end] for start, end in pairwise(corpus.source_documents)
        )
        assert len(first) + len(second) + len(third) == corpus.num_documents
        assert all(document[0][: len(words[0])] == words[0] for document in first)
        assert all(document[0][: len(words[1])] == words[1] for document in third)
        assert not any(document[0][: len(words[0])] == words[0] for document in second)
        for source, part in zip(manifest.sources, (first, second, third), strict=True):
            counts = source.counts[split]
            assert counts.documents == len(part)
            assert counts.sentences == sum(map(len, part))
            assert counts.tokens == sum(len(s) for document in part for s in document)


def test_weights_and_notes_may_change_later(tmp_path, text):
    """Encoding a terabyte again for another mixture would be absurd: the store stays as it is."""
    (tmp_path / "b.txt").write_text("\n\n".join(f"Pear {n}." for n in range(20)))
    settings = PrepareSettings((str(text), f"{tmp_path}/b.txt"), vocab_size=120)
    first = prepare_corpus(settings, tmp_path / "data")
    files = tree(tmp_path / "data")
    said: list[str] = []
    other = replace(settings, inputs=(str(text), f"{tmp_path}/b.txt@3"), licence="mine")
    second = prepare_corpus(other, tmp_path / "data", say=said.append)
    assert [source.weight for source in second.sources] == [1, 3]
    assert "already holds this very corpus" in said[0]
    assert "weights or the licence note were changed" in said[1]
    assert Manifest.read(tmp_path / "data") == second
    assert replace(second, licence="", sources=first.sources) == first
    del files["manifest.json"]
    assert files.items() < tree(tmp_path / "data").items()


def test_id_width_follows_the_vocabulary(tmp_path, settings):
    """Ids above 65,535 need four bytes; two are enough, and half as much to read, below."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += [f"x{n}" for n in range((1 << 16) - len(tokens) - 1)]
    for extra, dtype in ((["cat"], "<u2"), (["dog", "cat"], "<u4")):
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join([*tokens, *extra]) + "\n")
        out_dir = tmp_path / dtype[1:]
        manifest = prepare_corpus(replace(settings, vocab=str(vocabulary)), out_dir)
        corpus = Corpus.open(out_dir)
        assert manifest.token_dtype == dtype
        assert (out_dir / "train/tokens-00000.bin").stat().st_size == (
            corpus.num_tokens * np.dtype(dtype).itemsize
        )
        cat = len(tokens) + len(extra) - 1
        assert any(cat in sentence for document in sentence_ids(corpus) for sentence in document)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_other_kinds_of_tokenizers(tmp_path, settings, kind):
    """The kind is learned, stored, and used by the workers as by this process."""
    settings = replace(settings, tokenizer=kind, vocab_size=340, lowercase=False)
    manifest = prepare_corpus(settings, tmp_path / "one")
    assert manifest.tokenizer_kind == kind
    assert not manifest.lowercase
    prepare_corpus(replace(settings, workers=2), tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_same_corpus_is_kept_and_another_refused(tmp_path, settings, text):
    """Starting the same command again costs nothing; a changed one must not mix two corpora."""
    first = prepare_corpus(settings, tmp_path / "data")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    again = prepare_corpus(replace(settings, workers=2), tmp_path / "data")
    assert again == first
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    with pytest.raises(ConfigError, match=r"another corpus .*seed=0, now 1.*choose another"):
        prepare_corpus(replace(settings, seed=1), tmp_path / "data")
    other = tmp_path / "text.txt"
    other.write_text("Other text.\n\n" * 9)
    with pytest.raises(ConfigError, match="different: sources"):
        prepare_corpus(replace(settings, inputs=(str(other),)), tmp_path / "data")


def test_joined_lines_make_another_corpus(tmp_path, settings):
    """With any number of workers the same one; neither takes the place of the other."""
    path = tmp_path / "text.txt"
    text = "\n\n\n".join(f"The cat {n}\nsees the dog.\n\nThe end." for n in range(12))
    path.write_text(text)
    settings = replace(settings, inputs=(str(path),), join_lines=True)
    manifest = prepare_corpus(settings, tmp_path / "joined")
    assert sum(split.documents for split in manifest.splits.values()) == 12
    assert sum(split.sentences for split in manifest.splits.values()) == 24
    prepare_corpus(replace(settings, workers=2), tmp_path / "again")
    assert tree(tmp_path / "joined") == tree(tmp_path / "again")
    apart = replace(settings, join_lines=False)
    with pytest.raises(ConfigError, match=r"another corpus .*join_lines=True, now None"):
        prepare_corpus(apart, tmp_path / "joined")
    manifest = prepare_corpus(apart, tmp_path / "apart")
    assert sum(split.documents for split in manifest.splits.values()) == 24
    with pytest.raises(ConfigError, match=r"another corpus .*join_lines=None, now True"):
        prepare_corpus(settings, tmp_path / "apart")


def test_a_given_vocabulary_is_used(tmp_path, settings):
    """From a folder or a vocab.txt, with its own ids; another vocabulary is another corpus."""
    prepare_corpus(settings, tmp_path / "data")
    folder = tmp_path / "data" / "tokenizer"
    given = replace(settings, vocab=str(folder))
    manifest = prepare_corpus(given, tmp_path / "again")
    assert manifest.tokenizer_sha256 == Manifest.read(tmp_path / "data").tokenizer_sha256
    assert prepare_corpus(given, tmp_path / "again") == manifest
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text((folder / "vocab.txt").read_text() + "extra\n")
    with pytest.raises(ConfigError, match="different: tokenizer"):
        prepare_corpus(replace(settings, vocab=str(vocabulary)), tmp_path / "again")
    cased = replace(settings, vocab=str(vocabulary), lowercase=False)
    assert prepare_corpus(cased, tmp_path / "cased").lowercase is False


def test_a_bounded_sample_still_gives_a_vocabulary(tmp_path, settings, monkeypatch):
    """A small sample is drawn from all of the text, the same in blocks of any size."""
    small = replace(settings, vocab_sample_characters=400)
    one = prepare_corpus(small, tmp_path / "one")
    monkeypatch.setattr("ptft_jax.data.text.sources.BLOCK_CHARACTERS", 300)
    assert one.tokenizer_sha256 == prepare_corpus(small, tmp_path / "two").tokenizer_sha256
    assert one.tokenizer_sha256 != prepare_corpus(settings, tmp_path / "all").tokenizer_sha256
    assert one.splits["train"].sentences > 100


def test_a_sample_is_fair_and_bounded(tmp_path):
    """Most of what is allowed is used, from all of the text, without the documents left out."""
    file = AppendFile(tmp_path / "sample")
    drawn = VocabularySample(file, 20_000, 0)
    for first in range(0, 20_000, 700):
        numbers = range(first, first + 700)
        documents = [(f"document {number}", "x" * (number % 199)) for number in numbers]
        drawn.add(first, documents, np.array([number % 2 == 0 for number in numbers]))
    lines = list(drawn.lines())
    assert 0.9 * 20_000 < sum(map(len, lines)) + len(lines) // 2 <= 20_000
    numbers = [int(line.split()[1]) for line in lines[::2]]
    assert numbers == sorted(numbers)
    assert all(number % 2 == 0 for number in numbers)
    assert 7000 < np.mean(numbers) < 13_000
    assert file.size < 10 * 20_000
    file.close()


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_both_splits_have_two_documents(tmp_path, fraction):
    """The random next sentence needs another document in each split; copies do not count."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(["one", "two", "three", "four", *["one", "four"] * 9]))
    settings = PrepareSettings((str(path),), vocab_size=64, dev_fraction=fraction)
    manifest = prepare_corpus(settings, tmp_path / "data")
    for split in manifest.splits:
        documents = sentence_ids(Corpus.open(tmp_path / "data", split))
        assert len({str(document) for document in documents}) == 2


def test_documents_stay_in_their_split_when_others_are_added(tmp_path):
    """Text that is added later must not move what was held out into the training data."""
    path, held_out = tmp_path / "text.txt", []
    settings = PrepareSettings((str(path),), vocab_size=200, dev_fraction=0.2)
    for count in (300, 3000):
        path.write_text("\n\n".join(f"number {number}" for number in range(count)))
        prepare_corpus(settings, tmp_path / str(count))
        corpus = Corpus.open(tmp_path / str(count), "dev")
        tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
        texts = [tokenizer.decode(ids) for (ids,) in sentence_ids(corpus)]
        held_out.append({text for text in texts if int(text.split()[1]) < 300})
        assert abs(len(texts) / count - 0.2) < 3 * np.sqrt(0.16 / count)
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the corpus is empty"),
        ("\n  \n\n", "the corpus is empty"),
        (
            "one\n\ntwo\n\nthree",
            "3 documents .copies not counted. in text.txt, expected at least 4.*by blank lines",
        ),
        ("one\n\n" * 9, "1 documents .copies not counted. in text.txt, expected at least 4"),
        ("one\n\n" + "\n\n".join("\u200b" * n for n in range(1, 9)), "only . documents of the"),
        (b"a\n\nb\n\nc\n\nd\n\xff\n", "text.txt, line 8: not UTF-8"),
    ],
)
def test_bad_text_leaves_nothing_behind(tmp_path, content, message):
    """The message says what is wrong with which file; there is no half-made folder."""
    path = tmp_path / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = PrepareSettings(inputs=(str(path),), vocab_size=64)
    with pytest.raises(DataError, match=message):
        prepare_corpus(settings, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("workers", [1, 2])
def test_text_that_changes_meanwhile_is_an_error(tmp_path, text, monkeypatch, workers):
    """A corpus of two versions of a file would match no checksum in its manifest."""
    path = tmp_path / "text.txt"
    path.write_bytes(lzma.decompress(text.read_bytes()))
    monkeypatch.setattr("ptft_jax.data.text.sources.BLOCK_CHARACTERS", 1000)
    settings = PrepareSettings((str(path),), vocab_size=120, workers=workers)

    def change(description: str, done: int, total: int) -> None:
        if description == "Learning the vocabulary":
            path.write_bytes(path.read_bytes().replace(b"cat", b"dog", 1))

    with pytest.raises(DataError, match=r"text\.txt has changed while the corpus was made"):
        prepare_corpus(settings, tmp_path / "data", change)
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("/absent/*.txt",)}, "no file matches"),
        ({"dev_fraction": 0.0}, "dev_fraction=0.0: expected between 0 and 1"),
        ({"workers": 0}, "workers=0"),
        ({"shard_tokens": 0}, "shard_tokens=0"),
        ({"vocab_size": 10}, "vocab_size=10"),
        ({"vocab": "/absent/vocab.txt"}, "vocab.txt does not exist"),
        ({"tokenizer": "bert"}, "tokenizer='bert': expected one of wordpiece, bpe, unigram"),
        ({"tokenizer": "bpe"}, "vocab_size=120: expected at least 320 for bpe"),
        ({"deduplicate": "fuzzy"}, "deduplicate='fuzzy': expected one of none, exact, near"),
        ({"deduplicate": "near", "near_threshold": 1.0}, "near_threshold=1.0: expected between"),
        ({"deduplicate": "near", "near_permutations": 8}, "near_permutations=8: expected 16 to"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, change, message):
    """The message names the setting and its value."""
    with pytest.raises(ConfigError, match=message):
        prepare_corpus(replace(settings, **change), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_does_not_touch_a_folder_of_something_else(tmp_path, settings):
    """A mistyped --out_dir must never cost a file."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no corpus"):
        prepare_corpus(settings, tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        prepare_corpus(settings, tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    prepare_corpus(settings, tmp_path / "empty")


def test_gather_crosses_files_and_keeps_order(tmp_path, settings):
    """Stretches from several token files, in any order, come back as asked for."""
    prepare_corpus(replace(settings, shard_tokens=300), tmp_path / "data")
    corpus = Corpus.open(tmp_path / "data")
    assert len(corpus.manifest.splits["train"].shard_tokens) > 3
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, corpus.num_sentences, 50)
    starts, ends = corpus.sentence_offsets[chosen], corpus.sentence_offsets[chosen + 1]
    expected = np.concatenate([corpus.sentence(int(i)) for i in chosen])
    np.testing.assert_array_equal(corpus.gather(starts, ends - starts), expected)
    assert expected.dtype == np.int32
    with pytest.raises(IndexError):
        corpus.sentence(corpus.num_sentences)
