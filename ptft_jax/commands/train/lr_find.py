"""ptft lr_find --config=CONFIG --init_from=RUN_OR_HF_DIR --out_dir=DIR [--steps=100]

Says up to which learning rate a training is stable: it trains as `ptft finetune` or `ptft pretrain`
would in its first updates, with a rate that rises from --lowest to --highest, until the loss is
four times its best. lr_find.csv, lr_find.svg and lr_find.json in DIR are all that is kept.

The rate where the loss is least bounds those that a run can have. Which of them is best it does not
tell, nor do the two that fastai's lr_find reads from the curve: for a large pretrained encoder that
may be a hundred times lower. The sweep that it ends with looks below the bound.
"""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from absl import flags

from ptft_jax.commands.help import key_flags
from ptft_jax.commands.parsing import config_of, parse, required
from ptft_jax.commands.screen import flag, made, make_console
from ptft_jax.commands.train.flags import JOB_FLAGS, command_for, define_job_flags, job_of
from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.commands.train.series import words_for_all
from ptft_jax.runs.config import check_place
from ptft_jax.runs.range_test import RangeTest, as_csv, find_rates, picture
from ptft_jax.training.cluster.agreement import agree, software
from ptft_jax.training.resources.storage import write_atomically
from ptft_jax.training.tracking.metric_sinks import Report

_OWN = ("out_dir", "lowest", "highest", "steps")
_RATE = "optimizer.learning_rate"
# The rates to try, as parts of the bound.
_TRIED = (1.0, 1 / 3, 1 / 10, 1 / 30, 1 / 100)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    text = "Run, Hugging Face folder or name of a model on the Hub to start from."
    flags.DEFINE_string("init_from", None, text, flag_values=values)
    flags.DEFINE_string("out_dir", None, "Folder of the files to make.", flag_values=values)
    flags.DEFINE_float("lowest", 1e-7, "Rate of the first update.", flag_values=values)
    flags.DEFINE_float("highest", 10.0, "Rate that the last one comes near.", flag_values=values)
    text = "How many updates, where the loss does not diverge before."
    flags.DEFINE_integer("steps", 100, text, lower_bound=20, flag_values=values)
    define_job_flags(values)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A range test.

    Attributes:
        command: whose first updates it makes, finetune or pretrain.
        values: of the flags, with the config.
        words: those of the command line that a sweep over the rate takes as well.
    """

    command: str
    values: flags.FlagValues
    words: list[str]


def planned(arguments: list[str]) -> Plan:
    """Returns what a command line asks for.

    Raises:
        ConfigError: the flags do not fit together.
    """
    command = command_for(arguments)
    values = parse(define_flags, arguments, command)
    required(values, "out_dir")
    check_place("out_dir", values.out_dir)
    own = (*(f"--{name}" for name in (*_OWN, *JOB_FLAGS)), f"--config.{_RATE}")
    words, _ = words_for_all(arguments, own)
    source = [] if values.init_from is None else [f"--init_from={values.init_from}"]
    return Plan(command, values, [f"--config={config_of(arguments)}", *words, *source])


def show(plan: Plan) -> None:
    """Prints the config."""
    print(*key_flags(plan.values.config), sep="\n")


def run(plan: Plan) -> None:
    """Runs the command.

    Raises:
        PtftError: see `ptft_jax.runs.range_test.find_rates`.
    """
    values, console = plan.values, make_console()
    with job_of(values) as job:
        arguments = {name: values[name].value for name in ("init_from", *_OWN)}
        config = values.config.to_dict()
        agree(job, "command line and software", {**arguments, "config": config, **software()})
        with Report(*([ConsoleProgress(console)] if job.is_first else [])) as watch:
            found = find_rates(
                plan.command,
                values.config,
                values.init_from,
                lowest=values.lowest,
                highest=values.highest,
                updates=values.steps,
                job=job,
                watch=watch,
            )
        if job.is_first:
            _write(found, Path(values.out_dir), {**arguments, "config": config})
    place, tried = values.out_dir, ",".join(f"{found.minimum * part:.0e}" for part in _TRIED)
    last = f"at {found.rates[-1]:.1e}, after {len(found.rates)} updates"
    made(
        console,
        "found an upper bound of the learning rate",
        {
            "upper bound": f"{found.minimum:.1e}, where the loss is least (minimum)",
            "fastai": f"{found.valley:.1e} (valley), {found.minimum / 10:.1e} (minimum / 10)",
            "diverged": last if found.diverged else f"not up to {found.rates[-1]:.1e}",
            "mind": "none of them is the best rate: that depends on the whole run, and may lie a "
            "hundred times below the bound",
            "picture": f"{place}/lr_find.svg",
            "figures": f"{place}/lr_find.json, {place}/lr_find.csv",
        },
        [
            shlex.join(["ptft", "sweep", *plan.words, "--grid", f"{_RATE}={tried}"])
            + f" {flag('run_dir', f'{place}/sweep')}"
        ],
    )


def _write(found: RangeTest, place: Path, asked: dict[str, Any]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / "lr_find.csv", as_csv(found))
    write_atomically(place / "lr_find.svg", picture(found))
    figures = {
        "valley": found.valley,
        "minimum": found.minimum,
        "updates": len(found.rates),
        "diverged": found.diverged,
        "asked": asked,
    }
    write_atomically(place / "lr_find.json", json.dumps(figures, indent=2) + "\n")
