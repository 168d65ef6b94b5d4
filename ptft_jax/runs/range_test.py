"""The range test of learning rates (Smith 2017), as fastai's `lr_find` has it.

The rate rises with every update until the loss diverges. Where that is bounds the rates that a run
can have; which of those is best, a hundred updates cannot tell.
"""

import csv
import dataclasses
import io
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.data.batches import Batches
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, check_numbers
from ptft_jax.runs.describe import describe_mesh, describe_model, remedies
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.start.starting_point import is_elastic, teacher_of, trainable_of
from ptft_jax.runs.train import checked_mesh
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.mesh import process_rows, put_batch, put_params
from ptft_jax.training.resources.memory import fitting
from ptft_jax.training.step import init_state, make_train_step
from ptft_jax.training.tracking.metric_sinks import Sink
from ptft_jax.training.updates.optimizer import OptimizerConfig, make_optimizer

# Of the mean of the losses so far, in which the last ones count most.
_SMOOTHING = 0.98
# The loss has diverged where it is so many times the best one.
_DIVERGED = 4.0
# The updates at the end that no suggestion comes from: they diverge.
_LEFT_OUT = 5


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test has found.

    Attributes:
        rates: of each update, ascending, float64 [N].
        losses: of each update, float64 [N].
        smoothed: their means, exponentially weighted and corrected for the beginning, float64 [N].
        valley: the rate in the middle of the longest fall of the mean.
        minimum: the rate where the mean is least, the bound; fastai suggests a tenth of it.
        diverged: whether the test ended because the loss did.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    valley: float
    minimum: float
    diverged: bool


def find_rates(
    command: str,
    config: Config,
    init_from: str | None,
    *,
    lowest: float,
    highest: float,
    updates: int,
    job: Job,
    watch: Sink,
) -> RangeTest:
    """Trains as a run would in its first updates, with a rate that rises exponentially.

    Everything that a run of `ptft COMMAND` would train is trained from the first update on, at its
    own part of the rate. Nothing is saved.

    Args:
        command, config, init_from: see `ptft_jax.runs.train.train`.
        lowest, highest: the first rate, and the one that the last update comes close to.
        updates: how many there are, where the loss does not diverge before.
        job: the processes that train.
        watch: is told what happens.

    Raises:
        ConfigError: as for a run, or the loss diverges before it has fallen.
        DataError: the data is damaged.
    """
    if not 0 < lowest < highest < math.inf:
        raise ConfigError(
            f"--lowest={lowest:g} --highest={highest:g}: expected two rates above 0, the second "
            "one higher than the first."
        )
    check_numbers(config)
    kind = kind_of(command, config)
    start = kind.starting_point(init_from, None)
    if kind.masked_lm or is_elastic(config):
        key = "augment.refill" if kind.masked_lm else "continual.ewc"
        raise ConfigError(
            f"--config.{key}: the range test computes nothing beforehand; expected it without."
        )
    phase, tokenizer = kind.phases[0], start.tokenizer
    model, objective = kind.model(start.config), kind.objective(start.config)
    mesh = checked_mesh(config, model, kind.phases)
    examples = kind.examples(phase, tokenizer, mesh)
    trainable = trainable_of(config, model, start.params, start.source or init_from, None)
    teacher = teacher_of(config, kind, objective, start, mesh, None)

    def rising(count: Any) -> jax.Array:
        return jnp.float32(lowest) * jnp.float32(highest / lowest) ** (count / updates)

    optimizer, rate = make_optimizer(
        OptimizerConfig(**config.optimizer),
        rising,
        updates,
        trainable.axes,
        trainable.factors,
        adapter=model.config.adapter,
    )
    step = make_train_step(
        model,
        objective,
        optimizer,
        rate,
        seed=config.seed,
        accumulate=phase.config.accumulate,
        parts=trainable.parts,
        mixout=config.get("mixout", 0.0),
        teach=teacher.teach,
    )
    if start.source is not None:
        watch.say(str(start))
    facts = {"model": describe_model(model), **teacher.facts(), "mesh": describe_mesh(mesh)}
    watch.facts(facts)
    rows, batch_size = partial(process_rows, mesh), phase.config.batch_size
    rates, losses, smoothed = [], [], []
    mean, diverged = 0.0, False
    with (
        jax.set_mesh(mesh),
        fitting(remedies(phase.config, model, mesh)),
        Batches(examples, batch_size, rows=rows, workers=config.workers) as batches,
        job.activity("training"),
    ):
        given = put_params(trainable.of(start.params), model.axes(), mesh)
        state = init_state(model, optimizer, config.seed, given, trainable.parts)
        constants = trainable.constants(mesh) | teacher.constants(mesh)
        step, _ = trainable.with_constants(step, lambda params: None, constants)
        watch.begins(updates)
        for count, batch in zip(range(1, updates + 1), batches, strict=False):
            state, metrics = step(state, put_batch(batch, mesh))
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            job.made_progress()
            if values["skipped"]:  # the loss or the gradient is not finite
                diverged = True
                break
            watch.training(count, values)
            rates.append(values["learning_rate"])
            losses.append(values["loss"])
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * values["loss"]
            smoothed.append(mean / (1 - _SMOOTHING**count))
            if smoothed[-1] > _DIVERGED * min(smoothed):
                diverged = True
                break
    arrays = np.array(rates), np.array(losses), np.array(smoothed)
    found = suggested(arrays[0], arrays[2], updates)
    if found is None:
        raise ConfigError(
            f"--lowest={lowest:g} --highest={highest:g}: in {len(rates)} updates there was no fall "
            "of the loss to read a rate from; expected other ends, more --steps, or another "
            "starting point."
        )
    return RangeTest(*arrays, *found, diverged)


