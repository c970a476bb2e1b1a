"""Was this slide finished already, by a run that was killed before it could say so?

Between the moment when a slide gets its name and the end of the run lie the preview's name, the report and the
removal of scratch. A record in scratch, written before the slide gets its name and deleted as the last of all,
says what will stand there; where it does, the same command has only to do these.
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
    """The record.

    Attributes
    ----------
    size : bytes of the slide.
    head : its header, in hexadecimal; it says where the first directory lies.
    inputs : see `RenderPlan.inputs`.
    report : of the run, as JSON values.
    preview : the finished picture that waits for its name, and that name; None without.
    """

    size: int
    head: str
    inputs: Mapping[str, str]
    report: Mapping[str, Any]
    preview: tuple[str, str] | None

    def write(self, scratch: Path) -> None:
        """Put the record into scratch, durably."""
        part = scratch / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(scratch / RECORD)

    @classmethod
    def of(cls, target: Target, scratch: Path) -> Finished | None:
        """Give the record of the slide that stands at the target; None where it is not the one that was made."""
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
        """Give the picture its name, where the run did not come to it."""
        if self.preview is not None:
            waiting, name = self.preview
            with suppress(FileNotFoundError):
                Path(waiting).replace(name)


def head_of(slide: Path) -> str:
    """Read the header of a slide."""
    with slide.open("rb") as file:
        return file.read(HEADER_BYTES).hex()
