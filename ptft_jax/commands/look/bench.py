"""ptft bench train, attention, input and predict: how fast it is here, and beside PyTorch."""

import dataclasses
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import count, facts, made, make_console, progress_bars, say
from ptft_jax.commands.train.evaluate import RUN_OR_HF, define_reading_flags
from ptft_jax.commands.use.texts import define_input_flags, read_input
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import DTYPES
from ptft_jax.runs.bench import inputs, predict, train
from ptft_jax.runs.bench.machine import hardware, versions
from ptft_jax.runs.bench.rounds import CLOCKS
from ptft_jax.runs.config import check_length, check_numbers
from ptft_jax.runs.describe import describe_mesh, describe_model
from ptft_jax.runs.phases import phase_of
from ptft_jax.runs.trained.open import load_run
from ptft_jax.training.resources.storage import json_ready, size_text, write_atomically

_FORMATS = (".svg", ".png", ".pdf")
_SIZES: dict[str, Any] = {
    "batch": (32, "Rows."),
    "tokens": (128, "Tokens of a row."),
    "heads": (12, "Attention heads."),
    "head_size": (64, "Features of a head."),
    "segments": (1, "Examples in a row."),
}
_PHASE = (1, "Phase of the config, from 1 on.")


class Train:
    """ptft bench train --config=configs/pretrain/bert_base.py [--against=hf] [--json=FILE]

    Measures whole updates of a pretraining config on this machine's devices: its model, batch,
    lengths, packing, micro-batches, mesh and optimizer, by the step that `ptft pretrain` runs.

    Rows are full of random tokens; with --config.data_dir they are those of a corpus, made while
    the devices compute, as in training. --against=hf lets Hugging Face's BertForPreTraining do the
    same updates in PyTorch, in turn, in a process of its own; --against=hf_gathered gives it an MLM
    head at the masked positions only. With a corpus PyTorch gets the same examples one a row,
    padded to the longest of the batch. Nothing is saved but what --json and --plot name.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        _define(values, 5, train.OTHERS, updates=(10, "Updates timed in a round."), phase=_PHASE)
        peak = "Peak of a device in the model's dtype, TFLOP/s; else as its data sheet says."
        flags.DEFINE_float("peak_tflops", None, peak, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        _check(values, "updates", "peak_tflops")
        check_numbers(values.config)
        config = phase_of(values.config, values.phase)
        opened = train.open_config(config, values.against)
        check_length(config, opened.model.config)
        console = make_console()
        size = f"{config.batch_size} rows of {config.max_seq_length} tokens"
        what = {
            "model": describe_model(opened.model),
            "mesh": describe_mesh(opened.mesh),
            "update": f"{size} in {config.accumulate} micro-batch(es)",
            "data": opened.data,
        }
        facts(console, what)
        found = _measured(
            console,
            train.measure,
            opened,
            rounds=values.rounds,
            updates=values.updates,
            against=values.against,
            peak_tflops=values.peak_tflops,
        )
        sides = found["sides"]
        table = Table("", *sides, box=SIMPLE_HEAD)
        columns = [_train_column(side) for side in sides.values()]
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        console.print(table)
        peak, kind = found["peak_tflops"], found["device_kind"]
        known = f"{found['devices']} x {peak or 0:g} TFLOP/s ({kind})"
        known = known if peak else f"of {kind} it is not known: --peak_tflops says it"
        flops = found["timed_updates"]["flops"] / found["updates"] / 1e12
        say(
            console,
            f"utilisation = model FLOPs of an update ({flops:,.4g} TFLOP: 6 x parameters x tokens "
            "+ 12 x layers x width x tokens², and the heads where they are read, of the real "
            f"examples) / (seconds x devices x peak); peak: {known}",
        )
        what = {"step": _spread(sides[train.OURS]["step_ms"], "ms")}
        for name, ratio in found["times_as_fast"].items():
            what["ratio"] = f"{_spread(ratio, 'x')} as fast as {name} on the same examples"
        following = [] if values.against else [_again("--against=hf")]
        if not config.data_dir:
            following.append(_again("--config.data_dir=DATA"))
        _finish(values, found, sides, values.updates, ("ms per update", size), what, following)


class Attention:
    """ptft bench attention --batch=256 --tokens=128 --heads=12 --head_size=64 --dtype=bfloat16

    Measures attention alone, forward and with its backward pass, by each backend of
    `model.attention` that can do it here, in turn; of the others it says why they cannot.

    --dropout drops probabilities; --segments=2 puts two examples into each row.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        _define(values, 5, (), calls=(20, "Calls timed in a round."), **_SIZES)
        flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the products.", flag_values=values)
        flags.DEFINE_float("dropout", 0.0, "Rate for the probabilities.", flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        _check(values, "calls", *_SIZES)
        if not 0 <= values.dropout < 1:
            raise ConfigError(f"--dropout={values.dropout:g}: expected a probability in [0, 1).")
        if values.segments > values.tokens:
            raise ConfigError(
                f"--segments={values.segments}: expected at most the --tokens={values.tokens}."
            )
        from ptft_jax.runs.bench import attention

        names = [field.name for field in dataclasses.fields(attention.Shape)]
        shape = attention.Shape(**{name: getattr(values, name) for name in names})
        console = make_console()
        many = {"rounds": values.rounds, "calls": values.calls}
        found = _measured(console, attention.measure, shape, **many)
        sides = found["sides"]
        table = Table("backend and pass", "ms", "TFLOP/s", box=SIMPLE_HEAD)
        for name, side in sides.items():
            table.add_row(name, _spread(side["call_ms"]), f"{side['tflops']:,.3g}")
        console.print(table)
        for name, reason in found["refused"].items():
            say(console, f"{name}: not measured: {reason}")
        axis = ("ms per call", f"attention, {dataclasses.astuple(shape)}")
        what = {name: _spread(side["call_ms"], "ms") for name, side in sides.items()}
        _finish(values, found, sides, values.calls, axis, what, [])


class Input:
    """ptft bench input --config=configs/pretrain/bert_base.py --config.data_dir=DATA

    Measures how fast batches are made of a corpus, by the threads that `workers` asks for: cutting,
    pairing, packing and masking, without any device. On one core (`taskset -c 0` on Linux) and with
    one worker it is the rate per core.

    --keep_up_with=EXAMPLES_PER_SECOND says whether that is enough for a training that takes so many
    (`ptft bench train` shows its own rate as sequences/s).
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        _define(values, 3, batches=(12, "Batches made in a round."), phase=_PHASE)
        needed = "Examples per second that a training takes."
        flags.DEFINE_float("keep_up_with", None, needed, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        _check(values, "batches", "keep_up_with")
        check_numbers(values.config)
        config, console = phase_of(values.config, values.phase), make_console()
        found = _measured(
            console,
            inputs.measure,
            config,
            rounds=values.rounds,
            batches=values.batches,
            keep_up_with=values.keep_up_with,
        )
        planning, rate = found["planning_seconds_per_million"], found["sequences_per_second"]
        shown = {
            "rows": f"{config.batch_size} of {config.max_seq_length} tokens, "
            f"{config.input_format}, {config.masking}" + (", packed" if config.packing else ""),
            "workers": count(config.workers),
            "batch": _spread(found["batch_ms"], "ms"),
            "batches/s": f"{found['batches_per_second']:,.4g}",
            "real tokens/s": f"{found['tokens_per_second']:,.0f}",
            "sequences/s": f"{rate:,.0f}",
            "real positions": f"{found['real_positions']:.1%}",
            "planning": "-" if planning is None else f"{planning:.2f} s per million examples",
            "memory": f"{found['bytes_per_token']:.3f} bytes per token of the corpus",
        }
        facts(console, shown)
        what = {"sequences/s": f"{rate:,.0f}"}
        if values.keep_up_with is not None:
            verdict = "keeps up" if found["keeps_up"] else "does not keep up: raise workers"
            times = f"{rate / values.keep_up_with:.2f} x of {values.keep_up_with:,.0f} a second"
            what["verdict"] = f"{verdict} ({times})"
        axis = ("ms per batch", f"batches of {config.batch_size} x {config.max_seq_length}")
        following = [f"ptft bench train --config=CONFIG --config.data_dir={config.data_dir}"]
        _finish(values, found, {"batches": found}, values.batches, axis, what, following)


class Predict:
    """ptft bench predict --run_dir=RUN_OR_HF_DIR [--input=FILE] [--against=hf]

    Measures answers of a trained model, from texts to numbers on the host: masks filled in or texts
    classified, or vectors where the model has no head. --against=hf lets a PyTorch model of the
    same shape with the same tokenizer answer the same texts, in turn.

    --input=FILE takes the texts of a file, as `ptft predict` reads it, with a model that
    classifies, tags or answers. --against=hf is then transformers' pipeline with the same weights,
    in batches of --batch_sizes, the texts in the file's order and sorted by length. --clock=cpu
    counts the processor's seconds, to which other programs on the same cores add nothing.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        _define(values, 5, ("hf",), calls=(3, "Calls timed in a round."))
        define_reading_flags(values, RUN_OR_HF)
        flags.DEFINE_list("batch_sizes", "1,8,32", "Texts in a call.", flag_values=values)
        text = "Tokens of a text, at most the run's."
        flags.DEFINE_list("lengths", "16,64,128", text, flag_values=values)
        define_input_flags(values, pairs=True)
        text = "What seconds of --input are: of the wall, or of the processor."
        flags.DEFINE_enum("clock", "wall", list(CLOCKS), text, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues) -> None:
        """Runs the command."""
        _check(values, "calls")
        required(values, "run_dir")
        sizes, lengths = _numbers("batch_sizes", values), _numbers("lengths", values)
        opened = load_run(values.run_dir, values.checkpoint)
        console = make_console()
        if not values["lengths"].present:
            lengths = sorted({min(length, opened.limit) for length in lengths})
        many = {"rounds": values.rounds, "calls": values.calls, "against": values.against}
        if values.input:
            texts = read_input(values, opened).texts
            more = {"texts": texts, "batch_sizes": sizes, "clock": values.clock}
            measure = partial(predict.measure_file, **more)
        else:
            measure = partial(predict.measure, batch_sizes=sizes, lengths=lengths)
        found = _measured(console, measure, opened, **many)
        head = ["texts", "tokens", "side", "ms per batch", "sequences/s", "times as fast"]
        table, sides, best = Table(*head, box=SIMPLE_HEAD), {}, 0.0
        for case in found["cases"]:
            where = (str(case["batch_size"]), str(case["tokens"]))
            for name, side in case["sides"].items():
                is_ours, rate = name == predict.OURS, side["sequences_per_second"]
                ratio = _spread(case["times_as_fast"]) if is_ours and case["times_as_fast"] else ""
                table.add_row(*where, name, _spread(side["batch_ms"]), f"{rate:,.1f}", ratio)
                sides[f"{name}, {where[0]} x {where[1]}"] = side
                best = max(best, rate) if is_ours else best
        console.print(table)
        if found["how"]:
            say(console, f"{values.against}: {found['how']}")
        what = {"run": str(opened.path), "path": found["path"], "most": f"{best:,.1f} sequences/s"}
        following = [] if values.against else [_again("--against=hf")]
        axis = ("ms per batch", found["path"])
        _finish(values, found, sides, values.calls, axis, what, following)


def _define(
    values: flags.FlagValues, rounds: int, others: Sequence[str] = (), **integers: tuple[int, str]
) -> None:
    """Defines what all benches have, --against where there are others, and whole numbers."""
    rounds_of = {"rounds": (rounds, "Rounds of each side, in turn.")}
    for name, (default, text) in (rounds_of | integers).items():
        flags.DEFINE_integer(name, default, text, flag_values=values)
    flags.DEFINE_string("json", None, "File for every round's times.", flag_values=values)
    text = f"File for a picture: {', '.join(_FORMATS)}."
    flags.DEFINE_string("plot", None, text, flag_values=values)
    if others:
        text = f"What to measure in turn with ours: {', '.join(others)}."
        flags.DEFINE_enum("against", None, others, text, flag_values=values)


def _check(values: flags.FlagValues, *above_zero: str) -> None:
    """Raises ConfigError for a flag that cannot be used."""
    if values.rounds < 2:
        raise ConfigError(f"--rounds={values.rounds}: expected at least 2.")
    for name in above_zero:
        value: Any = values[name].value
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name}={value:g}: expected a number above 0.")
    for name in ("json", "plot"):
        file = getattr(values, name)
        if file and (not Path(file).absolute().parent.is_dir() or Path(file).is_dir()):
            raise ConfigError(f"--{name}={file}: expected a file in a folder that is there.")
    if values.plot and Path(values.plot).suffix not in _FORMATS:
        ends = ", ".join(_FORMATS)
        raise ConfigError(f"--plot={values.plot}: expected a name that ends in {ends}.")
    if "against" in values and values.against is not None:
        # Both processes are on the device: JAX may not take most of its memory at the start.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _measured(console: Console, measure: Callable[..., Any], what: Any, **settings: Any) -> Any:
    """Measures something while its progress is shown."""
    with progress_bars(console) as progress:
        return measure(what, **settings, progress=progress)


