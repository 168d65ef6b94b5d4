"""Texts to vectors, with a pooling that is asked for or the one that a model was trained with."""

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from ptft_jax.convert.sentence_folder import Recipe, read_limits, read_recipe
from ptft_jax.data.tasks.classification import ClassificationExamples
from ptft_jax.data.tasks.table import Split
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.embedding import POOLINGS, normalized, pooled
from ptft_jax.objectives.scores.metrics import check_outputs
from ptft_jax.runs.folder import TrainedRun
from ptft_jax.runs.trained.asking.texts import (
    PACKAGE,
    checked,
    filled_batches,
    limit_of,
    longer_than,
)


def embed(
    run: TrainedRun,
    texts: Iterable[str],
    pooling: str | None = None,
    batch_size: int = 32,
    dims: int | None = None,
) -> np.ndarray:
    """Returns a vector per text, float32 [N, D]; see `Run.embed`."""
    texts = checked(texts)
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: expected at least 1.")
    config = run.model_config
    recipe = recipe_of(run, pooling)
    if recipe.pooling not in POOLINGS:
        raise ConfigError(f"pooling={pooling!r}: expected {', '.join(POOLINGS)}.")
    if recipe.pooling == "pooler" and "pooler" not in config.heads:
        raise ConfigError(
            f"pooling='pooler': {run.folder.path} has no pooler; expected 'mean' or 'cls'."
        )
    width = config.hidden_size if dims is None else dims
    if not 1 <= width <= config.hidden_size:
        raise ConfigError(
            f"dims={dims}: expected a number from 1 to {config.hidden_size}, the features that "
            "these vectors have."
        )
    vectors = np.empty((len(texts), width), np.float32)
    if not texts:
        return vectors
    limit = min(recipe.max_seq_length or limit_of(run), config.max_tokens)
    asked = [text.strip().lower() if recipe.lowercase else text.strip() for text in texts]
    examples = ClassificationExamples(Split(asked, None, None, "texts"), run.tokenizer, limit)
    if examples.num_truncated:
        warnings.warn(
            f"{examples.num_truncated} of {len(texts)} {longer_than(limit)} and were cut",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    step = _step(config, recipe, width)
    for numbers, batch in filled_batches(examples, batch_size):
        vectors[numbers] = np.asarray(step(run.params, batch))[: len(numbers)]
    check_outputs(vectors)
    return vectors


@lru_cache(maxsize=8)
def _step(config: EncoderConfig, recipe: Recipe, width: int) -> Callable[..., jax.Array]:
    model = build_model(config)

    @jax.jit
    def step(params: Any, batch: Any) -> jax.Array:
        encoder = model.bind(params)
        hidden_BTD = encoder.last_hidden_state(batch)
        starts_BS, mask_BT = batch["pooled_positions"], batch["attention_mask"]
        vectors_BD = pooled(encoder, hidden_BTD, mask_BT, starts_BS, recipe.pooling)[:, 0, :width]
        return normalized(vectors_BD) if recipe.normalize else vectors_BD

    return step


def recipe_of(run: TrainedRun, pooling: str | None = None) -> Recipe:
    """Returns how a model's vectors are made: as it was trained, or its modules.json says, else by
    the mean.

    Args:
        run: the model.
        pooling: what to do in place of that; the limits of a folder hold all the same.

    Raises:
        ConfigError: a module or a pooling that is not known here.
        DataError: one of the files that say it is damaged or missing.
    """
    if pooling is not None:
        limit, lowercase = read_limits(run.folder.path)
        return Recipe(pooling, False, limit, lowercase)
    if "episode" in run.config and run.config.episode.pooling == "entities":
        raise ConfigError(
            f"{run.folder.path} makes vectors of two entities of a sentence: expected --pooling "
            "for vectors of texts, or `ptft predict --support=FILE`."
        )
    if is_trained(run):
        limit = run.config.max_seq_length
        if "episode" in run.config:  # whose classes are apart by distance, whatever the length
            return Recipe(run.config.episode.pooling, False, limit)
        way = run.config.embedding.pooling if "embedding" in run.config else "mean"
        return Recipe(way, True, limit)
    found = read_recipe(run.folder.path)
    return found or Recipe("mean", False, *read_limits(run.folder.path))


def is_trained(run: TrainedRun) -> bool:
    """Says whether a run was trained to make vectors of texts."""
    if "episode" in run.config:
        return run.config.episode.pooling != "entities"
    return "embedding" in run.config or few_shot_way(run) == "setfit"


def few_shot_way(run: TrainedRun) -> str:
    """Returns `few_shot.way` of a run, "" where there is none."""
    return run.config.few_shot.way if "few_shot" in run.config else ""
