"""How are the tiles of CoNSeP prepared for training?

A tile ``images/NAME.webp`` (or another image) of 0.25 um per pixel, or as ``dataset.json`` says, has the numbers of its nuclei in
``inst/NAME.png`` and their classes in ``class/NAME.png``; `safron-augment` writes such tiles, too. Image and numbers are brought to the generator's pixel size together: the image by means over squares of
pixels, the numbers by the one that most pixels of a square have. Edges are those of the smaller numbers, as the engine finds
them, or of the smaller image. Tiles with ink are left out, since no label stands for it, and those that are mostly glass or fat.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.masks.canny import Canny, canny
from safron.io.masks.edges import find_edges, not_alike
from safron.io.masks.pair_files import list_images
from safron.io.whole_image import read_image
from safron.training.config import ModelConfig
from safron.training.config.settings import GLASS
from safron.training.data.source import Bytes, Pairs

MPP = 0.25
"""Pixel size of the tiles in micrometres, where nobody says another."""

CLASSES = {1: "miscellaneous", 2: "inflammatory", 3: "epithelial", 4: "spindle"}
"""Names of the classes of nuclei; labels of a generator have the same names, or the one label "nucleus" stands for all."""

MOST_INK = 0.01
"""Share of ink from which a tile is left out."""

LEAST_TISSUE = 0.6
"""Tiles with a smaller share of tissue are left out, as with EBHI-Seg: fat would teach that tissue may be white anywhere."""

WHITE_MEAN = 222.0
"""Mean RGB above which a smoothed pixel outside nuclei may be glass."""

LEAST_GLASS, WIDTH_OF_GLASS = 60.0, 4.0
"""Square micrometres, and micrometres across, from which white is glass; smaller gaps belong to the texture of tissue."""

MOST_TOLD = 5
"""Names of tiles that one line holds."""

SURE_NUCLEI = 2000.0
"""Pixels of nuclei at which a tile's stain is believed by half."""


def prepare(folder: Path, model: ModelConfig, own: float | None = None) -> Pairs:
    """Prepare all tiles of `folder` for a generator.

    Parameters
    ----------
    folder
        See the module's text.
    model
        Its labels and pixel size.
    own
        Pixel size of the tiles, in micrometres; None for `MPP`.

    Raises
    ------
    BadInput
        A file is missing or of another size, numbers and classes are of different nuclei, the generator lacks labels, or its
        pixel size is not a multiple of the tiles'.
    """
    own = own or MPP
    factor = round((model.mpp or own) / own)
    if factor < 1 or abs(factor * own - (model.mpp or own)) > 1e-6:
        raise BadInput(
            f"--mpp {model.mpp:g}: tiles in the layout of CoNSeP are prepared at multiples of their own {own:g} um per pixel; give "
            f"{own:g}, {2 * own:g} or {4 * own:g}"
        )
    names = _list_images(folder)
    values = _label_values(model)
    found = {path.stem: _read_tile(folder, path, factor) for path in names}
    mpp = model.mpp or own
    glass = {name: _find_glass(image, numbers > 0, mpp) for name, (image, _, numbers) in found.items()}
    kept = {
        name: tile
        for name, tile in found.items()
        if ink(tile[0]).mean() <= MOST_INK and glass[name].mean() <= 1 - LEAST_TISSUE
    }
    if not kept:
        raise BadInput(f"{folder}: every tile has ink, or less than {LEAST_TISSUE:.0%} tissue")
    gains = _stain_gains(kept)
    images, labels, edges = [], [], []
    for name, (image, classes, numbers) in kept.items():
        label = values[classes]
        if "tissue" in {entry.name for entry in model.labels}:
            label[glass[name]] = 0
            image = _set_glass(normalize(image, gains[name]), glass[name])
        images.append(image)
        labels.append(label)
        edges.append(
            canny(image, Canny())
            if model.edges_of == "image"
            else find_edges(np.pad(label, 1, "edge"), model.nuclei, np.pad(numbers, 1, "edge"))
        )
    left = [name for name in found if name not in kept]
    told = f"tiles of {own:g} um per pixel, {len(left)} with ink or little tissue left out"
    told += f" ({', '.join(left[:MOST_TOLD])}{' ...' if len(left) > MOST_TOLD else ''})" if left else ""
    drawn = tuple(edges) if model.nuclei else ()
    return Pairs(tuple(images), tuple(labels), (), (), tuple(kept), mpp=mpp, told=told, edges=drawn)


