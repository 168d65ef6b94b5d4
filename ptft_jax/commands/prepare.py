"""ptft prepare --config=configs/data/text.py --config.inputs=GLOB[,GLOB…] --out_dir=DATA

Turns raw text into a tokenizer and shards of token ids.

The text is UTF-8 in .txt, .txt.gz or .txt.xz files, with a blank line between documents and one
sentence or one paragraph per line. A WordPiece vocabulary is learned from it, or taken from
--config.vocab=vocab.txt (or a tokenizer folder). The result does not depend on --config.workers.
"""

from absl import flags

from ptft_jax.commands.screen import count, facts, made, make_console, progress_bars
from ptft_jax.commands.settings import Config, check_place
from ptft_jax.data.corpus import Manifest
from ptft_jax.data.prepare import PrepareSettings, prepare_corpus
from ptft_jax.errors import ConfigError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out_dir", None, "Folder to make for the corpus.", flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    if positional:
        raise ConfigError(f"{positional[0]!r}: inputs are given as --config.inputs=FILES.")
    if not values.out_dir:
        raise ConfigError("--out_dir is missing: name the folder to make for the corpus.")
    check_place("out_dir", values.out_dir)
    prepare(values.config, values.out_dir)
    made(
        make_console(),
        "corpus",
        {"folder": values.out_dir, "manifest": f"{values.out_dir}/manifest.json"},
        [
            "ptft pretrain --config=configs/pretrain/bert_tiny.py "
            f"--config.data_dir={values.out_dir} --run_dir=runs/pretrain"
        ],
    )


def prepare(config: Config, out_dir: str) -> Manifest:
    """Prepares a corpus with progress on screen, and says what came out."""
    console = make_console()
    settings = dict(config)
    inputs = tuple(part.strip() for part in settings.pop("inputs").split(",") if part.strip())
    if not inputs:
        raise ConfigError(
            "--config.inputs is empty: name the text files, for example 'text/*.txt'."
        )
    with progress_bars(console) as progress:
        manifest = prepare_corpus(PrepareSettings(inputs=inputs, **settings), out_dir, progress)
    if manifest.reused:
        console.print(f"{out_dir} already holds this very corpus: kept")
    rows = {"tokenizer": f"WordPiece, {count(manifest.vocab_size)} tokens"}
    for name, split in manifest.splits.items():
        rows[name] = (
            f"{count(split.documents)} documents, {count(split.sentences)} sentences, "
            f"{count(split.tokens)} tokens"
        )
    facts(console, rows)
    return manifest
