"""How is a training run kept so that it can go on as if nothing had happened?

One file holds the weights, their moving average, both optimizers, the loss scale of float16 and the step; a JSON file
of the same stem says in plain text what is inside. Random numbers need no state: every step derives its own from the
seed and its number. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safron.io.errors import BadInput, Failed, one_line
from safron.training.config import TrainConfig, config_from_json
from safron.training.files import whole

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A saved run: its settings, the steps done, metadata in JSON values, and the state dictionaries."""

    config: TrainConfig
    step: int
    metadata: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` (a .pt file) and its JSON companion, each whole or not at all.

    Raises
    ------
    Failed
        The disk is full or cannot be written to; the checkpoint that was there is untouched.
    """
    about = {
        "format": FORMAT,
        "step": checkpoint.step,
        "config": checkpoint.config.to_json(),
        "config_sha256": checkpoint.config.sha256(),
        "metadata": checkpoint.metadata,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both are on the disk before the first, the weights, takes its place.
        with whole(path.with_suffix(".json")) as beside, whole(path) as file:
            beside.write((json.dumps(about, indent=2) + "\n").encode())
            beside.flush()
            torch.save({"about": json.dumps(about), "state": checkpoint.state}, file)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError where a disk is full
        kept = "; the one that is there is untouched: go on from it with --resume" if path.exists() else ""
        raise Failed(
            f"{path}: cannot save step {checkpoint.step} ({one_line(error)}); make room on its disk{kept}"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    BadInput
        The file is missing, or is no checkpoint of this program.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist; give a checkpoint that safron-train has written")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(kept["about"])
        state = kept["state"]
    except Exception as error:  # what a foreign file raises depends on its first bytes
        raise BadInput(
            f"{path} is not a safron checkpoint; give a .pt file that safron-train has written"
        ) from error
    if about["format"] != FORMAT:
        raise BadInput(f"{path} has checkpoint format {about['format']}; this version reads format {FORMAT}")
    return Checkpoint(config_from_json(about["config"]), about["step"], about["metadata"], state)
