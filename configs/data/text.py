"""A corpus from files of text: tokenizer and shards of token ids.

    ptft prepare --config=configs/data/text.py --config.inputs='text/*.txt.xz' --out_dir=DATA

`ptft prepare --help` says what `inputs` may name, and lists all keys.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    return defaults.prepare()
