"""ptft bench train, attention, input and predict: how fast it is here, and beside PyTorch."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ptft_jax.commands.look.bench_flags import (
    again,
    check,
    define_against,
    define_common,
    finish,
    numbers,
    spread,
)
from ptft_jax.commands.screen import count, facts, make_console, progress_bars, say
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import DTYPES
from ptft_jax.runs.bench import inputs, predict, train
from ptft_jax.runs.config import check_length, check_numbers
from ptft_jax.runs.describe import describe_mesh, describe_model
from ptft_jax.runs.open import load_run
from ptft_jax.runs.phases import phase_of
from ptft_jax.training.storage import size_text


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
        define_common(values, rounds=5)
        define_against(values, train.OTHERS)
        many = "Updates timed in a round."
        flags.DEFINE_integer("updates", 10, many, flag_values=values)
        flags.DEFINE_integer("phase", 1, "Phase of the config, from 1 on.", flag_values=values)
        peak = "Peak of a device in the model's dtype, TFLOP/s; else as its data sheet says."
        flags.DEFINE_float("peak_tflops", None, peak, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues, positional: list[str]) -> None:
        """Runs the command."""
        check(values, positional, updates=1)
        if values.peak_tflops is not None and not values.peak_tflops > 0:
            raise ConfigError(f"--peak_tflops={values.peak_tflops:g}: expected a number above 0.")
        if values.against is not None:
            # Both processes are on the device: JAX may not take most of its memory at the start.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        check_numbers(values.config)
        config = phase_of(values.config, values.phase)
        opened = train.open_config(config, values.against)
        check_length(config, opened.model.config)
        console = make_console()
        facts(
            console,
            {
                "model": describe_model(opened.model),
                "mesh": describe_mesh(opened.mesh),
                "update": f"{config.batch_size} rows of {config.max_seq_length} tokens in "
                f"{config.accumulate} micro-batch(es)",
                "data": opened.data,
            },
        )
        with progress_bars(console) as progress:
            found = train.measure(
                opened,
                rounds=values.rounds,
                updates=values.updates,
                against=values.against,
                peak_tflops=values.peak_tflops,
                progress=progress,
            )
        sides = found["sides"]
        table = Table("", *sides, box=SIMPLE_HEAD)
        columns = [_train_column(side) for side in sides.values()]
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        console.print(table)
        _say_utilisation(console, found)
        steps = {
            name: [1e3 * one / values.updates for one in side["seconds"]]
            for name, side in sides.items()
        }
        title = f"{config.batch_size} rows of {config.max_seq_length} tokens"
        what = {"step": spread(sides[train.OURS]["step_ms"], "ms")}
        for name, ratio in found["times_as_fast"].items():
            what["ratio"] = f"{spread(ratio, 'x')} as fast as {name} on the same examples"
        following = [] if values.against else [again("--against=hf")]
        if not config.data_dir:
            following.append(again("--config.data_dir=DATA"))
        finish(values, found, steps, "ms per update", title, what, following)


class Attention:
    """ptft bench attention --batch=256 --tokens=128 --heads=12 --head_size=64 --dtype=bfloat16

    Measures attention alone, forward and with its backward pass, by each backend of
    `model.attention` that can do it here, in turn; of the others it says why they cannot.

    --dropout drops probabilities; --segments=2 puts two examples into each row.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        define_common(values, rounds=5)
        for name, default, text in (
            ("batch", 32, "Rows."),
            ("tokens", 128, "Tokens of a row."),
            ("heads", 12, "Attention heads."),
            ("head_size", 64, "Features of a head."),
            ("segments", 1, "Examples in a row."),
            ("calls", 20, "Calls timed in a round."),
        ):
            flags.DEFINE_integer(name, default, text, flag_values=values)
        flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the products.", flag_values=values)
        flags.DEFINE_float("dropout", 0.0, "Rate for the probabilities.", flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues, positional: list[str]) -> None:
        """Runs the command."""
        sizes = ("batch", "tokens", "heads", "head_size", "segments")
        check(values, positional, calls=1, **dict.fromkeys(sizes, 1))
        if not 0 <= values.dropout < 1:
            raise ConfigError(f"--dropout={values.dropout:g}: expected a probability in [0, 1).")
        if values.segments > values.tokens:
            raise ConfigError(
                f"--segments={values.segments}: expected at most the --tokens={values.tokens}."
            )
        from ptft_jax.runs.bench import attention

        shape = attention.Shape(
            **{name: getattr(values, name) for name in (*sizes, "dtype", "dropout")}
        )
        console = make_console()
        with progress_bars(console) as progress:
            found = attention.measure(
                shape, rounds=values.rounds, calls=values.calls, progress=progress
            )
        table = Table("backend and pass", "ms", "TFLOP/s", box=SIMPLE_HEAD)
        for name, side in found["sides"].items():
            table.add_row(name, spread(side["call_ms"]), f"{side['tflops']:,.3g}")
        console.print(table)
        for name, reason in found["refused"].items():
            say(console, f"{name}: not measured: {reason}")
        calls = {
            name: [1e3 * one / values.calls for one in side["seconds"]]
            for name, side in found["sides"].items()
        }
        title = f"attention, {dataclasses.astuple(shape)}"
        what = {name: spread(side["call_ms"], "ms") for name, side in found["sides"].items()}
        finish(values, found, calls, "ms per call", title, what, [])


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
        define_common(values, rounds=3)
        flags.DEFINE_integer("batches", 12, "Batches made in a round.", flag_values=values)
        flags.DEFINE_integer("phase", 1, "Phase of the config, from 1 on.", flag_values=values)
        needed = "Examples per second that a training takes."
        flags.DEFINE_float("keep_up_with", None, needed, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues, positional: list[str]) -> None:
        """Runs the command."""
        check(values, positional, batches=1)
        if values.keep_up_with is not None and not values.keep_up_with > 0:
            raise ConfigError(f"--keep_up_with={values.keep_up_with:g}: expected more than 0.")
        check_numbers(values.config)
        config, console = phase_of(values.config, values.phase), make_console()
        with progress_bars(console) as progress:
            found = inputs.measure(
                config,
                rounds=values.rounds,
                batches=values.batches,
                keep_up_with=values.keep_up_with,
                progress=progress,
            )
        planning = found["planning_seconds_per_million"]
        facts(
            console,
            {
                "rows": f"{config.batch_size} of {config.max_seq_length} tokens, "
                f"{config.input_format}, {config.masking}" + (", packed" if config.packing else ""),
                "workers": count(config.workers),
                "batch": spread(found["batch_ms"], "ms"),
                "batches/s": f"{found['batches_per_second']:,.4g}",
                "real tokens/s": f"{found['tokens_per_second']:,.0f}",
                "sequences/s": f"{found['sequences_per_second']:,.0f}",
                "real positions": f"{found['real_positions']:.1%}",
                "planning": "-" if planning is None else f"{planning:.2f} s per million examples",
                "memory": f"{found['bytes_per_token']:.3f} bytes per token of the corpus",
            },
        )
        what = {"sequences/s": f"{found['sequences_per_second']:,.0f}"}
        if values.keep_up_with is not None:
            times = found["sequences_per_second"] / values.keep_up_with
            verdict = "keeps up" if found["keeps_up"] else "does not keep up: raise workers"
            what["verdict"] = f"{verdict} ({times:.2f} x of {values.keep_up_with:,.0f} a second)"
        taken = {"batches": [1e3 * one / values.batches for one in found["seconds"]]}
        title = f"batches of {config.batch_size} x {config.max_seq_length}"
        following = [f"ptft bench train --config=CONFIG --config.data_dir={config.data_dir}"]
        finish(values, found, taken, "ms per batch", title, what, following)


