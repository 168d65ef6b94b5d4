"""Texts for a trained model: what is asked of them, how long they may be, and their batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ptft_jax.data.batches import Batch, Examples, by_length
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.scores.metrics import check_outputs
from ptft_jax.objectives.totals import ScoringObjective
from ptft_jax.runs.folder import TrainedRun

# A warning names the caller's line, not one in here.
PACKAGE = str(Path(__file__).resolve().parents[3])


_BATCH = 32
# Texts whose tokens and outputs are held at once: a long file takes no more memory for them. Rows
# of like length are found among those of a block.
BLOCK = 8192

# From so many texts on, less padding is worth more compilations: lengths go in steps of 8, not 32.
_MANY = 512

# Is told which share of the texts is done, from 0 to 1.
Share = Callable[[float], None]

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
    return run.config.get("max_seq_length", run.model_config.max_tokens)


def in_blocks[T](
    asked: Sequence[T],
    ask: Callable[[list[T], Share], tuple[list[dict[str, Any]], int]],
    told: Callable[[int, int], None],
    longer: str,
) -> list[dict[str, Any]]:
    """Returns what `ask` finds for each text, and warns once with the number of those cut.

    Args:
        asked: the texts, of any form.
        ask: takes some of them and what is to be told, returns a dict each and how many were cut.
        told: is told how many texts are done, and how many there are.
        longer: completes the warning, "texts are longer than …".
    """
    results, cut = [], 0
    for start in range(0, len(asked), BLOCK):
        block = list(asked[start : start + BLOCK])

        def share(done: float, start: int = start, size: int = len(block)) -> None:
            told(start + int(done * size), len(asked))

        found, more = ask(block, share)
        results += found
        cut += more
    if cut:
        warnings.warn(
            f"{cut} of {len(asked)} {longer} and were cut",
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )
    return results


def longer_than(limit: int) -> str:
    """Returns the words for texts of which a model does not see the end."""
    return f"texts are longer than the {limit} tokens of this model"


def buckets_for(run: TrainedRun, texts: Sequence[Any]) -> Sequence[int] | None:
    """Returns the lengths that rows of so many texts are padded to; None for the usual ones."""
    return range(8, limit_of(run), 8) if len(texts) >= _MANY else None


def filled_batches(
    examples: Examples, batch_size: int = _BATCH, told: Share = lambda done: None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields the numbers of some rows, int64 [n], and their batch filled up to its full size.

    Rows of like length share a batch. `told` hears of a batch when the next one is asked for.
    """
    order, size = by_length(examples), min(batch_size, len(examples))
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        yield numbers, examples.batch(np.pad(numbers, (0, size - len(numbers)), "edge"))
        told((start + len(numbers)) / len(order))


def outputs_of(
    run: TrainedRun,
    objective: ScoringObjective,
    examples: Any,
    told: Share,
    batch_size: int = _BATCH,
) -> dict[str, np.ndarray]:
    """Returns an objective's outputs for all rows in their own order, arrays [N, …].

    Arrays of two axes are as wide as the longest row, with zeros where a row ends.
    Raises DataError where one is not finite.
    """
    step = outputs_step(run.model_config, objective)
    outputs: dict[str, np.ndarray] = {}

    def collect(numbers: np.ndarray, running: Mapping[str, jax.Array]) -> None:
        for name, values in running.items():
            rows = np.asarray(values)[: len(numbers)]
            check_outputs(rows)
            # The longest rows come first.
            shape = (len(examples), *rows.shape[1:])
            found = outputs.setdefault(name, np.zeros(shape, rows.dtype))
            if rows.ndim == 2:
                found[numbers, : rows.shape[1]] = rows
            else:
                found[numbers] = rows

    ahead = None
    for numbers, batch in filled_batches(examples, batch_size, told):
        # One batch is computed while the one before is fetched and the next one is made.
        running = numbers, step(run.params, batch)
        if ahead is not None:
            collect(*ahead)
        ahead = running
    if ahead is not None:
        collect(*ahead)
    return outputs


# Kept between calls and between runs of one shape: who asks again need not wait for a compilation.
@lru_cache(maxsize=16)
def outputs_step(
    config: EncoderConfig, objective: ScoringObjective
) -> Callable[..., dict[str, jax.Array]]:
    """Returns the jitted function from parameters and a batch to an objective's outputs."""
    model = build_model(config)
    return jax.jit(lambda params, batch: objective.outputs(model.bind(params), batch))
