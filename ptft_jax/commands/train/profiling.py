"""--profile=START:STOP of the commands that train: the flag, and the table of kernels."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.commands.screen import count, say
from ptft_jax.errors import ConfigError
from ptft_jax.training.profile import Kernel, Tracer

_SHOWN = 20


def define_profile_flag(values: flags.FlagValues) -> None:
    """Defines the flag."""
    text = "START:STOP, like 100:103: traces the updates 101 to 103 into RUN/profile."
    flags.DEFINE_string("profile", None, text, flag_values=values)


def profile_of(text: str | None) -> tuple[int, int] | None:
    """Returns START and STOP of the flag.

    Raises:
        ConfigError: it is no range of updates.
    """
    if text is None:
        return None
    form = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    start, stop = map(int, form.groups()) if form else (0, 0)
    if start >= stop:
        raise ConfigError(
            f"--profile={text}: expected START:STOP with START < STOP, both numbers of updates, "
            "like 100:103 for the updates 101 to 103."
        )
    return start, stop


def check_profile(profile: tuple[int, int] | None, steps: int) -> None:
    """Raises ConfigError when a run has less updates than are to be traced."""
    if profile is not None and profile[1] > steps:
        start, stop = profile
        raise ConfigError(
            f"--profile={start}:{stop}: the run ends after {steps} updates; expected STOP to be "
            f"{steps} at most."
        )


def tracer(
    profile: tuple[int, int] | None, folder: Path, done: int, console: Console
) -> AbstractContextManager[Tracer | None]:
    """Returns the tracer of a run that has made so many updates; None where nothing is to trace."""
    if profile is None:
        return nullcontext()
    start, stop = profile
    if done >= stop:
        say(console, f"--profile={start}:{stop}: these updates are made already, nothing to trace")
        return nullcontext()

    def shown(updates: int, file: Path, kernels: list[Kernel]) -> None:
        console.print(_table(updates, kernels))
        say(
            console,
            f"trace of the updates {stop - updates + 1} to {stop}: {file}\n"
            f"to look at it: `xprof --logdir={folder}` or `tensorboard --logdir={folder}` (both "
            "need the package xprof), or open the .trace.json.gz beside it in ui.perfetto.dev",
        )

    return Tracer(folder, start, stop, done, shown)


def _table(updates: int, kernels: list[Kernel]) -> Table:
    total = sum(kernel.seconds for kernel in kernels)
    title = f"mean of {count(updates)} updates, on a device"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("kernel", no_wrap=True, overflow="ellipsis")
    for name in ("count", "ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, some: list[Kernel]) -> None:
        times, seconds = sum(one.count for one in some), sum(one.seconds for one in some)
        share = f"{seconds / total:.1%}" if total else "-"
        table.add_row(name, f"{times:,.1f}", f"{1e3 * seconds:,.3f}", share)

    for kernel in kernels[:_SHOWN]:
        add(kernel.name, [kernel])
    if kernels[_SHOWN:]:
        add(f"{len(kernels) - _SHOWN} others", kernels[_SHOWN:])
    add("all", kernels)
    return table
