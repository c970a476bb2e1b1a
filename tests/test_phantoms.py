"""Procedural masks: a pixel depends on the seed and its place, and on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safron.io.errors import BadInput
from safron.io.masks.phantoms import Phantom

STYLES: list[Any] = ["tissue", "speckle"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("height", "width"), [(9, 700), (97, 131), (512, 64), (701, 703)])
def test_any_chunking_gives_the_same_pixels(style: Any, height: int, width: int) -> None:
    phantom = Phantom(3, style, 64)
    expected = phantom.paint(slice(0, 200), slice(0, 700))
    for y in range(0, 200, height):
        for x in range(0, 700, width):
            rows, cols = slice(y, min(y + height, 200)), slice(x, min(x + width, 700))
            np.testing.assert_array_equal(phantom.paint(rows, cols), expected[rows, cols])


@pytest.mark.parametrize("style", STYLES)
def test_the_seed_decides(style: Any) -> None:
    part = slice(0, 256)
    first = Phantom(1, style, 64).paint(part, part)
    np.testing.assert_array_equal(first, Phantom(1, style, 64).paint(part, part))
    assert (first != Phantom(2, style, 64).paint(part, part)).mean() > 0.1
    assert Phantom(-5, style, 64).paint(part, part).dtype == np.uint8


@pytest.mark.parametrize("style", STYLES)
def test_far_away_is_as_near(style: Any) -> None:
    far = 900_000
    labels = Phantom(1, style, 100).paint(slice(far, far + 500), slice(far, far + 500))
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert np.count_nonzero(labels != labels[0, 0]) > 0


def test_speckle_is_the_papers() -> None:
    labels = Phantom(0, "speckle", 100).paint(slice(0, 3000), slice(0, 3000))
    rest = labels[labels != 2]
    assert (rest == 1).mean() == pytest.approx(0.9, abs=0.001)
    # Independent pixels: the background's share among right neighbours of background is its share anywhere.
    pairs = (labels[:, :-1] == 0) & (labels[:, 1:] != 2)
    assert (labels[:, 1:][pairs] == 0).mean() == pytest.approx(0.1, abs=0.005)
    count = len(Phantom(0, "speckle", 100)._scattered(slice(100, 2900), slice(100, 2900))) / 30**2
    assert count == pytest.approx(5, abs=0.2)


def test_tissue_has_all_three_in_fair_shares() -> None:
    labels = Phantom(0, "tissue", 30).paint(slice(0, 2000), slice(0, 2000))
    glass, stroma, gland = np.bincount(labels.ravel(), minlength=3) / labels.size
    assert 0.15 < glass < 0.5
    assert 0.2 < stroma < 0.6
    assert 0.2 < gland < 0.6


def test_glands_of_tissue_keep_off_glass() -> None:
    labels = Phantom(0, "tissue", 40).paint(slice(0, 2000), slice(0, 2000))
    touching = ((labels[:, :-1] == 2) & (labels[:, 1:] == 0)).sum()  # slits alone may cross glands
    assert touching < 0.05 * ((labels[:, :-1] == 2) & (labels[:, 1:] == 1)).sum()


def test_cells_too_small_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 16"):
        Phantom(0, "tissue", 8)
