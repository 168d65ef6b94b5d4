"""A tiny encoder as a Hugging Face folder, to fine-tune from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from command_line import sentences
from ml_collections import ConfigDict
from tokenizer_checks import wordpiece

import ptft_jax
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.data.tokenizer.models import BERT_TOKENS
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig

TEXTS = [text for text, _ in sentences(24, 1)]


def write_encoder(
    folder: Path, texts: Iterable[str], seed: int = 0, heads: tuple[str, ...] = ("pooler",)
) -> Path:
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
        heads=heads,
    )
    params = build_model(config).init(jax.random.key(seed))
    return write_hf_folder(folder, params, config, tokenizer, "A card.")


def write_task(place: Path) -> Path:
    """Writes such an encoder, `hf`, and a table of texts of two classes, `data`, into a folder."""
    (place / "data").mkdir()
    for split in ("train", "dev"):
        rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(TEXTS)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "data" / f"{split}.jsonl").write_text(lines)
    write_encoder(place / "hf", TEXTS)
    return place


def task_config(place: Path, **changes: Any) -> ConfigDict:
    """Returns the config of a run on what `write_task` wrote; `changes` are keys and values."""
    config = ptft_jax.get_config("finetune/text")
    keys = {"data_dir": str(place / "data"), "batch_size": 8, "eval_every": 0, "log_every": 1}
    config.update_from_flattened_dict({**keys, "max_seq_length": 32, **changes})
    return config
