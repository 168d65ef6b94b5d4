"""ptft pretrain --config=configs/pretrain/bert_tiny.py --config.data_dir=DATA --run_dir=RUN

Trains BERT on masked tokens and next sentences (MLM + NSP), with a corpus made by `ptft prepare`.
Other inputs and other masks are keys of the config; so are phases of other lengths.

The same command started again resumes the run from its last checkpoint. --init_from=RUN_OR_HF_DIR
starts from other parameters of the same shape.
"""

from absl import flags

from ptft_jax.commands.screen import flag, made, make_console
from ptft_jax.commands.train.flags import define_training_flags, trained


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_training_flags(values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    folder = trained("pretrain", values)
    if folder is None:
        return
    made(
        make_console(),
        "pretrained",
        {
            "run": str(folder.path),
            "curves": f"{folder.path}/metrics.jsonl, tensorboard --logdir {folder.path}",
            "results": str(folder.results_file),
        },
        [
            f'ptft predict {flag("run_dir", folder.path)} "The capital of France is [MASK]."',
            "ptft finetune --config=configs/finetune/glue.py:sst2 "
            f"{flag('init_from', folder.path)} "
            "--config.data_dir=GLUE_DIR --run_dir=runs/sst2",
            f"ptft export {flag('run_dir', folder.path)} --out_dir=hf/pretrained",
        ],
    )
