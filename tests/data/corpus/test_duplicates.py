"""Leaving out copies: which documents go, which stay, and that nothing depends on chance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.data.corpus.duplicates import NearIndex, minhash_signatures
from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.text import sources as inputs
from ptft_jax.errors import ConfigError

WORDS = [f"word{number}" for number in range(500)]


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    return list(rng.choice(WORDS, count))


def with_changes(rng: np.random.Generator, words: list[str], changes: int) -> list[str]:
    """A copy with some words replaced, far enough from each other to spoil five shingles each."""
    copy = list(words)
    places = 5 + 10 * rng.permutation((len(words) - 10) // 10)[:changes]
    for place in places:
        copy[place] = "other"
    return copy


def jaccard(first: list[str], second: list[str]) -> float:
    """The exact index of the sets of five-word shingles."""
    shingles = [
        {tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (first, second)
    ]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


def test_near_duplicates_go_and_the_first_stays(tmp_path):
    """Exact comparison of all pairs decides what is right, but for pairs close to the threshold."""
    pytest.importorskip("rensa")
    rng = np.random.default_rng(2)
    documents: list[list[str]] = []
    for _ in range(150):
        words = random_words(rng, int(rng.integers(60, 300)))
        documents += [words, with_changes(rng, words, int(rng.integers(0, 6)))]
    order = rng.permutation(len(documents))
    documents = [documents[index] for index in order]
    signatures = minhash_signatures([" ".join(words) for words in documents], 128)

    def add(name: str, parts: list[np.ndarray], size: int = 0) -> np.ndarray:
        file = AppendFile(tmp_path / name, size)
        index = NearIndex(file, 0.8, 128)
        found = np.concatenate([index.add(part) for part in parts])
        file.close()
        return found

    kept = add("one", [signatures[i : i + 37] for i in range(0, 300, 37)])
    wrong = 0
    for number, words in enumerate(documents):
        before = [jaccard(words, documents[other]) for other in np.flatnonzero(kept[:number])]
        most = max(before, default=0.0)
        if abs(most - 0.8) > 0.1:
            wrong += kept[number] != (most < 0.8)
    assert wrong <= 1
    assert 160 < kept.sum() < 290
    # Neither the blocks nor a fresh start from the file change anything.
    np.testing.assert_array_equal(add("two", [signatures]), kept)
    first = add("three", [signatures[:150]])
    size = (tmp_path / "three").stat().st_size
    assert size == first.sum() * 512
    again = add("three", [signatures[150:]], size)
    np.testing.assert_array_equal(np.concatenate([first, again]), kept)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Two files: documents; copies of some in other case and space, with one word more, others."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("text")
    first = [" ".join(random_words(rng, 100)) for _ in range(40)]
    second = [" ".join(random_words(rng, 100)) for _ in range(10)]
    first[1] += " Café"
    second += [text.upper().replace(" ", "  ").replace("É", "E\u0301") for text in first[:7]]
    second += [f"{text} more" for text in first[10:15]]
    second += [first[0], second[0]]
    (folder / "a.txt").write_text("\n\n".join(first))
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in second))
    return folder


def settings_for(text: Path, deduplicate: str) -> PrepareSettings:
    return PrepareSettings(
        (f"{text}/a.txt", f"{text}/b.jsonl"),
        vocab_size=900,
        dev_fraction=0.2,
        deduplicate=deduplicate,
    )


@pytest.mark.parametrize(
    ("deduplicate", "exact", "near"), [("none", 0, 0), ("exact", 9, 0), ("near", 9, 5)]
)
def test_a_corpus_without_copies(tmp_path, text, deduplicate, exact, near):
    """What was left out is counted where it was, and only that is missing."""
    if deduplicate == "near":
        pytest.importorskip("rensa")
    manifest = prepare_corpus(settings_for(text, deduplicate), tmp_path / "data")
    assert [source.documents_read for source in manifest.sources] == [40, 24]
    assert [source.exact_duplicates for source in manifest.sources] == [0, exact]
    assert [source.near_duplicates for source in manifest.sources] == [0, near]
    kept = [sum(counts.documents for counts in s.counts.values()) for s in manifest.sources]
    assert kept == [40, 24 - exact - near]
    assert Manifest.read(tmp_path / "data") == manifest
    if deduplicate == "none":
        # Copies of a held-out document in the training data would make the dev loss a lie.
        splits = [Corpus.open(tmp_path / "data", split) for split in ("train", "dev")]
        texts = [
            {corpus.sentence(i).tobytes() for i in range(corpus.num_sentences)} for corpus in splits
        ]
        assert not texts[0] & texts[1]


def test_workers_and_blocks_leave_out_the_same(tmp_path, text, monkeypatch):
    """The first copy stays, whoever computes the signatures."""
    pytest.importorskip("rensa")
    settings = settings_for(text, "near")
    one = prepare_corpus(settings, tmp_path / "one")
    monkeypatch.setattr(inputs, "BLOCK_CHARACTERS", 3000)
    for workers in (1, 2):
        out_dir = tmp_path / str(workers)
        assert prepare_corpus(replace(settings, workers=workers), out_dir) == one
    assert settings.content_settings()["near_threshold"] == 0.8
    assert "near_threshold" not in settings_for(text, "exact").content_settings()


def test_the_missing_library_is_named(text, monkeypatch):
    """Before anything is read: `near` is an option."""
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"needs the package `rensa`.*PTFT_EXTRAS=dedup "):
        settings_for(text, "near").check()
