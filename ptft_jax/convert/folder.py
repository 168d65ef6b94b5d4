"""Hugging Face folders: `config.json`, `model.safetensors`, tokenizer files and a model card.

`write_hf_folder` writes what `AutoModel*.from_pretrained` reads without remote code;
`read_hf_folder` reads such folders, sharded ones too. No torch and no pickle on either way.
"""

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from ptft_jax.convert import bert
from ptft_jax.convert.weights import WEIGHTS, listed, read_tensors
from ptft_jax.data.foreign_files import read_json_object, refuse_ways_out
from ptft_jax.data.hub import ADAPTER_CONFIG
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.config import HF_KEYS, EncoderConfig
from ptft_jax.objectives.classification import PROBLEM_TYPES

if TYPE_CHECKING:
    from ptft_jax.convert.adapters.folder import Base


class HeadsInfo(NamedTuple):
    """What became of the heads when a folder was read.

    Attributes:
        found: heads whose parameters were loaded, in the order of `models.config.HEADS`.
        new: heads asked for that the folder lacks; the caller initialises them.
        dropped: heads, or tensors of heads unknown here, that the folder has and nobody asked for.
        id2label: label names in the order of their ids; None where the folder names none, or has
            only the `LABEL_0`, `LABEL_1`, … that transformers fills in.
        problem_type: what a classification head predicts (`objectives.classification`), None
            without one.
    """

    found: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    id2label: tuple[str, ...] | None
    problem_type: str | None = None


def architecture(config: EncoderConfig) -> str:
    """Returns the name of the transformers class that has exactly the heads of `config`.

    Raises:
        ConfigError: no class has this set of heads.
    """
    for heads, name in bert.ARCHITECTURES.items():
        if set(heads) == set(config.heads):
            return name
    known = "; ".join(
        f"{'+'.join(heads) or 'none'} ({name})" for heads, name in bert.ARCHITECTURES.items()
    )
    raise ConfigError(
        f"model.heads={config.heads!r}: no transformers class has exactly these heads. "
        f"Expected one of: {known}. Export with fewer heads."
    )


