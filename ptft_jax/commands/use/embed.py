"""ptft embed --run_dir=RUN_OR_HF_DIR --input=FILE --output=FILE.npy [--pooling=mean]

Turns each line of a text file into a vector: row i of the array, float32 [lines, hidden size], is
line i, an empty one too. `-` reads standard input. Of a table (.csv, .tsv, .jsonl, .parquet) it is
each row's text, in the column that --text_column names.

--pooling: mean over a text's tokens, cls for the output at [CLS], or pooler. Without it vectors are
made as the model was trained, or as a folder of sentence-transformers says, else by the mean.
--dims=64 keeps the first 64 features, for a model that was trained for it.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from ptft_jax.commands.parsing import required
from ptft_jax.commands.screen import count, made, make_console, warnings_as_lines
from ptft_jax.commands.train.evaluate import RUN_OR_HF, define_reading_flags
from ptft_jax.commands.use.texts import define_input_flags, read_input
from ptft_jax.data.tasks.episodes.splits import Marked
from ptft_jax.errors import ConfigError
from ptft_jax.objectives.embedding import POOLINGS
from ptft_jax.runs.config import check_place
from ptft_jax.runs.trained.open import load_run
from ptft_jax.training.resources.storage import replacing, storing


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_reading_flags(values, RUN_OR_HF)
    define_input_flags(values, pairs=False)
    flags.DEFINE_string("output", None, "File to make, FILE.npy.", flag_values=values)
    flags.DEFINE_enum("pooling", None, POOLINGS, "How vectors are made.", flag_values=values)
    flags.DEFINE_integer(
        "dims", None, "Features to keep of each vector.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Texts computed at once.", lower_bound=1, flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    required(values, "run_dir", "input", "output")
    output = Path(values.output)
    if output.suffix != ".npy" or output.is_dir():
        raise ConfigError(f"--output={output}: expected the name of a file to make, FILE.npy.")
    check_place("output", output.parent)
    opened = load_run(values.run_dir, values.checkpoint)
    texts = [_text(one) for one in read_input(values, opened).texts]
    with warnings_as_lines():
        vectors = opened.embed(texts, values.pooling, values.batch_size, values.dims)
    with storing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as file:
            np.save(file, vectors)
    made(
        make_console(),
        "embedded",
        {
            "file": str(output),
            "vectors": f"{count(len(vectors))} of {vectors.shape[1]} float32 numbers",
            "pooling": opened.describe_vectors(values.pooling),
        },
        [f'python -c \'import numpy; print(numpy.load("{output}", mmap_mode="r").shape)\''],
    )


def _text(asked: Any) -> str:
    """Returns a text, the words of a sentence with entities, or the first of several texts."""
    if isinstance(asked, Marked):
        return " ".join(asked.words)
    return asked if isinstance(asked, str) else asked[0]
