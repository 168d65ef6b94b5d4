"""Preparing a corpus: reproducible to the byte, all or nothing, and honest about what is wrong."""

import hashlib
import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.data.corpus import Corpus, FileRecord, Manifest
from ptft_jax.data.documents import read_documents
from ptft_jax.data.prepare import PrepareSettings, dev_documents, prepare_corpus
from ptft_jax.data.sentences import split_sentences
from ptft_jax.data.tokenizer import TextTokenizer
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


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_holds_the_text_it_was_given(tmp_path, settings, text):
    """Each document, sentence by sentence, is in exactly one split, in order."""
    manifest = prepare_corpus(settings, tmp_path / "data")
    assert manifest == Manifest.read(tmp_path / "data")
    assert not manifest.reused
    assert {name: counts.documents for name, counts in manifest.splits.items()} == {
        "train": 36,
        "dev": 4,
    }
    tokenizer = TextTokenizer.load(tmp_path / "data" / "tokenizer")
    assert tokenizer.sha256 == manifest.tokenizer_sha256
    is_dev = dev_documents(40, settings.dev_fraction, settings.seed)
    for split in ("train", "dev"):
        expected = [
            [ids for ids in tokenizer.encode_batch(sentences, plain=True) if ids]
            for document, dev in zip(read_documents([text]), is_dev, strict=True)
            if dev == (split == "dev")
            for sentences in [[s for line in document.lines for s in split_sentences(line)]]
        ]
        corpus = Corpus.open(tmp_path / "data", split)
        found = [
            [corpus.sentence(i).tolist() for i in range(start, end)]
            for start, end in zip(
                corpus.document_offsets, corpus.document_offsets[1:], strict=False
            )
        ]
        assert found == expected
        assert corpus.num_tokens == sum(len(s) for d in expected for s in d)
    # The text spells out [SEP]; it must not have become one.
    assert all(tokenizer.sep_token_id not in s for d in expected for s in d)


def test_workers_and_blocks_do_not_change_a_byte(tmp_path, settings, monkeypatch):
    """A corpus can be made again anywhere, and its SHA-256s compared."""
    settings = replace(settings, shard_tokens=200)
    prepare_corpus(settings, tmp_path / "one")
    monkeypatch.setattr("ptft_jax.data.prepare._BLOCK_CHARACTERS", 300)
    prepare_corpus(settings, tmp_path / "blocks")
    prepare_corpus(replace(settings, workers=2), tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "blocks") == digests(tmp_path / "two")
    assert "train/tokens-00003.bin" in digests(tmp_path / "one")


def test_the_same_corpus_is_kept_and_another_refused(tmp_path, settings, text):
    """Starting the same command again costs nothing; a changed one must not mix two corpora."""
    first = prepare_corpus(settings, tmp_path / "data")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    again = prepare_corpus(replace(settings, workers=2), tmp_path / "data")
    assert again.reused
    assert again == first
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    with pytest.raises(ConfigError, match=r"another corpus .*seed=0, now 1.*choose another"):
        prepare_corpus(replace(settings, seed=1), tmp_path / "data")
    other = tmp_path / "text.txt"
    other.write_text("Other text.\n\n" * 9)
    with pytest.raises(ConfigError, match="different: sources"):
        prepare_corpus(replace(settings, inputs=(str(other),)), tmp_path / "data")


def test_a_given_vocabulary_is_used(tmp_path, settings):
    """From a folder or a vocab.txt, with its own ids; another vocabulary is another corpus."""
    prepare_corpus(settings, tmp_path / "data")
    folder = tmp_path / "data" / "tokenizer"
    given = replace(settings, vocab=str(folder))
    manifest = prepare_corpus(given, tmp_path / "again")
    assert manifest.tokenizer_sha256 == Manifest.read(tmp_path / "data").tokenizer_sha256
    assert prepare_corpus(given, tmp_path / "again").reused
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text((folder / "vocab.txt").read_text() + "extra\n")
    with pytest.raises(ConfigError, match="different: tokenizer"):
        prepare_corpus(replace(settings, vocab=str(vocabulary)), tmp_path / "again")
    cased = replace(settings, vocab=str(vocabulary), lowercase=False)
    assert prepare_corpus(cased, tmp_path / "cased").lowercase is False


def test_a_bounded_sample_still_gives_a_vocabulary(tmp_path, settings):
    """A small sample is deterministic, and every sentence is still encoded."""
    small = replace(settings, vocab_sample_characters=400)
    one = prepare_corpus(small, tmp_path / "one")
    assert one.tokenizer_sha256 == prepare_corpus(small, tmp_path / "two").tokenizer_sha256
    assert one.tokenizer_sha256 != prepare_corpus(settings, tmp_path / "all").tokenizer_sha256
    assert one.splits["train"].sentences > 100


