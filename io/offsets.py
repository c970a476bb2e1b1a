"""How are bytes read and written at an offset of an open file, all of them?"""

from __future__ import annotations

import os


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`; the kernel may take it in several pieces."""
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
