"""How are inputs opened safely, and outputs written so that a crash or a full disk loses nothing?"""

from __future__ import annotations

import atexit
import errno
import gzip
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from .addresses import check_unchained
from .errors import BadInput, SafronError, one_line

Parsed = TypeVar("Parsed")

MAX_TEXT_BYTES = 1 << 20
"""Largest text file that is parsed unless a caller allows more; a card or a settings file has some kB."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SHORT = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says when an array is not written whole."""
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

# Hidden files of Zarr v2; every other hidden file comes from an operating system or a file manager.
_ZARR_V2 = {".zarray", ".zgroup", ".zattrs", ".zmetadata"}
_FOREIGN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir"}


# Inputs


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is left behind by a system and belongs to no data.

    Examples
    --------
    >>> [is_foreign(name) for name in (".DS_Store", "._0", ".nfs0001", "Thumbs.db", ".zarray", "c", "0.0")]
    [True, True, True, True, False, False, False]
    """
    return (name.startswith(".") and name not in _ZARR_V2) or name.lower() in _FOREIGN


def check_regular(path: Path | str) -> None:
    """Raise `BadInput` unless a path names a regular file, directly or through links.

    A pipe or a device is never opened: reading one may wait for ever, or never end.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInput(f"{path}: {getattr(error, 'strerror', None) or error}; check the path") from error
    if stat.S_ISDIR(mode):
        raise BadInput(f"{path}: is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise BadInput(f"{path}: is a pipe or a device; save its content as a file first")


def what_is_there(path: Path) -> str:
    """Say what a path names that is no regular file: none, a folder, or what is never opened.

    Examples
    --------
    >>> what_is_there(Path("none")), what_is_there(Path("/dev/null"))
    ('no such file', 'a pipe or a device, not a file')
    """
    if path.is_dir():
        return "a folder, not a file"
    return "a pipe or a device, not a file" if path.exists() else "no such file"


def open_input(path: Path | str) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    BadInput
        It is missing, a folder, a pipe or a device, or may not be read.
    """
    check_regular(path)
    try:
        # O_NONBLOCK: a pipe that takes the file's place at this moment must not block either.
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; check the path and its permissions") from error


@contextmanager
def open_packed(path: Path | str) -> Iterator[BinaryIO]:
    """Open a regular file as `open_input` does; one packed by gzip is unpacked as it is read."""
    with open_input(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc] # binary in all that matters


def read_text(path: Path | str, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte order mark; one packed by gzip is unpacked.

    Parameters
    ----------
    path
        A regular file.
    max_bytes
        Largest size, after unpacking.

    Raises
    ------
    BadInput
        It cannot be opened (see `open_input`), or is larger.
    ValueError, OSError, EOFError, zlib.error
        It is not UTF-8, or damaged.
    """
    with open_packed(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(path, max_bytes)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise ValueError("it is not UTF-8, but UTF-16 or no text")
    return data.decode("utf-8-sig")


def too_large(path: Path | str, max_bytes: int, remedy: str = "check that it is the right file") -> BadInput:
    """Say that a text is larger than what is read."""
    limit = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes} bytes"
    return BadInput(f"{path}: is larger than {limit}, the most that is read; {remedy}")


def parse_text(
    path: Path | str,
    reader: Callable[[str], Parsed],
    *,
    kind: str,
    remedy: str,
    name: str = "",
    max_bytes: int = MAX_TEXT_BYTES,
) -> Parsed:
    """Read a text file and parse it; whatever goes wrong is one line.

    Parameters
    ----------
    path
        JSON, YAML, CSV or another text file.
    reader
        Turns the text into what is needed, and may raise any exception. `BadInput` is passed on as it is.
    kind
        How the message calls the form, such as "JSON".
    remedy
        What the user should do.
    name
        What precedes the path in messages, such as "palette ".
    max_bytes
        See `read_text`.

    Raises
    ------
    BadInput
        The file cannot be opened, is too large, is not text, or `reader` cannot make sense of it.

    Examples
    --------
    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write('{"tile": 256}')
    ...     file.flush()
    ...     parse_text(file.name, json.loads, kind="JSON", remedy="check it")
    {'tile': 256}
    """
    with parsing(path, kind=kind, remedy=remedy, name=name):
        return reader(read_text(path, max_bytes=max_bytes))


@contextmanager
def parsing(path: Path | str, *, kind: str, remedy: str, name: str = "") -> Iterator[None]:
    """Turn whatever goes wrong inside into one line on a text file; parameters as of `parse_text`.

    Raises
    ------
    BadInput
        Something was raised inside that is no error of ours.
    """
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{name}{error}") if name and str(error).startswith(str(path)) else error from None
    except (SafronError, MemoryError):
        raise
    except RecursionError as error:
        raise BadInput(f"{name}{path}: its {kind} is nested too deeply; {remedy}") from error
    except Exception as error:  # parsers and the code that uses their values raise what they like
        raise BadInput(f"{name}{path}: cannot be read as {kind} ({one_line(error)}); {remedy}") from error


# Outputs


@contextmanager
def output(
    out: Path, *, overwrite: bool, endings: Sequence[str] = (), name: str = "", folder: bool = False
) -> Iterator[Path]:
    """Write an output under a temporary name; it appears under its own name whole, or not at all.

    Parameters
    ----------
    out
        The file, or folder, to make.
    overwrite
        Whether something of the same kind that exists there may be replaced.
    endings
        Allowed endings of the name, in lower case, such as ``(".json",)``; any where empty. This keeps an
        output from replacing a file of another kind.
    name
        The option that asks for the output, for messages, such as "--report ".
    folder
        Make a folder. The caller decides whether an existing one may be replaced.

    Yields
    ------
    Path
        Where to write; beside `out`, so that it lies on the same disk. A folder exists already, a file does
        not.

    Raises
    ------
    BadInput
        `out` cannot be written to, exists and may not be overwritten, or has another ending.
    OSError
        The disk is full, or refuses a write; it names `out` where the system names no file.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "report.json"
    >>> with output(out, overwrite=False, endings=(".json",)) as part:
    ...     _ = part.write_text("{}")
    >>> out.read_text()
    '{}'
    """
    check_output_path(out, overwrite=overwrite, name=name, endings=endings, folder=folder)
    part = out.with_name(f".{out.name}.{os.urandom(4).hex()}.part")
    remove = partial(_remove, part)
    # At exit once more: after a signal, a thread that is about to start may still write.
    atexit.register(remove)
    try:
        with _naming(out):
            if folder:
                part.mkdir()
            yield part
            if folder:
                _publish_folder(part, out, overwrite=overwrite)
            else:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                publish(part, out, overwrite=overwrite)
    finally:
        remove()
    atexit.unregister(remove)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file of our own that takes the place of `path` once all of it is written and synced; until then the old one stays.

    Files that a user names as an output are written with `output`, which replaces nothing unasked.

    Raises
    ------
    OSError
        It cannot be written; nothing is left of the attempt.
    """
    part = path.with_name(path.name + ".part")
    try:
        with _naming(path):
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    """Name the output where the system, or NumPy, says of a full disk neither what it is nor what could not be written."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and _SHORT.fullmatch(str(error))
        if error.filename is not None or not (short or error.errno in _NO_ROOM):
            raise
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), str(out)) from error


