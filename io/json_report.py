"""Where may a report be written as JSON? It takes the place of an earlier one of its kind, and of nothing else unasked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import Failed, SafronError
from .files import check_output_path, output, parse_text

ENDINGS = (".json",)
NAME = "--report "
MOST_BYTES = 256 << 20
"""Of an earlier report that is looked at."""


def check_report_path(path: Path, *, overwrite: bool, ours: Callable[[Mapping[str, Any]], bool]) -> None:
    """Refuse a report's name that does not end in .json, or that another file has.

    Parameters
    ----------
    path
        Where the report shall be written.
    overwrite
        Replace any JSON file.
    ours
        Whether the content of a JSON file is an earlier report of this kind.

    Raises
    ------
    BadInput
        The name has another ending, its folder is missing, or a file is there that is not a report.
    """
    check_output_path(path, overwrite=overwrite or _is_ours(path, ours), name=NAME, endings=ENDINGS)


def _is_ours(path: Path, ours: Callable[[Mapping[str, Any]], bool]) -> bool:
    try:
        found = parse_text(path, json.loads, kind="JSON", remedy="", max_bytes=MOST_BYTES)
    except SafronError:
        return False
    return isinstance(found, dict) and ours(found)


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report as JSON, whole or not at all; `check_report_path` decides beforehand whether it may."""
    try:
        with output(path, overwrite=True, endings=ENDINGS, name=NAME) as part:
            part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failed(f"{NAME}{path}: {error.strerror}; choose another path") from error
