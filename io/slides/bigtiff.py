"""How are the directories of a BigTIFF laid out as bytes?

All numbers are little-endian. The size of a directory follows from its tags alone, so all offsets are known before the
first byte is written, and the long tables (offset and length of each tile) are streamed::

    header   "II" 43 8 0 | offset of the first directory, zero until all else is on the disk
    tiles    in any order
    directory | its values of more than 8 bytes | directory | ...
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Literal

HEADER_BYTES = 16
U32 = 2**32 - 1
_ENTRY = struct.Struct("<HHQ")
_INLINE_BYTES = 8


class Kind(IntEnum):
    """TIFF's value types, as far as they are used here."""

    ASCII = 2
    SHORT = 3
    LONG = 4
    RATIONAL = 5
    UNDEFINED = 7
    LONG8 = 16
    IFD8 = 18


@dataclass(frozen=True)
class Tag:
    """One tag, with its value as bytes."""

    code: int
    kind: Kind
    count: int
    value: bytes

    @property
    def nbytes(self) -> int:
        """Size of the value in bytes."""
        return len(self.value)


@dataclass(frozen=True)
class Table:
    """A tag with one number for each tile of a level. Its value is streamed, since it may be long."""

    code: int
    kind: Kind
    count: int
    level: int
    column: Literal["offset", "length"]

    @property
    def nbytes(self) -> int:
        """Size of the value in bytes."""
        return self.count * (8 if self.kind == Kind.LONG8 else 4)


@dataclass(frozen=True)
class Children:
    """A tag that points at further directories, which are not in the main chain."""

    code: int
    directories: tuple[Directory, ...]
    kind: Kind = Kind.IFD8

    @property
    def count(self) -> int:
        """Number of directories."""
        return len(self.directories)

    @property
    def nbytes(self) -> int:
        """Size of the value in bytes."""
        return 8 * self.count


@dataclass(frozen=True)
class Directory:
    """One image of the file: a name, which is not written, and its tags."""

    name: str
    tags: tuple[Tag | Table | Children, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes of the directory and of the values that follow it."""
        outside = sum(_align(tag.nbytes, 8) for tag in self.tags if tag.nbytes > _INLINE_BYTES)
        return _align(self.head_bytes, 8) + outside

    @property
    def head_bytes(self) -> int:
        """Size in bytes of the directory alone."""
        return 8 + 20 * len(self.tags) + 8


def header(first_directory: int) -> bytes:
    """Encode the file header; offset 0 of the first directory marks an unfinished file."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first_directory)


def text_tag(code: int, text: str) -> Tag:
    """Encode text in UTF-8, as OME-XML needs; all other texts here are ASCII."""
    value = text.encode() + b"\0"
    return Tag(code, Kind.ASCII, len(value), value)


def short_tag(code: int, *values: int) -> Tag:
    """Encode numbers of 16 bits."""
    return Tag(code, Kind.SHORT, len(values), struct.pack(f"<{len(values)}H", *values))


def long_tag(code: int, *values: int) -> Tag:
    """Encode numbers of 32 bits."""
    return Tag(code, Kind.LONG, len(values), struct.pack(f"<{len(values)}I", *values))


def long8_tag(code: int, *values: int) -> Tag:
    """Encode numbers of 64 bits."""
    return Tag(code, Kind.LONG8, len(values), struct.pack(f"<{len(values)}Q", *values))


def rational_tag(code: int, value: Fraction) -> Tag:
    """Encode a fraction in lowest terms: exactly if both parts fit into 32 bits, otherwise the nearest one.

    Examples
    --------
    >>> struct.unpack("<2I", rational_tag(282, Fraction("10000") / Fraction("0.2527")).value)
    (100000000, 2527)
    """
    if max(value.numerator, value.denominator) > U32:
        value = value.limit_denominator(max(1, min(U32, int(U32 / value) - 1)))
    return Tag(code, Kind.RATIONAL, 1, struct.pack("<2I", value.numerator, value.denominator))


def children(chain: Sequence[Directory]) -> tuple[Directory, ...]:
    """Return the directories that the chain points at, such as SubIFDs."""
    tags = (tag for directory in chain for tag in directory.tags)
    return tuple(child for tag in tags if isinstance(tag, Children) for child in tag.directories)


def write_directories(
    chain: Sequence[Directory], at: int, read_table: Callable[[Table], Iterator[bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Lay out the directories, one after the other.

    Parameters
    ----------
    chain
        The directories of the main chain, in order. The directories of `Children` tags follow the chain.
    at
        Offset of the first free byte of the file. Directories begin at multiples of 16 bytes, values at multiples of 8.
    read_table
        Yields the numbers of a table in slices, as little-endian bytes.

    Yields
    ------
    offset, bytes
        What to write, and where. The first offset is that of the first directory.
    """
    below = children(chain)
    places: dict[str, int] = {}
    place = _align(at, 16)
    for directory in (*chain, *below):
        assert directory.name not in places, f"two directories are called {directory.name}"
        places[directory.name] = place
        place = _align(place + directory.nbytes, 16)
    following = [places[directory.name] for directory in chain[1:]] + [0] * (1 + len(below))
    for directory, next_place in zip((*chain, *below), following, strict=True):
        yield from _write_directory(directory, places, next_place, read_table)


def _write_directory(
    directory: Directory,
    places: dict[str, int],
    next_place: int,
    read_table: Callable[[Table], Iterator[bytes]],
) -> Iterator[tuple[int, bytes]]:
    place = places[directory.name]
    head = [struct.pack("<Q", len(directory.tags))]
    outside: list[tuple[int, Tag | Table | Children]] = []
    free = _align(place + directory.head_bytes, 8)
    for tag in sorted(directory.tags, key=lambda tag: tag.code):
        head.append(_ENTRY.pack(tag.code, tag.kind, tag.count))
        if tag.nbytes <= _INLINE_BYTES:
            head.append(b"".join(_values(tag, places, read_table)).ljust(_INLINE_BYTES, b"\0"))
            continue
        head.append(struct.pack("<Q", free))
        outside.append((free, tag))
        free = _align(free + tag.nbytes, 8)
    yield place, b"".join([*head, struct.pack("<Q", next_place)])
    for start, tag in outside:
        at = start
        for piece in _values(tag, places, read_table):
            yield at, piece
            at += len(piece)
        assert at == start + tag.nbytes, f"tag {tag.code} of {directory.name} has {at - start} bytes"


def _values(
    tag: Tag | Table | Children, places: dict[str, int], read_table: Callable[[Table], Iterator[bytes]]
) -> Iterator[bytes]:
    if isinstance(tag, Table):
        yield from read_table(tag)
    elif isinstance(tag, Children):
        yield b"".join(struct.pack("<Q", places[child.name]) for child in tag.directories)
    else:
        yield tag.value


def _align(offset: int, step: int) -> int:
    return -(-offset // step) * step
