"""What is wrong with data: which file, where in it, what, and how to mend it."""

from typing import NamedTuple

from ptft_jax.errors import PtftError

PREPARE_AGAIN = "prepare the corpus again, or bring the file back from a copy"
WRITE_AGAIN = "write or fetch the file again"
# Things of one kind in one file that are told one by one; the rest is counted.
MOST_ALIKE = 5


class Finding(NamedTuple):
    """One thing that is wrong. `position` is "" where it is the whole file."""

    file: str
    position: str
    problem: str
    mend: str


def finding_of(error: PtftError, file: str, mend: str = WRITE_AGAIN) -> Finding:
    """The finding that an error tells of, whose text is "FILE, POSITION: PROBLEM; MEND".

    `mend` is for errors that do not say it. Without FILE in front, all of it is the problem.
    """
    text = str(error)
    rest = text.removeprefix(file)
    position = ""
    if rest != text and rest.startswith((",", ":")):
        position, _, rest = rest.partition(": ")
    problem, _, how = rest.rpartition("; ")
    return Finding(file, position.strip(" ,:"), (problem or how).strip(), how if problem else mend)


def spanned(what: str, first: int, last: int, several: str | None = None) -> str:
    """Writes "byte 7" or "bytes 7 to 9"."""
    return f"{what} {first}" if first == last else f"{several or what + 's'} {first} to {last}"