def test_progress_reaches_its_total(tmp_path, settings):
    """A display that stops at 97 % looks like a hang."""
    reports: dict[str, list[tuple[int, int]]] = {}
    prepare_corpus(
        settings,
        tmp_path / "data",
        lambda description, done, total: reports.setdefault(description, []).append((done, total)),
    )
    assert set(reports) == {
        "Checking the inputs",
        "Reading the text",
        "Learning the vocabulary",
        "Encoding the text",
    }
    for steps in reports.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.999])
def test_both_splits_have_two_documents(fraction):
    """The random next sentence needs another document in each split."""
    is_dev = dev_documents(7, fraction, 0)
    assert 2 <= is_dev.sum() <= 5
    assert is_dev.tolist() == dev_documents(7, fraction, 0).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the corpus is empty"),
        ("\n  \n\n", "the corpus is empty"),
        ("one\n\ntwo\n\nthree", "3 documents in .*text.txt, expected at least 4"),
        ("one\n\ntwo\n\n\u200b\n\n\u200b\n\n\u200b\n\n\u200b\n", "only . documents of the"),
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


def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path, settings, monkeypatch):
    """Also when the second reading fails, with workers running."""
    monkeypatch.setattr("ptft_jax.data.prepare.dev_documents", lambda *_: np.zeros(30, bool))
    for workers in (1, 2):
        with pytest.raises(DataError, match="have grown"):
            prepare_corpus(replace(settings, workers=workers), tmp_path / "data")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("/absent/*.txt",)}, "no file matches"),
        ({"dev_fraction": 0.0}, "dev_fraction=0.0: expected between 0 and 1"),
        ({"workers": 0}, "workers=0"),
        ({"shard_tokens": 0}, "shard_tokens=0"),
        ({"vocab_size": 10}, "vocab_size=10"),
        ({"vocab": "/absent/vocab.txt"}, "vocab.txt does not exist"),
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


# Opening what was prepared.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, text) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    settings = PrepareSettings((str(text),), vocab_size=120, dev_fraction=0.1, shard_tokens=300)
    prepare_corpus(settings, folder)
    return folder


@pytest.fixture
def damaged(prepared, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(prepared, tmp_path / "data"))


def test_gather_crosses_files_and_keeps_order(prepared):
    """Stretches from several token files, in any order, come back as asked for."""
    corpus = Corpus.open(prepared)
    assert len(corpus.manifest.splits["train"].shard_tokens) > 3
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, corpus.num_sentences, 50)
    starts, ends = corpus.sentence_offsets[chosen], corpus.sentence_offsets[chosen + 1]
    expected = np.concatenate([corpus.sentence(int(i)) for i in chosen])
    np.testing.assert_array_equal(corpus.gather(starts, ends - starts), expected)
    assert expected.dtype == np.int32
    with pytest.raises(IndexError):
        corpus.sentence(corpus.num_sentences)


@pytest.mark.parametrize("name", ["train/tokens-00001.bin", "train/sentences.bin"])
def test_damage_is_found_and_named(damaged, name):
    """A flipped bit, a cut and a missing file; only the flipped bit needs verify."""
    path = damaged / name
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} has changed since"):
        Corpus.open(damaged)
    Corpus.open(damaged, verify=False)
    Corpus.open(damaged, "dev")
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"{path.name} has \d+ bytes, expected"):
        Corpus.open(damaged, verify=False)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} is missing"):
        Corpus.open(damaged, verify=False)


def change_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_token_outside_the_vocabulary_is_found(damaged):
    """On an accelerator such an id would silently read another token's embedding."""
    path = damaged / "train" / "tokens-00001.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[5] = 5000
    tokens.tofile(path)
    record = FileRecord.of(path)
    change_manifest(
        damaged, lambda m: m["files"].update({"train/tokens-00001.bin": vars(record).copy()})
    )
    with pytest.raises(DataError, match=r"tokens-00001.bin: id 5000 at position 5, but the voc"):
        Corpus.open(damaged)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.update(format="other"), ConfigError, "not the manifest of a corpus"),
        (lambda m: m.update(format_version=99), ConfigError, "corpus format 99, expected 1"),
        (lambda m: m.pop("splits"), DataError, r"manifest\.json: damaged"),
        (lambda m: m["splits"].pop("train"), ConfigError, "no split 'train'; it has dev"),
        (lambda m: m["splits"]["train"].update(documents=3), DataError, "36 documents of train/"),
    ],
)
def test_a_wrong_manifest_is_refused(damaged, change, error, message):
    """Another format is a wrong path, a broken manifest is broken data."""
    change_manifest(damaged, change)
    with pytest.raises(error, match=message):
        Corpus.open(damaged)


def test_something_else_is_not_a_corpus(tmp_path):
    """The message says which command makes one."""
    with pytest.raises(ConfigError, match=r"not a prepared corpus .*`ptft prepare"):
        Corpus.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Corpus.open(tmp_path)
