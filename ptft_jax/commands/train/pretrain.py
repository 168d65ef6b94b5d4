"""ptft pretrain --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA --run_dir=RUN

Trains BERT on masked tokens and next sentences (MLM + NSP), with a corpus made by `ptft prepare`.
Other inputs and other masks are keys of the config; so are phases of other lengths.

The same command started again resumes the run from its last checkpoint. --init_from=RUN_OR_HF_DIR
starts from other parameters of the same shape.
"""

import dataclasses
import hashlib
import json
from functools import partial

from absl import flags
from rich.console import Console

from ptft_jax.commands.describe import (
    describe_backends,
    describe_mesh,
    describe_model,
    device_of,
)
from ptft_jax.commands.screen import count, facts, made, make_console, say
from ptft_jax.commands.train.flags import (
    check_length,
    check_numbers,
    define_training_flags,
    say_changes,
    started,
)
from ptft_jax.commands.train.training_run import Phase, TrainingRun, checked_mesh, train
from ptft_jax.data.corpus.store import Corpus, Manifest
from ptft_jax.data.pretraining.examples import PretrainingExamples
from ptft_jax.data.tokenizer.tokenizer import TextTokenizer
from ptft_jax.errors import ConfigError
from ptft_jax.models.build import Model, Params, build_model
from ptft_jax.models.dropout import RANDOMNESS
from ptft_jax.objectives.pretraining import PretrainingObjective
from ptft_jax.runs.config import Config, require_data_dir
from ptft_jax.runs.evaluators import pretraining_evaluator
from ptft_jax.runs.folder import SHAPE_KEYS, RunFolder
from ptft_jax.runs.initial import load_initial
from ptft_jax.runs.phases import PhaseConfig, phases_of, pretraining_settings, rows_of
from ptft_jax.runs.record import RunRecord
from ptft_jax.runs.shapes import encoder_config
from ptft_jax.runs.start_checks import agree
from ptft_jax.training.cluster.job import Job


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    with started(values, positional) as (folder, job, allow, profile):
        pretrain(values.config, folder, values.init_from, job, allow=allow, profile=profile)
    made(
        make_console(),
        "pretrained",
        {
            "run": str(folder.path),
            "curves": f"{folder.path}/metrics.jsonl, tensorboard --logdir {folder.path}",
            "results": str(folder.results_file),
        },
        [
            f'ptft predict --run_dir={folder.path} "The capital of France is [MASK]."',
            f"ptft finetune --config=configs/finetune/glue.py:sst2 --init_from={folder.path} "
            "--config.data_dir=GLUE_DIR --run_dir=runs/sst2",
            f"ptft export --run_dir={folder.path} --out_dir=hf/pretrained",
        ],
    )


