"""After which exit codes a job is started again: one answer for all launchers.

`launch/slurm.sbatch` and the failure policy of `launch/gke_jobset.yaml` say the same in their own
languages (tests/test_launch_scripts.py compares).
"""

import signal

from ptft_jax.errors import (
    ConfigError,
    DataError,
    HangError,
    PeerError,
    PtftError,
    StopError,
    StorageError,
)

# A hang, a lost peer and a stop leave a run that goes on from its last checkpoint.
RESTART_CODES = (HangError.exit_code, StopError.exit_code, PeerError.exit_code)
CTRL_C = 130
# A bug comes again; settings, data and a full disk have to be mended; Ctrl-C was meant.
NO_RESTART_CODES = (
    PtftError.exit_code,
    ConfigError.exit_code,
    DataError.exit_code,
    StorageError.exit_code,
    CTRL_C,
)


def starts_again(code: int) -> bool:
    """Says whether a new start can help after this exit code, 128 + n for a death by signal n."""
    by_signal = code > 128 and code != 128 + signal.SIGINT
    return code in RESTART_CODES or by_signal
