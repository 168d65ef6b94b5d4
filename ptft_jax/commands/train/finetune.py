"""ptft finetune --config=configs/finetune/glue.py:TASK --init_from=RUN_OR_HF_DIR --run_dir=RUN

Fine-tunes an encoder on a GLUE task or on a table of your own, and scores it.

--config.data_dir=GLUE_DIR is the folder with CoLA/, SST-2/, …; without it GLUE comes from
tensorflow_datasets. configs/finetune/text.py takes any folder with train and dev as .csv, .tsv,
.jsonl or .parquet. The same command started again resumes the run.
"""

from absl import flags

from ptft_jax.commands.screen import flag, made, make_console
from ptft_jax.commands.train.flags import define_training_flags, trained


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    folder = trained("finetune", values, positional)
    run_dir = flag("run_dir", folder.path)
    asked = "$'one text\\tanother'" if folder.record().pairs else '"a text to classify"'
    made(
        make_console(),
        "fine-tuned",
        {"run": str(folder.path), "results": str(folder.results_file)},
        [
            f"ptft evaluate {run_dir}",
            f"ptft predict {run_dir} {asked}",
            f"ptft export {run_dir} {flag('out_dir', f'hf/{folder.path.resolve().name}')}",
        ],
    )
