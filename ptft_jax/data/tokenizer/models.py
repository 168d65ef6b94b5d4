"""The models behind a tokenizer: BERT's WordPiece, and what can be told of any other model."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ptft_jax.errors import DataError

# Longer words become [UNK], as in BERT's tokenization.py.
MAX_CHARACTERS_PER_WORD = 100


class SpecialTokens(NamedTuple):
    """How the special tokens are spelled. `unk` None: every text can be encoded without one."""

    pad: str
    unk: str | None
    cls: str
    sep: str
    mask: str

    @property
    def names(self) -> dict[str, str]:
        """The same under the names that Hugging Face's files use: `pad_token`, …"""
        return {f"{role}_token": token for role, token in self._asdict().items() if token}


# Every tokenizer that is trained here has these, as ids 0 to 4.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_TOKENS = SpecialTokens(*SPECIAL_TOKENS)


class BertOptions(NamedTuple):
    """The choices that BERT's own tokenizers differ in; `strip_accents` None: as `lowercase`."""

    lowercase: bool
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True

    @property
    def normalizer(self) -> normalizers.Normalizer:
        """The normalizer of BERT's basic tokenizer."""
        return normalizers.BertNormalizer(clean_text=True, **self._asdict())


def bert_wordpiece(
    tokens: Sequence[str], options: BertOptions, source: str = "the vocabulary"
) -> Tokenizer:
    """BERT's basic tokenizer and WordPiece, whose token i is `tokens[i]`.

    Gives the ids of transformers' BertTokenizer. Raises DataError when a special token is missing
    or a token is repeated; `source` names the vocabulary in it.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        first = next(token for token, count in Counter(tokens).items() if count > 1)
        ids = [str(index) for index, token in enumerate(tokens) if token == first]
        raise DataError(
            f"{source}: the token {first!r} appears more than once, as ids {', '.join(ids)}; fetch "
            "it again, or rename all but the last (a line that is removed shifts the ids after it)"
        )
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise DataError(
            f"{source}: the special tokens {', '.join(missing)} are missing; a BERT vocabulary "
            f"has all of {', '.join(SPECIAL_TOKENS)}"
        )
    backend = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS_PER_WORD
        )
    )
    backend.normalizer = options.normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return backend


def bert_options(content: Mapping[str, Any]) -> BertOptions | None:
    """The options of a tokenizer.json that `bert_wordpiece` could have made, None for others."""
    model, normalizer = content["model"], content.get("normalizer") or {}
    is_bert = (
        model.get("type") == "WordPiece"
        and model.get("unk_token") == "[UNK]"
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == MAX_CHARACTERS_PER_WORD
        and normalizer.get("type") == "BertNormalizer"
        and normalizer["clean_text"]
        and (content.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and model["vocab"].keys() >= set(SPECIAL_TOKENS)
        and {token["content"] for token in content["added_tokens"]} <= set(SPECIAL_TOKENS)
    )
    return BertOptions(*(normalizer[name] for name in BertOptions._fields)) if is_bert else None


def pair_template(backend: Tokenizer, special: SpecialTokens) -> processors.PostProcessor:
    """BERT's input: `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, with type 1 from B on."""
    cls, sep = special.cls, special.sep
    return processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )


def foreign_template(backend: Tokenizer, special: SpecialTokens) -> str | None:
    """How a tokenizer's own template writes a pair: `<s>:0 A:0 </s>:0 …`, with token types.

    None where it writes texts and pairs as `pair_template` does, or has no template.
    """
    if backend.post_processor is None:
        return None
    a, b = (backend.encode(text, add_special_tokens=False).ids for text in "ab")
    cls, sep = (backend.token_to_id(token) for token in (special.cls, special.sep))
    alone, pair = backend.encode("a"), backend.encode("a", "b")
    types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    as_bert = alone.ids == [cls, *a, sep] and pair.ids == [cls, *a, sep, *b, sep]
    if as_bert and pair.type_ids == types:
        return None
    written: list[str] = []
    for text, token, kind in zip(pair.sequence_ids, pair.tokens, pair.type_ids, strict=True):
        part = f"{token if text is None else 'AB'[text]}:{kind}"
        if text is None or written[-1:] != [part]:
            written.append(part)
    return " ".join(written)


def tokens_by_id(backend: Tokenizer, source: str) -> list[str]:
    """The tokens in the order of their ids; DataError when those are not 0, 1, 2, …"""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    for expected, token in enumerate(tokens):
        if vocabulary[token] != expected:
            raise DataError(
                f"{source}: its {len(tokens)} tokens do not have the ids 0, 1, 2, …: {token!r} has "
                f"{vocabulary[token]} where {expected} was expected"
            )
    return tokens


