"""ptft launch tpu --name=NAME --zone=ZONE -- pretrain --config=FILE --run_dir=RUN

Runs a command on all workers of a TPU VM through gcloud's ssh. What follows `--` is the command, as
it would be typed for one process; its paths are those on the workers. Each of them has the checkout
in --repo_dir, set up by `PTFT_EXTRAS=tpu bash launch/setup.sh`; they find each other by themselves.
"""

import shlex
from functools import partial

from absl import flags

from ptft_jax.commands.launch.command import checked_command, define_launch_flags, start
from ptft_jax.commands.parsing import required

_FLAGS = {
    "name": (str, None, "Name of the TPU VM."),
    "zone": (str, None, "Its zone, like us-central2-b."),
    "project": (str, None, "Its project; None: gcloud's."),
    "repo_dir": (str, "ptft_jax", "The checkout on the workers, from the home folder on."),
}
define_flags = partial(define_launch_flags, _FLAGS)


def run(values: flags.FlagValues, words: list[str]) -> None:
    """Runs the command."""
    required(values, "name", "zone")
    where = [f"--zone={values.zone}"]
    where += [f"--project={values.project}"] if values.project else []
    words, _ = checked_command("launch tpu", words)
    there = f"cd {shlex.quote(values.repo_dir)} && exec .venv/bin/ptft {shlex.join(words)}"
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", values.name, *where, "--worker=all"]
    hint = "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)."
    start(values, [*ssh, f"--command={there}"], tool="gcloud", install=hint)