def _numbers(name: str, values: flags.FlagValues) -> list[int]:
    """Returns the numbers of a list flag; raises ConfigError for what are none."""
    texts = getattr(values, name)
    if not texts or not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise ConfigError(f"--{name}={','.join(texts)}: expected numbers, like 1,8,32.")
    return [int(text) for text in texts]


def _spread(of: Mapping[str, float], unit: str = "") -> str:
    """Writes a median with the lowest and the highest round."""
    ends = f"({of['low']:,.4g} to {of['high']:,.4g})"
    return " ".join(filter(None, [f"{of['median']:,.4g}", unit, ends]))


def _again(more: str) -> str:
    """Returns this very command line with a flag more."""
    return shlex.join(["ptft", *sys.argv[1:], more])


def _train_column(side: Mapping[str, Any]) -> dict[str, str]:
    """Returns the cells of a side by the names of their rows."""
    used, wait = side["utilisation"], side["data_wait"]
    return {
        "step, ms": _spread(side["step_ms"]),
        "real tokens/s": f"{side['tokens_per_second']:,.0f}",
        "sequences/s": f"{side['sequences_per_second']:,.1f}",
        "model TFLOP/s": f"{side['tflops']:,.4g}",
        "model FLOPs utilisation": "-" if used is None else f"{used:.1%}",
        "data wait": "-" if wait is None else f"{wait:.2%}",
        "peak memory": f"{size_text(side['peak_memory'])} of the {side['peak_memory_of']}",
        "compiling, s": f"{side['compile_seconds']:.1f}",
        "how": side["how"],
    }


