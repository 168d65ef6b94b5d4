"""A tiny encoder as a Hugging Face folder, to fine-tune from."""

from collections.abc import Iterable
from pathlib import Path

import jax
from tokenizer_checks import wordpiece

from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig


def write_encoder(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """Writes an encoder of two layers of 16 that knows the words of some texts.

    Without dropout, of which `command_line.DROPOUT` tells.
    """
    words = sorted({word for text in texts for word in text.lower().split()})
    tokenizer = wordpiece([*BERT_TOKENS, *words])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        heads=("pooler",),
    )
    params = build_model(config).init(jax.random.key(seed))
    return write_hf_folder(folder, params, config, tokenizer, "A card.")
