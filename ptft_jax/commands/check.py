"""ptft check --data_dir=DATA | --config=configs/data/text.py --config.inputs=INPUT[,INPUT…]

Finds what is wrong with a corpus made by `ptft prepare`, or with text before it is prepared.

Everything is read to its end, and each thing that is wrong is named with its file, its place in the
file and a way to mend it. --tokenizer=FOLDER asks whether a corpus was encoded with this tokenizer.
Nothing is changed. The exit code is 65 when something is wrong.
"""

from collections.abc import Sequence

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptft_jax.commands.screen import count, made, make_console, progress_bars
from ptft_jax.commands.settings import Config
from ptft_jax.data.checking import check_corpus
from ptft_jax.data.checking_inputs import check_inputs
from ptft_jax.data.findings import Finding, finding_of
from ptft_jax.data.prepare import PrepareSettings
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError

_UNLIMITED = 10_000


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("data_dir", None, "Corpus made by `ptft prepare`.", flag_values=values)
    flags.DEFINE_string(
        "tokenizer", None, "Tokenizer that the corpus should have.", flag_values=values
    )


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: expected flags only, like --data_dir=DATA.")
    config = values.config if "config" in values else None
    if not values.data_dir and config is None:
        raise ConfigError(
            "nothing to check: expected --data_dir=DATA, or --config=configs/data/text.py "
            "--config.inputs=FILES."
        )
    if values.tokenizer and not values.data_dir:
        raise ConfigError("--tokenizer is compared with a corpus: expected --data_dir=DATA too.")
    checked = {}
    settings = None
    if config is not None:
        settings = _settings(config)
        checked["inputs"] = ", ".join(settings.inputs)
    if values.data_dir:
        checked["corpus"] = values.data_dir
    console = make_console()
    found: list[Finding] = []
    with progress_bars(console) as progress:
        if settings is not None:
            found += _check_vocab(settings)
            found += check_inputs(settings.inputs, settings.text_column, progress)
        if values.data_dir:
            found += check_corpus(values.data_dir, values.tokenizer, progress)
    if found:
        show(console, found)
    things = f"{count(len(found))} things are" if len(found) > 1 else "1 thing is"
    made(console, "checked", {**checked, "found": f"{things if found else 'nothing'} wrong"}, [])
    if found:
        raise DataError(f"{things} wrong with {', '.join(checked.values())}: see the table above.")


def _settings(config: Config) -> PrepareSettings:
    values = dict(config)
    inputs = tuple(part.strip() for part in values.pop("inputs").split(",") if part.strip())
    if not inputs:
        raise ConfigError(
            "--config.inputs is empty: name the text files, for example 'text/*.txt'."
        )
    settings = PrepareSettings(inputs=inputs, **values)
    settings.check()
    return settings


def _check_vocab(settings: PrepareSettings) -> list[Finding]:
    """What is wrong with the tokenizer that the inputs are to be encoded with."""
    if not settings.vocab:
        return []
    try:
        TextTokenizer.load(settings.vocab)
    except DataError as error:
        return [finding_of(error, settings.vocab)]
    return []


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Prints what is wrong as a table."""
    if not console.is_terminal:  # a line for each, so that it can be searched
        console = Console(highlight=False, width=_UNLIMITED)
    table = Table("file", "position", "what is wrong", "how to mend it", box=SIMPLE_HEAD)
    # A name that is cut off, or in two, cannot be copied, unless it would leave no room.
    table.columns[0].overflow = "fold"
    longest = max(len(finding.file) for finding in findings)
    table.columns[0].no_wrap = longest <= console.width // 3
    for finding in findings:
        table.add_row(*map(Text, finding))
    console.print(table)
