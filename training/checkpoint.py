"""How is a training run kept so that it can continue as if it had never stopped?

One file holds the weights, their moving average, both optimizers, the loss scale of float16 and the step; a JSON file beside
it says in plain text what is inside. Random numbers need no state: every step derives its own from the seed and its number.
Files appear whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import replacing, what_is_there
from safron.training.config.settings import TrainConfig, config_from_json, current_settings

FORMAT = 2
"""Version of the file. Format 1, of version 0.1, has other names for the discriminator and is still read."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved run: its settings, the steps done, metadata in JSON values, and the state dictionaries.

    `unsaid` names settings that the version which wrote the file did not have; the run goes on with their defaults.
    """

    config: TrainConfig
    step: int
    metadata: dict[str, Any]
    state: dict[str, Any]
    unsaid: frozenset[str] = frozenset()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` (a .pt file) and the JSON file beside it, each whole or not at all.

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
        # Both are on the disk before the first, the weights, is renamed.
        with replacing(path.with_suffix(".json")) as beside, replacing(path) as file:
            beside.write((json.dumps(about, indent=2) + "\n").encode())
            beside.flush()
            torch.save({"about": json.dumps(about), "state": checkpoint.state}, file)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError where a disk is full
        kept = "; the previous one is untouched: continue from it with --resume" if path.exists() else ""
        raise Failed(
            f"{path}: cannot save step {checkpoint.step} ({one_line(error)}); make room on its disk{kept}"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this version or an older one.

    Raises
    ------
    BadInput
        The file is missing, is not a checkpoint of this program, or uses a setting that is gone.
    """
    if not path.is_file():
        raise BadInput(f"{path}: {what_is_there(path)}; give a checkpoint that safron-train has written")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(kept["about"])
        state = kept["state"]
    except Exception as error:  # what a foreign file raises depends on its first bytes
        raise BadInput(f"{path} is not a safron checkpoint; give a .pt file of safron-train") from error
    if about["format"] not in (1, FORMAT):
        raise BadInput(f"{path} has format {about['format']}; this version reads formats 1 and {FORMAT}")
    if about["format"] == 1:
        state = {name.replace("judges", "discriminator"): part for name, part in state.items()}
    state.setdefault("scaler", {})
    plain = current_settings(about["config"], str(path))
    config = config_from_json(plain)
    unsaid = frozenset(_flat(config.to_json()).keys() - _flat(plain).keys())
    return Checkpoint(config, about["step"], about["metadata"], state, unsaid)


def load_same(path: Path, config: TrainConfig) -> Checkpoint:
    """Load a run to continue, or raise `BadInput`: only its length may change, other settings would make it another run."""
    kept = load_checkpoint(path)
    same_length = dataclasses.replace(config, steps=kept.config.steps, epochs=kept.config.epochs)
    had, wanted = (_flat(settings.to_json()) for settings in (kept.config, same_length))
    # A pixel size that is not given is the data's own, which the run has found.
    asked = [name for name in had if wanted[name] is not None and name not in kept.unsaid]
    if different := [name for name in asked if had[name] != wanted[name]]:
        raise BadInput(
            f"{path} was made with other settings than those given ({', '.join(different)}); leave them out to continue as "
            "it was, or choose another folder"
        )
    return kept


def check_same_data(path: Path, kept: Checkpoint, data: dict[str, Any]) -> None:
    """Raise `BadInput` unless metadata that describe the training data are those of the checkpoint, as far as it has them."""
    then, now = (
        ", ".join(f"{name} {about[name]}" for name in data if kept.metadata.get(name))
        for about in (kept.metadata, data)
    )
    if then != now:
        raise BadInput(
            f"{path} was trained on other data ({then}) than that given ({now}); give the same, or choose another folder"
        )


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings by their names in messages, as model.mpp."""
    return {**plain, "model": None} | {f"model.{name}": value for name, value in plain["model"].items()}