def check_output_path(
    out: Path, *, overwrite: bool, name: str = "", endings: Sequence[str] = (), folder: bool = False
) -> None:
    """Raise `BadInput` unless a file, or a folder, can be put there; see `output`."""
    check_unchained(out, name)
    parent = out.absolute().parent
    if not parent.is_dir():
        raise BadInput(f"{name}{out}: folder {parent} does not exist; make it first")
    if endings and not out.name.lower().endswith(tuple(endings)):
        raise BadInput(f"{name}{out}: must end in {' or '.join(endings)}; give another name")
    if out.is_dir() and not folder:
        raise BadInput(f"{name}{out}: is a folder; give the name of a file")
    if out.is_file() and folder:
        raise BadInput(f"{name}{out}: is a file; give the name of a folder")
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise BadInput(f"{name}{out}: is a pipe or a device; give another name")
    if os.path.lexists(out) and not overwrite:
        raise BadInput(f"{name}{out}: exists already; pass --overwrite (overwrite=True) to replace it")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(
            f"{name}{out}: folder {parent} cannot be written to; choose another or change its permissions"
        )
    if out.exists() and not os.access(out, os.W_OK):
        raise BadInput(f"{name}{out}: cannot be written to; give another name or change its permissions")


def publish(part: Path, out: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, atomically.

    Raises
    ------
    BadInput
        If `out` exists and may not be overwritten, even if it appeared a moment ago.
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
    """Give the error for an output that exists already."""
    return BadInput(f"{out}: exists and is not overwritten; give another name, or --overwrite")


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a network drive that cannot
            raise
    finally:
        os.close(directory)


def waiting_name(path: Path) -> Path:
    """Temporary name of a file beside `path` until it is whole; no user's file has such a name."""
    return path.with_name(f".{path.name}.safron.part")


def _rename_to_new(part: Path, out: Path) -> None:
    """Rename to a name that must not exist yet: rename() itself would replace an existing file silently."""
    try:
        os.link(part, out)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        part.unlink()
        return
    # No hard links here (FAT, some network drives): reserve the name with an empty file, then replace that.
    os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        part.replace(out)
    except OSError:
        out.unlink()
        raise


def _publish_folder(part: Path, out: Path, *, overwrite: bool) -> None:
    """Rename a finished folder; an old one is deleted only once the new one has its name."""
    if not os.path.lexists(out):
        part.rename(out)
        return
    if not overwrite:  # it appeared while this one was written
        raise exists(out)
    old = part.with_suffix(".old")
    out.rename(old)
    try:
        part.rename(out)
    except OSError:
        old.rename(out)
        raise
    if old.is_symlink():  # what it leads to is not ours
        old.unlink()
    else:
        shutil.rmtree(old)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
