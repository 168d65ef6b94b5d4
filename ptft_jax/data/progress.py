"""How long tasks say how far they are, whoever shows it, and how lengths of time are written."""

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


def duration(seconds: float) -> str:
    """Writes a length of time: '9.5 s', '48 s', '4:05', '3:04:05', '2 days 3:04:05'."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
    days, hours = divmod(hours, 24)
    before = f"{days} day{'s' if days > 1 else ''} " if days else ""
    return f"{before}{hours}:{minutes:02d}:{rest:02d}"
