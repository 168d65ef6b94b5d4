"""Text to token ids and back, with any WordPiece, BPE or Unigram model of `tokenizers`."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from tokenizers import Tokenizer

from ptft_jax.data.tokenizer.models import (
    BERT_TOKENS,
    SpecialTokens,
    WordMark,
    foreign_template,
    pair_template,
    plain_backend,
    splits_at_spaces,
    tokens_by_id,
    words_are_independent,
)
from ptft_jax.data.tokenizer.reading import read_tokenizer, write_tokenizer

# Words whose ids are remembered at once, and the characters of the longest: about 50 MB at most.
WORDS_REMEMBERED = 1 << 18
LONGEST_WORD = 64
_TEXTS_AT_ONCE = 1 << 10

_KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram"}


class TextTokenizer:
    """A tokenizer with the special tokens of an encoder.

    Attributes:
        kind: "wordpiece", "bpe" or "unigram".
        vocab_size: number of tokens; their ids are 0 to vocab_size - 1.
        pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id: ids; unk_token_id is
            None in a byte-level BPE without such a token.
        pad_token, unk_token, cls_token, sep_token, mask_token: the same as they are spelled.
        special_ids: sorted ids of these and of all other special tokens.
        lowercase: whether text is lower-cased.
        continues_word: bool [vocab_size], true where a token goes on with the word that the token
            before it began: "##…" in WordPiece; no space before it in a byte-level BPE, the rule of
            fairseq's whole-word masking; no "▁" before it in Unigram. False for special tokens.
            The first token of a sentence begins a word whatever this says.
        foreign_template: how the files that it was read from write a pair of texts, where that is
            not BERT's way, in which all texts are written here: `<s>:0 A:0 </s>:0 </s>:0 B:0 …`,
            each part with its token type; else None.
    """

    def __init__(
        self, backend: Tokenizer, special: SpecialTokens, *, source: str = "the tokenizer"
    ) -> None:
        """Makes a tokenizer of a model and the spelling of its special tokens.

        `source` names it in errors. Raises DataError when its ids are not 0, 1, 2, …, or when its
        tokens don't show where a word begins.
        """
        known = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
        backend.add_special_tokens([token for token in special if token and token not in known])
        self.foreign_template = foreign_template(backend, special)
        backend.post_processor = pair_template(backend, special)
        content = json.loads(backend.to_str())
        self._backend = backend
        self._special = special
        self._tokens = tuple(tokens_by_id(backend, source))
        self._vocabulary = {token: index for index, token in enumerate(self._tokens)}
        self._mark = WordMark.of(content, source)
        self.kind = _KINDS[content["model"]["type"]]
        self.vocab_size = len(self._tokens)
        self.pad_token, self.unk_token, self.cls_token, self.sep_token, self.mask_token = special
        self.pad_token_id = self._vocabulary[special.pad]
        self.unk_token_id = None if special.unk is None else self._vocabulary[special.unk]
        self.cls_token_id = self._vocabulary[special.cls]
        self.sep_token_id = self._vocabulary[special.sep]
        self.mask_token_id = self._vocabulary[special.mask]
        names = (token["content"] for token in content["added_tokens"] if token["special"])
        self.special_ids = tuple(sorted(self._vocabulary[name] for name in names))
        normalizer = backend.normalizer
        self.lowercase = normalizer is not None and normalizer.normalize_str("A") == "a"
        self.continues_word = self._mark.continues_word(self._tokens)
        self.continues_word[list(self.special_ids)] = False
        # The same tokenizer, but "[MASK]" written in a text is ordinary text and not the mask.
        self._plain = plain_backend(content)
        self._splits_at_spaces = splits_at_spaces(content)
        # A byte-level BPE that puts none before a text, as RoBERTa's, but knows words with one.
        first = backend.encode(["a"], is_pretokenized=True, add_special_tokens=False).ids
        begins = len(self._tokens) - int(self.continues_word.sum()) > len(self.special_ids)
        self._words_need_space = begins and all(self.continues_word[first[:1]])
        self._words = _Words(self._encode_word) if words_are_independent(content) else None

    @classmethod
    def load(cls, path: str | Path, *, lowercase: bool | None = None) -> Self:
        """Reads a tokenizer.json, a vocab.txt, a vocab.json with its merges, or a folder of them.

        Which token is the mask, and so on, is taken from the special_tokens_map.json and
        tokenizer_config.json beside the file, else from its template, else from the usual names.
        `lowercase` decides for a vocab.txt, which doesn't say it; None takes `do_lower_case` from
        the tokenizer_config.json beside it, else true when no token has a capital letter. Raises
        ConfigError when there is nothing to read at `path`, DataError when what is there cannot be
        used.
        """
        backend, special = read_tokenizer(path, lowercase)
        return cls(backend, special, source=str(path))

    def save(self, folder: str | Path, *, model_max_length: int = 512) -> None:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        AutoTokenizer.from_pretrained reads the folder when it also holds a BERT config.json. BERT's
        own tokenizers get a vocab.txt as well. `model_max_length` is the number of tokens at which
        transformers warns or truncates.
        """
        write_tokenizer(Path(folder), self.json, self._tokens, self._special, model_max_length)

    def encode_batch(self, texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
        """The ids of each text, without `[CLS]` and `[SEP]` around them.

        As in transformers, special tokens are recognised where a text spells them out, and the
        first word of a text has a space before it if the tokenizer puts one there. `plain=True` is
        for the sentences of a corpus: special tokens are ordinary text, so that no text can forge
        one, and the first word is encoded as any other, so that sentences can be joined.
        """
        if plain:
            return self._encode_plain(texts)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of each text as `encode_batch` gives them, and which characters each stands for.

        The offsets are int32 [ids, 2], first character and the one after the last. A space before
        a word is not part of it, though models with "Ġ" and "▁" put it into the word's token.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        found = []
        for text, encoding in zip(texts, encodings, strict=True):
            offsets = encoding.offsets
            if not self._splits_at_spaces:
                offsets = [_trimmed(text, *pair) for pair in offsets]
            found.append((encoding.ids, np.array(offsets, np.int32).reshape(-1, 2)))
        return found

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
        """The ids of sentences that are split into words, and the number of each token's word.

        Those of transformers' fast tokenizers with `is_split_into_words=True` (and, where a first
        word has no space before it otherwise, `add_prefix_space=True`), without `[CLS]` and
        `[SEP]`. Words of nothing but white space or characters that are left out have no token.
        """
        if self._words_need_space:
            sentences = [
                [word if word in self._special or word[:1] == " " else f" {word}" for word in words]
                for words in sentences
            ]
        encodings = self._backend.encode_batch(
            [list(words) for words in sentences], is_pretokenized=True, add_special_tokens=False
        )
        return [(e.ids, e.word_ids) for e in encodings]  # type: ignore[misc]

    def encode_text_words(
        self, texts: Sequence[str]
    ) -> list[tuple[list[int], list[int], list[tuple[int, int]]]]:
        """The ids of each text, the number of each token's word, and where each word stands.

        The ids are those of `encode_batch`, words what the tokenizer splits a text into before it
        looks for tokens, and their places [start, end) in characters, without white space.
        """
        found = []
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            numbers, spans, before = [], [], None
            for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
                if word != before or not spans:
                    spans.append((start, end))
                before = word
                spans[-1] = spans[-1][0], max(spans[-1][1], end)
                numbers.append(len(spans) - 1)
            found.append((encoding.ids, numbers, [_trimmed(text, *span) for span in spans]))
        return found

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts in one array (uint32 [N]), and how many each has (int64 [texts]).

        They are those of `encode_batch(texts, plain=True)`. Words are remembered between calls, so
        this is many times faster on the large blocks of a corpus.
        """
        if self._words is None:  # not all at once: that needs 100 bytes for each character
            starts = range(0, len(texts), _TEXTS_AT_ONCE)
            found = (self._encode_plain(texts[i : i + _TEXTS_AT_ONCE]) for i in starts)
            encoded = [_packed(ids) for some in found for ids in some]
        else:
            if len(self._words) > WORDS_REMEMBERED:
                self._words.clear()
            encoded = [self._from_words(text, self._words) for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.frombuffer(b"".join(encoded), np.uint32), lengths // 4

    def _from_words(self, text: str, words: "_Words") -> bytes:
        parts = [words[word] for word in text.split(" ")]
        found = b"".join(part for part in parts if part is not None)
        return _packed(self._encode_plain([text])[0]) if None in parts else found

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._splits_at_spaces:
            texts = [f" {text}" if text and text[0] != " " else text for text in texts]
        encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _encode_word(self, word: str) -> bytes | None:
        """The ids of a word that stands between single spaces; None: they depend on the text."""
        if self._splits_at_spaces or self._is_one_word(word):
            return _packed(self._encode_plain([word])[0])
        return None

    def _is_one_word(self, word: str) -> bool:
        """Whether a word is one word to the model too, alone and in a text."""
        if word and word.isascii() and word.isprintable():
            return True  # no normalizer makes white space of it
        normalizer = self._plain.normalizer
        if normalizer is None:
            alone, within = f" {word}", f"x {word} x"
        else:
            alone, within = map(normalizer.normalize_str, (f" {word}", f"x {word} x"))
        return (
            alone[:1] == " "
            and alone.split() == [alone[1:]]
            and not alone.startswith(self._mark.begins, 1)
            and within == f"x{alone} x"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._backend.decode([int(index) for index in ids], skip_special_tokens=False)

    def token(self, index: int) -> str:
        """The token with id `index` as the vocabulary has it; IndexError when there is none."""
        if not 0 <= index < self.vocab_size:
            raise IndexError(f"token id {index}: the vocabulary has {self.vocab_size} entries")
        return self._tokens[index]

    def text_of(self, index: int) -> str:
        """The token with id `index` as a reader knows it.

        With a space before it where a token of BPE or Unigram begins a word, with its "##" where
        one of WordPiece goes on with one.
        """
        token = self.token(index)
        return token if index in self.special_ids else self._mark.text_of(token)

    def id_of(self, token: str) -> int:
        """The id of `token`, or the unknown token's; KeyError when there is neither."""
        if token not in self._vocabulary and self.unk_token_id is not None:
            return self.unk_token_id
        return self._vocabulary[token]

    @property
    def json(self) -> str:
        """The canonical content of tokenizer.json."""
        return self._backend.to_str(pretty=False)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of tokenizer.json and of which special token has which part.

        Equal for equal behaviour; BERT's spellings of the special tokens speak for themselves.
        """
        parts = "" if self._special == BERT_TOKENS else json.dumps(self._special)
        return hashlib.sha256((self.json + parts).encode()).hexdigest()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The place of a part of a text without the white space at its ends."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _packed(ids: list[int]) -> bytes:
    return np.array(ids, np.uint32).tobytes()


class _Words(dict[str, bytes | None]):
    """Words with their ids, packed, and encoded when they are first looked up.

    None for those that `encode` gives none for, and for those too long to keep: the texts that hold
    one are encoded whole. Nearly all words of a text are among those that were seen before, and
    looking one up is an order of magnitude cheaper than encoding it.
    """

    def __init__(self, encode: Callable[[str], bytes | None]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes | None:
        if len(word) > LONGEST_WORD:
            return None
        self[word] = found = self._encode(word)
        return found
