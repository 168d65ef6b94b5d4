"""Tokenizers in files: vocab.txt, tokenizer.json, vocab.json with merges.txt, Hugging Face folders.

What is read is a `tokenizers.Tokenizer`, with the template of the files if they say one, and the
names of its special tokens; TextTokenizer makes one tokenizer of the two.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from ptft_jax.data.foreign_files import read_json_object, refuse_ways_out
from ptft_jax.data.tokenizer.models import (
    BERT_TOKENS,
    BertOptions,
    SpecialTokens,
    bert_options,
    bert_wordpiece,
    tokens_by_id,
)
from ptft_jax.errors import ConfigError, DataError

# How each is usually spelled, for files that don't say which token has which part.
_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<eos>"),
    "mask": ("[MASK]", "<mask>"),
}
# Post-processors that know nothing but the two tokens.
_PAIRS = ("BertProcessing", "RobertaProcessing")
# Files of a byte-level BPE: Hugging Face's names and those of GPT-2's first release.
_BPE_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# Classes that do to a text what BERT's does, and have a vocab.txt.
_WORDPIECE_CLASSES = (
    *("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"),
    *("ConvBertTokenizer", "PreTrainedTokenizer", "TokenizersBackend"),
)
# Classes that take a tokenizer.json as it is, without special tokens where it has no template.
_PLAIN_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
_EXPECTED = "tokenizer.json, vocab.txt, or vocab.json with merges.txt"


def read_tokenizer(path: str | Path, lowercase: bool | None) -> tuple[Tokenizer, SpecialTokens]:
    """Reads a folder or one of the files that hold a tokenizer, as TextTokenizer.load says."""
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist: expected a folder with {_EXPECTED}, or a file")
    if path.is_dir():
        refuse_ways_out(path)
        names = [name for name, _ in _BPE_FILES]
        for name in ("tokenizer.json", "vocab.txt", *names):
            if (path / name).is_file():
                return read_tokenizer(path / name, lowercase)
        found = next(path.glob("*.model"), None)
        if found is None:
            raise ConfigError(f"{path} holds none of {_EXPECTED}")
        path = found
    if path.suffix == ".model":
        raise ConfigError(
            f"{path} is a SentencePiece file: expected a tokenizer.json. In transformers, "
            "AutoTokenizer.from_pretrained(folder) followed by save_pretrained(new_folder) makes it"
        )
    for vocabulary, merges in _BPE_FILES:
        if path.name == vocabulary:
            return _from_bpe_files(path, path.parent / merges)
    if path.suffix == ".json":
        return _from_json(path)
    return _from_vocab_txt(path, lowercase), BERT_TOKENS


def _from_vocab_txt(path: Path, lowercase: bool | None) -> Tokenizer:
    try:
        # Not splitlines: a vocabulary may contain characters that Unicode calls line ends.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it") from error
    while lines and not lines[-1]:
        del lines[-1]
    tokens, config = lines, _config_beside(path)
    kind = _class_of(config)
    if kind is not None and kind not in _WORDPIECE_CLASSES:
        raise ConfigError(
            f"{path.parent / 'tokenizer_config.json'}: tokenizer_class={kind!r} does more to a "
            "text than BERT's WordPiece, which is what a vocab.txt says: expected a "
            "tokenizer.json. In transformers, AutoTokenizer.from_pretrained(folder) followed by "
            "save_pretrained(new_folder) makes one where that class can be written so"
        )
    if lowercase is None:
        lowercase = config.get("do_lower_case")
    if lowercase is None:
        lowercase = not any(token != token.lower() for token in tokens if token[:1] != "[")
    options = BertOptions(
        lowercase, config.get("strip_accents"), config.get("tokenize_chinese_chars", True)
    )
    backend = bert_wordpiece(tokens, options, str(path))
    _add_beyond(backend, _added_beside(path, config), str(path.parent))
    return backend


def _added_beside(path: Path, config: Mapping[str, Any]) -> dict[int, Any]:
    """Returns the tokens that files beside a vocab.txt add to it, by their ids."""
    decoder = config.get("added_tokens_decoder")
    file = path.parent / "added_tokens.json"
    if decoder is None and file.is_file():
        special = {_spelled(token) for token in config.get("additional_special_tokens", ())}
        decoder = {
            str(index): {
                "content": token,
                "special": token in special,
                "normalized": token not in special,
            }
            for token, index in read_json_object(file).items()
        }
    try:
        return {int(index): token for index, token in (decoder or {}).items()}
    except ValueError as error:
        raise DataError(f"{path.parent}: added tokens: {error}; fetch the folder again") from error


def _add_beyond(backend: Tokenizer, added: Mapping[int, Any], source: str) -> None:
    """Adds tokens in the order of their ids; raises DataError where they get others."""
    for index, token in sorted(added.items()):
        name = _spelled(token)
        if not isinstance(name, str):
            raise DataError(f"{source}: added token {index} is {token!r}; fetch the folder again")
        # One that the vocabulary has keeps its id, and is found in a text as one token.
        if name not in BERT_TOKENS:
            backend.add_tokens([_added_token(token)])
        if backend.token_to_id(name) != index:
            raise DataError(
                f"{source}: the added token {name!r} has the id {index}, expected "
                f"{backend.token_to_id(name)}: ids go on from the vocabulary's without a gap"
            )


def _from_json(path: Path) -> tuple[Tokenizer, SpecialTokens]:
    content = read_json_object(path)
    if not isinstance(content.get("model"), dict):
        raise DataError(f"{path}: it has no model: expected a tokenizer.json of Hugging Face's")
    # Examples are cut and padded elsewhere; and ids must not depend on a throw of dice.
    content |= {"truncation": None, "padding": None}
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None
    try:
        backend = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # The library raises bare Exceptions.
        raise DataError(f"{path}: not a tokenizer ({error})") from error
    content = json.loads(backend.to_str())
    model = content["model"]
    kind = model["type"]
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise DataError(f"{path}: its model is {kind}, expected WordPiece, BPE or Unigram")
    config = _config_beside(path)
    if content["post_processor"] is None and _class_of(config) in _PLAIN_CLASSES:
        backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    options = bert_options(content)
    if options is not None:
        template, tokens = backend.post_processor, tokens_by_id(backend, str(path))
        backend = bert_wordpiece(tokens, options, str(path))
        if template is not None:
            backend.post_processor = template
        return backend, BERT_TOKENS
    _add_named_tokens(backend, config)
    unknown = model.get("unk_token")
    if kind == "Unigram" and model["unk_id"] is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    if kind != "BPE" and (unknown is None or backend.token_to_id(unknown) is None):
        raise DataError(
            f"{path}: its {kind} model has no token for what it doesn't know; expected one in its "
            "vocabulary, named by unk_token or unk_id"
        )
    hints = {"unk": unknown, **_template_tokens(content["post_processor"])}
    return backend, _special_tokens(backend, config, hints, str(path))


def _from_bpe_files(path: Path, merges_path: Path) -> tuple[Tokenizer, SpecialTokens]:
    """A byte-level BPE with the pre-tokenizer of GPT-2 and RoBERTa."""
    vocabulary = read_json_object(path)
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise DataError(f"{path}: expected an object from tokens to ids")
    config = _config_beside(path)
    known = {token for usual in _USUAL.values() for token in usual}
    known |= {_spelled(token) for token in _named(config)}
    if merges_path.is_file():
        try:
            lines = merges_path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{merges_path}: not UTF-8 at byte {error.start}") from error
        merges = [tuple(line.split(" ")) for line in lines if line and line[:8] != "#version"]
    elif all(len(token) == 1 for token in vocabulary.keys() - known):
        # An alphabet, as of amino acids: there is nothing to merge.
        merges = []
    else:
        raise ConfigError(
            f"{merges_path} is missing: {path.name} cannot be used without its merges"
        )
    try:
        backend = Tokenizer(models.BPE(vocabulary, merges))  # type: ignore[arg-type]
    except Exception as error:  # The library raises bare Exceptions.
        raise DataError(f"{path}, {merges_path.name}: not a BPE model ({error})") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space", False))
    )
    backend.decoder = decoders.ByteLevel()
    _add_named_tokens(backend, config)
    special = _special_tokens(backend, config, {}, str(path))
    given = config.get("mask_token")
    if special.mask == "<mask>" and not isinstance(given, dict):
        # RoBERTa's mask takes the space before it, as a word would.
        given = {"content": special.mask, "lstrip": True}
    backend.add_special_tokens([_added_token(given or special.mask)])
    # The classes of these files have RoBERTa's.
    sep, cls = ((token, backend.token_to_id(token)) for token in (special.sep, special.cls))
    backend.post_processor = processors.RobertaProcessing(sep, cls)  # type: ignore[arg-type]
    return backend, special


def _class_of(config: Mapping[str, Any]) -> str | None:
    """Returns the tokenizer class that files name, a slow one and its fast one alike."""
    kind = config.get("tokenizer_class")
    return kind.removesuffix("Fast") if isinstance(kind, str) else None


def _config_beside(path: Path) -> dict[str, Any]:
    """What special_tokens_map.json and tokenizer_config.json say; the second has the last word."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path.parent / name).is_file():
            found = read_json_object(path.parent / name)
            config |= {key: value for key, value in found.items() if value is not None}
    return config


