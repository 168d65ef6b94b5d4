"""ptft launch tpu --name=NAME --zone=ZONE -- pretrain --config=FILE --run_dir=RUN

Runs a command on all workers of a TPU VM (launch/tpu_vm.sh, which is gcloud's ssh). What follows
`--` is the command, as it would be typed for one process; its paths are those on the workers. Each
of them has the checkout in --repo_dir, set up by `PTFT_EXTRAS=tpu bash launch/setup.sh`; they find
each other by themselves.
"""

from absl import flags

from ptft_jax.commands.launch_command import (
    checked_command,
    define_launch_flags,
    replace_process,
    require_tool,
    script,
    shown,
)
from ptft_jax.errors import ConfigError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("name", None, "Name of the TPU VM.", flag_values=values)
    flags.DEFINE_string("zone", None, "Its zone, like us-central2-b.", flag_values=values)
    flags.DEFINE_string("project", None, "Its project; None: gcloud's.", flag_values=values)
    flags.DEFINE_string(
        "repo_dir",
        "ptft_jax",
        "The checkout on the workers; relative paths count from the home folder.",
        flag_values=values,
    )
    define_launch_flags(values)


def run(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the command."""
    for flag, what in (("name", "the name of the TPU VM"), ("zone", "its zone")):
        if not values[flag].value:
            raise ConfigError(f"--{flag} is missing: expected {what}.")
    words = checked_command("launch tpu", positional).words
    given = [f"--{flag}={values[flag].value}" for flag in ("name", "zone", "project", "repo_dir")]
    if not values.project:
        given.remove(f"--project={values.project}")
    command = ["bash", str(script("tpu_vm.sh")), *given, "--", *words]
    if values.dry_run:
        print(shown(command))
        return
    require_tool(
        "gcloud", "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)."
    )
    replace_process(command)
