"""Counts the requests of a process to make something last, to kill it before a chosen one."""

import os
from collections.abc import Callable


def count_calls(names: tuple[str, ...], at: Callable[[int], None]) -> None:
    """Calls `at` with 1, 2, 3, … before each call of the functions of `os` that are named."""
    calls = 0
    for name in names:
        real = getattr(os, name)

        def counted(*arguments, _real=real, **options):
            nonlocal calls
            calls += 1
            at(calls)
            return _real(*arguments, **options)

        setattr(os, name, counted)
