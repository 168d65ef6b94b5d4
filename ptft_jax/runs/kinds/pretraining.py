"""Pretraining: masked tokens, and next sentences where rows are pairs, on a prepared corpus."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ptft_jax.data.batches import evaluation_batches
from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.pretraining.examples import PAIR_FORMATS, PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import Objective
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.folder import SHAPE_KEYS, RunFolder
from ptft_jax.runs.kinds.kind import Evaluate, Kind, check_loss, naming
from ptft_jax.runs.phases import PhaseConfig, phases_of, pretraining_settings, rows_of
from ptft_jax.runs.start.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.resources.cost import RowShapes
from ptft_jax.training.step import make_eval_step

# What a run on sentence pairs trains, and what one without them does.
_PAIR_HEADS, _HEADS = ("pooler", "mlm", "nsp"), ("mlm",)
# Examples that a packed row has room for where the config leaves it to the corpus.
UNKNOWN_PACK = 4


class Pretraining(Kind):
    """MLM + NSP, or MLM alone; see `Kind`."""

    labels = None
    best = ("dev_loss", "min")

    def __init__(self, config: Config):
        if config.steps < 1:
            raise ConfigError(f"--config.steps={config.steps}: expected at least 1.")
        self.config = config
        self.eval_every, self.checkpoint_every = config.eval_every, config.checkpoint_every
        self._data_dir = require_data_dir(config, "a folder made by `ptft prepare`")
        self._dev = Corpus.open(self._data_dir, "dev")
        self.fingerprints = {"corpus": _fingerprint(self._dev.manifest)}
        self.phases = phases_of(config)
        self.pairs = pretraining_settings(config).has_pairs

    @cached_property
    def _train(self) -> Corpus:
        return Corpus.open(self._data_dir, "train")

    def starting_point(self, init_from: str | None, run: RunFolder | None) -> StartingPoint:
        """Takes sizes from the config; another run's have to be the same."""
        tokenizer = TextTokenizer.load(self._train.tokenizer_dir)
        config = encoder_config(self.config, tokenizer)
        if init_from is None and run is None and self.config.init_layers:
            raise ConfigError(
                f"--config.init_layers={self.config.init_layers}: there is nothing to take layers "
                "of; expected --init_from=RUN_OR_FOLDER as well."
            )
        if init_from is None or run is not None:
            return StartingPoint({}, config, tokenizer)
        found = load_starting_point(init_from, config.heads)
        found = found.chosen(self.config.init_layers, 0)
        if found.tokenizer.sha256 != tokenizer.sha256:
            raise ConfigError(
                f"--init_from={init_from}: its tokenizer is not the corpus's. Prepare the corpus "
                f"with --config.vocab={init_from} (or its tokenizer folder)."
            )
        ours, theirs = dataclasses.asdict(config), dataclasses.asdict(found.config)
        differ = [
            f"--config.model.{name}={theirs[name]} (now {ours[name]})"
            for name in SHAPE_KEYS
            if ours[name] != theirs[name]
        ]
        if differ:
            raise ConfigError(
                f"--init_from={init_from} has another shape; to go on from it set "
                f"{' '.join(differ)}."
            )
        return dataclasses.replace(found, config=config)

    def objective(self, model: EncoderConfig) -> Objective:
        task = PretrainingObjective(next_sentence="nsp" in model.heads)
        if not self.config.teacher:
            return task
        from ptft_jax.runs.start.teacher import distilled

        return distilled(task, self.config)

    def examples(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, mesh: Mesh
    ) -> PretrainingExamples:
        return PretrainingExamples(self._train, tokenizer, pretraining_settings(phase.config))

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer, split: str | None = None
    ) -> dict[str, PretrainingExamples]:
        if split not in (None, "dev", "train"):
            raise ConfigError(f"split={split!r}: a corpus has train and dev.")
        corpus = self._train if split == "train" else self._dev
        settings = pretraining_settings(phase.config)
        return {split or "dev": PretrainingExamples(corpus, tokenizer, settings)}

    def evaluate(
        self,
        model: Model,
        phase: PhaseConfig,
        splits: Mapping[str, PretrainingExamples],
        mesh: Mesh,
        job: Job,
    ) -> Evaluate:
        """Returns the function from parameters to {"dev": {loss, mlm_accuracy, …}}.

        The examples are those of epoch 0 of the split, the same at every call. `eval_examples` 0
        means all of them; it is rounded up to whole batches of training, which are read in its
        micro-batches: what fits in training fits here.
        """
        step = make_eval_step(model, self.objective(model.config))
        batch_size, accumulate = phase.config.batch_size, phase.config.accumulate
        part, most = batch_size // accumulate, self.config.eval_examples
        rows = partial(process_rows, mesh)
        max_batches = -(-most // batch_size) * accumulate if most else None

        def run(params: Params) -> dict[str, dict[str, float]]:
            ((split, examples),) = splits.items()
            batches = evaluation_batches(examples, part, rows, max_batches)
            with naming(split):
                put = partial(put_batch, mesh=mesh)
                means = evaluate(step, params, until_stopped(batches, job), put)
                check_loss(means["loss"])
            return {split: means}

        return run

    def rows(self, examples: list[PretrainingExamples]) -> list[tuple[int, bool]]:
        return rows_of(self.phases)

    def facts(self, examples: list[PretrainingExamples]) -> dict[str, str]:
        data = {"data": f"{self._data_dir}: {self._train.num_tokens:,} tokens"}
        for number, (phase, rows) in enumerate(zip(self.phases, examples, strict=True), start=1):
            config, updates = phase.config, phase.until - phase.start
            name = "run" if len(self.phases) == 1 else f"phase {number}"
            data[name] = (
                f"{updates:,} updates of {config.batch_size} x {config.max_seq_length} tokens = "
                f"{updates * config.batch_size / len(rows):.2g} epochs of {len(rows):,} "
                f"{'packed rows' if config.packing else 'examples'}"
            )
        return data

    def remarks(self, examples: list[PretrainingExamples]) -> list[str]:
        """Warns where next sentence prediction has little to learn."""
        return [
            f"warning: {share:.0%} of the pairs of {rows.settings.max_seq_length} tokens have a "
            "random next sentence, where about half was expected: a document or an end of one "
            "that is a single sentence has no other. Use --config.input_format=full_sentences, or "
            "prepare documents of several sentences (a blank line ends a document)."
            for rows in examples
            # Never far below a half: each B is random with at least that probability.
            if (share := rows.random_next_share) is not None and share > 0.6
        ]


def _fingerprint(manifest: Manifest) -> str:
    """Returns a SHA-256 of a corpus: of its files' sums, and of how often to draw from a source."""
    sums = sorted((name, record.sha256) for name, record in manifest.files.items())
    draws = [(source.weight, source.counts["train"].documents) for source in manifest.sources]
    return hashlib.sha256(json.dumps([sums, draws]).encode()).hexdigest()


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