def _parts(part: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The members of a normalizer, pre-tokenizer or decoder of a tokenizer.json."""
    if part is None:
        return
    inner = next((part[name] for name in part if name.endswith(("izers", "oders"))), None)
    if inner is None:
        yield dict(part)
    for member in inner or ():
        yield from _parts(member)


class WordMark(NamedTuple):
    """How the tokens of a model show where a word begins.

    Either tokens that begin a word begin with one of `begins`, or those that go on with one begin
    with `continues`. `is_byte_level`: tokens spell bytes, in GPT-2's alphabet.
    """

    begins: tuple[str, ...] = ()
    continues: str = ""
    is_byte_level: bool = False

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str) -> "WordMark":
        """Finds it in a tokenizer.json; DataError when its tokens don't show it."""
        prefix = content["model"].get("continuing_subword_prefix")
        if prefix:
            return cls(continues=prefix)
        places = [*_parts(content.get("pre_tokenizer")), *_parts(content.get("decoder"))]
        if any(part["type"] == "ByteLevel" for part in places):
            # Tokens that were added by hand may begin with a space itself.
            return cls(begins=("Ġ", " "), is_byte_level=True)
        for part in places:
            if part["type"] == "Metaspace":
                return cls(begins=(part["replacement"],))
        for part in _parts(content.get("normalizer")):
            if part["type"] == "Prepend":
                return cls(begins=(part["prepend"],))
        raise DataError(
            f"{source}: its tokens do not show where a word begins; expected a byte-level BPE, a "
            'model with "▁" before words, or one with a prefix such as "##" inside them'
        )

    def continues_word(self, tokens: Sequence[str]) -> np.ndarray:
        """Which tokens go on with a word: bool [tokens]."""
        if self.continues:
            return np.array([token.startswith(self.continues) for token in tokens])
        return np.array([not token.startswith(self.begins) for token in tokens])

    def text_of(self, token: str) -> str:
        """A token as a reader knows it: with a space where it begins a word, or its own prefix."""
        if self.is_byte_level:
            return decoders.ByteLevel().decode([token])
        return token if self.continues else token.replace(self.begins[0], " ")


def plain_backend(content: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a tokenizer.json to which a special token's spelling is ordinary text.

    A model may have its special tokens among its pieces and find them in a word by itself (Unigram
    does), so they get names that no word can have: the space in them stands in no word.
    """
    content = copy.deepcopy(dict(content))
    names = {t["content"]: f" {t['content']}" for t in content["added_tokens"] if t["special"]}
    model = content["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    content["post_processor"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    backend.encode_special_tokens = True
    return backend


# Normalizers that do to a word what they do to it in a text.
_LOCAL = {"BertNormalizer", "Lowercase", "StripAccents", "Nmt", "NFC", "NFD", "NFKC", "NFKD"}
_SPLIT_AT_SPACES = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


def words_are_independent(content: Mapping[str, Any]) -> bool:
    """Whether the ids of a plain text are those of its words, each with the space before it.

    Asked for texts that have single spaces between words and nothing else that is white. What
    isn't known to be so is not so.
    """
    for token in content["added_tokens"]:
        text = token["content"]
        if not token["special"] and (
            token["rstrip"] or (len(text.split()) != 1 and not (text.isspace() and len(text) > 1))
        ):
            return False
    for part in _parts(content.get("normalizer")):
        is_end = part["type"] == "Strip" and not part["strip_left"]
        is_run = part["type"] == "Replace" and part["pattern"] == {"Regex": " {2,}"}
        if not (part["type"] in _LOCAL or is_end or is_run):
            return False
    steps = list(_parts(content.get("pre_tokenizer")))
    if len(steps) == 1 and steps[0]["type"] in _SPLIT_AT_SPACES:
        return True
    if len(steps) == 1 and steps[0]["type"] == "Metaspace":
        return steps[0]["split"]
    if len(steps) == 2 and steps[0] == SPACE_BEFORE_FIRST:
        del steps[0]
    return len(steps) == 1 and steps[0]["type"] == "ByteLevel" and steps[0]["use_regex"]


# Puts a space before a text, but not before what follows a special token in it: ByteLevel's own
# add_prefix_space would make the full stop in "Paris is [MASK]." a word.
SPACE_BEFORE_FIRST = {
    "type": "Metaspace",
    "replacement": " ",
    "prepend_scheme": "first",
    "split": False,
}


def splits_at_spaces(content: Mapping[str, Any]) -> bool:
    """Whether white space is left out, instead of becoming part of the token that follows it."""
    return any(part["type"] in _SPLIT_AT_SPACES for part in _parts(content.get("pre_tokenizer")))
