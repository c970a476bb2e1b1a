"""How do the trainings of a paper's table go on where they were stopped? Each result is kept in one file as it comes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safron.io.errors import BadInput, SafronError
from safron.io.files import replacing


def run_study(main: Callable[[], None]) -> None:
    """Run the command that makes a paper's tables; what ends it early is one line, and the exit code says which kind."""
    try:
        main()
        return
    except KeyboardInterrupt:
        line, code = "interrupted; what is done is kept, the same command continues", 130
    except SafronError as error:
        line, code = f"error: {error}", 2 if isinstance(error, BadInput) else 1
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


class Results:
    """Results by name, in a JSON file; a training that is there is not made again.

    Parameters
    ----------
    file
        The file; it need not exist.
    minutes
        For how long trainings may be begun.
    """

    def __init__(self, file: Path, minutes: float) -> None:
        self.file, self.until = file, time.monotonic() + 60 * minutes

    @property
    def found(self) -> dict[str, dict[str, Any]]:
        """All results, those of other processes too: seeds may be trained side by side."""
        found: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return found

    @property
    def minutes(self) -> float:
        """Minutes that are left."""
        return (self.until - time.monotonic()) / 60

    def wants(self, name: str) -> bool:
        """Whether a training is neither there nor too late."""
        return name not in self.found and self.minutes > 0

    def keep(self, name: str, result: dict[str, Any]) -> None:
        """Add a result to the file."""
        found = self.found | {name: result}
        with replacing(self.file) as opened:
            opened.write((json.dumps(found, indent=2) + "\n").encode())
