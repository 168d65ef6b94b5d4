"""ptft demo [--run_dir=runs/demo]

The whole path in a few minutes on two CPU cores, without a download.

The documentation of the installed Python packages becomes a corpus; a BERT-tiny is pretrained on it
(MLM + NSP), fine-tuned to tell from a paragraph which package it documents, scored, asked, and
exported for PyTorch. Started again it goes on where it was.
"""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.rule import Rule

from ptft_jax.commands.data.prepare import prepare
from ptft_jax.commands.screen import (
    count,
    facts,
    flag,
    made,
    make_console,
    progress_bars,
    results_table,
    warnings_as_lines,
)
from ptft_jax.commands.train.evaluate import show
from ptft_jax.commands.train.progress import ConsoleProgress
from ptft_jax.commands.use.predict import predictions_table
from ptft_jax.data.tasks.files.reading import read_table
from ptft_jax.demo.documentation import Documentation, gather_documentation
from ptft_jax.runs import defaults
from ptft_jax.runs.config import Config
from ptft_jax.runs.folder import RunFolder, open_run
from ptft_jax.runs.train import Results, train
from ptft_jax.runs.trained.evaluate import evaluate
from ptft_jax.runs.trained.open import load_run
from ptft_jax.training.cluster.job import Job

MASKED = (
    "Returns the [MASK] of the array along the given axis.",
    "If [MASK] is given, it must be a list of strings.",
)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", "runs/demo", "Folder for all it makes.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    with Job() as job:
        demo(Path(values.run_dir), job)


def demo(folder: Path, job: Job) -> None:
    """Runs the whole path in `folder`, every part in a folder of its own."""
    console = make_console()
    began = time.monotonic()

    _heading(console, 1, "gather the documentation of the installed packages")
    with progress_bars(console) as progress:
        documentation = gather_documentation(folder / "documentation", progress)
    facts(console, _about(documentation))

    _heading(console, 2, "ptft prepare: text → tokenizer and shards")
    corpus = str(folder / "corpus")
    prepare(_prepare_config(documentation), corpus)

    _heading(console, 3, "ptft pretrain: MLM + NSP from scratch")
    pretrained = RunFolder(folder / "pretrained")
    pretraining = _train("pretrain", _pretrain_config(corpus), pretrained, None, job)

    _heading(console, 4, "ptft finetune: which package does a paragraph document?")
    finetuned = RunFolder(folder / "finetuned")
    source = str(pretrained.path)
    finetuning = _train("finetune", _finetune_config(documentation), finetuned, source, job)

    _heading(console, 5, "ptft evaluate, ptft predict")
    opened = open_run(finetuned.path)
    show(opened, evaluate(opened, None, job))
    console.print(predictions_table(load_run(pretrained.path).predict(MASKED)))
    texts = read_table(documentation.task_dir / "dev.tsv").columns["text"][::233]
    with warnings_as_lines():
        console.print(predictions_table(load_run(finetuned.path).predict(texts, top=3)))

    _heading(console, 6, "ptft export: folders for PyTorch")
    checks = {
        run.path.name: _export(run, folder / "hf" / run.path.name)
        for run in (pretrained, finetuned)
    }
    for name, check in checks.items():
        console.print(f"{name}: {check}")

    majority = _majority_share(documentation.task_dir / "dev.tsv")
    made(
        console,
        f"the whole path, in {time.monotonic() - began:.0f} s",
        {
            "corpus": corpus,
            "pretrained": f"{pretrained.path}: masked words right "
            f"{pretraining['dev']['mlm_accuracy']:.1%}, next sentences "
            f"{pretraining['dev']['nsp_accuracy']:.1%}",
            "fine-tuned": f"{finetuned.path}: accuracy {finetuning['dev']['accuracy']:.1%} "
            f"(always the most frequent package: {majority:.1%})",
            "for PyTorch": f"{folder}/hf/pretrained, {folder}/hf/finetuned",
            "curves": f"tensorboard --logdir {folder}",
        },
        [
            f'ptft predict {flag("run_dir", pretrained.path)} "Return a [MASK] of the input."',
            f'ptft predict {flag("run_dir", finetuned.path)} "Compute the gradient of a function."',
            "ptft prepare --config=configs/data/text.py --config.inputs='YOUR/*.txt' "
            "--out_dir=runs/corpus",
            "ptft pretrain --config=configs/pretrain/bert_small.py --config.data_dir=runs/corpus "
            "--run_dir=runs/small",
            "ptft finetune --config=configs/finetune/glue.py:sst2 --config.data_dir=GLUE_DIR "
            "--init_from=runs/small --run_dir=runs/sst2",
        ],
    )


def _heading(console: Console, number: int, text: str) -> None:
    console.print()
    console.print(Rule(f"{number}/6  {text}", align="left"))


def _about(documentation: Documentation) -> Mapping[str, str]:
    packages = documentation.packages
    rows = {
        name: f"{count(package.paragraphs)} paragraphs of {count(package.modules)} modules"
        for name, package in packages.items()
    }
    paragraphs = sum(package.paragraphs for package in packages.values())
    megabytes = sum(package.bytes for package in packages.values()) / 1e6
    return {**rows, "together": f"{count(paragraphs)} paragraphs, {megabytes:.1f} MB"}


def _prepare_config(documentation: Documentation) -> Config:
    config = defaults.prepare()
    config.inputs = ",".join(map(str, documentation.text_files))
    config.vocab_size = 8192
    config.dev_fraction = 0.03
    config.workers = 2
    return config


def _pretrain_config(corpus: str) -> Config:
    """BERT-tiny on short sequences: what a few minutes on two cores allow."""
    config = defaults.pretrain()
    config.data_dir = corpus
    config.model.num_hidden_layers = 2
    config.model.hidden_size = 128
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 512
    # A wide start for a narrow model, and no dropout for a run of two epochs.
    config.model.initializer_range = 0.06
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.max_seq_length = 64
    config.max_predictions_per_seq = 10
    config.steps = 1000
    config.batch_size = 32
    config.optimizer.learning_rate = 2e-3
    config.schedule.warmup_ratio = 0.1
    config.eval_every = 250
    config.eval_examples = 512
    config.checkpoint_every = 250
    return config


def _finetune_config(documentation: Documentation) -> Config:
    config = defaults.finetune()
    config.task = "text"
    config.model.hidden_dropout_prob = 0.1
    config.model.attention_probs_dropout_prob = 0.1
    config.data_dir = str(documentation.task_dir)
    config.max_seq_length = 64
    config.length_buckets = (32, 64)
    config.epochs = 3.0
    config.optimizer.learning_rate = 5e-4
    return config


def _train(command: str, config: Config, run: RunFolder, source: str | None, job: Job) -> Results:
    console = make_console()
    watch = ConsoleProgress(console)
    results = train(command, config, str(run.path), source, job=job, watch=watch)
    console.print(results_table(results))
    return results


def _export(run: RunFolder, out_dir: Path) -> str:
    """Exports a run unless an earlier demo has, and says what came of it."""
    if (out_dir / "config.json").is_file():
        return f"{out_dir} is already there"
    exported = load_run(run.path).export(out_dir)
    return f"{out_dir} ({exported.model_class}), {exported.check}"


def _majority_share(dev_file: Path) -> float:
    labels = Counter(read_table(dev_file).columns["label"])
    return max(labels.values()) / labels.total()
