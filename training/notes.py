"""What is written and shown of a training while it runs: losses, checkpoints, sample sheets, a line of progress?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safron.io.progress import progress
from safron.training.checkpoint import Checkpoint, save_checkpoint
from safron.training.run_data import Run, describe
from safron.training.run_log import RunLog
from safron.training.sample_sheet import draw_sheet
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """When a training stops, how often it is written down, and whether it is shown.

    Attributes
    ----------
    steps, minutes
        Of the training; whichever ends first.
    log_every, save_every
        Steps from one line of losses, or one checkpoint, to the next.
    show
        Print to stderr what is trained on, and the progress.
    """

    steps: int
    minutes: float | None = None
    log_every: int = 50
    save_every: int = 500
    show: bool = False


class Trained(Protocol):
    """A trainer, as far as its notes need it."""

    done: int
    average: nn.Module

    def checkpoint(self, metadata: dict[str, Any]) -> Checkpoint:
        """Return the run as it stands."""
        ...


class Notes:
    """What the first process writes and shows of a training.

    Parameters
    ----------
    trainer
        What is trained.
    run
        What it is trained on.
    path
        The checkpoint; the other files lie beside it.
    schedule
        How often is written.
    """

    def __init__(self, trainer: Trained, run: Run, path: Path, schedule: Schedule) -> None:
        self.trainer, self.run, self.path, self.schedule = trainer, run, path, schedule
        self._log, self._open = RunLog(path.parent, trainer.done), ExitStack()
        self._advance: Callable[..., None] | None = None

    def __enter__(self) -> Notes:
        if self.schedule.show:
            print(describe(self.run), file=sys.stderr, flush=True)
            self._advance = self._open.enter_context(progress(self.schedule.steps, "steps", ending=True))
            self._advance(self.trainer.done)
        return self

    def __exit__(self, *raised: Any) -> None:
        try:
            self._log.close()
        finally:
            self._open.__exit__(*raised)

    def write(self, losses: dict[str, float], minutes: float, *, last: bool) -> None:
        """Note a step; after the last one everything is written."""
        trainer, schedule = self.trainer, self.schedule
        if self._advance is not None:
            self._advance(1, ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items()))
        if trainer.done % schedule.log_every == 0 or last:
            self._log.losses(trainer.done, minutes, losses)
        if trainer.done % schedule.save_every == 0 or last:
            save_checkpoint(self.path, trainer.checkpoint(self.run.about))
            self._log.sheet(trainer.done, draw_sheet(trainer.average, self.run.held_out, self.run.config))
