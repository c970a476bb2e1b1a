"""A render of 35 patches in 6 blocks, and how tests watch it and stop it: for `test_resume` and `test_faults`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import render_cli, run_cli, write_mask
from safron.engine.generator.model import IdentityModel

PATCHES, BLOCKS = 35, 6
ARGS = (
    "mask.zarr out.tiff --model identity --tile 64 --block 128 --tiff-tile 64 --level-count 3 --mpp 0.5 "
    "--device cpu --threads 1 --workers 1 --batch 1 "
)
_digests: list[str] = []  # made once


def write_small_mask(path: str | Path, *, seed: int = 0) -> None:
    """Write the mask that is rendered, or with another seed one of the same size."""
    write_mask(path, 200, 300, seed=seed)


def undisturbed_digest(capfd: pytest.CaptureFixture[str]) -> str:
    """The digest of the slide where nothing goes wrong."""
    if not _digests:
        _digests.append(render_cli(capfd, ARGS.replace("out.tiff", "whole.tiff"))["digest"])
        Path("whole.tiff").unlink()
    return _digests[0]


def on_patch(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None] = lambda number: None) -> list[int]:
    """Call `act` with the number of each patch, from 1, before it is made; give the list of all patches made."""
    made: list[int] = []
    paint = IdentityModel.__call__

    def watched(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
        act(len(made))  # the first is the warm-up
        made.append(len(made))  # a call is a patch, with --batch 1; the warm-up's has it twice
        return paint(self, labels, noise)

    monkeypatch.setattr(IdentityModel, "__call__", watched)
    return made


def interrupt(capfd: pytest.CaptureFixture[str], args: str = ARGS, *, patch: int = 24) -> None:
    """Run a command and press Ctrl-C before a patch."""

    def stop(number: int) -> None:
        if number == patch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        on_patch(patched, stop)
        outcome = run_cli(capfd, args)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.error.startswith("safron-render: interrupted; finished blocks are kept")


def left_over() -> list[str]:
    """Names of all that stands in the folder beside the mask."""
    return sorted(path.name for path in Path().iterdir() if path.name != "mask.zarr")