def hf_config(
    config: EncoderConfig,
    id2label: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> dict[str, Any]:
    """Returns the content of `config.json` as transformers 5 reads it.

    Args:
        config: the model.
        id2label: names of the classes in the order of their ids; None numbers them. Only for a
            model with a classification or tagging head.
        problem_type: what a classification head predicts; None: one class, or with one label a
            score.

    Raises:
        ConfigError: the number of names is not `config.num_labels`, or no class has these heads.
    """
    values = {"architectures": [architecture(config)], **config.to_hf(), "dtype": "float32"}
    if {"classification", "tagging"} & set(config.heads):
        names = _numbered(config.num_labels) if id2label is None else id2label
        if len(names) != config.num_labels or len(set(names)) != len(names):
            raise ConfigError(
                f"id2label={list(names)!r}: expected {config.num_labels} different names, one for "
                "each output of the head."
            )
        values["id2label"] = {str(i): name for i, name in enumerate(names)}
        values["label2id"] = {name: i for i, name in enumerate(names)}
    if "classification" in config.heads:
        # Which loss the class computes when it is given labels.
        values["problem_type"] = problem_type or _usual_problem(config)
    return dict(sorted(values.items()))


def write_hf_folder(
    out_dir: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: EncoderConfig,
    tokenizer: TextTokenizer,
    card: str,
    id2label: Sequence[str] | None = None,
    problem_type: str | None = None,
    files: Mapping[str, bytes] | None = None,
    base: "Base | None" = None,
) -> Path:
    """Writes the folder that PyTorch users load, all of it or nothing.

    Of a model with an adapter, one for PEFT, which holds what was trained (`adapters.folder`).

    Args:
        out_dir: a path that does not exist yet, or an empty folder; its parents are made.
        params: parameter tree of JAX or NumPy arrays, whole in this process.
        config: the model; its heads decide the PyTorch class (`bert.ARCHITECTURES`).
        tokenizer: saved beside the weights for `AutoTokenizer`.
        card: content of `README.md`.
        id2label, problem_type: as in `hf_config`.
        files: others to put beside these, by their paths in the folder.
        base: what an adapter of the model stands beside.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds something, or the model has no PyTorch class.
        DataError: the parameters do not fit the config.
    """
    out_dir = Path(out_dir)
    check_out_dir(out_dir)
    content = hf_config(config, id2label, problem_type)
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size} tokens: expected at most "
            f"model.vocab_size={config.vocab_size}. Export with the tokenizer of the training run."
        )
    # PyTorch gives the embedding of this token no gradient, so it must be the one that pads.
    content["pad_token_id"] = tokenizer.pad_token_id
    texts = {"README.md": card}
    # transformers takes a file without this entry for another framework's.
    weights, notes = WEIGHTS, {"format": "pt"}
    if config.adapter is None:
        tensors = bert.to_hf(params, config)
    else:
        from ptft_jax.convert.adapters import folder as peft

        assert base is not None
        weights, model_class = peft.WEIGHTS, content["architectures"][0]
        about, tensors, notes = peft.adapter_files(dict(params), config, model_class, base)
        texts[ADAPTER_CONFIG] = json.dumps(about, indent=2) + "\n"
    texts["config.json"] = json.dumps(content, indent=2) + "\n"
    with made_whole(out_dir) as partial:
        for name, file in (files or {}).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(file)
        # Not by save_file, whose error for a full disk is no OSError.
        (partial / weights).write_bytes(save(tensors, metadata=notes))
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
        tokenizer.save(partial, model_max_length=config.max_position_embeddings)
    return out_dir


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """Gives a folder to fill beside `folder`, which it becomes in one move when all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Short, whatever the name of the folder: a disk has a limit.
    partial = folder.parent / f".partial-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_out_dir(out_dir: str | os.PathLike[str]) -> None:
    """Raises ConfigError unless a folder can be written here: nothing there, or an empty folder."""
    out_dir = Path(out_dir)
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise ConfigError(f"out_dir={out_dir}: expected a folder to make. Choose another path.")
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise ConfigError(
            f"out_dir={out_dir} is not empty: expected a new or empty folder. Remove its "
            "content or choose another path."
        )


def read_hf_folder(
    path: str | os.PathLike[str], heads: Sequence[str] | None = None
) -> tuple[dict[str, Any], EncoderConfig, TextTokenizer, HeadsInfo]:
    """Reads a BERT folder into a parameter tree.

    Args:
        path: folder with `config.json`, `model.safetensors` (or its shards with their index) and
            tokenizer files; or one of PEFT's, whose adapter is folded into the model it is for,
            but for a prefix or a prompt.
        heads: the heads that the model is to have; those in the folder are loaded, the others are
            listed as new and left out of the tree. None takes the folder's own heads.

    Returns:
        The parameters (nested dict of float32 NumPy arrays), the config with the heads asked for,
        the tokenizer, and what became of the heads.

    Raises:
        ConfigError: the path or the kind of model cannot be used.
        DataError: a file's content is broken or does not fit the config, or a tensor holds NaN or
            infinity.
    """
    path = Path(path)
    adapter, given, words = None, path, path
    if (path / ADAPTER_CONFIG).is_file():
        from ptft_jax.convert.adapters import folder as peft

        adapter = peft.read_adapter(path)
        path = adapter.folder
        words = given if (given / "tokenizer.json").is_file() else path
    content = _read_config(path)
    tensors = read_tensors(path)
    model_class = next(iter(content.get("architectures") or ()), None)
    if adapter is not None:
        own = {bert.canonical(name) for name in adapter.tensors}
        tensors = {name: one for name, one in tensors.items() if bert.canonical(name) not in own}
        tensors |= adapter.tensors
        content = {**content, **adapter.content}
        model_class = adapter.model_class or model_class
    owners = {name: bert.head_of(name, model_class) for name in tensors}
    present = tuple(head for head in bert.TABLE if head in owners.values() and head != "encoder")
    if heads is None:
        strangers = sorted(name for name, owner in owners.items() if owner is None)
        if strangers:
            raise DataError(
                f"{path}: tensors {listed(strangers)} belong to no known head (encoder, "
                f"{', '.join(list(bert.TABLE)[1:])}). Name the heads to load, and they are dropped."
            )
        heads = present
    found = tuple(head for head in present if head in heads)
    config = EncoderConfig.from_hf(
        content, heads=tuple(heads), adapter=None if adapter is None else adapter.config
    )
    problem_type = None
    if "classification" in found:
        problem_type = content.get("problem_type") or _usual_problem(config)
        if problem_type not in PROBLEM_TYPES:
            raise DataError(
                f"{path}: problem_type={problem_type!r}: expected one of "
                f"{', '.join(PROBLEM_TYPES)}."
            )
    # Before names are made for each of them: a number in a file must not decide about our memory.
    if config.num_hidden_layers > len(tensors):
        raise DataError(
            f"{path}: config.json says num_hidden_layers={config.num_hidden_layers}, but there are "
            f"only {len(tensors)} tensors. The config and the weights belong to different models."
        )
    wanted = {name: tensors[name] for name in tensors if owners[name] in ("encoder", *found)}
    odd = sorted(name for name, tensor in wanted.items() if not np.isfinite(tensor).all())
    if odd:
        raise DataError(
            f"{path}: NaN or infinity in tensors {listed(odd)}: expected finite numbers. Take "
            "another folder: fetch it again, save an earlier checkpoint, or convert the model to "
            "float32 where float16, whose numbers end at 65504, made infinities of larger ones."
        )
    params = bert.from_hf(wanted, config.replace(heads=found))
    if adapter is not None:
        peft.check_base(given, params, adapter.base)
        if adapter.config.targets:
            from ptft_jax.models.adapters.folding import folded

            params, config = folded(params, config)
    # Without the parameter's own part: `qa_outputs`, `cls.species`.
    strange = {name.rsplit(".", 1)[0] for name, owner in owners.items() if owner is None}
    info = HeadsInfo(
        found=found,
        new=tuple(head for head in heads if head not in found),
        dropped=(*(head for head in present if head not in found), *sorted(strange)),
        id2label=_label_names(content),
        problem_type=problem_type,
    )
    tokenizer = TextTokenizer.load(words)
    if tokenizer.foreign_template is not None:
        cls, sep = tokenizer.cls_token, tokenizer.sep_token
        raise ConfigError(
            f"{path}: its tokenizer writes a pair of texts as {tokenizer.foreign_template} (A and "
            f"B are the texts, numbers are token types): expected {cls}:0 A:0 {sep}:0 B:1 {sep}:1, "
            "and the same of a single text, as BERT has it and as texts are written here. If that "
            "is how the model was trained, write it as post_processor into tokenizer.json."
        )
    if tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model embeds "
            f"{config.vocab_size}: expected no more tokens than embeddings. Tokens were added and "
            "the model was not resized: in transformers, "
            "model.resize_token_embeddings(len(tokenizer)), then save both."
        )
    return params, config, tokenizer, info


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        packed = ": unpack it first, and name the folder" if path.is_file() else ""
        raise ConfigError(f"{path}: expected a Hugging Face folder with a config.json{packed}.")
    file = path / "config.json"
    if not file.is_file():
        raise ConfigError(f"{path} has no config.json: expected a Hugging Face folder.")
    refuse_ways_out(path)
    content = read_json_object(file, "fetch or export it again")
    _check_values(file, content)
    if "model_type" not in content:
        raise ConfigError(
            f"{file} has no model_type: expected one, to know what the weights are. If this is a "
            'BERT, as the folders of SciBERT and FinBERT are, add "model_type": "bert" to it.'
        )
    if content.get("model_type") != "bert":
        raise ConfigError(
            f"{file}: model_type={content.get('model_type')!r}: only 'bert' is supported."
        )
    if content.get("tie_word_embeddings", True) is not True:
        raise ConfigError(f"{file}: tie_word_embeddings=false: only tied decoders are supported.")
    return content


def _check_values(file: Path, content: Mapping[str, Any]) -> None:
    """Raises DataError for a value of a type, or beyond a size, that no model has."""
    kinds: dict[type, tuple[str, Callable[[Any], bool]]] = {
        int: ("a whole number below 2147483648", lambda v: type(v) is int and 0 <= v < 1 << 31),
        float: ("a number from 0 on", lambda v: type(v) in (int, float) and 0 <= v < 1 << 31),
        list: ("a list of names", lambda v: type(v) is list and all(type(n) is str for n in v)),
        dict: ("an object from ids to names", lambda v: type(v) is dict),
    }
    like = dataclasses.asdict(EncoderConfig(classifier_dropout=0.1))
    like |= {"architectures": [], "id2label": {}}
    may_be_null = ("pad_token_id", "classifier_dropout", "architectures", "id2label")
    for name in (*HF_KEYS, "num_labels", "architectures", "id2label"):
        value, kind = content.get(name), kinds.get(type(like[name]))
        may_lack = name not in content or (value is None and name in may_be_null)
        if kind is not None and not may_lack and not kind[1](value):
            raise DataError(
                f"{file}: {name}={value!r}: expected {kind[0]}. Fetch or export it again."
            )


def _usual_problem(config: EncoderConfig) -> str:
    """Returns what a classification head predicts where nothing says it, as transformers has it."""
    return "regression" if config.num_labels == 1 else "single_label_classification"


def _numbered(count: int) -> tuple[str, ...]:
    """Returns the names that transformers gives to classes that have none."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _label_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = content.get("id2label")
    if not names:
        return None
    try:
        ordered = tuple(str(names[str(i)]) for i in range(len(names)))
        return None if ordered == _numbered(len(ordered)) else ordered
    except (KeyError, TypeError) as error:
        raise DataError(
            f"config.json: id2label={names!r}: expected names for the ids 0 to {len(names) - 1}."
        ) from error
