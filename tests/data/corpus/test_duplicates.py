"""Leaving out copies: which documents go, which stay, and that nothing depends on chance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptft_jax.data.corpus.duplicates import (
    HashSet,
    NearIndex,
    bands_for,
    document_hashes,
    minhash_signatures,
    normalized,
)
from ptft_jax.data.corpus.journal import AppendFile
from ptft_jax.data.corpus.prepare import PrepareSettings, prepare_corpus
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


def test_a_set_of_hashes_is_a_set():
    """Against Python's own, with repeats within a block and between blocks of any size."""
    rng = np.random.default_rng(0)
    ours, reference = HashSet(), set()
    for size in (0, 1, 1000, 3, 500, 5000, 1, 1, 1, 200):
        numbers = rng.integers(0, 4000, size).astype(np.uint64) * np.uint64(1 << 52)
        expected = []
        for number in numbers.tolist():
            expected.append(number not in reference)
            reference.add(number)
        assert ours.add(numbers).tolist() == expected


def test_normalised_text_decides_what_is_equal():
    """Case, white space, line breaks and ways to write an accent do not make another document."""
    same = [("Ein Café.", "Two"), ("EIN  CAFE\u0301. ", "tWO"), ("ein café. two",)]
    assert len(set(document_hashes([normalized(lines) for lines in same], 0).tolist())) == 1
    other = document_hashes([normalized(("Ein Café", "Two"))], 0)
    assert other != document_hashes([normalized(same[0])], 0)
    assert document_hashes(["a"], 0) != document_hashes(["a"], 1)


def test_signatures_estimate_the_jaccard_index():
    """Within three standard deviations of a mean over pairs, at several similarities."""
    pytest.importorskip("rensa")
    rng = np.random.default_rng(1)
    for changes in (1, 4, 8):
        pairs = [random_words(rng, 200) for _ in range(50)]
        pairs = [(words, with_changes(rng, words, changes)) for words in pairs]
        exact = np.array([jaccard(*pair) for pair in pairs])
        signatures = [
            minhash_signatures([" ".join(w) for w in side], 128)
            for side in zip(*pairs, strict=True)
        ]
        estimate = (signatures[0] == signatures[1]).mean(axis=1)
        deviation = np.sqrt((exact * (1 - exact)).mean() / (128 * 50))
        assert abs(estimate.mean() - exact.mean()) < 3 * deviation + 1e-9


def test_signatures_are_those_of_the_set_of_shingles():
    """Neither the other documents of a block nor repeated shingles may change a signature."""
    pytest.importorskip("rensa")
    texts = ["a b c d e f", "x", "", "a b c d e a b c d e", "a b c d", "e f g h i j k"]
    together = minhash_signatures(texts, 64)
    for number, text in enumerate(texts):
        np.testing.assert_array_equal(together[number], minhash_signatures([text], 64)[0])
    repeated = minhash_signatures(["a b c d e a b c d e a b c d e"], 64)[0]
    np.testing.assert_array_equal(together[3], repeated)
    assert not (together[0] == together[4]).all()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_pairs_at_the_threshold(threshold):
    """1 - (1 - t^r)^b of the pairs at the threshold become candidates: at least 98 %."""
    bands, rows = bands_for(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.98
    assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.98


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
    """Two files: documents; copies of some with other case, copies with one word more, others."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("text")
    first = [" ".join(random_words(rng, 100)) for _ in range(40)]
    second = [" ".join(random_words(rng, 100)) for _ in range(10)]
    second += [text.upper() for text in first[:7]]
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
    with pytest.raises(ConfigError, match=r"needs the package `rensa`.*ptft_jax\[dedup\]"):
        settings_for(text, "near").check()
