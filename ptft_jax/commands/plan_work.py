"""What a config makes a device do: the model and the rows of a batch, without data on a device."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ptft_jax.commands.finetune import HEADS as FINETUNE_HEADS
from ptft_jax.commands.finetune import load_task_of
from ptft_jax.commands.pretrain import HEADS, PAIR_HEADS
from ptft_jax.commands.pretraining_config import phases_of, pretraining_settings
from ptft_jax.commands.run_folder import RunFolder
from ptft_jax.commands.run_record import FORMAT
from ptft_jax.commands.settings import Config
from ptft_jax.commands.training_flags import check_length
from ptft_jax.data.corpus import Corpus
from ptft_jax.data.formats import PAIR_FORMATS
from ptft_jax.data.pretraining import PretrainingExamples
from ptft_jax.data.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError, DataError
from ptft_jax.models.config import EncoderConfig
from ptft_jax.objectives.classification import ClassificationObjective
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.objectives.totals import Objective
from ptft_jax.training.cost import RowShapes

# Rows that are made to see how full they are, where there is a corpus.
_SAMPLE = 256
# Examples that a packed row has room for where no corpus says how long they are.
_UNKNOWN_PACK = 4

_TEXT_ARRAYS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class PlannedPhase:
    """The updates of a run that are made alike.

    Attributes:
        updates: how many; None where the length of an epoch is not known.
        batch_size, accumulate: rows of an update and its micro-batches.
        rows: the arrays of a batch, a row of each.
        fill: share of positions that hold a token; None if it is not known.
    """

    updates: int | None
    batch_size: int
    accumulate: int
    rows: RowShapes
    fill: float | None

    @property
    def tokens(self) -> int:
        """Length of a row."""
        return self.rows["input_ids"][0][0]

    @property
    def predictions(self) -> int:
        """Positions of a row at which the MLM head reads."""
        shape, _ = self.rows.get("masked_lm_positions", ((0,), None))
        return shape[0]

    @property
    def pooled(self) -> int:
        """Positions of a row that the pooler reads."""
        shape, _ = self.rows.get("pooled_positions", ((0,), None))
        return shape[0]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run as far as it matters for what it costs.

    Attributes:
        model: the model's config.
        objective: what is trained.
        phases: in order.
        notes: what was not known and is assumed instead.
    """

    model: EncoderConfig
    objective: Objective
    phases: tuple[PlannedPhase, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int | None:
        """All updates; None where the length of an epoch is not known."""
        updates = [phase.updates for phase in self.phases if phase.updates is not None]
        return sum(updates) if len(updates) == len(self.phases) else None


def is_finetuning(config: Config) -> bool:
    """Says whether a config is one of `ptft finetune`, else it is one of `ptft pretrain`."""
    return "task" in config


def planned_pretraining(config: Config) -> PlannedRun:
    """Returns what a config of `ptft pretrain` costs something for; `data_dir` may be empty.

    Raises:
        ConfigError: a setting cannot be.
    """
    notes = []
    corpus = tokenizer = None
    if config.data_dir:
        corpus = Corpus.open(config.data_dir, "train")
        tokenizer = TextTokenizer.load(corpus.tokenizer_dir)
    keys = config.model.to_dict()
    wanted = keys.pop("vocab_size")
    vocab_size = wanted or (tokenizer.vocab_size if tokenizer else EncoderConfig.vocab_size)
    if not wanted and tokenizer is None:
        notes.append(
            f"vocabulary of {vocab_size:,} tokens: give --config.data_dir or "
            "--config.model.vocab_size for another"
        )
    pairs = config.input_format in PAIR_FORMATS
    model = EncoderConfig(vocab_size=vocab_size, heads=PAIR_HEADS if pairs else HEADS, **keys)
    phases = []
    for phase in phases_of(config):
        check_length(phase.config, model)
        if corpus is None or tokenizer is None:
            rows, fill = _rows_without_corpus(phase.config, notes), None
        else:
            rows, fill = _rows_of_corpus(phase.config, corpus, tokenizer)
        phases.append(
            PlannedPhase(
                phase.until - phase.start,
                phase.config.batch_size,
                phase.config.accumulate,
                rows,
                fill,
            )
        )
    if corpus is None:
        notes.append("how full rows are is not known: give --config.data_dir, or --fill")
    objective = PretrainingObjective(next_sentence=pairs)
    return PlannedRun(model, objective, tuple(phases), tuple(dict.fromkeys(notes)))


def _rows_of_corpus(
    config: Config, corpus: Corpus, tokenizer: TextTokenizer
) -> tuple[RowShapes, float]:
    examples = PretrainingExamples(corpus, tokenizer, pretraining_settings(config))
    batch = examples.batch(np.arange(min(_SAMPLE, len(examples))))
    rows = {name: (array.shape[1:], array.dtype) for name, array in batch.items()}
    return rows, float(batch["attention_mask"].mean())


def _rows_without_corpus(config: Config, notes: list[str]) -> RowShapes:
    """The shapes that `PretrainingExamples.batch` makes."""
    settings = pretraining_settings(config)
    settings.check()
    tokens, predictions, most = settings.max_seq_length, config.max_predictions_per_seq, 1
    names = _TEXT_ARRAYS
    if settings.packing:
        most = settings.max_sequences_per_pack or _UNKNOWN_PACK
        share = math.ceil(settings.masking.masked_lm_prob * tokens)
        predictions = min(share + most, predictions * most)
        names += ("segment_ids", "position_ids")
        if not settings.max_sequences_per_pack:
            notes.append(f"room for {most} examples in a packed row")
    rows: dict[str, Any] = dict.fromkeys(names, ((tokens,), np.int32))
    rows |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((predictions,), np.int32))
    rows["masked_lm_weights"] = ((predictions,), np.float32)
    if settings.has_pairs:
        rows |= dict.fromkeys(("pooled_positions", "next_sentence_labels"), ((most,), np.int32))
        rows["next_sentence_weights"] = ((most,), np.float32)
    return rows


