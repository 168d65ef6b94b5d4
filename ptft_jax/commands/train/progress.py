"""What the screen shows of a run that trains: facts, a live line with an ETA, kernels."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.screen import count, facts, say
from ptft_jax.training.tracking.metric_sinks import Kernel, ProgressLines

_SHOWN = 20


class ConsoleProgress(ProgressLines):
    """Shows a run on the console: one live line on a terminal, now and then a plain line elsewhere.

    Lines of `say` and of evaluations stay above the live line.
    """

    def __init__(self, console: Console):
        super().__init__(lambda text: say(console, text))
        self._console = console
        self._live: Live | None = None

    def facts(self, facts_: Mapping[str, str]) -> None:
        facts(self._console, facts_)

    def begins(self, steps: int) -> None:
        super().begins(steps)
        if self._console.is_terminal:
            self._live = Live(Text(""), console=self._console, refresh_per_second=4)
            self._live.start()

    def progress(self, line: str, *, due: bool) -> None:
        if self._live is None:
            super().progress(line, due=due)
        else:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))

    def kernels(self, updates: int, kernels: Sequence[Kernel]) -> None:
        self._console.print(_table(updates, kernels))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _table(updates: int, kernels: Sequence[Kernel]) -> Table:
    total = sum(kernel.seconds for kernel in kernels)
    title = f"mean of {count(updates)} updates, on a device"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("kernel", no_wrap=True, overflow="ellipsis")
    for name in ("count", "ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, some: Sequence[Kernel]) -> None:
        times, seconds = sum(one.count for one in some), sum(one.seconds for one in some)
        share = f"{seconds / total:.1%}" if total else "-"
        table.add_row(name, f"{times:,.1f}", f"{1e3 * seconds:,.3f}", share)

    for kernel in kernels[:_SHOWN]:
        add(kernel.name, [kernel])
    if kernels[_SHOWN:]:
        add(f"{len(kernels) - _SHOWN} others", kernels[_SHOWN:])
    add("all", kernels)
    return table
