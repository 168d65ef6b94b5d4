"""WordPiece as in BERT: training, encoding, and folders that Hugging Face's AutoTokenizer reads."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from ptft_jax.errors import ConfigError, DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Longer words become [UNK], as in BERT's tokenization.py.
MAX_CHARACTERS_PER_WORD = 100
# BERT's own limit on single characters; rarer ones become [UNK].
MAX_ALPHABET = 1000


class TextTokenizer:
    """BERT's basic tokenizer and WordPiece, with the same ids as transformers' BertTokenizer.

    Attributes: `vocab_size`; `pad_token_id`, `unk_token_id`, `cls_token_id`, `sep_token_id`,
    `mask_token_id`; `special_ids`, the five of them sorted; `lowercase`.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lowercase: bool,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool = True,
        source: str = "the vocabulary",
    ) -> None:
        """Build a tokenizer whose token i is `tokens[i]`.

        `strip_accents` None means the same as `lowercase`, as in BERT. `source` names the
        vocabulary in errors. Raises DataError when a special token is missing or a token is
        repeated.
        """
        vocabulary = {token: index for index, token in enumerate(tokens)}
        if len(vocabulary) != len(tokens):
            first = next(token for token, count in Counter(tokens).items() if count > 1)
            raise DataError(
                f"{source}: the token {first!r} appears more than once; remove the copy"
            )
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise DataError(
                f"{source}: the special tokens {', '.join(missing)} are missing; a BERT vocabulary "
                f"has all of {', '.join(SPECIAL_TOKENS)}"
            )
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.handle_chinese_chars = handle_chinese_chars
        self.vocab_size = len(vocabulary)
        self.pad_token_id = vocabulary["[PAD]"]
        self.unk_token_id = vocabulary["[UNK]"]
        self.cls_token_id = vocabulary["[CLS]"]
        self.sep_token_id = vocabulary["[SEP]"]
        self.mask_token_id = vocabulary["[MASK]"]
        self.special_ids = tuple(sorted(vocabulary[token] for token in SPECIAL_TOKENS))
        self._tokens = tuple(tokens)
        self._vocabulary = vocabulary
        self._tokenizer = self._build()
        # The same tokenizer, but "[MASK]" written in a text is three words and not the mask.
        self._plain = self._build()
        self._plain.encode_special_tokens = True

    def _build(self) -> Tokenizer:
        tokenizer = Tokenizer(
            models.WordPiece(
                self._vocabulary,
                unk_token="[UNK]",
                max_input_chars_per_word=MAX_CHARACTERS_PER_WORD,
            )
        )
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self.handle_chinese_chars,
            strip_accents=self.strip_accents,
            lowercase=self.lowercase,
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_token_id), ("[SEP]", self.sep_token_id)],
        )
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        return tokenizer

    def encode_batch(self, texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
        """The ids of each text, without [CLS] and [SEP] around them.

        As in transformers, "[MASK]" and the other special tokens are recognised where a text spells
        them out. `plain=True` reads them as ordinary words: right for a corpus, whose text must not
        be able to forge a separator.
        """
        tokenizer = self._plain if plain else self._tokenizer
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included, WordPieces joined."""
        return self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=False)

    def token(self, index: int) -> str:
        """The token with id `index`; IndexError when there is none."""
        if not 0 <= index < self.vocab_size:
            raise IndexError(f"token id {index}: the vocabulary has {self.vocab_size} entries")
        return self._tokens[index]

    def id_of(self, token: str) -> int:
        """The id of `token`, or [UNK]'s when the vocabulary doesn't have it."""
        return self._vocabulary.get(token, self.unk_token_id)

    @property
    def json(self) -> str:
        """The canonical content of tokenizer.json."""
        return self._tokenizer.to_str(pretty=False)

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of the canonical tokenizer.json: equal for equal behaviour."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def save(self, folder: str | Path, *, model_max_length: int = 512) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt.

        AutoTokenizer.from_pretrained reads the folder when it also holds a BERT config.json.
        `model_max_length` is the number of tokens at which transformers warns or truncates.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.handle_chinese_chars,
            "model_max_length": model_max_length,
            **names,
        }
        files = {
            "tokenizer.json": self.json,
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
            "special_tokens_map.json": json.dumps(names, indent=2) + "\n",
            "vocab.txt": "".join(f"{token}\n" for token in self._tokens),
        }
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path, *, lowercase: bool | None = None) -> Self:
        """Read a folder with tokenizer.json or vocab.txt, or a vocab.txt itself.

        `lowercase` None takes it from tokenizer.json, else from `do_lower_case` in the
        tokenizer_config.json beside vocab.txt, else true when no token has a capital letter.
        Raises ConfigError when there is nothing to read at `path`, DataError when what is there is
        not a BERT WordPiece tokenizer.
        """
        path = Path(path)
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist: expected a folder with tokenizer.json or vocab.txt, "
                "or a vocab.txt file"
            )
        if path.is_file():
            if path.suffix == ".json":
                return cls._from_json(path, lowercase)
            return cls._from_vocabulary(path, lowercase)
        for name, read in (
            ("tokenizer.json", cls._from_json),
            ("vocab.txt", cls._from_vocabulary),
        ):
            if (path / name).is_file():
                return read(path / name, lowercase)
        raise ConfigError(f"{path} holds neither tokenizer.json nor vocab.txt")

    @classmethod
    def _from_json(cls, path: Path, lowercase: bool | None) -> Self:
        content = _read_json(path)
        kinds = {
            part: (content.get(part) or {}).get("type")
            for part in ("model", "normalizer", "pre_tokenizer")
        }
        wanted = {
            "model": "WordPiece",
            "normalizer": "BertNormalizer",
            "pre_tokenizer": "BertPreTokenizer",
        }
        for part, kind in kinds.items():
            if kind != wanted[part]:
                raise DataError(
                    f"{path}: its {part} is {kind}, expected {wanted[part]}; only BERT's WordPiece "
                    "tokenizers can be used here"
                )
        vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        for added in content.get("added_tokens", ()):
            vocabulary.setdefault(added["content"], added["id"])
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
            raise DataError(f"{path}: its {len(tokens)} tokens do not have the ids 0, 1, 2, …")
        normalizer = content["normalizer"]
        return cls(
            tokens,
            lowercase=normalizer["lowercase"] if lowercase is None else lowercase,
            strip_accents=normalizer["strip_accents"],
            handle_chinese_chars=normalizer["handle_chinese_chars"],
            source=str(path),
        )

    @classmethod
    def _from_vocabulary(cls, path: Path, lowercase: bool | None) -> Self:
        try:
            # Not splitlines: a vocabulary may contain characters that Unicode calls line ends.
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it") from error
        tokens = lines[:-1] if lines[-1] == "" else lines
        config_path = path.parent / "tokenizer_config.json"
        config: dict[str, Any] = _read_json(config_path) if config_path.is_file() else {}
        if lowercase is None:
            lowercase = config.get("do_lower_case")
        if lowercase is None:
            lowercase = not any(
                token != token.lower() for token in tokens if not token.startswith("[")
            )
        return cls(
            tokens,
            lowercase=lowercase,
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            source=str(path),
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> TextTokenizer:
    """Learn a WordPiece vocabulary of at most `vocab_size` tokens from `texts`, read once.

    The same texts give the same vocabulary in any process and with any number of threads: special
    tokens first, then single characters by code point, then their "##" forms, then merges by
    frequency. Memory grows with the number of different words, not with the text. Raises
    ConfigError for a vocabulary too small to be of use, DataError when there are no words.
    """
    if vocab_size < 64:
        raise ConfigError(f"vocab_size={vocab_size}: expected at least 64")
    words = _count_words(texts, lowercase)
    if not words:
        raise DataError("there are no words to learn a vocabulary from")
    single: Counter[str] = Counter()
    continuing: Counter[str] = Counter()
    for word, count in words.items():
        for position, character in enumerate(word):
            single[character] += count
            if position:
                continuing[character] += count
    # At most half of a small vocabulary goes to single characters and their "##" forms.
    limit = min(MAX_ALPHABET, (vocab_size - len(SPECIAL_TOKENS)) // 4)
    ranked = sorted(single, key=lambda character: (-single[character], character))
    alphabet = sorted(ranked[:limit])
    fixed = [
        *SPECIAL_TOKENS,
        *alphabet,
        *(f"##{character}" for character in alphabet if character in continuing),
    ]
    # The trainer numbers characters in the order of its hash map, which changes from run to run,
    # and breaks ties between merges by those numbers. Characters given as special tokens get
    # their numbers from us, and then nothing is left to chance.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeat_words(words), trainer)
    vocabulary = learner.get_vocab(with_added_tokens=False)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return TextTokenizer(tokens, lowercase=lowercase, source="the learned vocabulary")


def _count_words(texts: Iterable[str], lowercase: bool) -> dict[str, int]:
    """How often each word occurs, after BERT's normalisation and splitting, in a fixed order."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(normalizer.normalize_str(text).split())
    # Splitting off punctuation is slow, so each different chunk is split once.
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in splitter.pre_tokenize_str(chunk):
            if len(word) <= MAX_CHARACTERS_PER_WORD:
                words[word] += count
    return {word: words[word] for word in sorted(words)}


def _repeat_words(words: dict[str, int], at_once: int = 1000) -> Iterator[str]:
    """Texts in which each word occurs as often as counted: the trainer takes texts, not counts."""
    for word, count in words.items():
        for start in range(0, count, at_once):
            yield " ".join([word] * min(at_once, count - start))
