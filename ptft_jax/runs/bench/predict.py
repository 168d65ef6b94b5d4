"""Answers of a trained model, from texts to numbers on the host, of sizes and lengths or a file."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
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
            case = {"batch_size": size, "tokens": length}
            cases.append(case | _figures(found, size, calls, against))
    found = _about(run, rounds, calls)
    return found | {
        "path": "embed" if head == "none" else "predict",
        "head": head,
        "how": how,
        "cases": cases,
    }


def measure_file(
    run: Run,
    texts: Sequence[Any],
    *,
    batch_sizes: Sequence[int],
    rounds: int,
    calls: int,
    against: str | None = None,
    clock: str = "wall",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Lets a model predict all texts of a file in rounds, sides in turn.

    `against`: "hf" for `transformers.pipeline` with the exported weights, in batches of each of
    `batch_sizes`, once with the texts in the order of the file and once sorted by their characters.
    `clock`: one of `CLOCKS`.

    Raises:
        ConfigError: another kind of model, or PyTorch could not do it.
    """
    head = next((name for name in _PIPED if name in run.model_config.heads), None)
    if head is None:
        raise ConfigError(f"--input: {run.path} has no head {', '.join(_PIPED)} to predict with.")
    # A pair in a line has a tab in it.
    texts = [tuple(t.split("\t")) if isinstance(t, str) and "\t" in t else t for t in texts]
    tokens = sum(map(len, run.tokenizer.encode_batch([_joined(text) for text in texts])))
    ask, cases, how = partial(run.predict, texts), [], None
    about = {"batch_size": len(texts), "tokens": round(tokens / len(texts), 1)}
    ways: list[Any] = [None]
    with contextlib.ExitStack() as stack:
        theirs: Any = None
        if against is not None:
            device = torch_device(jax.devices(), f"--against={against}")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ptft-bench-")))
            run.export(folder / "model")
            spec = {"what": "pipeline", "head": head, "model": str(folder / "model")}
            stride = run.config.get("doc_stride", min(128, run.limit // 3))
            spec |= {"limit": run.limit, "doc_stride": stride}
            theirs = stack.enter_context(HuggingFace(run.model_config, device, spec))
            how = theirs.warm["note"]
            in_order = sorted(texts, key=lambda text: len(_joined(text)), reverse=True)
            orders = {"in the file's order": list(texts), "sorted": in_order}
            ways = list(itertools.product(batch_sizes, orders.items()))
        for way in ways:
            sides, name = {OURS: repeated(ask, calls, clock=clock)}, None
            if way is not None:
                size, (order, given) = way
                name = f"{against}, batches of {size}, {order}"
                more = {"batch_size": size, "clock": clock}
                sides[name] = partial(_their_round, theirs, given, calls, **more)
            found = take_turns(sides, rounds, progress, name or OURS)
            cases.append(about | _figures(found, len(texts), calls, name))
    return _about(run, rounds, calls) | {
        "path": "predict",
        "head": head,
        "how": how,
        "cases": cases,
    }


# The heads for which there is a pipeline, or what stands for one.
_PIPED = ("classification", "tagging", "span")


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _about(run: Run, rounds: int, calls: int) -> dict[str, Any]:
    model = dataclasses.asdict(run.model_config)
    return {"run": str(run.path), "model": model, "rounds": rounds, "calls": calls}


def _figures(
    found: dict[str, list[float]], size: int, calls: int, other: str | None
) -> dict[str, Any]:
    """Returns what rounds of `calls` calls with `size` texts each say of every side."""
    sides = {}
    for name, seconds in found.items():
        taken = spread([1e3 * one / calls for one in seconds])
        rate = 1e3 * size / taken["median"]
        sides[name] = {"seconds": seconds, "batch_ms": taken, "sequences_per_second": rate}
    ratio = None if other is None else times_as_fast(found[OURS], found[other])
    return {"sides": sides, "times_as_fast": ratio}


def _their_round(process: HuggingFace, texts: list[Any], calls: int, **more: Any) -> float:
    return process.make_round(texts=texts, calls=calls, **more)["seconds"]


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