Tile = tuple[Bytes, Bytes, npt.NDArray[np.uint16]]
"""Image [y, x, 3], classes [y, x] and numbers of nuclei [y, x]."""


def as_glands(labels: tuple[Bytes, ...], model: ModelConfig) -> tuple[Bytes, ...]:
    """Labels whose cues are measured: nuclei as glands and what is around them as stroma; others as they are."""
    if not model.nuclei:
        return labels
    table = np.array([0 if label.fill else 1 for label in model.labels], np.uint8)
    table[list(model.nuclei)] = 2
    return tuple(table[label] for label in labels)


def _list_images(folder: Path) -> list[Path]:
    """List the images of the tiles, each with numbers and classes of its name, and none of these without an image."""
    found = list_images(folder / "images")
    if not found:
        raise BadInput(
            f"{folder / 'images'} holds no image; give the folder of CoNSeP with images/, inst/ and class/"
        )
    for one, other in pairwise(found):
        if one.stem == other.stem:
            raise BadInput(f"{one} and {other} are images of one tile; remove one of them")
    named = {path.stem for path in found}
    for part in ("class", "inst"):
        for path in list_images(folder / part, {".png"}):
            if path.stem not in named:
                raise BadInput(
                    f"{path} has no image in {folder / 'images'}; add the image or remove {part}/{path.name}"
                )
    return found


def _label_values(model: ModelConfig) -> Bytes:
    """Label of each class, and of what is no nucleus: uint8 [5]."""
    known = {label.name: label.value for label in model.labels}
    values = np.zeros(5, np.uint8)
    values[0] = known.get("tissue", 0)
    for number, name in CLASSES.items():
        if name not in known and "nucleus" not in known:
            raise BadInput(
                f"model.labels: {name!r} is not one of {', '.join(known)}; CoNSeP has nuclei of {', '.join(CLASSES.values())}: "
                "name them, or one label nucleus for all"
            )
        values[number] = known[name if name in known else "nucleus"]
    return values


