"""ptft finetune --config=configs/finetune/glue.py:TASK --init_from=RUN_OR_HF_DIR --run_dir=RUN

Fine-tunes an encoder on labelled data, and scores it. The configs are for classes, scores or
several labels of texts (glue, superglue, clue, text), tags of words (tagging), answers in a text
(squad), multiple choice (choice), vectors of texts (embed), classes known by a few texts
(few_shot, episodes) and several tasks (continual); the first lines of each say what
--config.data_dir has to hold. It may be a data set of Hugging Face's `datasets`, hf:NAME; without
it GLUE comes from tensorflow_datasets. The same command started again resumes the run.

A config that ends in `:all` (glue, superglue, clue) stands for all tasks of the benchmark, and
--seeds=0,1,2,3,4 for a run with each seed: RUN/TASK/seed-N, and a table of all scores in RUN.
--protocol names whose settings the runs have, and searches them where that protocol does.
"""

from pathlib import Path

from absl import flags

from ptft_jax.commands.screen import exporting, flag, made, make_console
from ptft_jax.commands.train.flags import define_series_flags, define_training_flags, trained
from ptft_jax.data.tasks.catalogue import TASKS
from ptft_jax.data.tasks.episodes.splits import EpisodeTask
from ptft_jax.runs.many.protocols import PROTOCOLS

# What to ask a model with a head of this name.
_ASKED = {
    "tagging": '"a text to tag"',
    "span": "$'a question\\tthe text that answers it'",
    "choice": "$'a context\\tone choice\\tanother'",
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)
    define_series_flags(values)
    text = "How a table's runs are made: see docs/comparing.md."
    flags.DEFINE_enum("protocol", "hf", list(PROTOCOLS), text, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    folder = trained("finetune", values)
    if folder is None:
        return
    run_dir = flag("run_dir", folder.path)
    record = folder.record()
    head = (record.encoder_config.heads or ("",))[-1]
    asked = "$'one text\\tanother'" if record.pairs else '"a text"'
    one = [f"--task={record.tasks[-1]}"] if record.tasks else []
    ask = f"ptft predict {' '.join([run_dir, *one])} {_ASKED.get(head, asked)}"
    task = TASKS.get(record.config["task"])
    if isinstance(task, EpisodeTask):
        dev = task.path(Path(record.config["data_dir"]), "dev")
        ask = f"ptft predict {run_dir} {flag('support', dev)} --input=FILE"
    elif not record.labels and not head:
        ask = f'echo "a text" | ptft embed {run_dir} --input=- --output=vectors.npy'
    made(
        make_console(),
        "fine-tuned",
        {"run": str(folder.path), "results": str(folder.results_file)}
        | ({"report": str(folder.report_file)} if folder.report_file.is_file() else {}),
        [
            f"ptft evaluate {run_dir}",
            ask,
            exporting(record, folder.path, folder.path.resolve().name),
        ],
    )
