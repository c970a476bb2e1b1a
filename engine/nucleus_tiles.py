"""How are tiles of labelled nuclei read, moved, and turned into what a generator reads?

The layout is CoNSeP's: ``class/NAME.png`` (uint8, 0 outside nuclei), ``inst/NAME.png`` (uint16 numbers) and, if there are real
images, ``images/NAME.*``. `Move` is a symmetry, an enlargement and a crop in one, by nearest pixels, so that labels stay labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.fields import Mpp, convert
from safron.io.files import is_foreign, parse_text
from safron.io.json_texts import parse_json
from safron.io.masks.canny import Canny, canny
from safron.io.masks.edges import not_alike
from safron.io.masks.open import open_mask
from safron.io.synthesis.tiles import ENDINGS
from safron.io.whole_image import read_image

CLASSES = ("no nucleus", "miscellaneous", "inflammatory", "epithelial", "spindle")
"""Names of the values of CoNSeP's class masks, by which a generator's labels are found."""

LARGEST_SCALE = 1.5
"""Largest enlargement of the set G1."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NucleusTile:
    """One tile.

    Attributes
    ----------
    name
        Of its files.
    classes, numbers
        uint8 [y, x] and uint16 [y, x].
    edges
        uint8 [y, x], not 0 on edges of the real image; None where they come from the numbers.
    """

    name: str
    classes: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint16]
    edges: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class Move:
    """How a tile is moved: enlarged by `scale`, cut at `top` and `left` of the enlarged tile, mirrored, and turned.

    Attributes
    ----------
    turns
        Quarter turns, counter-clockwise, after all else.
    mirror
        Whether columns are reversed.
    scale
        At least 1.
    top, left
        Pixels of the enlarged tile.
    """

    turns: int = 0
    mirror: bool = False
    scale: float = 1.0
    top: int = 0
    left: int = 0

    def apply(self, plane: Array) -> Array:
        """Move a plane [y, x]; it keeps its size, but for a quarter turn of one that is not square."""
        rows, columns = (
            np.minimum(((np.arange(side) + start + 0.5) / self.scale).astype(np.intp), side - 1)
            for side, start in zip(plane.shape, (self.top, self.left), strict=True)
        )
        moved = plane[rows][:, columns]
        return np.ascontiguousarray(np.rot90(moved[:, ::-1] if self.mirror else moved, self.turns))


def draw_move(shape: Sequence[int], seed: Sequence[int]) -> Move:
    """Draw a move that differs from none at all, for a tile of this height and width."""
    rng = np.random.default_rng(seed)
    symmetry = int(rng.integers(1, 8))
    scale = float(rng.uniform(1.0, LARGEST_SCALE))
    top, left = (int(rng.integers(int(side * scale) - side + 1)) for side in shape)
    return Move(symmetry % 4, symmetry >= 4, scale, top, left)


def list_tiles(folder: Path, leave_out: Sequence[str]) -> list[str]:
    """Names of the tiles of a folder, without those left out.

    Raises
    ------
    BadInput
        There are none; one that is left out does not exist; or one has an image, classes or numbers, and not both of the latter.
    """
    endings = {"class": (".png",), "inst": (".png",), "images": ENDINGS}
    lie = {
        part: {
            path.stem
            for path in (folder / part).glob("*")
            if path.suffix.lower() in some and not is_foreign(path.name)
        }
        for part, some in endings.items()
    }
    found = sorted(set().union(*lie.values()))
    if unknown := sorted(set(leave_out) - set(found)):
        raise BadInput(
            f"--leave-out {unknown[0]}: {folder} has no such tile; it has {', '.join(found[:5]) or 'none'} ..."
        )
    names = [name for name in found if name not in leave_out]
    if not names or not lie["class"]:
        raise BadInput(f"{folder}: no tile class/NAME.png with inst/NAME.png is there to take")
    for name in names:
        for part in ("class", "inst"):
            if name not in lie[part]:
                there = next(other for other in endings if name in lie[other])
                raise BadInput(
                    f"{folder / part / name}.png: is missing, and {there} has {name}; add it, or leave the tile out with "
                    f"--leave-out {name}"
                )
    return names


class About(Struct, frozen=True):
    """What ``dataset.json`` beside tiles says of them.

    Attributes
    ----------
    mpp
        Their pixel size in micrometres; None where it is not said.
    licence
        Of the labels.
    """

    mpp: Mpp | None = None
    licence: str = ""


def read_about(folder: Path) -> About:
    """Read ``dataset.json`` in `folder`, if it is there; raises `BadInput` if it is not JSON or a value is of the wrong kind."""
    file = folder / "dataset.json"
    if not file.is_file():
        return About()
    remedy = 'it must look like {"licence": "...", "mpp": 0.25}'
    found: About = convert(
        parse_text(file, parse_json, kind="JSON", remedy=remedy), About, str(file), then=remedy, loose=True
    )
    return found


def read_tile(folder: Path, name: str, *, image_edges: bool) -> NucleusTile:
    """Read a tile; with `image_edges`, find the edges of its real image.

    Raises
    ------
    BadInput
        A file is missing or cannot be read, sizes differ, or a class is not one of `CLASSES`.
    """
    classes, numbers = (open_mask(folder / part / f"{name}.png").plane for part in ("class", "inst"))
    whole = tuple(slice(0, side) for side in classes.shape)
    if classes.shape != numbers.shape:
        raise BadInput(
            f"{folder}: class and inst of {name} have different sizes, {classes.shape} and {numbers.shape}"
        )
    labels, ids = classes.read(*whole), numbers.read(*whole)
    if int(labels.max()) >= len(CLASSES):
        raise BadInput(
            f"{folder / 'class' / name}.png holds {labels.max()}; classes are 0 to {len(CLASSES) - 1}"
        )
    if int(ids.max()) > 65535:
        raise BadInput(f"{folder / 'inst' / name}.png holds {ids.max()}; numbers of nuclei are at most 65535")
    if fault := not_alike(labels > 0, ids > 0):
        raise BadInput(
            f"{folder}: inst/{name}.png and class/{name}.png {fault}; restore them, or leave the tile out with --leave-out {name}"
        )
    edges = None
    if image_edges:
        images = sorted((folder / "images").glob(f"{name}.*"))
        if len(images) != 1:
            raise BadInput(
                f"{folder / 'images' / name}.*: {len(images)} files; --edges image needs the real image of each tile"
            )
        real = read_image(images[0])
        if real.shape[:2] != labels.shape:
            raise BadInput(
                f"{images[0]} is {real.shape[1]} x {real.shape[0]} and its labels are not; they must have one size"
            )
        edges = canny(real, Canny())
    return NucleusTile(name, labels.astype(np.uint8), ids.astype(np.uint16), edges)


def label_values(card: Card) -> npt.NDArray[np.uint8]:
    """Label of a generator for each of `CLASSES`: of the same name, or else the one called nucleus; uint8 [5].

    Raises
    ------
    BadInput
        It has neither.
    """
    known = {label.name: label.value for label in card.labels}
    around = known.get("tissue", known.get("background"))
    found = [around, *(known.get(name, known.get("nucleus")) for name in CLASSES[1:])]
    if None in found:
        missing = "tissue" if around is None else CLASSES[found.index(None)]
        raise BadInput(
            f"generator {card.name!r} has no label {missing!r}, and none called nucleus; its labels are {', '.join(known)}"
        )
    return np.array(found, np.uint8)
