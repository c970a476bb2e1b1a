"""Was this slide already finished by a run that was killed before it could report that?

After the slide has its name, a run still renames the preview, writes the report and removes scratch. A record in scratch
describes the finished slide. It is written before the slide gets its name and deleted last. If the slide matches the
record, the same command only does what is left. The record names no files: the names of preview and report come from the
command, and are only compared with what the record says of the earlier one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safron.io.files import waiting_name
from safron.io.remote import Target
from safron.io.slides.bigtiff import HEADER_BYTES

from .arrays import RECORD
from .records import Damaged, checked, read_json, with_checksum


@dataclass(frozen=True)
class Finished:
    """Description of a finished slide.

    Attributes
    ----------
    size
        bytes of the slide.
    head
        Header of the slide in hexadecimal, which holds the offset of the first directory.
    inputs
        See `RenderPlan.inputs`.
    report
        Report of the run as JSON values.
    """

    size: int
    head: str
    inputs: Mapping[str, str]
    report: Mapping[str, Any]

    def write(self, scratch: Path) -> None:
        """Write the record into scratch durably."""
        part = scratch / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            values = {item.name: getattr(self, item.name) for item in fields(self)}
            file.write(json.dumps(with_checksum(values)))
            file.flush()
            os.fsync(file.fileno())
        part.replace(scratch / RECORD)

    @classmethod
    def of(cls, target: Target, scratch: Path) -> Finished | None:
        """Return the record if it is whole and describes the slide at the target, else None."""
        try:
            found = cls(**checked(read_json(scratch / RECORD)))
        except (OSError, Damaged, TypeError):
            return None
        if not found._has_right_types() or target.size() != found.size:
            return None
        if target.url is None and head_of(target.local) != found.head:
            return None
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Options of the run that finished the slide."""
        options: dict[str, Any] = self.report["options"]
        return options

    def _has_right_types(self) -> bool:
        return (
            type(self.size) is int
            and isinstance(self.head, str)
            and isinstance(self.inputs, dict)
            and isinstance(self.report, dict)
            and isinstance(self.report.get("options"), dict)
        )


def is_damaged(scratch: Path) -> bool:
    """Whether there is a record that cannot be used."""
    try:
        checked(read_json(scratch / RECORD))
    except FileNotFoundError:
        return False
    except Damaged:
        return True
    return False


def name_preview(preview: Path | None) -> None:
    """Give the preview of a finished slide its name if the run did not get to it."""
    if preview is not None:
        with suppress(FileNotFoundError):
            waiting_name(preview).replace(preview)


def head_of(slide: Path) -> str:
    """Return the header of a slide in hexadecimal."""
    with slide.open("rb") as file:
        return file.read(HEADER_BYTES).hex()
