"""A training that is asked to stop finishes its step and saves it; one that has not begun says so."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cases import run_program
from safron.training import run_data, train
from safron.training.cli import main
from safron.training.diffusion import train as diffusion
from safron.training.refiner.train import RefinerTrainer
from training_cases import pair

SMALL = {
    "fit": ("--preset", "safron-tissue", "--size", "tiny", "--steps", "6", "--threads", "1"),
    "refiner": ("--size", "tiny", "--iterations", "6"),
    "diffusion": ("--widths", "8,16", "--crop", "32", "--batch", "2", "--steps", "6", "--threads", "1"),
}
STEPS: dict[str, tuple[Any, str]] = {
    "fit": (train.Trainer, "step"),
    "refiner": (RefinerTrainer, "iterate"),
    "diffusion": (diffusion.Trainer, "step"),
}
FILES = {"fit": "checkpoint.pt", "refiner": "refiner.pt", "diffusion": "checkpoint.pt"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        pair(folder, f"image-{number}", number, (160, 160), 6.0)
    return folder


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "tiles", np.random.default_rng(0)
    folder.mkdir()
    image = np.full((160, 160, 3), (200, 150, 210), np.uint8)
    for y, x in rng.integers(8, 152, (60, 2)):
        cv2.circle(image, (int(x), int(y)), 5, (140, 60, 100), -1)
    cv2.imwrite(str(folder / "tile.png"), image)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", [*STEPS])
def test_a_signal_stops_after_the_step_it_came_in(
    kind: str,
    number: int,
    data: Path,
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    trainer, name = STEPS[kind]
    step, steps = getattr(trainer, name), 0

    def stopping(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2:
            signal.raise_signal(number)
        return step(self, *args)

    monkeypatch.setattr(trainer, name, stopping)
    out = tmp_path / "run"
    outcome = run_program(capfd, main, kind, tiles if kind == "refiner" else data, out, *SMALL[kind])
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].endswith(
        "interrupted; checkpoints are kept, --resume continues from the last"
    )
    about = json.loads(torch.load(out / FILES[kind], weights_only=True)["about"])
    assert (steps, about.get("step", about.get("done"))) == (2, 2)


@pytest.mark.parametrize("kind", [*STEPS])
def test_nothing_is_promised_before_the_first_step(
    kind: str, data: Path, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def stopping(*args: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(STEPS[kind][0], "__init__", stopping)
    monkeypatch.setattr(run_data, "open_run", stopping)
    out = tmp_path / "run"
    outcome = run_program(capfd, main, kind, tiles if kind == "refiner" else data, out, *SMALL[kind])
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].endswith("interrupted; no checkpoint was written yet")
