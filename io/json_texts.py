"""Which JSON texts does a file hold: one, or a sequence of them?

A sequence has a text on each line (newline-delimited GeoJSON), or the character RS before each (RFC 8142). It is read one text at a
time, so memory is that of the longest text and of what is made of them all. A file is known by its content, not by its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from safron.io.errors import SafronError, one_line
from safron.io.files import open_packed, too_large

MAX_JSON_BYTES = 256 << 20
"""Largest JSON text that is parsed as a whole, unpacked; this takes about ten times as much memory."""

MAX_SEQUENCE_BYTES = 2 << 30
"""Largest sequence of JSON texts, unpacked."""

SEQUENCE_ENDINGS = (".geojsonl", ".geojsons", ".geojsonseq", ".ndgeojson", ".ndjson", ".jsonl")
"""How sequences of GeoJSON are usually named."""

_SEPARATOR = b"\x1e"
_MARK = b"\xef\xbb\xbf"  # of UTF-8, as Windows writes it

Result = TypeVar("Result")


def parse_json(text: bytes | str) -> Any:
    """Parse a JSON text in UTF-8, in which no object has a name twice: the first of them would be lost.

    Raises
    ------
    ValueError
        The text is no such JSON.

    Examples
    --------
    >>> parse_json(b'{"1": "epithelial", "1": "spindle"}')
    Traceback (most recent call last):
        ...
    ValueError: the name '1' stands twice in one object
    """
    return _READER.decode(text if isinstance(text, str) else text.decode())


def object_of(pairs: list[tuple[str, Result]]) -> dict[str, Result]:
    """Make an object of its names and values; ValueError where a name stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


# `json.loads` would make one for every text.
_READER = json.JSONDecoder(object_pairs_hook=object_of)


def each_json(
    path: Path,
    use: Callable[[Any], Result],
    *,
    parse: Callable[[bytes], Any] = parse_json,
    max_bytes: int = MAX_JSON_BYTES,
) -> Iterator[Result]:
    """Hand the JSON of a file to a function: the whole, or one record of a sequence after the other.

    Parameters
    ----------
    path
        As it is, or packed by gzip.
    use
        Gets what a JSON text holds.
    parse
        Makes this of a text.
    max_bytes
        Largest text, unpacked.

    Yields
    ------
    Result
        Of `use`.

    Raises
    ------
    BadInput
        The file cannot be opened, or is too large: beyond `max_bytes` for a text, `MAX_SEQUENCE_BYTES` for all of a sequence.
    ValueError
        A record of a sequence cannot be parsed or used; it is named by its number, from 0.
    Exception
        Of any other kind, where the file is one JSON text.
    """
    with open_packed(path) as file:
        lines = _lines(file, path, max_bytes)
        first, second = next(lines, b"").removeprefix(_MARK), next(lines, None)
        following = chain([first], [] if second is None else [second], lines)
        marked = first.lstrip().startswith(_SEPARATOR)
        if not marked and (second is None or not _is_json(first)):
            yield use(parse(b"".join(_within(following, path, max_bytes))))
            return
        for number, record in enumerate(_marked(following, path, max_bytes) if marked else following):
            try:
                yield use(parse(record))
            except (SafronError, MemoryError, RecursionError):
                raise
            except Exception as error:
                raise ValueError(f"record {number}: {one_line(error)}") from error


def _lines(file: BinaryIO, path: Path, max_bytes: int) -> Iterator[bytes]:
    """Lines of a file that are not blank."""
    total = 0
    while line := file.readline(max_bytes + 1):
        total += len(line)
        if total > MAX_SEQUENCE_BYTES:
            raise too_large(path, MAX_SEQUENCE_BYTES)
        yield from _within([line], path, max_bytes) if line.strip() else ()


def _within(parts: Iterable[bytes], path: Path, max_bytes: int) -> Iterator[bytes]:
    """Pass on parts of one JSON text until they are too many."""
    total = 0
    for part in parts:
        total += len(part)
        if total > max_bytes:
            way_out = (
                "check that it is the right file, or write a feature on each line (ogr2ogr -f GeoJSONSeq)"
            )
            raise too_large(path, max_bytes, way_out)
        yield part


def _marked(lines: Iterable[bytes], path: Path, max_bytes: int) -> Iterator[bytes]:
    """Split a sequence before each RS; a record may have several lines."""
    parts: list[bytes] = []
    room = max_bytes
    for line in lines:
        before, *starts = line.split(_SEPARATOR)
        parts.append(before)
        room -= len(before)
        if room < 0:
            raise too_large(path, max_bytes)
        for start in starts:
            if record := b"".join(parts).strip():
                yield record
            parts, room = [start], max_bytes - len(start)
    if record := b"".join(parts).strip():
        yield record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