def pretrain(
    config: Config,
    folder: RunFolder,
    init_from: str | None,
    job: Job,
    *,
    allow: bool = False,
    profile: tuple[int, int] | None = None,
) -> dict[str, dict[str, float]]:
    """Pretrains a run to its end; returns the metrics by split."""
    console = make_console()
    check_numbers(config)
    if config.steps < 1:
        raise ConfigError(f"--config.steps={config.steps}: expected at least 1.")
    data_dir = require_data_dir(config, "a folder made by `ptft prepare`")
    train_corpus, dev_corpus = (Corpus.open(data_dir, split) for split in ("train", "dev"))
    tokenizer = TextTokenizer.load(train_corpus.tokenizer_dir)
    model = build_model(encoder_config(config, tokenizer))
    if init_from is None and folder.exists():
        init_from = folder.record().init_from
    configs = phases_of(config)
    for phase in configs:
        check_length(phase.config, model.config)
    mesh = checked_mesh(config, model, *(phase.config for phase in configs[1:]))
    backends = describe_backends(model.config, rows_of(configs), device_of(mesh))
    phases = [
        (phase, *_examples(phase.config, train_corpus, dev_corpus, tokenizer)) for phase in configs
    ]
    objective = PretrainingObjective(next_sentence="nsp" in model.config.heads)
    record = RunRecord(
        command="pretrain",
        config=config.to_dict(),
        model=dataclasses.asdict(model.config),
        init_from=init_from,
        best=("dev_loss", "min"),
        pairs=objective.next_sentence,
        data={"corpus": fingerprint(train_corpus.manifest)},
        randomness=RANDOMNESS,
    )
    agree(job, "data", record.data)
    changes = folder.check_unchanged(record, tokenizer, allow=allow)
    initial = None
    if init_from is not None and not folder.has_checkpoint():
        initial = _initial(init_from, model, tokenizer, console)
    facts(
        console,
        {
            "model": describe_model(model),
            "data": f"{data_dir}: {count(train_corpus.num_tokens)} tokens",
            **{
                "run" if len(phases) == 1 else f"phase {number}": _describe(phase, examples)
                for number, (phase, examples, _) in enumerate(phases, start=1)
            },
            "mesh": describe_mesh(mesh),
            **backends,
        },
    )
    for _, examples, _ in phases:
        _say_lopsided_labels(examples, console)
    say_changes(console, changes)
    return train(
        TrainingRun(
            folder=folder,
            record=record,
            model=model,
            objective=objective,
            phases=tuple(
                Phase(
                    start=phase.start,
                    until=phase.until,
                    examples=examples,
                    batch_size=phase.config.batch_size,
                    accumulate=phase.config.accumulate,
                    make_evaluate=partial(
                        pretraining_evaluator,
                        model,
                        objective,
                        dev,
                        phase.config.batch_size,
                        phase.config.accumulate,
                        config.eval_examples,
                    ),
                )
                for phase, examples, dev in phases
            ),
            tokenizer=tokenizer,
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            initial=initial,
            profile=profile,
        ),
        config,
        mesh,
        console,
        job,
    )


def _examples(
    config: Config, train_corpus: Corpus, dev_corpus: Corpus, tokenizer: TextTokenizer
) -> tuple[PretrainingExamples, PretrainingExamples]:
    settings = pretraining_settings(config)
    return (
        PretrainingExamples(train_corpus, tokenizer, settings),
        PretrainingExamples(dev_corpus, tokenizer, settings),
    )


def _describe(phase: PhaseConfig, examples: PretrainingExamples) -> str:
    config, updates = phase.config, phase.until - phase.start
    rows = "packed rows" if config.packing else "examples"
    return (
        f"{count(updates)} updates of {config.batch_size} x {config.max_seq_length} tokens = "
        f"{updates * config.batch_size / len(examples):.2g} epochs of {count(len(examples))} {rows}"
    )


def _say_lopsided_labels(examples: PretrainingExamples, console: Console) -> None:
    """Warns when next sentence prediction has little to learn from these examples."""
    share = examples.random_next_share
    # Never far below a half: each B is random with at least that probability.
    if share is not None and share > 0.6:
        say(
            console,
            f"warning: {share:.0%} of the pairs of {examples.settings.max_seq_length} tokens have "
            "a random next sentence, where about half was expected: a document or an end of one "
            "that is a single sentence has no other. Use --config.input_format=full_sentences, or "
            "prepare documents of several sentences (a blank line ends a document).",
        )


def fingerprint(manifest: Manifest) -> str:
    """Returns a SHA-256 of a corpus: of its files' sums, and of how often to draw from a source."""
    sums = sorted((name, record.sha256) for name, record in manifest.files.items())
    draws = [(source.weight, source.counts["train"].documents) for source in manifest.sources]
    return hashlib.sha256(json.dumps([sums, draws]).encode()).hexdigest()


def _initial(source: str, model: Model, tokenizer: TextTokenizer, console: Console) -> Params:
    initial = load_initial(source, model.config.heads)
    if initial.tokenizer.sha256 != tokenizer.sha256:
        raise ConfigError(
            f"--init_from={source}: its tokenizer is not the corpus's. Prepare the corpus with "
            f"--config.vocab={source} (or its tokenizer folder)."
        )
    ours = dataclasses.asdict(model.config)
    theirs = dataclasses.asdict(initial.config)
    differ = [
        f"--config.model.{name}={theirs[name]} (now {ours[name]})"
        for name in SHAPE_KEYS
        if ours[name] != theirs[name]
    ]
    if differ:
        raise ConfigError(
            f"--init_from={source} has another shape; to go on from it set {' '.join(differ)}."
        )
    console.print(initial.say(source))
    return initial.params
