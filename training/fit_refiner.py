"""How is a refiner trained from the first iteration to the last, and resumed?"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import replacing, what_is_there
from safron.training.config.exported import check_run_folder
from safron.training.config.stopping import Diverged, own_folder, stop_requests, tell_what_is_kept
from safron.training.refiner.data import Tiles
from safron.training.refiner.settings import RefinerConfig, config_of
from safron.training.refiner.train import RefinerTrainer
from safron.training.run_log import RunLog

FORMAT = "safron refiner 1"


def save(path: Path, trainer: RefinerTrainer, metadata: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path
        The file.
    trainer
        What is saved.
    metadata
        JSON values that say what it was trained on.
    """
    about = {"format": FORMAT, "config": trainer.config.to_json(), "metadata": metadata, "done": trainer.done}
    try:
        with replacing(path) as file:
            torch.save({"about": json.dumps(about), "state": trainer.state_dict()}, file)
    except (OSError, RuntimeError) as error:
        raise Failed(
            f"{path}: cannot save iteration {trainer.done} ({one_line(error)}); make room on its disk"
        ) from error


def load(path: Path) -> tuple[RefinerConfig, dict[str, Any], dict[str, Any]]:
    """Read a checkpoint.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tuple[RefinerConfig, dict[str, Any], dict[str, Any]]
        Settings, metadata and state.

    Raises
    ------
    BadInput
        It is missing, or no checkpoint of a refiner.
    """
    if not path.is_file():
        raise BadInput(
            f"{path}: {what_is_there(path)}; give a checkpoint that safron-train refiner has written"
        )
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(kept["about"])
        if about["format"] != FORMAT:
            raise ValueError(about["format"])
        return config_of(about["config"]), about["metadata"], kept["state"]
    except Exception as error:  # what a foreign file raises depends on its first bytes
        raise BadInput(
            f"{path} is not a checkpoint of a refiner; give one of safron-train refiner"
        ) from error


def fit_refiner(
    tiles: Tiles,
    out: Path,
    config: RefinerConfig,
    *,
    resume: bool = False,
    minutes: float | None = None,
    metadata: dict[str, Any] | None = None,
    save_every: int = 50,
    report: Callable[[int, dict[str, float]], None] = lambda done, losses: None,
) -> RefinerTrainer:
    """Train, or resume training, until all iterations are done or the minutes are over.

    Parameters
    ----------
    tiles
        What is trained on.
    out
        Folder of the run: ``refiner.pt`` and ``log.jsonl``.
    config
        Settings.
    resume
        Resume from ``out/refiner.pt``; the result is the same as without a break.
    minutes
        Longest time of this call; None for any.
    metadata
        JSON values for the checkpoint.
    save_every
        Iterations between checkpoints.
    report
        Called after each iteration with the iterations done and the losses.

    Returns
    -------
    RefinerTrainer
        As it stands at the end.

    Raises
    ------
    BadInput
        There is a run already, or another one's settings or tiles.
    Failed
        A loss is no longer finite, or the disk is full; the last checkpoint is kept.
    KeyboardInterrupt
        A signal asked to stop; the iteration was finished and saved.
    """
    check_run_folder(out, resume=resume, checkpoint="refiner.pt")
    out.mkdir(parents=True, exist_ok=True)
    path, about = out / "refiner.pt", {"tiles": tiles.names} | (metadata or {})
    trainer = RefinerTrainer(config, tiles)
    with own_folder(out), stop_requests() as asked, tell_what_is_kept(path):
        if path.exists():
            _load_state(trainer, path)
        log = RunLog(out, trainer.done)
        try:
            for losses, spent in _iterations(trainer, asked, minutes):
                log.losses(trainer.done, spent, losses)
                report(trainer.done, losses)
                if trainer.done % save_every == 0:
                    save(path, trainer, about)
            save(path, trainer, about)
        finally:
            log.close()
    if asked:
        raise KeyboardInterrupt
    return trainer


def _load_state(trainer: RefinerTrainer, path: Path) -> None:
    """Take the state of a checkpoint, which must be of a run with the same settings and tiles."""
    kept, known, state = load(path)
    total = trainer.config.total
    if kept.with_total(total) != trainer.config.with_total(total) or known["tiles"] != trainer.tiles.names:
        raise BadInput(
            f"{path} was made with other settings or tiles; give the same, or choose another folder"
        )
    try:
        trainer.load_state_dict(state)
    except KeyError as error:
        raise BadInput(
            f"{path} is of an earlier version, without {error}; start over in another folder"
        ) from error


def _iterations(
    trainer: RefinerTrainer, asked: list[float], minutes: float | None
) -> Iterator[tuple[dict[str, float], float]]:
    """Train until all is done, a signal asks to stop or the minutes are over: losses of each iteration, minutes before it."""
    start = time.monotonic()
    while trainer.done < trainer.config.total and not asked:
        spent = (time.monotonic() - start) / 60
        if minutes is not None and spent >= minutes:
            return
        losses = trainer.iterate()
        if not all(math.isfinite(value) for value in losses.values()):
            raise Diverged(f"a loss is no longer finite at iteration {trainer.done}")
        yield losses, spent
