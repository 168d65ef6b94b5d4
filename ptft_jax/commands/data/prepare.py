"""ptft prepare --config=configs/data/text.py --config.inputs=INPUT[,INPUT…] --out_dir=DATA

Turns text into a tokenizer and shards of token ids.

An input is a file or pattern (.txt with a blank line between documents; .jsonl or .parquet with a
document per record; .gz, .xz and .zst of the first two), a URL (gs://, s3://, https://), a dataset
of TFDS (tfds:wikipedia/20230601.en) or of the Hugging Face Hub (hf:ORGANISATION/NAME/CONFIG:SPLIT),
each with #COLUMN after it if its text is in another column than text_column, and with @WEIGHT to
draw from it more or less often. A vocabulary is learned, or taken from --config.vocab=vocab.txt (or
a tokenizer folder, or the name of a model on the Hub). A run that was interrupted goes on when it
is started again. The result does not depend on that, nor on --config.workers.
"""

import os

from absl import flags

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import count, facts, flag, made, make_console, progress_bars, say
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.corpus.store import Manifest
from ptft_jax.data.text.sources import Item
from ptft_jax.errors import ConfigError
from ptft_jax.runs.config import Config, check_place


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out_dir", None, "Folder to make for the corpus.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "out_dir")
    check_place("out_dir", values.out_dir)
    prepare(values.config, values.out_dir)
    made(
        make_console(),
        "corpus",
        {"folder": values.out_dir, "manifest": f"{values.out_dir}/manifest.json"},
        [
            "ptft pretrain --config=configs/pretrain/bert_tiny.py "
            f"{flag('config.data_dir', values.out_dir)} --run_dir=runs/pretrain"
        ],
    )


def settings_of(config: Config) -> PrepareSettings:
    """The settings that a config holds; ConfigError when it names no input."""
    settings = dict(config)
    inputs = split_inputs(settings.pop("inputs"))
    if not inputs:
        raise ConfigError(
            "--config.inputs is empty: name the text files, for example 'text/*.txt'."
        )
    return PrepareSettings(inputs=inputs, **settings)


def split_inputs(inputs: str) -> tuple[str, ...]:
    """Splits at commas, but not in the name of a file that is there."""
    parts, items = inputs.split(","), []
    while parts:
        ends = range(len(parts), 0, -1)
        names = {end: ",".join(parts[:end]).strip() for end in ends}
        end = next((n for n in ends if n > 1 and _is_file(names[n])), 1)
        items.append(names[end])
        del parts[:end]
    return tuple(item for item in items if item)


def _is_file(name: str) -> bool:
    return os.path.isfile(os.path.expanduser(Item.parse(name).location))


def prepare(config: Config, out_dir: str) -> Manifest:
    """Prepares a corpus with progress on screen, and says what came out."""
    console = make_console()
    settings = settings_of(config)
    with progress_bars(console) as progress:
        manifest = prepare_corpus(settings, out_dir, progress, lambda text: say(console, text))
    facts(console, _rows(manifest))
    for warning in manifest.warnings:
        say(console, f"warning: {warning}.")
    return manifest


def _rows(manifest: Manifest) -> dict[str, str]:
    rows = {"tokenizer": f"{manifest.tokenizer_kind}, {count(manifest.vocab_size)} tokens"}
    for name, split in manifest.splits.items():
        rows[name] = (
            f"{count(split.documents)} documents, {count(split.sentences)} sentences, "
            f"{count(split.tokens)} tokens"
        )
        if split.unknown_tokens:
            rows[name] += f", {count(split.unknown_tokens)} of them unknown"
    if len(manifest.sources) > 1:
        for source in manifest.sources:
            tokens = sum(counts.tokens for counts in source.counts.values())
            weight = "" if source.weight == 1 else f", drawn {source.weight:g} times as often"
            rows[source.name] = f"{count(tokens)} tokens{weight}"
    if manifest.settings["deduplicate"] != "none":
        read = sum(source.documents_read for source in manifest.sources)
        exact = sum(source.exact_duplicates for source in manifest.sources)
        near = sum(source.near_duplicates for source in manifest.sources)
        rows["left out"] = (
            f"{count(exact)} exact and {count(near)} near duplicates of {count(read)} documents"
        )
    return rows
