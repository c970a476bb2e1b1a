"""How are bytes put on the disk so that a crash, or a full disk, loses nothing?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import BadInput

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`; the kernel may take it in pieces."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest = rest[written:]
        offset += written


def read_at(file: int, count: int, offset: int) -> bytes:
    """Read `count` bytes at `offset`.

    Raises
    ------
    EOFError
        If the file ends before.
    """
    pieces: list[bytes] = []
    while count:
        piece = os.pread(file, count, offset)
        if not piece:
            raise EOFError(f"file ends {count} bytes early")
        pieces.append(piece)
        count -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once all of it is written and synced; until then the old one stays.

    Raises
    ------
    OSError
        It cannot be written; nothing is left of the attempt.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish(part: Path, out: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, all at once.

    Raises
    ------
    BadInput
        If `out` exists and may not be overwritten, even where it came up a moment ago.
    """
    if overwrite:
        part.replace(out)
    else:
        try:
            _rename_to_new(part, out)
        except FileExistsError:
            raise exists(out) from None
    sync_directory(out.parent)


def exists(out: Path | str) -> BadInput:
    """Give the error for an output that is there already."""
    return BadInput(f"{out}: exists and is not overwritten; give another name, or --overwrite")


def sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a network drive that cannot
            raise
    finally:
        os.close(directory)


def _rename_to_new(part: Path, out: Path) -> None:
    """Rename where the new name is not taken: rename() itself would replace a file without a word."""
    try:
        os.link(part, out)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        part.unlink()
        return
    # No hard links here (FAT, some network drives): take the name with an empty file, then replace that.
    os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        part.replace(out)
    except OSError:
        out.unlink()
        raise


def waiting_name(path: Path) -> Path:
    """Name that a file has beside `path` until it is whole; only we use it, so that what the user has there stays."""
    return path.with_name(f".{path.name}.safron.part")


def check_output_path(out: Path, *, overwrite: bool, name: str = "") -> None:
    """Raise `BadInput` unless a file can be put there; `name` is the option that asks for it."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{name}{out}: folder {folder} does not exist; make it first")
    if out.is_dir():
        raise BadInput(f"{name}{out}: is a folder; give the name of a file")
    dangling = out.is_symlink() and not out.exists()
    if (out.is_file() or dangling) and not overwrite:
        raise BadInput(f"{name}{out}: exists already; pass --overwrite to replace it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(
            f"{name}{out}: folder {folder} cannot be written to; choose another or change its permissions"
        )
    if out.exists() and not os.access(out, os.W_OK):
        raise BadInput(f"{name}{out}: cannot be written to; give another name or change its permissions")