def _spelled(token: Any) -> Any:
    """Files give a token as a string, or as an object with its content."""
    return token.get("content") if isinstance(token, dict) else token


def _named(config: Mapping[str, Any]) -> list[Any]:
    """The special tokens that a config names, in the order in which transformers adds them."""
    found = (config.get(f"{role}_token") for role in ("unk", "sep", "pad", "cls", "mask"))
    return [token for token in found if isinstance(_spelled(token), str)]


def _added_token(token: Any) -> AddedToken:
    """A special token from what a file says of it."""
    if isinstance(token, str):
        return AddedToken(token, special=True)
    flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip") if name in token}
    return AddedToken(
        token["content"],
        **flags,
        normalized=token.get("normalized", False),
        special=token.get("special", True),
    )


def _add_named_tokens(backend: Tokenizer, config: Mapping[str, Any]) -> None:
    """Adds the tokens that a config names beyond the vocabulary, as transformers does."""
    decoder = config.get("added_tokens_decoder") or {}
    for token in [*(decoder[index] for index in sorted(decoder, key=int)), *_named(config)]:
        if backend.token_to_id(_spelled(token)) is None:
            backend.add_tokens([_added_token(token)])


def _template_tokens(template: Mapping[str, Any] | None) -> dict[str, str]:
    """Which tokens a post-processor puts before and after a text: [CLS] and [SEP]."""
    kind = template["type"] if template else None
    if template is None or kind not in (*_PAIRS, "TemplateProcessing", "Sequence"):
        return {}
    if kind == "Sequence":
        inner = [_template_tokens(processor) for processor in template["processors"]]
        return {role: token for found in inner for role, token in found.items()}
    if kind in _PAIRS:
        return {role: template[role][0] for role in ("cls", "sep")}
    single = template["single"]
    names = [single[i].get("SpecialToken", {}).get("id") for i in (0, -1)] if single else []
    return dict(zip(("cls", "sep"), names, strict=True)) if all(names) and names else {}


