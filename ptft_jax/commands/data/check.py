"""ptft check --data_dir=DATA | --config=configs/data/text.py --config.inputs=INPUT[,INPUT…]

Finds what is wrong with a corpus made by `ptft prepare`, or with text before it is prepared.

Everything is read to its end, and each thing that is wrong is one line, with its file, its place in
the file and a way to mend it. --tokenizer=FOLDER asks whether a corpus was encoded with this
tokenizer. Nothing is changed. The exit code is 65 when something is wrong.
"""

from collections.abc import Iterator
from itertools import chain

from absl import flags

from ptft_jax.commands.data.prepare import settings_of
from ptft_jax.commands.screen import count, made, make_console, progress_bars, say
from ptft_jax.data.corpus.check import check_corpus, check_inputs
from ptft_jax.data.hub import TOKENIZER_FILES, locate
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("data_dir", None, "Corpus made by `ptft prepare`.", flag_values=values)
    flags.DEFINE_string(
        "tokenizer", None, "Tokenizer that the corpus should have.", flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    config = values.config if "config" in values else None
    if not values.data_dir and config is None:
        raise ConfigError(
            "nothing to check: expected --data_dir=DATA, or --config=configs/data/text.py "
            "--config.inputs=FILES."
        )
    if values.tokenizer and not values.data_dir:
        raise ConfigError("--tokenizer is compared with a corpus: expected --data_dir=DATA too.")
    console = make_console()
    checked: dict[str, str] = {}
    checks: list[Iterator[str]] = []
    with progress_bars(console) as progress:
        if config is not None:
            settings = settings_of(config)
            settings.check()
            if settings.vocab:
                path, _ = locate(settings.vocab, f"vocab={settings.vocab}", TOKENIZER_FILES)
                TextTokenizer.load(path)
            checked["inputs"] = ", ".join(settings.inputs)
            checks.append(check_inputs(settings.inputs, settings.text_column, progress))
        if values.data_dir:
            checked["corpus"] = values.data_dir
            checks.append(check_corpus(values.data_dir, values.tokenizer, progress))
        found = 0
        for problem in chain(*checks):  # each as soon as it is found: all may take hours
            say(console, problem)
            found += 1
    things = f"{count(found)} things are" if found > 1 else "1 thing is"
    made(console, "checked", {**checked, "found": f"{things if found else 'nothing'} wrong"}, [])
    if found:
        raise DataError(f"{things} wrong with {', '.join(checked.values())}: see above.")