def suggested(rates: np.ndarray, smoothed: np.ndarray, updates: int) -> tuple[float, float] | None:
    """Returns the `valley` and the `minimum` of a `RangeTest`; None where the loss never falls.

    As in fastai, the first tenth of `updates` and the last five that were made are left out. The
    longest fall is the longest series of ever smaller means, whatever lies between them; its
    middle is half its length, in updates, before its end.
    """
    kept = slice(updates // 10, -_LEFT_OUT)
    rates, smoothed = rates[kept], smoothed[kept]
    # Of each mean, how long the longest fall is that ends there.
    falls: list[int] = []
    for place, value in enumerate(smoothed):
        before = [
            fall for fall, other in zip(falls, smoothed[:place], strict=True) if other > value
        ]
        falls.append(1 + max(before, default=0))
    longest = max(falls, default=0)
    if longest < 2:
        return None
    third = longest / 3
    middle = falls.index(longest) - longest + int(third) + int(third / 2)
    return float(rates[max(0, middle)]), float(rates[np.argmin(smoothed)])


def as_csv(found: RangeTest) -> str:
    """Returns rate, loss and mean of each update."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["update", "learning_rate", "loss", "smoothed_loss"])
    columns = (found.rates.tolist(), found.losses.tolist(), found.smoothed.tolist())
    for count, row in enumerate(zip(*columns, strict=True), 1):
        writer.writerow([count, *row])
    return file.getvalue()


def picture(found: RangeTest) -> str:
    """Draws the loss over the rate, with the suggestions; returns SVG."""
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, ".", color="C0", alpha=0.35, markersize=4, label="loss")
    axes.plot(found.rates, found.smoothed, color="C0", label="smoothed loss")
    for name, rate, colour in (
        ("upper bound (minimum)", found.minimum, "C3"),
        ("valley", found.valley, "C1"),
        ("minimum / 10", found.minimum / 10, "C2"),
    ):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.1e}")
    axes.set_xscale("log")
    # What diverges would leave the fall no room.
    low, high = found.losses.min(), found.smoothed[0]
    axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title("bounds the learning rate; none of these is the best one", fontsize="medium")
    axes.legend(fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue().decode()
