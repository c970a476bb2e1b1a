"""Which failures are worth another try, and which end a render at once?"""

from __future__ import annotations

import errno

from safron.io.errors import BadInput, Failed

# The disk, or a right to write, is gone for all tasks alike.
_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class Final(Failed):
    """A failure that other tasks, or another try, would meet as well."""


class Lost(Final):
    """What ran the tasks is gone, and with it all that were unfinished."""


class WorkersDied(Failed):
    """Each worker that had a task died, and may have died of it or of a task beside it."""


def is_worth_another_try(error: BaseException) -> bool:
    """Whether the same task may succeed, or at least other tasks will."""
    if isinstance(error, BadInput | Final) or not isinstance(error, Exception):
        return False
    return not (isinstance(error, OSError) and error.errno in _FOR_ALL)
