"""How are the small records of scratch read so that damage, or somebody else's file, does no harm?

A record is a JSON object with a checksum of its own content, as each line of the journal has one. Scratch may lie on a disk
that others write to, so a record is never trusted: its types are checked, and no path in it is ever followed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c

# A record has some kB; its longest part is the report.
MOST_BYTES = 4 << 20
CHECKSUM = "crc32c"


class Damaged(ValueError):
    """A record that cannot be used."""


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum."""
    return {**values, CHECKSUM: _checksum(values)}


def checked(found: Any) -> dict[str, Any]:
    """Return the values of a record without the checksum; raise `Damaged` if it does not fit."""
    if not isinstance(found, dict):
        raise Damaged("is not a record")
    values = {name: value for name, value in found.items() if name != CHECKSUM}
    if found.get(CHECKSUM) != _checksum(values):
        raise Damaged("its checksum does not fit")
    return values


def _checksum(values: Mapping[str, Any]) -> int:
    return int(google_crc32c.value(json.dumps(values, sort_keys=True).encode()))


def read_json(path: Path) -> Any:
    """Read a JSON file of scratch.

    Raises
    ------
    FileNotFoundError
        It does not exist.
    Damaged
        It is not JSON, too large, or a link, pipe or device, which nothing in scratch is.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Damaged("is not a plain file")
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(file, "rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(error)) from error
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise Damaged("is too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged("is not JSON") from error
