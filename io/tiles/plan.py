"""Which tiles are cut, and which of them are for training, validation and test?

Tiles lie at multiples of the stride, whole tiles only. Tiles of one split are apart from those of the others: whole slides are split,
those of one mask together, or one slide is cut into bands across its longer side, with a gap between them::

    train                 | gap |  val  | gap |  test
    #####################         ######         ######     the gap is as wide as asked for, and no tile reaches into it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, counted

SPLITS = ("train", "val", "test")
By = Literal["slide", "region"]


@dataclass(frozen=True, order=True)
class Tile:
    """A tile of a slide.

    Attributes
    ----------
    slide
        Number of the slide.
    y, x
        Its first pixel.
    tissue
        Share of its pixels that are not background.
    """

    slide: int
    y: int
    x: int
    tissue: float


def places(length: int, size: int, stride: int) -> range:
    """First pixels of the tiles along an axis.

    Examples
    --------
    >>> list(places(1100, 512, 256))
    [0, 256, 512]
    """
    return range(0, length - size + 1, stride)


def joined(*names: Sequence[str]) -> list[str]:
    """Give slides one name if any of their names is the same, or if others join them.

    Parameters
    ----------
    *names
        Of all slides, for each way of naming them; "" is no name.

    Returns
    -------
    list[str]
        For each slide a name that those which belong together share, and no others.

    Examples
    --------
    >>> joined("aabcd", ["", "x", "x", "y", ""])
    ['0', '0', '0', '3', '4']
    """
    group = [*range(len(names[0]))]
    for each in names:
        first: dict[str, int] = {}
        for slide, name in enumerate(each):
            own, other = group[slide], group[first.setdefault(name, slide) if name else slide]
            if own != other:
                group = [min(own, other) if number in (own, other) else number for number in group]
    return [*map(str, group)]


def split_tiles(
    tiles: Sequence[Tile],
    *,
    shapes: Sequence[tuple[int, int]],
    names: Sequence[str],
    layouts: Sequence[str],
    shares: Sequence[float],
    by: By,
    size: int,
    gap: int,
    seed: int,
) -> dict[str, list[Tile]]:
    """Divide tiles among the splits; some that lie in a gap belong to none.

    Parameters
    ----------
    tiles
        All that are cut.
    shapes, names
        Height, width and name of each slide.
    layouts
        Of each slide what is the same for all slides of one mask, such as a digest of its labels.
    shares
        Of the tiles that each of `SPLITS` gets; they add up to one.
    by
        "slide": whole slides, and those of one layout together; "region": bands of each slide.
    size, gap
        Side of a tile, and least distance between tiles of different splits, in pixels.
    seed
        Of the order in which slides are given away.

    Raises
    ------
    BadInput
        There are fewer slides, or fewer layouts, than splits, or a split would be empty.
    """
    wanted = [name for name, share in zip(SPLITS, shares, strict=False) if share > 0]
    given = [share for share in shares if share > 0]
    if by == "slide":
        found = _by_slide(tiles, names, layouts, wanted, given, seed)
    else:
        found = {name: [] for name in wanted}
        for slide, (height, width) in enumerate(shapes):
            own = [tile for tile in tiles if tile.slide == slide]
            for name, part in _bands(own, wanted, given, size, gap, along_x=width >= height).items():
                found[name] += part
    empty = [name for name, part in found.items() if not part]
    if empty:
        raise BadInput(
            f"--split: no tile is left for {' and '.join(empty)}; give more slides, smaller tiles or a smaller gap, or "
            "set its share to 0"
        )
    return found


def _by_slide(
    tiles: Sequence[Tile],
    names: Sequence[str],
    layouts: Sequence[str],
    wanted: list[str],
    shares: list[float],
    seed: int,
) -> dict[str, list[Tile]]:
    """Give slides away whole, and all slides of one mask at once: where glands lie is the same in them."""
    counts: dict[str, int] = {}
    used = sorted({tile.slide for tile in tiles})
    for tile in tiles:
        counts[layouts[tile.slide]] = counts.get(layouts[tile.slide], 0) + 1
    if len(counts) < len(wanted):
        of = "" if len(counts) == len(used) else f" of {counted(len(counts), 'mask')}"
        rule = "slides of one mask have the same layout and stay together; " if of else ""
        more = "slides of more masks" if of else "more slides"
        raise BadInput(
            f"--by slide: {counted(len(used), 'slide')} with tiles{of} cannot be divided among {', '.join(wanted)}; "
            f"{rule}give {more}, or --by region"
        )
    first = {layouts[slide]: names[slide] for slide in reversed(used)}
    order = sorted(counts, key=lambda layout: blake2b(f"{seed} {first[layout]}".encode()).digest())
    split_of: dict[str, str] = {}
    given = dict.fromkeys(wanted, 0)
    for place, layout in enumerate(order):
        # The split that lacks most; at the end those that have nothing yet.
        left = len(order) - place
        empty = [name for name in wanted if not given[name]]
        among = empty if left <= len(empty) else wanted
        total = sum(given.values()) + counts[layout]
        lacking = {name: share * total - given[name] for name, share in zip(wanted, shares, strict=True)}
        split_of[layout] = max(among, key=lambda name: lacking[name])
        given[split_of[layout]] += counts[layout]
    return {name: [tile for tile in tiles if split_of[layouts[tile.slide]] == name] for name in wanted}


def _bands(
    tiles: Sequence[Tile], wanted: list[str], shares: list[float], size: int, gap: int, *, along_x: bool
) -> dict[str, list[Tile]]:
    """Cut one band after the other where its share of what it leaves is nearest to the one wanted."""
    found: dict[str, list[Tile]] = {}
    rest = list(tiles)
    for number, name in enumerate(wanted[:-1]):
        share = shares[number] / sum(shares[number:])
        starts = np.sort([tile.x if along_x else tile.y for tile in rest])
        cuts = np.unique(starts) + size
        before = np.searchsorted(starts, cuts - size, side="right")
        after = len(starts) - np.searchsorted(starts, cuts + gap)
        room = _bands_from(np.unique(starts), size + gap)[np.searchsorted(cuts - size, cuts + gap)]
        fits = room >= len(wanted) - number - 1
        if not fits.any():
            return found | {left: [] for left in wanted[number:]}
        missed = np.where(fits, np.abs(before / np.maximum(before + after, 1) - share), 2.0)
        cut = int(cuts[missed.argmin()])
        found[name] = [tile for tile in rest if (tile.x if along_x else tile.y) + size <= cut]
        rest = [tile for tile in rest if (tile.x if along_x else tile.y) >= cut + gap]
    return found | {wanted[-1]: rest}


def _bands_from(starts: npt.NDArray[np.int64], step: int) -> npt.NDArray[np.int64]:
    """How many bands of one tile each have room from each start on; 0 behind the last."""
    room = np.zeros(len(starts) + 1, np.int64)
    following = np.searchsorted(starts, starts + step)
    for place in range(len(starts) - 1, -1, -1):
        room[place] = 1 + room[following[place]]
    return room