def _read_tile(folder: Path, path: Path, factor: int) -> Tile:
    """Read one tile at `factor` times its pixel size."""
    image = read_image(path)
    planes = []
    for part, most in (("class", 4), ("inst", 65535)):
        plane = cv2.imread(str(folder / part / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        if plane is None or plane.shape != image.shape[:2]:
            raise BadInput(
                f"{folder / part / path.stem}.png is missing or not of the size of {path}; restore it"
            )
        if int(plane.max(initial=0)) > most:
            raise BadInput(
                f"{folder / part / path.stem}.png holds {plane.max()}; the classes of CoNSeP are 0 to 4"
            )
        planes.append(np.asarray(plane))
    classes, numbers = planes
    if fault := not_alike(classes > 0, numbers > 0):
        raise BadInput(f"{folder}: inst/{path.stem}.png and class/{path.stem}.png {fault}; restore them")
    # Numbers are unique over classes, so that the pixel which gives the number gives the class as well.
    height, width = (side // factor for side in numbers.shape)
    small = cv2.resize(
        image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA
    )
    rows, columns = most_common(numbers, factor)
    return (
        np.asarray(small, np.uint8),
        classes[rows, columns].astype(np.uint8),
        numbers[rows, columns].astype(np.uint16),
    )


def most_common(values: npt.NDArray[Any], factor: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row and column of a pixel, in each square of `factor` pixels, whose value most of the square's pixels have.

    Examples
    --------
    >>> rows, columns = most_common(np.array([[5, 7, 0, 0], [7, 7, 0, 3]]), 2)
    >>> rows, columns
    (array([[0, 0]]), array([[1, 2]]))
    """
    height, width = (side // factor for side in values.shape)
    squares = values[: height * factor, : width * factor].reshape(height, factor, width, factor)
    cells = squares.transpose(0, 2, 1, 3).reshape(height, width, factor * factor)
    votes = (cells[..., :, None] == cells[..., None, :]).sum(axis=-1)
    place = votes.argmax(axis=-1)
    rows = np.arange(height)[:, None] * factor + place // factor
    return rows, np.arange(width)[None] * factor + place % factor


def ink(image: Bytes) -> npt.NDArray[np.bool_]:
    """Which pixels are ink: bool [y, x]. It is black or grey and dark, or greener than it is red, as no stained tissue is."""
    smooth = np.asarray(cv2.blur(image, (5, 5))).astype(np.int16)
    brightest, darkest = smooth.max(axis=2), smooth.min(axis=2)
    dark = (brightest < 150) & (brightest - darkest < 45)
    return np.asarray(dark | (smooth[..., 1] - smooth[..., 0] > 15))


def _find_glass(image: Bytes, nuclei: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.bool_]:
    """Find white areas without nuclei that are larger than the gaps between fibres: bool [y, x]."""
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.5 / mpp))
    white = ((smooth.mean(axis=2) > WHITE_MEAN) & ~nuclei).astype(np.uint8)
    across = round(WIDTH_OF_GLASS / mpp) | 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
    opened = cv2.morphologyEx(white, cv2.MORPH_OPEN, ellipse)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    kept = np.asarray(stats)[:, cv2.CC_STAT_AREA] >= LEAST_GLASS / mpp**2
    kept[0] = False
    return np.asarray(kept[np.asarray(parts)])


def _stain_gains(tiles: Mapping[str, Tile]) -> dict[str, npt.NDArray[np.float32]]:
    """Factors of each tile's optical density, float32 [3], that make nuclei as dark as those of their class elsewhere.

    They are found from nuclei, since the rest of a tile may be any tissue, and kept near 1 where there are few.
    """
    sums, counts = {}, {}
    for name, (image, classes, _) in tiles.items():
        density = optical_density(image)
        counts[name] = np.bincount(classes.reshape(-1), minlength=5)[1:]
        sums[name] = np.stack([density[classes == value].sum(axis=0) for value in CLASSES])
    usual = sum(sums.values()) / np.maximum(sum(counts.values()), 1)[:, None]
    gains = {}
    for name, count in counts.items():
        expected, own = count @ usual, sums[name].sum(axis=0)
        trust = count.sum() / (count.sum() + SURE_NUCLEI)
        gains[name] = ((expected / np.maximum(own, 1e-6)) ** trust).astype(np.float32)
    return gains


def optical_density(image: Bytes) -> npt.NDArray[np.float32]:
    """Optical density of each channel against glass, float32 [y, x, 3]: 0 is glass."""
    return np.asarray(np.log((np.array(GLASS, np.float32) + 1) / (image.astype(np.float32) + 1)), np.float32)


def normalize(image: Bytes, gain: npt.NDArray[np.float32]) -> Bytes:
    """Multiply the optical density of each channel: uint8 [y, x, 3]."""
    scaled = (np.array(GLASS, np.float32) + 1) * np.exp(-gain * optical_density(image)) - 1
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)


def _set_glass(image: Bytes, glass: npt.NDArray[np.bool_]) -> Bytes:
    """Bring glass to its colour, softly towards tissue."""
    veil = np.asarray(cv2.GaussianBlur(glass.astype(np.float32), (0, 0), 0.7))[..., None]
    return np.asarray(np.rint(image * (1 - veil) + np.array(GLASS, np.float32) * veil), np.uint8)
