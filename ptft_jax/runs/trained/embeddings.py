"""Texts to vectors, with a pooling that is asked for or the one that a folder was trained with.

A folder of sentence-transformers says in modules.json how its vectors are made: the pooling in
1_Pooling/config.json, whether they have length 1 (a module Normalize), and in
sentence_bert_config.json how many tokens a text may have.
"""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.foreign_files import inner_paths, read_json, read_json_object
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.metrics import check_outputs
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.texts import PACKAGE, checked, filled_batches, limit_of, longer_than

POOLINGS = ("mean", "cls", "pooler")
"""mean: over a text's tokens, [CLS] and [SEP] among them. cls: the last layer's output at [CLS].
pooler: tanh of the pooler's map of that, what pretraining's NSP and a classifier look at."""

_MODULES, _LIMITS = "modules.json", "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How vectors are made: one of `POOLINGS`, and whether each is divided by its length."""

    pooling: str
    normalize: bool = False


def embed(
    run: TrainedRun, texts: Iterable[str], pooling: str | None = None, batch_size: int = 32
) -> np.ndarray:
    """Returns a vector per text, float32 [N, D]; see `Run.embed`."""
    texts = checked(texts)
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: expected at least 1.")
    config = run.model_config
    recipe = recipe_of(run.folder.path) if pooling is None else Recipe(pooling)
    if recipe.pooling not in POOLINGS:
        raise ConfigError(f"pooling={pooling!r}: expected {', '.join(POOLINGS)}.")
    if recipe.pooling == "pooler" and "pooler" not in config.heads:
        raise ConfigError(
            f"pooling='pooler': {run.folder.path} has no pooler; expected 'mean' or 'cls'."
        )
    vectors = np.empty((len(texts), config.hidden_size), np.float32)
    if not texts:
        return vectors
    limit, lowercase = _sentence_limits(run)
    asked = [text.strip().lower() if lowercase else text.strip() for text in texts]
    examples = ClassificationExamples(Split(asked, None, None, "texts"), run.tokenizer, limit)
    if examples.num_truncated:
        warnings.warn(
            f"{examples.num_truncated} of {len(texts)} {longer_than(limit)} and were cut",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    step = _step(config, recipe)
    for numbers, batch in filled_batches(examples, batch_size):
        vectors[numbers] = np.asarray(step(run.params, batch))[: len(numbers)]
    check_outputs(vectors)
    return vectors


@lru_cache(maxsize=8)
def _step(config: EncoderConfig, recipe: Recipe) -> Callable[..., jax.Array]:
    model = build_model(config)

    @jax.jit
    def step(params: Any, batch: Any) -> jax.Array:
        encoder = model.bind(params)
        hidden_BTD = encoder.last_hidden_state(batch)
        if recipe.pooling == "pooler":
            pooled_BD = encoder.pooled(hidden_BTD, batch["pooled_positions"])[:, 0]
        elif recipe.pooling == "cls":
            pooled_BD = hidden_BTD[:, 0]
        else:
            mask_BT1 = batch["attention_mask"].astype(jnp.float32)[:, :, None]
            pooled_BD = (hidden_BTD * mask_BT1).sum(axis=1) / mask_BT1.sum(axis=1)
        pooled_BD = pooled_BD.astype(jnp.float32)
        if recipe.normalize:
            lengths_B1 = jnp.linalg.norm(pooled_BD, axis=1, keepdims=True)
            pooled_BD /= jnp.maximum(lengths_B1, 1e-12)
        return pooled_BD

    return step


def recipe_of(folder: Path) -> Recipe:
    """Returns how a folder's vectors are made: as its modules.json says, else by the mean.

    Raises:
        ConfigError: it asks for a module or a pooling that is not known here.
        DataError: one of the files is damaged or missing.
    """
    file, modules = folder / _MODULES, _modules_of(folder)
    if modules is None:
        return Recipe("mean")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            f"{file} asks for {', '.join(kinds) or 'nothing'}: only Transformer, Pooling and "
            "Normalize are known here. Say pooling='mean', 'cls' or 'pooler' to leave them out."
        )
    pooling = _pooling_of(folder / modules[1]["path"] / "config.json")
    return Recipe(pooling, normalize="Normalize" in kinds)


def recipe_files(folder: Path) -> dict[str, bytes]:
    """Returns the files that say how a folder's vectors are made, by their paths in it.

    Raises:
        DataError: modules.json is damaged.
    """
    places = [module["path"] for module in _modules_of(folder) or () if module["path"]]
    names = [_MODULES, _LIMITS, _PROMPTS, *(f"{place}/config.json" for place in places)]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


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


def _sentence_limits(run: TrainedRun) -> tuple[int, bool]:
    """Returns how many tokens a text may have, and whether it is lower-cased beforehand."""
    file = run.folder.path / _LIMITS
    if not file.is_file():
        return limit_of(run), False
    content = read_json_object(file)
    limit = content.get("max_seq_length")
    if limit is not None and type(limit) is not int:
        raise DataError(f"{file}: max_seq_length={limit!r}: expected a whole number.")
    positions = run.model_config.max_tokens
    return min(limit or positions, positions), content.get("do_lower_case") is True
