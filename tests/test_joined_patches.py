"""Windows of several patches: the same slide, counts and report, whatever part of the canvas they cover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks import blobs
from models import LABELS, RampModel
from safron.engine import render
from safron.engine.execution.joined_patches import State, take_squares
from safron.engine.generator.card import Card
from safron.io.errors import Failed

OPTIONS: dict[str, Any] = {"tiff_tile": 64, "block": 256, "tile": 64, "overlap": 12, "mpp": 1.0}


class Local(RampModel):
    """A generator whose pixels depend on labels and noise around them alone; remembers how large its windows were.

    Parameters
    ----------
    joined : patches a side that it offers to generate at once.
    calls : at a time.
    fault : what is added to a pixel of large windows.
    """

    batch_invariant = True
    per_call = 1

    def __init__(self, joined: int, *, calls: int = 2, fault: float = 0.0, alignment: int = 1) -> None:
        super().__init__()
        self.card = Card(
            "local", 64, 4, LABELS, tile_multiple=4, noise_scales=(1, 8), mpp=1.0, alignment=alignment
        )
        self.joined, self.calls, self.fault = joined, calls, fault
        self.sides: list[int] = []

    def __call__(self, labels: Any, noise: Any = None) -> npt.NDArray[np.float32]:
        self.sides.append(labels.shape[1])
        inner = (slice(None), slice(4, labels.shape[1] - 4), slice(4, labels.shape[2] - 4))
        far = labels[:, :-8, 4:-4].astype(np.float32) + labels[:, 4:-4, 8:]
        image = np.stack([90 * labels[inner], 40 * far + 3 * noise[:, 0][inner], 9 * noise[:, 1][inner]], -1)
        if labels.shape[1] > 72:
            image[:, -1, -1] += self.fault
        return image.astype(np.float32) + np.float32(20.3)


MASKS = {
    "all tissue": np.random.default_rng(0).integers(1, 3, (601, 730)).astype(np.uint8),
    "areas": blobs(700, 810, cell=90),
    "almost background": np.where(np.arange(600)[:, None] + np.arange(800) < 640, 0, 2).astype(np.uint8),
}


CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MASKS),
    ("areas", {"taper": "cosine", "workers": 3}),
    ("all tissue", {"overlap": 24, "block": 128}),
    ("areas", {"overlap": 0}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_slide_is_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    given = OPTIONS | options
    alone = render(MASKS[name], tmp_path / "alone.tiff", model=Local(1), **given)
    for side, calls in ((2, 2), (3, 1)):
        model = Local(side, calls=calls)
        report = render(MASKS[name], tmp_path / f"{side}.tiff", model=model, **given)
        assert report.digest == alone.digest
        assert (report.generated, report.filled) == (alone.generated, alone.filled)
        assert report.joined == side
        assert {*model.sides} == {72, 72 + (side - 1) * (64 - given["overlap"])}
    assert alone.joined == 1


def test_progress_counts_patches(tmp_path: Path) -> None:
    counts: list[int] = []
    report = render(MASKS["areas"], tmp_path / "s.tiff", model=Local(2), progress=counts.append, **OPTIONS)
    assert sum(counts) == report.patches


@pytest.mark.parametrize(
    ("what", "model", "options"),
    [
        ("other bits", {"joined": 2, "fault": 1e-5}, {}),
        ("not aligned", {"joined": 2, "alignment": 8}, {}),
        ("a stride that is no multiple", {"joined": 2}, {"overlap": 13}),
        ("a time for each call", {"joined": 2}, {"patch_timeout": 60.0}),
        ("a small canvas", {"joined": 2}, {"region": (0, 0, 300, 300)}),
    ],
)
def test_patches_stay_alone(
    what: str, model: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    generator = Local(**model)
    report = render(MASKS["areas"], tmp_path / "s.tiff", model=generator, **(OPTIONS | options))
    assert report.joined == 1
    tried = 1 if what == "other bits" else 0  # in the warm-up
    assert sum(side > 72 for side in generator.sides) == tried


def test_a_window_that_cannot_be_generated_fails_its_block(tmp_path: Path) -> None:
    class Broken(Local):
        def __call__(self, labels: Any, noise: Any = None) -> Any:
            if len(self.sides) > 30 and labels.shape[1] > 72:
                raise Failed("generator 'local' returned nan")
            return super().__call__(labels, noise)

    with pytest.raises(Failed, match="returned nan"):
        render(MASKS["areas"], tmp_path / "s.tiff", model=Broken(2), **OPTIONS)
    again = render(MASKS["areas"], tmp_path / "s.tiff", model=Local(1), **OPTIONS)
    assert again.digest == render(MASKS["areas"], tmp_path / "whole.tiff", model=Local(1), **OPTIONS).digest


@given(
    st.integers(2, 4),
    st.integers(0, 9).flatmap(
        lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), max_size=9)
    ),
)
def test_squares_hold_what_is_to_be_generated_each_once(side: int, filled: list[list[bool]]) -> None:
    states: list[list[State]] = [[*line] for line in filled]
    taken = np.zeros((len(filled), len(filled[0]) if filled else 0), int)
    for row, column, count in take_squares(states, side):
        taken[row : row + side, column : column + count * side] += 1
        assert taken[row : row + side, column : column + count * side].size == side * side * count
    assert taken.max(initial=0) <= 1
    for line, marks, before in zip(states, taken, filled, strict=True):
        for state, mark, was in zip(line, marks, before, strict=True):
            assert (state is None) == bool(mark)
            assert not (mark and was)
            assert mark or state is was
