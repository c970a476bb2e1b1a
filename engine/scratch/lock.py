"""May this process render this slide? A second render of the same OUT is refused while the first one runs.

The lock on ``OUT.safron.lock`` belongs to the kernel, so it ends with its process, even if that is killed. Without it two
processes would keep deleting each other's scratch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safron.io.errors import BadInput, Failed

# Some network drives have no locks; there the user must take care.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the right to render `out`.

    Raises
    ------
    BadInput
        Another process, or another thread of this one, is rendering it.
    """
    path = lock_path(out)
    file = _acquire(path, out)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete open files; an empty one stays
            path.unlink()
        os.close(file)


def holder(out: Path) -> str | None:
    """Return who is rendering `out`, as "process 7 on HOST"; None if nobody is."""
    try:
        file = os.open(lock_path(out), os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(file)
    except OSError:
        return os.read(file, 200).decode(errors="replace").strip() or "a run that has just begun"
    finally:
        os.close(file)  # this releases the lock if we got it
    return None


def lock_path(out: Path) -> Path:
    """Return the file that is locked while `out` is rendered."""
    return out.absolute().with_name(f"{out.name}.safron.lock")


def _acquire(path: Path, out: Path) -> int:
    """Open and lock the file at `path`."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise Failed(f"{path}: cannot make the lock file ({error.strerror})") from error
        try:
            _lock(file)
        except OSError as error:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            if error.errno not in _TAKEN:
                raise Failed(f"{path}: cannot lock it ({error.strerror})") from error
            raise BadInput(
                f"{out}: another render of it is running ({holder or 'just begun'}); wait for it, or give another name"
            ) from None
        # The previous holder may have deleted the file that we opened; then the lock protects nothing.
        if os.path.lexists(path) and os.path.samestat(os.fstat(file), path.stat()):
            with contextlib.suppress(OSError):  # disk full: the lock works without the note
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _lock(file: int) -> None:
    """Lock the file, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        # Beyond the note, so that others can read it.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
