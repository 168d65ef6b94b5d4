"""What a pretraining config decides about a model and its rows, with or without a corpus."""

import math
from typing import Any

import numpy as np

from ptft_jax.data.pretraining.examples import PAIR_FORMATS
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.runs.config import Config
from ptft_jax.runs.phases import pretraining_settings
from ptft_jax.training.cost import RowShapes

# What a run on sentence pairs trains, and what one without them does.
_PAIR_HEADS, _HEADS = ("pooler", "mlm", "nsp"), ("mlm",)
# Examples that a packed row has room for where the config leaves it to the corpus.
UNKNOWN_PACK = 4


def encoder_config(config: Config, tokenizer: TextTokenizer | None) -> EncoderConfig:
    """Returns the model of a config; without a tokenizer its vocabulary is the key's or BERT's.

    Raises:
        ConfigError: a size that cannot be, or a vocabulary smaller than the tokenizer's.
    """
    keys = config.model.to_dict()
    wanted = keys.pop("vocab_size")
    if tokenizer is not None:
        if wanted is not None and wanted < tokenizer.vocab_size:
            raise ConfigError(
                f"--config.model.vocab_size={wanted}: the corpus has token ids up to "
                f"{tokenizer.vocab_size - 1}; expected at least {tokenizer.vocab_size}, or leave "
                "it out."
            )
        keys["pad_token_id"] = tokenizer.pad_token_id
        wanted = wanted or tokenizer.vocab_size
    return EncoderConfig(
        vocab_size=wanted or EncoderConfig.vocab_size,
        heads=_PAIR_HEADS if config.input_format in PAIR_FORMATS else _HEADS,
        **keys,
    )


def row_shapes(config: Config) -> RowShapes:
    """Returns the shapes and dtypes of the arrays that `PretrainingExamples.batch` makes, by name.

    Only the room for examples in a packed row, where no `max_sequences_per_pack` says it, is known
    to the corpus alone.
    """
    settings = pretraining_settings(config)
    settings.check()
    tokens, predictions, most = settings.max_seq_length, config.max_predictions_per_seq, 1
    names = ["input_ids", "attention_mask", "token_type_ids"]
    if settings.packing:
        most = settings.max_sequences_per_pack or UNKNOWN_PACK
        share = math.ceil(settings.masking.masked_lm_prob * tokens)
        predictions = min(share + most, predictions * most)
        names += ["segment_ids", "position_ids"]
    rows: dict[str, Any] = dict.fromkeys(names, ((tokens,), np.int32))
    rows |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((predictions,), np.int32))
    rows["masked_lm_weights"] = ((predictions,), np.float32)
    if settings.has_pairs:
        rows |= dict.fromkeys(("pooled_positions", "next_sentence_labels"), ((most,), np.int32))
        rows["next_sentence_weights"] = ((most,), np.float32)
    return rows
