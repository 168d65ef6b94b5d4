"""Answers of a trained model, from texts to numbers on the host, by batch size and length."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.runs.bench.hf_process import HuggingFace, check_installed, torch_device
from ptft_jax.runs.bench.rounds import Spread, take_turns, times_as_fast
from ptft_jax.runs.open import Run

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

    A model with an MLM or a classification head predicts, another one embeds.

    Args:
        run: the model.
        batch_sizes: texts in a call; `predict` itself computes at most 32 at once.
        lengths: tokens of each text, special ones included.
        rounds: of each side, for each batch size and length.
        calls: timed in a round.
        against: "hf" for a PyTorch model of the same shape and the same tokenizer, or None.
        progress: is told what goes on.

    Raises:
        ConfigError: a length that the model does not take, or PyTorch could not do it.
    """
    heads = run.model_config.heads
    head = next((name for name in ("classification", "mlm") if name in heads), "none")
    takes_pairs = head == "classification" and bool(run.pairs)
    for length in lengths:
        if not _SHORTEST <= length <= run.limit:
            raise ConfigError(
                f"--lengths={length}: expected from {_SHORTEST} to the {run.limit} tokens of this "
                "run."
            )
    if against is not None:
        check_installed(f"--against={against}")
    cases = []
    with contextlib.ExitStack() as stack:
        theirs = None
        if against is not None:
            progress(f"{against}: starting", 0, 1)
            device = torch_device(jax.devices(), f"--against={against}")
            spec = {"what": "predict", "head": head, "limit": run.limit}
            theirs = stack.enter_context(
                HuggingFace(run.model_config, device, spec, tokenizer=run.tokenizer)
            )
            progress(f"{against}: starting", 1, 1)
        for size in batch_sizes:
            for length in lengths:
                texts = [_text(run.tokenizer, length, head, takes_pairs)] * size
                sides = {OURS: _ours(run, texts, calls, embeds=head == "none")}
                if theirs is not None and against is not None:
                    sides[against] = _theirs(theirs, texts, calls)
                found = take_turns(sides, rounds, progress, f"{size} x {length}")
                cases.append(_case(size, length, found, calls, against))
    return {
        "run": str(run.path),
        "path": "embed" if head == "none" else "predict",
        "head": head,
        "model": dataclasses.asdict(run.model_config),
        "rounds": rounds,
        "calls": calls,
        "how": None if theirs is None else theirs.warm["note"],
        "cases": cases,
    }


def _case(
    size: int, length: int, found: dict[str, list[float]], calls: int, against: str | None
) -> dict[str, Any]:
    sides = {}
    for name, seconds in found.items():
        spread = Spread.of([1e3 * one / calls for one in seconds])
        sides[name] = {
            "seconds": seconds,
            "batch_ms": dataclasses.asdict(spread),
            "sequences_per_second": 1e3 * size / spread.median,
        }
    ratio = None
    if against is not None:
        ratio = dataclasses.asdict(times_as_fast(found[OURS], found[against]))
    return {"batch_size": size, "tokens": length, "sides": sides, "times_as_fast": ratio}


def _ours(run: Run, texts: list[str], calls: int, *, embeds: bool) -> Callable[[], float]:
    def ask() -> None:
        if embeds:
            run.embed(texts, batch_size=len(texts))
        else:
            run.predict(texts)

    def make_round() -> float:
        ask()
        began = time.perf_counter()
        for _ in range(calls):
            ask()
        return time.perf_counter() - began

    return make_round


def _theirs(process: HuggingFace, texts: list[str], calls: int) -> Callable[[], float]:
    return lambda: process.make_round(texts=texts, calls=calls)["seconds"]


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