def planned_finetuning(
    config: Config, init_from: str | None, examples: int | None, num_labels: int
) -> PlannedRun:
    """Returns what a config of `ptft finetune` costs something for.

    Every batch is planned as long as `max_seq_length`; length buckets make most of them shorter.

    Args:
        config: the config; with `data_dir` the task's own number of examples and labels are used.
        init_from: a run or Hugging Face folder, of which config.json is read; None is BERT-base.
        examples: training examples where there is no data.
        num_labels: labels where there is no data.
    """
    notes = []
    regression = config.table.regression
    if config.data_dir:
        task = load_task_of(config)
        examples, num_labels = len(task.splits["train"].texts_a), task.num_labels
        regression = task.label_names is None
    encoder = EncoderConfig() if init_from is None else _encoder_of(init_from)
    if init_from is None:
        notes.append("the model is BERT-base: give --init_from=RUN_OR_HF_DIR for another")
    changes = {name: value for name, value in config.model.items() if value is not None}
    model = encoder.replace(heads=FINETUNE_HEADS, num_labels=num_labels, **changes)
    check_length(config, model)
    steps = config.steps or None
    if steps is None and examples is not None:
        steps = math.ceil(config.epochs * examples / config.batch_size)
    if steps is None:
        notes.append("the length of an epoch is not known: give --examples or --config.data_dir")
    if config.length_buckets:
        notes.append(f"every batch is {config.max_seq_length} tokens long; buckets make it shorter")
    tokens = (config.max_seq_length,)
    rows: dict[str, Any] = dict.fromkeys(_TEXT_ARRAYS, (tokens, np.int32))
    rows |= {
        "pooled_positions": ((1,), np.int32),
        "labels": ((), np.float32 if regression else np.int32),
        "weights": ((), np.float32),
    }
    phase = PlannedPhase(steps, config.batch_size, config.accumulate, rows, None)
    objective = ClassificationObjective(regression=regression)
    return PlannedRun(model, objective, (phase,), tuple(notes))


def _encoder_of(source: str) -> EncoderConfig:
    """Reads the model from the config.json of a run or of a Hugging Face folder."""
    file = Path(source) / "config.json"
    if not file.is_file():
        found = "the folder has no config.json" if Path(source).is_dir() else "there is no folder"
        raise ConfigError(
            f"--init_from={source}: {found}; expected a run folder or a Hugging Face folder."
        )
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        if content.get("format") == FORMAT:
            return RunFolder(source).record().encoder_config
        return EncoderConfig.from_hf(content)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{file} is no config.json of a model: {error}.") from error
