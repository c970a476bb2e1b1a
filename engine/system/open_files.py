"""May this process open as many files and connections as it needs?

Libraries that run out of them in the middle of their work print tracebacks without end, or hang.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from safron.io.errors import BadInput


def require_open_files(count: int, reason: str) -> None:
    """Raise the limit on open files as far as this process may, up to `count`.

    Raises
    ------
    BadInput
        The limit is too low; `reason` begins the message.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    with suppress(ValueError, OSError):
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < count:
        raise BadInput(
            f"{reason}: needs up to {count} open files, and this session allows {soft}; raise it with ulimit -n {count}"
        )
