"""--explain: every parameter with its shape, what of it is trained, its rate and its decay."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ptft_jax.models.build import build_model
from ptft_jax.runs.config import Config
from ptft_jax.runs.describe import describe_average
from ptft_jax.runs.folder import RunFolder
from ptft_jax.runs.kinds.kind import kind_of
from ptft_jax.runs.start.partly_trained import PartlyTrained
from ptft_jax.training.updates.optimizer import UNDECAYED_NAMES


def explain(
    console: Console, command: str, config: Config, folder: RunFolder, init_from: str | None
) -> None:
    """Prints what a run of `ptft COMMAND` would train; see `ptft_jax.runs.train.train`."""
    record = folder.record() if folder.exists() else None
    source = init_from or (record and record.init_from)
    start = kind_of(command, config).starting_point(source, None)
    model = build_model(start.config)
    trainable = PartlyTrained(config, model, start.params, start.source or source, record)
    table = Table(box=SIMPLE_HEAD)
    for name in ("parameter", "shape", "trained", "peak rate", "decay"):
        table.add_column(name, overflow="fold")
    for row in _rows(trainable, config):
        table.add_row(*row)
    console.print(table)
    for name, text in (trainable.facts() | describe_average(config)).items():
        console.print(f"{name}: {text}", markup=False)


def _rows(trainable: PartlyTrained, config: Config) -> Iterator[tuple[str, str, str, str, str]]:
    optimizer = config.optimizer
    for path, shape, factors in trainable.rates.explained():
        trained = [factor for factor in factors if factor]
        what = "yes" if len(trained) == len(factors) else "no"
        if 0 < len(trained) < len(factors):
            what = f"layers {len(factors) - len(trained)} to {len(factors) - 1}"
        peaks = [f"{optimizer.learning_rate * factor:.3g}" for factor in trained]
        rate = " … ".join(dict.fromkeys((peaks[0], peaks[-1]))) if peaks else ""
        decays = trained and path.rpartition("/")[2] not in UNDECAYED_NAMES
        decay = f"{optimizer.weight_decay:g}" if decays else ""
        yield path, " x ".join(map(str, shape)), what, rate, decay
