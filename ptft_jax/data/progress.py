"""How long tasks say how far they are, whoever shows it."""

from typing import Protocol


class Progress(Protocol):
    """How far a long task is: `done` of `total` bytes (or items) of what `description` names."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


def no_progress(description: str, done: int, total: int) -> None:
    """Say nothing."""


class Message(Protocol):
    """A line for the person who waits, beside the progress."""

    def __call__(self, text: str) -> None: ...


def no_message(text: str) -> None:
    """Say nothing."""
