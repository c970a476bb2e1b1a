"""Which blocks are finished, and how is that recorded so that no crash can falsify it?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
from safron.io.errors import Failed
from safron.io.files import sync_directory
from safron.io.offsets import write_at

from .boundary_store import Index


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a finished block, or the finished boundary of one.

    Attributes
    ----------
    kind
        "boundary" or "block".
    index
        (row, column) of the block.
    run, painted
        Patches that were generated, and patches that were filled as background.
    end
        bytes of OUT.part that are valid with it.
    """

    kind: str
    index: Index
    run: int
    painted: int
    end: int = 0


class Journal:
    """Appends entries durably. It has one writer: the process that drives the render.

    Each line ends with a checksum of itself and of all previous lines. Losing one line would leave the others individually
    valid, so reading stops at the first line that does not fit.

    Parameters
    ----------
    path
        The file; its content is replaced atomically.
    entries
        The first entries.
    """

    def __init__(self, path: Path, entries: Iterable[Entry]) -> None:
        self._path = path
        part = path.with_name(f"{path.name}.part")
        with self._errors():
            self._file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                self._ends = 0, 0  # its bytes, and their checksum
                self.append(entries)
                part.replace(path)
                sync_directory(path.parent)
            except BaseException:
                os.close(self._file)
                raise

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries and flush them to disk. If that fails, the next call overwrites them."""
        start, check = self._ends
        lines: list[bytes] = []
        for entry in entries:
            line, check = _line(entry, check)
            lines.append(line)
        if not lines:
            return
        text = b"".join(lines)
        with self._errors():
            write_at(self._file, text, start)
            os.fsync(self._file)
        self._ends = start + len(text), check

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failed(
                f"cannot write {self._path}: {error.strerror}; the same command continues"
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal in order, up to the first line that is damaged."""
    check = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                entry = Entry(
                    record["kind"], tuple(record["index"]), record["run"], record["painted"], record["end"]
                )
            except (ValueError, KeyError, TypeError, RecursionError):
                return
            if not all(type(number) is int for number in (*entry.index, entry.run, entry.painted, entry.end)):
                return
            whole, check = _line(entry, check)
            if line != whole:
                return
            yield entry


def _line(entry: Entry, before: int) -> tuple[bytes, int]:
    """Return an entry as a line of JSON with the checksum of everything before it, and that checksum."""
    text = json.dumps(vars(entry))[:-1].encode()
    check = google_crc32c.extend(before, text)
    return text + f', "crc32c": {check}}}\n'.encode(), check
