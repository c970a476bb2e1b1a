"""Which failures does a user see, and with which exit code?

Every message is one line and says what was given, which rule it broke, and what to do next.
"""

from __future__ import annotations


class SafronError(Exception):
    """A failure whose message is written for the user: one line, no traceback needed."""

    exit_code = 1


class BadInput(SafronError, ValueError):
    """What was asked for cannot be done as asked: nothing ran, nothing was changed."""

    exit_code = 2


class Failed(SafronError, RuntimeError):
    """The work began and could not be finished; finished blocks are kept, and the same command continues."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """Message of any exception, short enough to follow ours on one line."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= 300 else text[:297] + "..."
