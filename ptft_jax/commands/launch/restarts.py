"""After which exit codes a job is started again: one answer for all launchers.

`launch/slurm.sbatch` and the failure policy of `launch/gke_jobset.yaml` say the same in their own
languages (tests/commands/launch/test_launch_scripts.py compares).
"""

from ptft_jax import errors

# A hang, a lost peer and a stop leave a run that goes on from its last checkpoint.
RESTART_CODES = tuple(
    kind.exit_code for kind in (errors.HangError, errors.StopError, errors.PeerError)
)
CTRL_C = 130
# A bug comes again; settings, data, what does not fit a device and a full disk have to be mended;
# Ctrl-C was meant.
_LASTING = (errors.PtftError, errors.ConfigError, errors.DataError)
_LASTING += (errors.DeviceMemoryError, errors.StorageError)
NO_RESTART_CODES = (*(kind.exit_code for kind in _LASTING), CTRL_C)


def starts_again(code: int) -> bool:
    """Says whether a new start can help after this exit code, 128 + n for a death by signal n."""
    return code in RESTART_CODES or (code > 128 and code != CTRL_C)
