"""Where does a run write down how it goes?

`log.jsonl` has one line of losses every so many steps; TensorBoard gets the same numbers and the sample sheets if
its writer is installed. On resuming, lines of steps that the checkpoint does not have are dropped: they come again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.training.files import whole


class Journal:
    """Appends to `out/log.jsonl` and to `out/tensorboard/`.

    Parameters
    ----------
    out : folder of the run; it exists.
    step : steps done; 0 for a new run.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        kept = []
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            with whole(self.path) as file:
                file.write("".join(f"{line}\n" for line in kept).encode())
        self.board: Any = None
        if importlib.util.find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def losses(self, step: int, minutes: float, losses: dict[str, float]) -> None:
        """Write one line of losses; `minutes` counts from the start of this process's run."""
        entry = {"step": step, "minutes": round(minutes, 3)}
        entry |= {name: round(value, 5) for name, value in losses.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self.board is not None:
            for name, value in losses.items():
                self.board.add_scalar(f"loss/{name}", value, step)

    def sheet(self, step: int, sheet: npt.NDArray[np.uint8]) -> None:
        """Write a sample sheet, RGB uint8 [y, x, 3], to ``sheet-NNNNNN.png``."""
        encoded = cv2.imencode(".png", sheet[..., ::-1])[1]
        with whole(self.path.with_name(f"sheet-{step:06d}.png")) as file:
            file.write(encoded.tobytes())
        if self.board is not None:
            self.board.add_image("sheet", sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Finish what is still to be written."""
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    """Step of a line; a line that was torn by a crash counts as too late."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Hold the right to write a run into `out`; it ends with the process that holds it.

    Two processes in one folder would overwrite each other's checkpoints.

    Raises
    ------
    BadInput
        Another process has it.
    """
    if sys.platform == "win32":  # no folder can be locked there
        yield
        return
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(
            OSError
        ):  # some network drives have no locks; there one has to trust the user
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(
                    f"{out}: another process trains into this folder; wait for it, or choose another"
                ) from None
        yield
    finally:
        os.close(handle)
