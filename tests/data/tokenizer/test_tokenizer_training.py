"""Learning tokenizers: the same in every process, of the size asked for, in bounded memory."""

import json
import os
import subprocess
import sys

import pytest

from ptft_jax.data.corpus.settings import SMALLEST
from ptft_jax.data.tokenizer.models import SPECIAL_TOKENS
from ptft_jax.data.tokenizer.training import train_tokenizer
from ptft_jax.errors import DataError

KINDS = ("wordpiece", "bpe", "unigram")
TEXTS = ["the cats sat on the mat.", "a cat! the dog sat.", "dogs and cats are animals"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_the_size_is_kept(kind):
    """Ids 0 to 4 are BERT's special tokens for every kind; the vocabulary is never larger."""
    for size in (SMALLEST[kind], 400):
        ours = train_tokenizer(kind, TEXTS, size)
        assert [ours.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
        assert ours.special_ids == (0, 1, 2, 3, 4)
        assert ours.vocab_size <= size
        assert ours.unk_token_id not in ours.encode_batch(TEXTS[:1])[0]


# Prints the digest of one tokenizer of each kind, of texts with many ties.
TRAIN_AND_PRINT = """
from ptft_jax.data.tokenizer.training import train_tokenizer
letters = "abcdefghijklmnopqrstuvwxyz"
texts = [f"word{i % 37} thing{i % 11}s {letters[i % 26]}{letters[i % 23]} Ünï" for i in range(900)]
texts += [a + b + a + b + c for a in letters for b in letters for c in "xyz"]
for kind in ("wordpiece", "bpe", "unigram"):
    print(train_tokenizer(kind, iter(texts), 500).sha256)
"""


def test_training_is_the_same_in_every_process():
    """Neither hash seeds nor threads may decide ties: a corpus must be reproducible."""
    outputs = set()
    for hash_seed, threads in (("1", "1"), ("2", "1"), ("3", "4"), ("4", "3")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        finished = subprocess.run(
            [sys.executable, "-c", TRAIN_AND_PRINT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(finished.stdout)
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 3


def test_pieces_that_unigram_puts_back_have_one_score():
    """The trainer tells them apart by the order of a hash map; here the code point decides."""
    texts = [f"{a}{b}" * 4 for a in "abcdefghij" for b in "klmnopqrst"] * 3
    pieces = json.loads(train_tokenizer("unigram", texts, 120).json)["model"]["vocab"][5:]
    lowest = min(score for _, score in pieces)
    put_back = [piece for piece, score in pieces if score == lowest]
    assert len(put_back) > 10
    assert put_back == sorted(put_back)
    assert pieces == sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def test_a_tiny_vocabulary_keeps_room_for_words():
    """With hundreds of different characters the rare ones become [UNK], not the common words."""
    rare = "".join(chr(0x4E00 + i) for i in range(500))
    for kind in ("wordpiece", "unigram"):
        ours = train_tokenizer(kind, [rare, *[*TEXTS, "the, cat."] * 20], 120)
        assert ours.vocab_size <= 120
        tokens = [ours.text_of(i).strip() for i in ours.encode_batch(["the cat"])[0]]
        assert tokens == ["the", "cat"]


def test_a_script_of_many_characters_gets_them():
    """BERT's limit of 1,000 characters would make most of a Chinese text unknown."""
    texts = ["".join(chr(0x4E00 + i) for i in range(k, 3000, 7)) for k in range(7)] * 2
    ours = train_tokenizer("wordpiece", texts, 8000)
    unknown = sum(ids.count(1) for ids in ours.encode_batch(texts))
    assert unknown <= 0.001 * sum(map(len, texts))
    # Rare characters beside a large Latin text are another thing.
    few = train_tokenizer("wordpiece", [*texts[:3], *["the cats sat on mats"] * 200_000], 8000)
    assert few.vocab_size < 1100


def test_options_of_wordpiece():
    """Cased, with accents, Chinese in words: as BERT's options say."""
    texts = ["École 漢字 À"] * 5
    ours = train_tokenizer("wordpiece", texts, 200, lowercase=False, handle_chinese_chars=False)
    assert [ours.token(i) for i in ours.encode_batch(texts[:1])[0]] == ["École", "漢字", "À"]
    ours = train_tokenizer("wordpiece", texts, 200, strip_accents=False)
    assert [ours.token(i) for i in ours.encode_batch(texts[:1])[0]] == ["école", "漢", "字", "à"]
    ours = train_tokenizer("wordpiece", texts, 200)
    assert [ours.token(i) for i in ours.encode_batch(texts[:1])[0]] == ["ecole", "漢", "字", "a"]


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_to_learn_from_nothing(kind):
    """White space and control characters are no words."""
    for nothing in ([], ["", "  ", "\t"], ["\x00\x01"] if kind == "wordpiece" else []):
        with pytest.raises(DataError, match="no words"):
            train_tokenizer(kind, nothing, 400)
