"""A corpus from text files: tokenizer and shards of token ids.

    ptft prepare --config=configs/data/text.py --config.inputs='text/*.txt.xz' --out_dir=DATA

Keys: `inputs` (files or patterns, separated by commas; .txt, .gz, .xz), `vocab` (a vocab.txt or a
tokenizer folder; empty learns one), `vocab_size`, `lowercase`, `dev_fraction`, `seed`, `workers`.
"""

from ptft_jax.commands import defaults
from ptft_jax.commands.settings import Config


def get_config() -> Config:
    """Returns the config."""
    return defaults.prepare()
