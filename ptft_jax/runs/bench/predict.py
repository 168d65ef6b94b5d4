"""Answers of a trained model, from texts to numbers on the host, by batch size and length."""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.bench.hf_process import HuggingFace, torch_device
from ptft_jax.runs.bench.rounds import repeated, spread, take_turns, times_as_fast
from ptft_jax.runs.trained.open import Run

OURS = "ptft_jax"
# [CLS], two times [SEP], [MASK] and a word of each text.
_SHORTEST = 6


def measure(
    run: Run,
    *,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    rounds: int,
    calls: int,
    against: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Asks a model in rounds of some calls, each after one that is not timed, sides in turn.

    A model with an MLM or a classification head predicts, another one embeds. `batch_sizes` are the
    texts of a call, `lengths` the tokens of a text with the special ones. `against`: "hf" for a
    PyTorch model of the same shape with the same tokenizer, or None.

    Raises:
        ConfigError: a length that the model does not take, or PyTorch could not do it.
    """
    heads = run.model_config.heads
    head = next((name for name in ("classification", "mlm") if name in heads), "none")
    for length in lengths:
        if not _SHORTEST <= length <= run.limit:
            raise ConfigError(
                f"--lengths={length}: expected from {_SHORTEST} to the {run.limit} tokens of this "
                "run."
            )
    cases, how = [], None
    with contextlib.ExitStack() as stack:
        theirs: Any = None
        if against is not None:
            progress(f"{against}: starting", 0, 1)
            device = torch_device(jax.devices(), f"--against={against}")
            spec = {"what": "predict", "head": head, "limit": run.limit}
            theirs = stack.enter_context(
                HuggingFace(run.model_config, device, spec, tokenizer=run.tokenizer)
            )
            how = theirs.warm["note"]
            progress(f"{against}: starting", 1, 1)
        for size, length in itertools.product(batch_sizes, lengths):
            pairs = head == "classification" and bool(run.pairs)
            texts = [_text(run.tokenizer, length, head, pairs)] * size
            embeds = partial(run.embed, texts, batch_size=size)
            ask: Any = embeds if head == "none" else partial(run.predict, texts)
            sides = {OURS: repeated(ask, calls)}
            if against is not None:
                sides[against] = partial(_their_round, theirs, texts, calls)
            found = take_turns(sides, rounds, progress, f"{size} x {length}")
            case: dict[str, Any] = {"batch_size": size, "tokens": length, "sides": {}}
            for name, seconds in found.items():
                taken = spread([1e3 * one / calls for one in seconds])
                rate = 1e3 * size / taken["median"]
                figures = {"seconds": seconds, "batch_ms": taken, "sequences_per_second": rate}
                case["sides"][name] = figures
            ratio = None if against is None else times_as_fast(found[OURS], found[against])
            cases.append({**case, "times_as_fast": ratio})
    return {
        "run": str(run.path),
        "path": "embed" if head == "none" else "predict",
        "head": head,
        "model": dataclasses.asdict(run.model_config),
        "rounds": rounds,
        "calls": calls,
        "how": how,
        "cases": cases,
    }


def _their_round(process: HuggingFace, texts: list[str], calls: int) -> float:
    return process.make_round(texts=texts, calls=calls)["seconds"]


def _text(tokenizer: TextTokenizer, length: int, head: str, takes_pairs: bool) -> str:
    """Returns a text, or a pair, that becomes `length` tokens with the special ones."""
    word = _word(tokenizer)
    if takes_pairs:
        first = (length - 3) // 2
        return "\t".join(" ".join([word] * many) for many in (first, length - 3 - first))
    words = [word] * (length - 2)
    if head == "mlm":
        words[-1] = "[MASK]"
    return " ".join(words)


def _word(tokenizer: TextTokenizer) -> str:
    """Returns a word that is one token, alone and in a text."""
    for index in range(tokenizer.vocab_size):
        word = tokenizer.text_of(index).strip()
        if (
            index not in tokenizer.special_ids
            and word.isalpha()
            and tokenizer.encode_batch([f"{word} {word}"])[0] == [index, index]
        ):
            return word
    raise DataError("the tokenizer has no word that is a single token: there is nothing to ask.")
