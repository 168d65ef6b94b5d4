"""Learning a tokenizer from text, the same in every process and with any number of threads.

The trainers of `tokenizers` iterate over hash maps whose order changes from run to run. What that
decides is decided here instead: see each function. All of them are given words and not texts, in a
fixed order, each as often as it occurs, so memory grows with the number of different words.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from ptft_jax.data.tokenizer.models import (
    BERT_TOKENS,
    MAX_CHARACTERS_PER_WORD,
    SPECIAL_TOKENS,
    BertOptions,
    bert_wordpiece,
)
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import DataError

# BERT's own limit on single characters; rarer ones become [UNK]. A script that has more gets those
# that make up this share of the text (SentencePiece's character_coverage).
MAX_ALPHABET = 1000
COVERAGE = 0.9995
# Pairs of tokens that occur once are not merged.
_MIN_FREQUENCY = 2
# Decimals of a Unigram score. Between runs scores differ by up to 4e-11, from the order of sums.
_SCORE_DECIMALS = 3


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    handle_chinese_chars: bool = True,
) -> TextTokenizer:
    """Learns a tokenizer of at most `vocab_size` tokens from `texts`, read once.

    All kinds have BERT's special tokens, as ids 0 to 4: one spelling of the mask in every text and
    command, and padding is 0 as in every BERT config.

    Args:
        kind: "wordpiece": BERT's basic tokenizer and WordPiece. "bpe": byte-level BPE as in GPT-2
            and RoBERTa, with a space before the first word. "unigram": as in SentencePiece, its
            normalisation included.
        texts: lines, sentences or documents.
        vocab_size: most tokens, the special ones included; at least SMALLEST[kind].
        lowercase: lower-case the text.
        strip_accents: None means the same as `lowercase`, as in BERT.
        handle_chinese_chars: WordPiece only: each Chinese character is a word.

    Raises DataError when there are no words.
    """
    if kind == "wordpiece":
        backend = _train_wordpiece(
            texts, vocab_size, BertOptions(lowercase, strip_accents, handle_chinese_chars)
        )
    else:
        strip = lowercase if strip_accents is None else strip_accents
        train = _train_bpe if kind == "bpe" else _train_unigram
        backend = train(texts, vocab_size, lowercase, strip)
    return TextTokenizer(backend, BERT_TOKENS, source="the learned vocabulary")


def _train_wordpiece(texts: Iterable[str], vocab_size: int, options: BertOptions) -> Tokenizer:
    """Special tokens, single characters by code point, their "##" forms, merges by frequency.

    The trainer numbers characters in the order of its hash map and breaks ties between merges by
    those numbers. Characters given as special tokens get their numbers from us, and then nothing
    is left to chance.
    """
    normalizer = options.normalizer
    splitter = pre_tokenizers.BertPreTokenizer()

    def split(chunk: str) -> list[str]:
        found = splitter.pre_tokenize_str(normalizer.normalize_str(chunk))
        return [word for word, _ in found if len(word) <= MAX_CHARACTERS_PER_WORD]

    words = _count_words(texts, split)
    continuing = {character for word in words for character in word[1:]}
    alphabet = _alphabet(words, vocab_size, lambda character: 1 + (character in continuing))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[
            *SPECIAL_TOKENS,
            *alphabet,
            *(f"##{character}" for character in alphabet if character in continuing),
        ],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    vocabulary: dict[str, int] = _learn(models.WordPiece(unk_token="[UNK]"), trainer, words)[
        "vocab"
    ]
    return bert_wordpiece(sorted(vocabulary, key=lambda token: vocabulary[token]), options)


def _train_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool, strip: bool) -> Tokenizer:
    """Special tokens, the 256 bytes, merges by frequency; [UNK] is there and never needed.

    The trainer sorts its alphabet and breaks ties by ids, so it needs no help.
    """
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lowercase else []
    if strip:
        steps = [normalizers.NFD(), *steps, normalizers.StripAccents(), normalizers.NFC()]
    # Without a normaliser every text can be decoded to the byte.
    normalizer = normalizers.Sequence(steps) if steps else None
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def split(chunk: str) -> list[str]:
        text = chunk if normalizer is None else normalizer.normalize_str(chunk)
        return [word for word, _ in splitter.pre_tokenize_str(f" {text}")]

    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model = _learn(models.BPE(), trainer, _count_words(texts, split))
    backend = Tokenizer(models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]]))
    backend.normalizer = normalizer  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False), splitter]
    )
    backend.decoder = decoders.ByteLevel()
    _add_special_tokens(backend)
    return backend


def _train_unigram(
    texts: Iterable[str], vocab_size: int, lowercase: bool, strip: bool
) -> Tokenizer:
    """Special tokens, then pieces by score, ties by code point.

    The trainer gives the characters that it has pruned away, and puts back at the end, the lowest
    score plus a multiple of 0.0001 in the order of a hash map; here all of them get the lowest.
    The other scores are sums in such an order; they are rounded far above what that changes.
    """
    # As SentencePiece's nmt_nfkc: odd white space becomes a space, several become one.
    steps: list[normalizers.Normalizer] = [normalizers.Nmt(), normalizers.NFKC()]
    if strip:
        steps[-1] = normalizers.NFKD()
    if lowercase:
        steps.append(normalizers.Lowercase())
    if strip:
        steps += [normalizers.StripAccents(), normalizers.NFC()]
    steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)]
    normalizer = normalizers.Sequence(steps)

    def split(chunk: str) -> list[str]:
        # "▁" stands for a space and NUL for the end of a word in the trainer: neither is learned.
        text = normalizer.normalize_str(chunk).replace("▁", " ").replace("\0", " ")
        return [f"▁{word}" for word in text.split()]

    words = _count_words(texts, split)
    alphabet = set(_alphabet(words, vocab_size, lambda character: 1))
    words = _without_other_characters(words, alphabet)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token="[UNK]",
        show_progress=False,
    )
    learned = _learn(models.Unigram(), trainer, words)["vocab"][len(SPECIAL_TOKENS) :]
    lowest = min(score for _, score in learned)
    put_back = lowest + 1e-4 * len(alphabet)
    scores = {
        piece: round(lowest if len(piece) == 1 and score <= put_back else score, _SCORE_DECIMALS)
        for piece, score in learned
    }
    pieces = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    special = [(token, 0.0) for token in SPECIAL_TOKENS]
    backend = Tokenizer(models.Unigram([*special, *pieces], unk_id=SPECIAL_TOKENS.index("[UNK]")))
    backend.normalizer = normalizer  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    backend.decoder = decoders.Metaspace("▁", prepend_scheme="first")
    _add_special_tokens(backend)
    return backend


def _add_special_tokens(backend: Tokenizer) -> None:
    """Adds them, the mask with the space before it, as RoBERTa has it: it stands for a word."""
    backend.add_special_tokens(
        [AddedToken(token, lstrip=token == BERT_TOKENS.mask) for token in SPECIAL_TOKENS]
    )


def _count_words(texts: Iterable[str], split: Callable[[str], list[str]]) -> dict[str, int]:
    """How often each word occurs, in a fixed order; DataError when there are none.

    Splitting is slow, so what stands between two spaces is counted first and split once.
    """
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(text.split(" "))
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        # A run of spaces is no word, whatever a splitter makes of it.
        for word in split(chunk) if chunk and not chunk.isspace() else ():
            words[word] += count
    if not words:
        raise DataError("there are no words to learn a vocabulary from")
    return {word: words[word] for word in sorted(words)}


def _alphabet(words: Mapping[str, int], vocab_size: int, cost: Callable[[str], int]) -> list[str]:
    """The single characters that become tokens, by code point.

    They are the most frequent ones: as many as BERT has, or as cover a text whose script has more;
    but together they take at most half of the room, `cost` tokens each.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    covered = np.cumsum([counts[character] for character in ranked])
    limit = max(MAX_ALPHABET, int(np.searchsorted(covered, COVERAGE * covered[-1])) + 1)
    spent = np.cumsum([cost(character) for character in ranked[:limit]])
    room = (vocab_size - len(SPECIAL_TOKENS)) // 2
    return sorted(ranked[: int(np.searchsorted(spent, room, side="right"))])


def _without_other_characters(words: Mapping[str, int], alphabet: set[str]) -> dict[str, int]:
    """The words cut at the characters that are not in the alphabet."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        if alphabet.issuperset(word):
            parts[word] += count
        else:
            known = (character if character in alphabet else " " for character in word)
            for part in "".join(known).split():
                parts[part] += count
    return {word: parts[word] for word in sorted(parts)}


def _learn(model: models.Model, trainer: trainers.Trainer, words: Mapping[str, int]) -> Any:
    """What a trainer makes of a model: the "model" of its tokenizer.json."""
    learner = Tokenizer(model)
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeat_words(words), trainer)
    return json.loads(learner.to_str())["model"]


def _repeat_words(words: Mapping[str, int], at_once: int = 1000) -> Iterator[str]:
    """Texts in which each word occurs as often as counted: the trainer takes texts, not counts."""
    for word, count in words.items():
        for start in range(0, count, at_once):
            yield " ".join([word] * min(at_once, count - start))