def _special_tokens(
    backend: Tokenizer, config: Mapping[str, Any], hints: Mapping[str, str | None], source: str
) -> SpecialTokens:
    """Finds the tokens by what the files say, else by how they are usually spelled.

    Raises DataError when one that an encoder needs cannot be found.
    """
    found: dict[str, str | None] = {}
    for role, usual in _USUAL.items():
        candidates = (_spelled(config.get(f"{role}_token")), hints.get(role), *usual)
        found[role] = next(
            (c for c in candidates if isinstance(c, str) and backend.token_to_id(c) is not None),
            None,
        )
    missing = [role for role, token in found.items() if token is None and role != "unk"]
    if missing:
        example = json.dumps({f"{role}_token": _USUAL[role][0] for role in missing})
        raise DataError(
            f"{source}: it has no {', '.join(missing)} token, and an encoder needs one. Name the "
            f"tokens in a special_tokens_map.json beside it, as {example}; new ones are added"
        )
    special = SpecialTokens(**found)  # type: ignore[arg-type]
    needed = (special.pad, special.cls, special.sep, special.mask)
    if len(set(needed)) < len(needed):
        raise DataError(
            f"{source}: pad, cls, sep and mask are the tokens {', '.join(needed)}: expected four "
            "different ones; name them in a special_tokens_map.json beside it"
        )
    return special


def write_tokenizer(
    folder: Path,
    content: str,
    tokens: Iterable[str],
    special: SpecialTokens,
    model_max_length: int,
) -> None:
    """Writes what AutoTokenizer.from_pretrained reads: tokenizer.json and its configs.

    BERT's own tokenizers also get the vocab.txt that other programs know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = bert_options(json.loads(content))
    if options is None:
        config: dict[str, Any] = {
            # The class that takes tokenizer.json as it is, with every version of transformers.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        }
    else:
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": options.lowercase,
            "strip_accents": options.strip_accents,
            "tokenize_chinese_chars": options.handle_chinese_chars,
        }
    config |= {"model_max_length": model_max_length, **special.names}
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special.names, indent=2) + "\n",
    }
    if options is not None:
        files["vocab.txt"] = "".join(f"{token}\n" for token in tokens)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