class Predict:
    """ptft bench predict --run_dir=RUN_OR_HF_DIR [--against=hf]

    Measures answers of a trained model, from texts to numbers on the host: masks filled in or texts
    classified, or vectors where the model has no head. --against=hf lets a PyTorch model of the
    same shape with the same tokenizer answer the same texts, in turn.
    """

    @staticmethod
    def define_flags(values: flags.FlagValues) -> None:
        """Defines the command's flags."""
        define_common(values, rounds=5)
        define_against(values, ("hf",))
        for name, default, text in (
            ("run_dir", None, "Folder of the run, or Hugging Face folder."),
            ("checkpoint", "last", "Which checkpoint: last, best or a step."),
        ):
            flags.DEFINE_string(name, default, text, flag_values=values)
        flags.DEFINE_integer("calls", 3, "Calls timed in a round.", flag_values=values)
        for name, default, text in (
            ("batch_sizes", ["1", "8", "32"], "Texts in a call."),
            ("lengths", ["16", "64", "128"], "Tokens of a text, at most the run's."),
        ):
            flags.DEFINE_list(name, default, text, flag_values=values)

    @staticmethod
    def run(values: flags.FlagValues, positional: list[str]) -> None:
        """Runs the command."""
        check(values, positional, calls=1)
        if not values.run_dir:
            raise ConfigError("--run_dir is missing: name the folder of a run.")
        sizes, lengths = numbers("batch_sizes", values), numbers("lengths", values)
        if values.against is not None:
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        opened = load_run(values.run_dir, values.checkpoint)
        if not values["lengths"].present:
            lengths = sorted({min(length, opened.limit) for length in lengths})
        console = make_console()
        with progress_bars(console) as progress:
            found = predict.measure(
                opened,
                batch_sizes=sizes,
                lengths=lengths,
                rounds=values.rounds,
                calls=values.calls,
                against=values.against,
                progress=progress,
            )
        head = ["texts", "tokens", "side", "ms per batch", "sequences/s", "times as fast"]
        table = Table(*head, box=SIMPLE_HEAD)
        taken = {}
        for case in found["cases"]:
            where = (str(case["batch_size"]), str(case["tokens"]))
            ratio = case["times_as_fast"]
            for name, side in case["sides"].items():
                rate = f"{side['sequences_per_second']:,.1f}"
                shown = spread(ratio) if ratio and name == predict.OURS else ""
                table.add_row(*where, name, spread(side["batch_ms"]), rate, shown)
                label = f"{name}, {where[0]} x {where[1]}"
                taken[label] = [1e3 * one / values.calls for one in side["seconds"]]
        console.print(table)
        if found["how"]:
            say(console, f"{values.against}: {found['how']}")
        best = max(case["sides"][predict.OURS]["sequences_per_second"] for case in found["cases"])
        what = {"run": str(opened.path), "path": found["path"], "most": f"{best:,.1f} sequences/s"}
        following = [] if values.against else [again("--against=hf")]
        finish(values, found, taken, "ms per batch", found["path"], what, following)


