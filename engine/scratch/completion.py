"""Was this slide already finished by a run that was killed before it could report that?

After the slide has its name, a run still renames the preview, writes the report and removes scratch. A record in scratch
describes the finished slide. It is written before the slide gets its name and deleted last. If the slide matches the
record, the same command only does what is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safron.io.remote import Target
from safron.io.slides.bigtiff import HEADER_BYTES

from .arrays import RECORD


@dataclass(frozen=True)
class Finished:
    """Description of a finished slide.

    Attributes
    ----------
    size : bytes of the slide.
    head : header of the slide in hexadecimal, which holds the offset of the first directory.
    inputs : see `RenderPlan.inputs`.
    report : report of the run as JSON values.
    preview : temporary and final name of the preview; None without one.
    """

    size: int
    head: str
    inputs: Mapping[str, str]
    report: Mapping[str, Any]
    preview: tuple[str, str] | None

    def write(self, scratch: Path) -> None:
        """Write the record into scratch durably."""
        part = scratch / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(scratch / RECORD)

    @classmethod
    def of(cls, target: Target, scratch: Path) -> Finished | None:
        """Return the record if it describes the slide at the target, else None."""
        try:
            found = cls(**json.loads((scratch / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        if target.size() != found.size:
            return None
        if target.url is None and head_of(target.local) != found.head:
            return None
        return found

    def name_preview(self) -> None:
        """Rename the preview if the run did not get to it."""
        if self.preview is not None:
            waiting, name = self.preview
            with suppress(FileNotFoundError):
                Path(waiting).replace(name)


def head_of(slide: Path) -> str:
    """Return the header of a slide in hexadecimal."""
    with slide.open("rb") as file:
        return file.read(HEADER_BYTES).hex()
