"""Texts for a trained model: what is asked of them, how long they may be, and their batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import batched
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ptft_jax.data.batches import Batch, Examples
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.totals import ScoringObjective
from ptft_jax.runs.folder import TrainedRun

# A warning names the caller's line, not one in here.
PACKAGE = str(Path(__file__).resolve().parents[2])


# A text, or the two of a pair.
Text = str | tuple[str, str]


def checked(
    texts: Iterable[Text | list[str]], *, pairs: bool = False, words: bool = False
) -> list[Any]:
    """Returns texts as a list; raises ConfigError for a single text and for what is no text.

    With `pairs`, a tuple of two texts is one as well, with `words` a list of any length.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts={texts[:50]!r} is a single text: expected a list; write [text].")
    texts = list(texts)
    for number, text in enumerate(texts):
        is_pair = pairs and isinstance(text, tuple) and len(text) == 2
        has_parts = is_pair or (words and isinstance(text, list))
        if not all(isinstance(part, str) for part in (text if has_parts else [text])):
            raise ConfigError(f"texts[{number}]={text!r}: expected a text (str).")
        try:
            "".join(text).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"texts[{number}]={text!r} holds half of a surrogate pair, or a byte that is no "
                f"UTF-8 ({error.reason}): expected whole characters."
            ) from error
    return texts


def limit_of(run: TrainedRun) -> int:
    """Returns how many tokens a text may have: those of training, else the model's positions."""
    return run.config.get("max_seq_length", run.model_config.max_position_embeddings)


def warn_of_cut(examples: Any, limit: int | None = None) -> None:
    """Warns with the number of texts of which the model does not see the end."""
    if examples.num_truncated:
        warnings.warn(
            f"{examples.num_truncated} of {len(examples)} texts are longer than the "
            f"{limit or examples.buckets[-1]} tokens of this model and were cut",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )


def filled_batches(examples: Examples, batch_size: int) -> Iterator[tuple[list[int], Batch]]:
    """Yields the numbers of the texts in a batch, and the batch filled up to its full size."""
    size = min(batch_size, len(examples))
    for numbers in batched(range(len(examples)), size):
        filled = [*numbers, *[numbers[-1]] * (size - len(numbers))]
        yield list(numbers), examples.batch(np.array(filled, np.int64))


# Kept between calls and between runs of one shape: who asks again need not wait for a compilation.
@lru_cache(maxsize=16)
def outputs_step(
    config: EncoderConfig, objective: ScoringObjective
) -> Callable[..., dict[str, jax.Array]]:
    """Returns the jitted function from parameters and a batch to an objective's outputs."""
    model = build_model(config)
    return jax.jit(lambda params, batch: objective.outputs(model.bind(params), batch))
