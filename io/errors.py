"""Which failures does a user see, and with which exit code?

Every message is one line: what was given, which rule it broke, and what to do next.
"""

from __future__ import annotations

LONGEST_REASON = 300
"""Characters that `one_line` keeps of a message."""

LONGEST_LINE = 2000
"""Characters that a program prints of a message: what was given may be a list of thousands."""


class SafronError(Exception):
    """A failure whose message is written for the user: one line, no traceback needed."""

    exit_code = 1


class BadInput(SafronError, ValueError):
    """The request cannot be carried out as given; nothing ran and nothing was changed."""

    exit_code = 2


class Failed(SafronError, RuntimeError):
    """The work began and could not be finished; finished blocks are kept, and the same command continues."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    r"""Message of any exception, short enough to follow ours on one line.

    Of a long message the start and the end are kept: some libraries, such as ONNX Runtime, put the reason last.

    Examples
    --------
    >>> one_line(ValueError("two\n  lines"))
    'two lines'
    >>> one_line(KeyError("tile"))
    "KeyError 'tile'"
    """
    text = " ".join(str(error).split())
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".strip()
    return shortened(text, LONGEST_REASON)


def shortened(text: str, most: int) -> str:
    """Keep the start and the end of a text that has more than `most` characters.

    Examples
    --------
    >>> shortened("0123456789" * 3, 20)
    '01234567 ... 3456789'
    """
    if len(text) <= most:
        return text
    head = most * 2 // 5
    return f"{text[:head]} ... {text[head + 5 - most :]}"


def counted(count: int, one: str, many: str = "") -> str:
    """Name a number of things, one of them in the singular.

    Examples
    --------
    >>> counted(1, "tile"), counted(0, "patch"), counted(2, "nucleus", "nuclei")
    ('1 tile', '0 patches', '2 nuclei')
    """
    if count == 1:
        return f"1 {one}"
    return f"{count} {many or one + ('es' if one.endswith(('ch', 's')) else 's')}"
