"""The errors that end a command, each with the exit code of its command.

Every message names the value that was given, what was expected, and how to mend it.
`docs/errors.md` lists the codes. Anything else that escapes a command is a bug and leaves through
exit code 1 with its traceback.
"""


class PtftError(Exception):
    """Base of the errors that end a command with one line instead of a traceback."""

    exit_code = 1


class ConfigError(PtftError):
    """A setting, flag or path on the command line cannot be used (exit code 2)."""

    exit_code = 2


class DataError(PtftError):
    """The content of a file, shard or checkpoint cannot be used (exit code 65, EX_DATAERR)."""

    exit_code = 65


class HangError(PtftError):
    """The process made no progress for longer than it may (exit code 70, EX_SOFTWARE)."""

    exit_code = 70


class DeviceMemoryError(PtftError):
    """The devices have no memory left for what they were asked for (exit code 71, EX_OSERR)."""

    exit_code = 71


class StorageError(PtftError):
    """A file could not be written: disk full, quota, an I/O error (exit code 74, EX_IOERR)."""

    exit_code = 74


class StopError(PtftError):
    """The run was asked to stop and has saved; it goes on when started again.

    Exit code 75 (EX_TEMPFAIL) after SIGTERM, 129 after SIGHUP, 130 after Ctrl-C.
    """

    exit_code = 75


class PeerError(PtftError):
    """Another process of the job is gone or silent (exit code 76, EX_PROTOCOL)."""

    exit_code = 76


def not_finite(what: str) -> DataError:
    """Returns the error for numbers of a trained model that are not; `what` ends in a verb."""
    return DataError(
        f"{what} not finite (NaN or infinity): the model has diverged. Go back to an earlier "
        "checkpoint (--checkpoint, `ptft ckpt rewind`), or train with a lower "
        "optimizer.learning_rate, a longer warm-up or model.dtype=float32"
    )
