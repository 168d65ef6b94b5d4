"""Names of models on the Hugging Face Hub, where folders are expected."""

import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

from ptft_jax.errors import ConfigError

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
# What marks a folder of PEFT's.
ADAPTER_CONFIG = "adapter_config.json"
# No pickles, no code, and no weights in other forms than the one that is read.
MODEL_FILES = (
    *(ADAPTER_CONFIG, "adapter_model.safetensors"),
    *("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    *("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", *TOKENIZER_FILES),
)
_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[^@\s]+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = (".txt", ".json", ".model")


class Located(NamedTuple):
    """A folder or file of this machine, and where it is from.

    `origin` is NAME@COMMIT for a model of the Hub, else the path as it was given.
    """

    path: Path
    origin: str


def locate(source: str | Path, named: str, files: tuple[str, ...] = MODEL_FILES) -> Located:
    """Finds what a path, or the name of a model on the Hub, stands for.

    A path that is there is taken, whatever it is called. ORGANISATION/NAME or NAME, perhaps with
    @REVISION, is looked for on the Hub, of which the cache of `huggingface_hub` keeps a copy;
    without a network that copy is taken. Any other path, or one into a folder that is there, is
    given back as it is.

    Args:
        source: what is given.
        named: how it was given, for the error.
        files: patterns of the files to fetch.

    Raises:
        ConfigError: a model of this name is neither in the cache nor to be had, or has its weights
            as pickles only.
    """
    text = str(source)
    parsed = _parse(text)
    if parsed is None:
        return Located(Path(source), text)
    name, revision = parsed
    # Imported here: it takes a tenth of a second, and most runs start from a folder.
    import huggingface_hub

    try:
        folder = Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[*files])
        )
    except Exception as error:  # the library has a dozen kinds, most of them from the network
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        cause = error.__cause__ or error  # the network's own words, where it is to blame
        why = " ".join(f"{type(cause).__name__}: {cause}".split())
        wanted = f"{name} --revision {revision}" if revision else name
        raise ConfigError(
            f"{named}: there is no such folder here, and no model of this name could be fetched "
            f"from the Hugging Face Hub ({why}). Check the name; or run `hf download {wanted} "
            "--local-dir DIR` where there is a network, bring DIR here, and name DIR instead."
        ) from error
    if files is MODEL_FILES and not any(folder.glob("*model*.safetensors")):
        raise ConfigError(
            f"{named}: the model {name} has no weights as safetensors on the Hub: expected "
            "model.safetensors. One of its pull requests may add it, as of many old models: "
            f"name {name}@refs/pr/NUMBER. Else, on a machine with torch, from_pretrained({name!r}) "
            "followed by save_pretrained(DIR) writes it, and DIR can be named."
        )
    return Located(folder, f"{name}@{folder.name}")


def hub_name(origin: str) -> str | None:
    """The NAME in the NAME@COMMIT of a model of the Hub, None for a path."""
    found = _NAME.fullmatch(origin)
    return found["name"] if found and _COMMIT.fullmatch(found["revision"] or "") else None


def unmoved(asked: str | None, origin: str | None) -> str | None:
    """What is meant by `asked` where a run from `origin` goes on.

    That is the very commit of the Hub that the run started from, where a name or a branch that may
    have moved since stands for it, and where nothing is asked.
    """
    if asked is None or origin is None or hub_name(origin) is None:
        return origin if asked is None else asked
    name, revision = _parse(asked) or (None, None)
    moves = revision is None or not _COMMIT.fullmatch(revision)
    return origin if name == hub_name(origin) and moves else asked


def _parse(text: str) -> tuple[str, str | None] | None:
    """Name and revision of a model on the Hub; None for what is, or can only be, a path."""
    found = _NAME.fullmatch(text)
    if found is None or os.path.exists(text):
        return None
    owner, slash, _ = found["name"].partition("/")
    # A mistyped runs/base is nobody else's business.
    if (slash and os.path.exists(owner)) or Path(found["name"]).suffix in _FILES:
        return None
    return found["name"], found["revision"]
