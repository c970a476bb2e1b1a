"""Where does a training run write down how it goes?

`log.jsonl` gets a line of losses every so many steps, and TensorBoard the same numbers and the sample sheets if its writer is
installed. On resuming, lines of steps after the checkpoint are dropped: those steps come again.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.files import replacing


class RunLog:
    """Appends to `out/log.jsonl` and `out/tensorboard/`.

    Parameters
    ----------
    out
        Folder of the run; it exists.
    step
        Steps done; 0 for a new run.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        kept = []
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            with replacing(self.path) as file:
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
        with replacing(self.path.with_name(f"sheet-{step:06d}.png")) as file:
            file.write(encoded.tobytes())
        if self.board is not None:
            self.board.add_image("sheet", sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    """Step of a line; infinity for a line that a crash left incomplete."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
