"""The command line with faults built in: python wrapped.py PLAN.json COMMAND …

What goes wrong belongs to the harness, not to the product: this program changes a few functions of
the package and then runs the command line. Keys of the plan, all optional:
    record   file for the global indices of the examples that training asks for, a line per batch
    marks    file that gets the name of each stage when it begins: data, compile, evaluation
    slow     seconds by stage; 'evaluation' counts for each of its batches
    leave_out  [first, count]: numbers of the batches that the data does not have at all
    poison   {"value": "nan", "batches": [numbers]}: what one weight in these batches becomes
"""

import ctypes
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from jax._src import cache_key

from ptft_jax import cli
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.runs import train
from ptft_jax.runs.kinds import pretraining

# A call that Python cannot interrupt, as compiling is none either.
_sleep = ctypes.CDLL(None).usleep


def append(path: str, line: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def reach(plan: dict[str, Any], stage: str) -> None:
    """Says that a stage begins, and draws it out."""
    if "marks" in plan:
        append(plan["marks"], stage)
    left = plan.get("slow", {}).get(stage, 0.0)
    while left > 0:
        _sleep(int(min(left, 0.9) * 1e6))
        left -= 0.9


def main() -> int:
    plan = json.loads(sys.argv[1])
    batch_size = int(plan.get("batch_size", 1))
    poison = plan.get("poison", {})
    make_batch = PretrainingExamples.batch
    make_step, make_batches = train.make_train_step, pretraining.evaluation_batches
    open_corpus = pretraining.Corpus.open

    def batch(self: PretrainingExamples, indices: np.ndarray) -> dict[str, np.ndarray]:
        # Evaluations make their batches in the main thread.
        trains = threading.current_thread().name.startswith("ptft-batches")
        if trains and "leave_out" in plan:
            first, count = plan["leave_out"]
            indices = indices + (indices // batch_size >= first) * count * batch_size
        made = make_batch(self, indices)
        if trains:
            if "record" in plan:
                append(plan["record"], json.dumps(indices.tolist()))
            bad = np.isin(indices // batch_size, poison.get("batches", []))
            if bad.any():
                made["masked_lm_weights"] = made["masked_lm_weights"].copy()
                made["masked_lm_weights"][bad, 0] = float(poison["value"])
        return made

    def train_step(*arguments: Any, **settings: Any) -> Any:
        step, calls = make_step(*arguments, **settings), []

        def first_is_slow(state: Any, rows: Any) -> Any:
            if not calls:
                calls.append(None)
                reach(plan, "compile")
            return step(state, rows)

        return first_is_slow

    def evaluation_batches(*arguments: Any, **settings: Any) -> Any:
        for number, rows in enumerate(make_batches(*arguments, **settings)):
            if number == 0 and "marks" in plan:
                append(plan["marks"], "evaluation")
            _sleep(int(plan.get("slow", {}).get("evaluation", 0.0) * 1e6))
            yield rows

    def slowly_opened(*arguments: Any) -> Any:
        reach(plan, "data")
        return open_corpus(*arguments)

    PretrainingExamples.batch = batch
    train.make_train_step = train_step
    pretraining.evaluation_batches = evaluation_batches
    pretraining.Corpus.open = slowly_opened
    # On CPU, JAX gives each process of a job keys of its own in the cache of compiled programs, and
    # only the first process writes: all others would compile in every job.
    cache_key._hash_accelerator_config = cache_key._hash_devices
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
