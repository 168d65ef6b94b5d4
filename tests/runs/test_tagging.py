"""Tagging from files to entities: trained, resumed, scored, predicted, exported."""

import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import finetune_flags, losses, metrics, results, run
from foreign_folders import one_error
from tokenizer_checks import wordpiece

import ptft_jax
from ptft_jax.convert.folder import write_hf_folder
from ptft_jax.models.build import build_model
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.entities import entity_scores

FIRST, LAST = ("anna", "bernd", "chloe"), ("smith", "muller", "rossi")
PLACES, OTHER = ("paris", "oslo", "rome"), ("lives", "in", "sees", "near", "and", "visits")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Places are two tokens each, so that tokens and words are not the same.
PIECES = (*FIRST, *LAST, *OTHER, ",", ".", "par", "os", "ro", "##is", "##lo", "##me")


def sentences(count, seed, words=8):
    """Sentences in which the word decides on the tag: persons of two words, places of one."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = []
        while len(rows) < words:
            kind = rng.integers(4)
            if kind == 0:
                rows += [(rng.choice(FIRST), "B-PER"), (rng.choice(LAST), "I-PER")]
            elif kind == 1:
                rows += [(rng.choice(PLACES), "B-LOC")]
            else:
                rows += [(rng.choice(OTHER), "O")]
        found.append(rows)
    return found


def columns(rows):
    return "\n\n".join("\n".join("\t".join(row) for row in some) for some in rows) + "\n"


def flags(place, name, data="data", **changes):
    settings = {"epochs": 6, "optimizer.learning_rate": 0.01, **changes}
    return finetune_flags("tagging.py", place / data, place / "hf", place / name, **settings)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An encoder of random weights, tagged sentences, and a tagger that has learnt them."""
    place = tmp_path_factory.mktemp("tagging")
    tokenizer = wordpiece([*SPECIAL, *PIECES])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        heads=("pooler",),
    )
    params = jax.device_get(build_model(config).init(jax.random.key(0)))
    write_hf_folder(place / "hf", params, config, tokenizer, "card")
    (place / "data").mkdir()
    for split, count, seed in (("train", 60, 0), ("dev", 12, 1), ("test", 12, 2)):
        (place / "data" / f"{split}.conll").write_text(columns(sentences(count, seed)))
    assert run(*flags(place, "run")) == 0
    return place


def test_entities_are_learnt_and_scored(place, capsys):
    """Scores are those of the predictions; the test split is scored when it is asked for."""
    dev = results(place / "run")["dev"]
    assert dev["f1"] > 0.9
    overall = {"loss", "f1", "precision", "recall", "accuracy", "f1_strict"}
    by_type = {
        f"{name}_{kind}" for name in ("f1", "precision", "recall") for kind in ("LOC", "PER")
    }
    assert dev.keys() == overall | by_type
    assert run("evaluate", f"--run_dir={place}/run", "--split=test") == 0
    assert "f1" in capsys.readouterr().out
    tagger = ptft_jax.load_run(place / "run")
    assert tagger.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    rows = sentences(12, 1)
    found = tagger.predict([[word for word, _ in some] for some in rows])
    score, _ = entity_scores(
        [[tag for _, tag in some] for some in rows], [f["tags"] for f in found]
    )
    assert score.f1 == dev["f1"]
    assert all(0 < score <= 1 for some in found for score in some["scores"])
