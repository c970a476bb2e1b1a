"""May this process render this slide? One at a time: a second render of the same OUT is refused.

The lock is the kernel's, on ``OUT.safron.lock``, so that it ends with the process that holds it, also where
that is killed. Without it two processes would take turns in deleting each other's scratch.
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

# Some network drives have no locks; there one has to trust the user.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the right to render `out`.

    Raises
    ------
    BadInput
        While another process, or another thread of this one, renders it.
    """
    path = lock_path(out)
    file = _acquire(path, out)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file; an empty one is left there
            path.unlink()
        os.close(file)


def holder(out: Path) -> str | None:
    """Say who renders `out` now, as "process 7 on HOST"; None where nobody does."""
    try:
        file = os.open(lock_path(out), os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(file)
    except OSError:
        return os.read(file, 200).decode(errors="replace").strip() or "a run that has just begun"
    finally:
        os.close(file)  # and with it a lock that we got
    return None


def lock_path(out: Path) -> Path:
    """Name the file that is locked while `out` is rendered."""
    return out.absolute().with_name(f"{out.name}.safron.lock")


def _acquire(path: Path, out: Path) -> int:
    """Open and lock the file that `path` names."""
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
        # The holder before us may have deleted the file that we opened: then it names nothing any more.
        if os.path.lexists(path) and os.path.samestat(os.fstat(file), path.stat()):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the note
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        os.close(file)


def _lock(file: int) -> None:
    """Take the kernel's lock or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        # Beyond the note, which others could not read otherwise.
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
