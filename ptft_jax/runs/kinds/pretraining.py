"""Pretraining: masked tokens, and next sentences where rows are pairs, on a prepared corpus."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, partial

from jax.sharding import Mesh

from ptft_jax.data.batches import evaluation_batches
from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.folder import SHAPE_KEYS, RunFolder
from ptft_jax.runs.kinds.kind import Evaluate, Kind, check_loss, naming
from ptft_jax.runs.phases import PhaseConfig, phases_of, pretraining_settings, rows_of
from ptft_jax.runs.shapes import encoder_config
from ptft_jax.runs.starting_point import StartingPoint, load_starting_point
from ptft_jax.training.cluster.job import Job
from ptft_jax.training.evaluation import evaluate
from ptft_jax.training.loop import until_stopped
from ptft_jax.training.mesh import process_rows, put_batch
from ptft_jax.training.step import make_eval_step


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
        if init_from is None or run is not None:
            return StartingPoint({}, config, tokenizer)
        found = load_starting_point(init_from, config.heads)
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

    def objective(self, model: EncoderConfig) -> PretrainingObjective:
        return PretrainingObjective(next_sentence="nsp" in model.heads)

    def examples(self, phase: PhaseConfig, tokenizer: TextTokenizer) -> PretrainingExamples:
        return PretrainingExamples(self._train, tokenizer, pretraining_settings(phase.config))

    def scored(
        self, phase: PhaseConfig, tokenizer: TextTokenizer
    ) -> dict[str, PretrainingExamples]:
        settings = pretraining_settings(phase.config)
        return {"dev": PretrainingExamples(self._dev, tokenizer, settings)}

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
        rows = process_rows(mesh, part)
        max_batches = -(-most // batch_size) * accumulate if most else None

        def run(params: Params) -> dict[str, dict[str, float]]:
            batches = evaluation_batches(splits["dev"], part, rows, max_batches)
            with naming("dev"):
                put = partial(put_batch, mesh=mesh)
                means = evaluate(step, params, until_stopped(batches, job), put)
                check_loss(means["loss"])
            return {"dev": means}

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
