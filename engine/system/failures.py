"""Which failures are retried, and which end a render at once?"""

from __future__ import annotations

import errno

from safron.io.errors import BadInput, Failed

# A full disk or a missing permission affects every task.
_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class Final(Failed):
    """A failure that a retry or another task would meet as well."""


class Lost(Final):
    """The scheduler or its workers are gone, and with them all unfinished tasks."""


class Stuck(Final):
    """A generator call does not return; nothing else can be generated beside it."""


class WorkersDied(Failed):
    """Every worker that had this task died, because of it or of another task beside it."""


def is_worth_another_try(error: BaseException) -> bool:
    """Whether a retry may succeed, or at least other tasks can."""
    if isinstance(error, BadInput | Final) or not isinstance(error, Exception):
        return False
    return not (isinstance(error, OSError) and error.errno in _FOR_ALL)
