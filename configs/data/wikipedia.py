"""English Wikipedia from TensorFlow Datasets: tokenizer and shards of token ids.

    ptft prepare --config=configs/data/wikipedia.py --config.workers=8 --out_dir=DATA

It has to be prepared by TFDS first, in the format that is read without TensorFlow, on a machine
with network, disk and patience (it parses the dump of 2023-06-01, about 20 GB of text):

    pip install tensorflow-datasets tensorflow apache-beam mwparserfromhell
    TFDS_DATA_DIR=DIR tfds build wikipedia/20230601.en --file_format=array_record

and then be named by TFDS_DATA_DIR. An article is a document. Its headings and lists stay in.
"""

from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config


def get_config() -> Config:
    """Returns the config."""
    config = defaults.prepare()
    config.inputs = "tfds:wikipedia/20230601.en"
    config.deduplicate = "exact"
    config.licence = "CC BY-SA 3.0 and GFDL (Wikipedia contributors)"
    return config