def _finish(
    values: flags.FlagValues,
    found: Mapping[str, Any],
    sides: Mapping[str, Mapping[str, Any]],
    per_round: int,
    axis_and_title: tuple[str, str],
    what: dict[str, str],
    following: Sequence[str],
) -> None:
    """Writes the files that were asked for, and ends the command."""
    if values.json:
        config = {"config": values.config.to_dict()} if "config" in values else {}
        machine = {"hardware": hardware(), "versions": versions()}
        command = {"command": shlex.join(["ptft", *sys.argv[1:]])}
        text = json.dumps(json_ready({**command, **found, **machine, **config}), indent=1)
        write_atomically(Path(values.json), text + "\n")
        what["numbers"] = values.json
    if values.plot:
        rounds = {
            name: [1e3 * one / per_round for one in side["seconds"]] for name, side in sides.items()
        }
        kind = Path(values.plot).suffix[1:]
        Path(values.plot).write_bytes(_picture(rounds, *axis_and_title, kind))
        what["picture"] = values.plot
    made(make_console(), "measured", what, following)


def _picture(rounds: Mapping[str, Sequence[float]], what: str, title: str, kind: str) -> bytes:
    """Draws the rounds of all sides: a point for each, a line at each side's median."""
    # Takes a second to import. A Figure of its own needs no screen.
    from statistics import median

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, taken) in enumerate(rounds.items()):
        color, middle = f"C{number}", median(taken)
        axes.plot(range(1, 1 + len(taken)), taken, "o", color=color)
        axes.axhline(middle, color=color, linewidth=1, label=f"{name}: {middle:,.4g}")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(title="median")
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()
