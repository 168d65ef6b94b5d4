"""Folders of sentence-transformers: how the vectors of their texts are made.

modules.json lists the modules: the encoder, the pooling in 1_Pooling/config.json, and perhaps
Normalize, which gives vectors the length 1. sentence_bert_config.json says how many tokens a text
may have.
"""

import dataclasses
import json
from pathlib import Path

from ptft_jax.data.foreign_files import inner_paths, read_json, read_json_object
from ptft_jax.errors import ConfigError, DataError

_MODULES, _LIMITS = "modules.json", "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
# By these names versions from 2 on know them.
_KINDS = ("Transformer", "Pooling", "Normalize")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How vectors are made.

    Attributes:
        pooling: one of `objectives.embedding.POOLINGS`.
        normalize: whether each is divided by its length.
        max_seq_length: tokens of a text at most; None: as many as the model takes.
        lowercase: whether texts are lower-cased beforehand.
    """

    pooling: str
    normalize: bool = False
    max_seq_length: int | None = None
    lowercase: bool = False


def read_recipe(folder: Path) -> Recipe | None:
    """Returns how a folder's vectors are made, None where its files do not say it.

    Raises:
        ConfigError: it asks for a module or a pooling that is not known here.
        DataError: one of the files is damaged or missing.
    """
    file, modules = folder / _MODULES, _modules_of(folder)
    if modules is None:
        return None
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in ([*_KINDS[:2]], [*_KINDS]):
        raise ConfigError(
            f"{file} asks for {', '.join(kinds) or 'nothing'}: only Transformer, Pooling and "
            "Normalize are known here. Say pooling='mean', 'cls' or 'pooler' to leave them out."
        )
    pooling = _pooling_of(folder / modules[1]["path"] / "config.json")
    return Recipe(pooling, "Normalize" in kinds, *read_limits(folder))


def read_limits(folder: Path) -> tuple[int | None, bool]:
    """Returns `max_seq_length` and `lowercase` of a folder's recipe.

    Raises DataError for a file that is damaged.
    """
    file = folder / _LIMITS
    if not file.is_file():
        return None, False
    content = read_json_object(file)
    limit = content.get("max_seq_length")
    if limit is not None and type(limit) is not int:
        raise DataError(f"{file}: max_seq_length={limit!r}: expected a whole number.")
    return limit or None, content.get("do_lower_case") is True


def recipe_files(folder: Path) -> dict[str, bytes]:
    """Returns the files that say how a folder's vectors are made, by their paths in it.

    Raises:
        DataError: modules.json is damaged.
    """
    places = [module["path"] for module in _modules_of(folder) or () if module["path"]]
    names = [_MODULES, _LIMITS, _PROMPTS, *(f"{place}/config.json" for place in places)]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def files_of(recipe: Recipe, width: int) -> dict[str, bytes]:
    """Returns the files that say to sentence-transformers how vectors are made, by their paths.

    Args:
        recipe: its pooling is "mean" or "cls".
        width: of the vectors.
    """
    kinds = _KINDS if recipe.normalize else _KINDS[:2]
    places = [f"{number}_{kind}" if number else "" for number, kind in enumerate(kinds)]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": place,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": recipe.pooling == "cls",
        "pooling_mode_mean_tokens": recipe.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    limits = {"max_seq_length": recipe.max_seq_length, "do_lower_case": recipe.lowercase}
    files = {
        _MODULES: modules,
        f"{places[1]}/config.json": pooling,
        _LIMITS: limits,
        _PROMPTS: {"similarity_fn_name": "cosine" if recipe.normalize else "euclidean"},
    }
    return {name: json.dumps(value, indent=2).encode() + b"\n" for name, value in files.items()}


def _modules_of(folder: Path) -> list[dict[str, str]] | None:
    """Returns what modules.json lists, None without the file."""
    file = folder / _MODULES
    if not file.is_file():
        return None
    modules = read_json(file)
    is_list = isinstance(modules, list) and all(isinstance(module, dict) for module in modules)
    if not is_list or not all(isinstance(m.get(k), str) for m in modules for k in ("type", "path")):
        raise DataError(f"{file}: expected a list of modules, each with a type and a path.")
    inner_paths([module["path"] for module in modules if module["path"]], file)
    return modules


def _pooling_of(file: Path) -> str:
    """Returns the pooling that a module's config.json names, by a word or by flags."""
    if not file.is_file():
        raise DataError(f"{file} is missing: {_MODULES} names its folder. Fetch the folder again.")
    content = read_json_object(file)
    flags = [name for name, value in content.items() if "pooling_mode_" in name and value is True]
    named = content.get("pooling_mode") or "+".join(n.partition("mode_")[2] for n in flags)
    # Without any flag sentence-transformers takes the mean.
    known = {"mean": "mean", "mean_tokens": "mean", "": "mean", "cls": "cls", "cls_token": "cls"}
    if not isinstance(named, str) or named not in known:
        raise ConfigError(
            f"{file}: pooling {json.dumps(named)} is not known here; say pooling='mean', 'cls' or "
            "'pooler' for another."
        )
    return known[named]
