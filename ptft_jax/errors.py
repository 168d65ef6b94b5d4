"""The errors a person can cause, each with the exit code of its command.

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
