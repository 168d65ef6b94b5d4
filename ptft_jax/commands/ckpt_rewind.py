"""ptft ckpt rewind --run_dir=RUN --step=STEP [--skip_batches=K]

Takes a run back to an earlier checkpoint; with K it then leaves out the K batches that follow.

Later checkpoints are renamed to N.rewound-1 and not deleted. The command line that the run was
started with goes on from STEP. For a loss spike: STEP is a checkpoint before it, K is large enough
to pass the batches that caused it.
"""

from absl import flags

from ptft_jax.commands.ckpt_ls import checked_run
from ptft_jax.commands.screen import count, made, make_console
from ptft_jax.errors import ConfigError
from ptft_jax.training.rewind import rewind


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint to go back to.", flag_values=values)
    flags.DEFINE_integer("skip_batches", 0, "Batches to leave out there.", flag_values=values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    folder = checked_run(values.run_dir, positional)
    if values.step is None:
        raise ConfigError("--step is missing: name the checkpoint to go back to.")
    aside = rewind(folder.path, values.step, values.skip_batches)
    left_out = f"{count(values.skip_batches)} batches" if values.skip_batches else "nothing"
    made(
        make_console(),
        "rewound",
        {
            "run": str(folder.path),
            "last checkpoint": str(values.step),
            "left out from there": left_out,
            "set aside": ", ".join(path.name for path in aside) or "nothing",
            "recorded in": f"{folder.path}/rewinds.json",
            "to go on": "the command line that the run was started with",
        },
        [f"ptft ckpt ls --run_dir={folder.path}"],
    )
