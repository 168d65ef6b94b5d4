"""The keys of the configs and their default values; files in `configs/` start from these."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.pretraining.examples import PretrainingSettings
from ptft_jax.errors import ConfigError
from ptft_jax.models.config import AdapterConfig, EncoderConfig
from ptft_jax.runs.config import Config, nearest

# Keys of `EncoderConfig` that a command decides by itself.
_DECIDED_ELSEWHERE = ("heads", "num_labels", "pad_token_id", "adapter")


def prepare() -> Config:
    """Returns the config of `ptft prepare`; `PrepareSettings` says what the keys mean."""
    settings = PrepareSettings(inputs=())
    keys = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    # Several inputs are separated by commas, so that one flag holds them.
    return ConfigDict(keys | {"inputs": "", "strip_accents": placeholder(bool)})


def _training(**distillation: float) -> Config:
    config: Config = ConfigDict()
    config.seed = 0
    config.data_dir = ""
    config.steps = 0
    config.batch_size = 32  # sequences per update, over all devices
    config.accumulate = 1  # micro-batches that an update is made of
    config.max_seq_length = 128
    config.log_every = 10
    config.keep_last = 2  # checkpoints kept beside the best one
    config.workers = 1  # threads that make batches ahead of the device
    config.max_skipped_in_row = 10  # updates without finite gradients that end the run
    config.ema = 0.0  # decay of the average of the parameters that a run stands for; 0: none
    config.init_layers = ()  # those of --init_from to start from; (): all
    config.teacher = ""  # a run or Hugging Face folder to learn from
    config.distillation = ConfigDict(
        {"temperature": 2.0, "hidden_loss": "cosine", "layers": ()}
        | {f"{name}_weight": weight for name, weight in distillation.items()}
    )
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "across_hosts": "data"})
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "layer_decay": 1.0,
            "rules": (),
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "linear",
            "warmup_steps": 0,
            "warmup_ratio": 0.0,
            "end_learning_rate_ratio": 0.0,
        }
    )
    return config


def pretrain() -> Config:
    """Returns the config of `ptft pretrain`: BERT-base on sequences of 128, as in the paper.

    `data_dir` is a folder made by `ptft prepare`. `model` holds the keys of `EncoderConfig`;
    `model.vocab_size` None takes the size of the corpus's tokenizer. `eval_examples` 0 evaluates
    on the whole dev split. `eval_every` and `checkpoint_every` count updates.
    """
    config = _training(soft=5.0, task=2.0, hidden=1.0)  # DistilBERT's
    config.steps = 1_000_000
    config.batch_size = 256
    examples = PretrainingSettings()
    for settings in (examples, examples.masking):
        for name in settings.__dataclass_fields__:
            if name not in config and name != "masking":
                config[name] = getattr(settings, name)
    config.masking = examples.masking.masking
    config.phases = ()  # dicts: 'step' or 'step_ratio', and the keys that are others from there
    config.eval_every = 1000
    config.eval_examples = 2048
    config.checkpoint_every = 1000
    config.schedule.warmup_ratio = 0.01
    model = EncoderConfig()
    config.model = ConfigDict(
        {
            name: getattr(model, name)
            for name in model.__dataclass_fields__
            if name not in (*_DECIDED_ELSEWHERE, "classifier_dropout", "vocab_size", "unroll")
        }
    )
    config.model.vocab_size = placeholder(int)
    config.model.unroll = placeholder(int)
    return config


def finetune(kind: str = "classification") -> Config:
    """Returns the config of `ptft finetune` for a kind of task.

    `steps` 0 trains for `epochs`. `eval_batch_size` None takes a micro-batch of training,
    `batch_size` / `accumulate`: what fits in training fits there. `eval_every` and
    `checkpoint_every` None mean once per epoch, 0 only at the end. `length_buckets`: lengths that
    batches are padded to; () pads all to `max_seq_length`. `packing` lets training examples share
    rows. `cache_features` runs a frozen encoder once over each example. `model` may change what
    does not decide the shape of a parameter; None keeps what `--init_from` says.
    """
    config = _training(soft=0.5, task=0.5, hidden=0.0)
    config.task = ""
    config.epochs = 3.0
    config.max_train_examples = 0  # 0: all
    config.regularizer = ConfigDict(
        {
            "name": "",  # r_drop, fgm, smart or mixup
            "weight": placeholder(float),  # None: what is the regularizer's own
            "epsilon": placeholder(float),
            "step_size": placeholder(float),
            "alpha": placeholder(float),
        }
    )
    config.augment = ConfigDict(
        {"swap": 0.0, "word_dropout": 0.0, "token_dropout": 0.0, "refill": 0.0, "masked_lm": ""}
    )
    config.patience = 0  # evaluations without a better one that end the run; 0: it goes to its end
    config.length_buckets = (32, 64, 96, 128)
    config.packing = True
    config.trainable = "all"
    # No name: no adapter; no targets: the usual ones.
    adapter = dataclasses.asdict(AdapterConfig())
    config.adapter = ConfigDict({**adapter, "name": "", "targets": ()})
    config.unfreeze = 0.0  # share of the run by which the last layer is unfrozen; 0: none is frozen
    config.mixout = 0.0  # probability of an entry of the encoder's matrices to be where it began
    config.reinit_layers = 0  # top layers that come from the seed, the pooler with them
    config.cache_features = False
    config.eval_every = placeholder(int)
    config.eval_batch_size = placeholder(int)
    config.checkpoint_every = placeholder(int)
    config.optimizer.learning_rate = 2e-5
    config.schedule.warmup_ratio = 0.1
    config.update(KINDS[kind])
    config.model = ConfigDict(
        {
            "hidden_dropout_prob": placeholder(float),
            "attention_probs_dropout_prob": placeholder(float),
            "classifier_dropout": placeholder(float),
            "dtype": "float32",
            "attention": "auto",
            "fused": "auto",
            "unroll": placeholder(int),
            "remat": False,
        }
    )
    return config


# What a kind of task has beside the keys of all.
KINDS: dict[str, dict[str, Any]] = {
    "classification": {
        "examples_per_class": 0,
        # way: prompt, setfit, or "" for a head on the pooler.
        "few_shot": {"way": "", "template": "", "words": "", "calibrate": False, "pairs": 20},
        "class_weights": "",
        "label_smoothing": 0.0,
        "table": {
            "text_column": "text",
            "text_pair_column": "",
            "label_column": "label",
            "regression": False,
            "multi_label": False,
        },
    },
    "several": {
        "tasks": (),
        "continual": {
            "way": "sequence",
            "stage": 0,
            "replay": 0.0,
            "memory": 0,
            "temperature": 1.0,
            "ewc": 0.0,
            "fisher_examples": 256,
            "lwf": 0.0,
        },
    },
    "tagging": {
        "word_column": 0,
        "tag_column": -1,
        "label_all_subwords": False,
        "class_weights": "",
        "label_smoothing": 0.0,
    },
    "choice": {
        "label_smoothing": 0.0,
        "table": {
            "context_column": "context",
            "choices_column": "choices",
            "label_column": "label",
        },
    },
    "embedding": {
        "embedding": {"pooling": "mean", "loss": "", "scale": 20.0, "dims": ()},
        "table": {
            "first_column": "sentence1",
            "second_column": "sentence2",
            "negative_column": "negative",
            "score_column": "score",
        },
    },
    "episodes": {
        "episode": {
            "n_way": 5,
            "k_shot": 5,
            "queries": 5,
            "na_rate": 0.0,
            "pooling": "mean",
            "eval": (),
            "eval_episodes": 10_000,
        },
        "table": {"text_column": "text", "label_column": "label"},
    },
    "span": {
        "version": "",
        "doc_stride": 128,
        "max_query_length": 64,
        "max_answer_length": 30,
        "n_best": 20,
        "null_score_threshold": placeholder(float),
        "misplaced_answers_allowed": 0.05,
    },
}


def for_task(task: str, suite: str = "") -> Config:
    """Returns the config of `ptft finetune` for a task; "" leaves it open which one.

    Raises:
        ConfigError: there is no such task, or it is none of the benchmark `suite`.
    """
    if task and suite:
        _check_task(task, suite)
    config = expected("finetune", ConfigDict({"task": task}))
    config.task = task
    return config


# The commands that take a config.
WITH_CONFIG = ("prepare", "pretrain", "finetune")


def _check_task(task: str, suite: str) -> None:
    """Raises ConfigError for a task that is none of a benchmark, with the nearest that is."""
    from ptft_jax.data.tasks.catalogue import tasks_of

    known = list(tasks_of(suite))
    if task not in known:
        near = nearest(task, known)
        hint = f"did you mean '{near}'? " if near else ""
        raise ConfigError(f"{suite} has no task '{task}'; {hint}expected {', '.join(known)}.")


def expected(command: str, config: Config | None = None) -> Config:
    """Returns the config of a command with the keys that `config` has to have.

    They depend on the kind of its task; without a task they are those of a classification.

    Raises:
        ConfigError: the config names a task that there is not.
    """
    if command == "prepare":
        return prepare()
    if command == "pretrain":
        return pretrain()
    task = config.get("task") if config is not None else None
    if not task:
        return finetune()
    from ptft_jax.data.tasks.catalogue import find_task

    return finetune(find_task(task).kind)
