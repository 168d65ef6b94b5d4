"""The examples that a pretraining config makes of a corpus, for commands that only look at them."""

from typing import NamedTuple

from absl import flags

from ptft_jax.commands.screen import count
from ptft_jax.data.corpus.store import Corpus
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.phases import phase_of, pretraining_settings


class OpenedExamples(NamedTuple):
    """A split of a corpus with the examples that a phase of a run makes of it."""

    corpus: Corpus
    tokenizer: TextTokenizer
    examples: PretrainingExamples

    def describe(self) -> dict[str, str]:
        """Returns in words what the examples are, a line per fact."""
        settings = self.examples.settings
        form = "packed rows" if settings.packing else "rows"
        return {
            "data": f"{self.corpus.tokenizer_dir.parent}, {self.corpus.split}: "
            f"{count(self.corpus.num_tokens)} tokens, {count(self.corpus.num_documents)} documents",
            "examples": f"{settings.input_format}, {settings.max_seq_length} tokens; an epoch has "
            f"{count(len(self.examples))} {form}",
            "masking": f"{settings.masking.masking}, {settings.masking.masked_lm_prob:.4g} of the "
            f"tokens, at most {settings.masking.max_predictions_per_seq} per example",
        }


def define_example_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say which examples of a config are meant."""
    flags.DEFINE_string("split", "train", "Split of the corpus.", flag_values=values)
    flags.DEFINE_integer("phase", 1, "Phase of the run, from 1 on.", flag_values=values)


def open_examples(config: Config, split: str, phase: int) -> OpenedExamples:
    """Opens the corpus at `config.data_dir` and cuts it as phase `phase` of the run does.

    Raises:
        ConfigError: no `data_dir`, no such split or phase, or settings that cannot be.
        DataError: the corpus is damaged.
    """
    data_dir = require_data_dir(config, "a folder made by `ptft prepare`")
    settings = pretraining_settings(phase_of(config, phase))
    corpus = Corpus.open(data_dir, split)
    tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    return OpenedExamples(corpus, tokenizer, PretrainingExamples(corpus, tokenizer, settings))