def _train_column(side: Mapping[str, Any]) -> dict[str, str]:
    """Returns the cells of a side by the names of their rows."""
    of = {"device": "of the device", "process": "of the process"}[side["peak_memory_of"]]
    used, wait = side["utilisation"], side["data_wait"]
    return {
        "step, ms": spread(side["step_ms"]),
        "real tokens/s": f"{side['tokens_per_second']:,.0f}",
        "sequences/s": f"{side['sequences_per_second']:,.1f}",
        "model TFLOP/s": f"{side['tflops']:,.4g}",
        "model FLOPs utilisation": "-" if used is None else f"{used:.1%}",
        "data wait": "-" if wait is None else f"{wait:.2%}",
        "peak memory": f"{size_text(side['peak_memory'])} {of}",
        "compiling, s": f"{side['compile_seconds']:.1f}",
        "how": side["how"],
    }


def _say_utilisation(console: Any, found: Mapping[str, Any]) -> None:
    peak, kind = found["peak_tflops"], found["device_kind"]
    known = (
        f"{found['devices']} x {peak:g} TFLOP/s ({kind})"
        if peak
        else f"of {kind} it is not known: --peak_tflops says it"
    )
    flops = found["timed_updates"]["flops"] / found["updates"] / 1e12
    say(
        console,
        f"utilisation = model FLOPs of an update ({flops:,.4g} TFLOP: 6 x parameters x tokens + 12 "
        "x layers x width x tokens², and the heads where they are read, of the real examples) / "
        f"(seconds x devices x peak); peak: {known}",
    )
