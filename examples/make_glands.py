"""How was the mask that ships, ``glands.zarr``, made?

Outlines of real glands are cut from the EBHI-Seg masks and laid into fragments of tissue drawn from smooth noise:

    1. outlines    every gland that touches no image border, one at a time and in the groups in which it was found
    2. fragments   four, kept apart by glass, with ragged edges and a few tears
    3. zones       normal mucosa, polyp, low-grade neoplasia, and stroma without glands
    4. groups      laid where a zone has room for them, rotated and mirrored, then single glands into what is left

A gland goes to the free place where it touches its neighbours most closely, a gap apart, as crypts stand in mucosa.

    python examples/make_glands.py EBHI_FOLDER examples/glands.zarr

EBHI_FOLDER holds ``normal``, ``polyp`` and ``low-grade``, each with files named ``*.gland.png``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
from safron.io.masks.write import write_labels

Mask = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]

HEIGHT, WIDTH = 4096, 5120
GLASS, STROMA, GLAND = 0, 1, 2
ZONES = ("normal", "polyp", "low-grade")

FINE = 4
"""Outlines are kept this many times finer than the canvas, so that rotating them leaves no steps."""

COARSE = 2
"""Room is looked for on a map with one pixel for this many of the canvas a side."""


@dataclass(frozen=True)
class Stamp:
    """Glands that are laid together.

    Attributes
    ----------
    shape : 0..255 [y, x], FINE times the canvas; above 127 is gland.
    area : square pixels of the canvas.
    """

    shape: Mask
    area: float


def read_stamps(folder: Path) -> tuple[list[Stamp], list[Stamp]]:
    """Cut single glands and groups out of all masks of a folder."""
    single, groups = [], []
    for path in sorted(folder.glob("*.gland.png")):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        # The data set squeezed frames of 4:3 into squares.
        image = cv2.resize(image, (299 * FINE, 224 * FINE), interpolation=cv2.INTER_CUBIC)
        smooth = cv2.GaussianBlur(image, (0, 0), 2.8 * FINE)
        count, parts, stats, _ = cv2.connectedComponentsWithStats((smooth > 127).astype(np.uint8))
        inner = [part for part in range(1, count) if _whole(stats[part], image.shape)]
        for part in inner:
            if _narrowest(parts == part) > 26 * FINE:  # slivers look like litter between crypts
                single.append(_cut(smooth, parts == part))
        if len(inner) >= 2:
            groups.append(_cut(smooth, np.isin(parts, inner)))
    return single, groups


def _whole(stats: npt.NDArray[np.int32], shape: tuple[int, ...]) -> bool:
    """Tell glands that the image border does not cut, and that are more than a speck."""
    x, y, width, height, area = (int(value) for value in stats)
    inside = min(x, y) > FINE and x + width < shape[1] - FINE and y + height < shape[0] - FINE
    return inside and area > 600 * FINE * FINE


def _narrowest(gland: npt.NDArray[np.bool_]) -> float:
    """Shorter side of the smallest upright or turned box around a gland."""
    points = np.argwhere(gland)[:, ::-1].astype(np.float32)
    return float(min(cv2.minAreaRect(points)[1]))


def _cut(smooth: Mask, chosen: npt.NDArray[np.bool_]) -> Stamp:
    """Keep the chosen glands and a rim, so that their soft edges stay whole."""
    rim = 3 * FINE
    near = cv2.dilate(chosen.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
    ys, xs = np.nonzero(near)
    box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    return Stamp(np.where(near[box] > 0, smooth[box], 0), float(chosen.sum()) / FINE**2)


def turn(stamp: Stamp, rng: np.random.Generator) -> Mask:
    """Rotate and mirror a stamp at random, at the canvas's scale: 0 or 1, uint8 [y, x]."""
    shape = stamp.shape[:, ::-1] if rng.random() < 0.5 else stamp.shape
    height, width = shape.shape
    side = int(np.hypot(height, width) / FINE) + 4
    side += side % COARSE
    turned = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(0, 360)), 1 / FINE)
    turned[:, 2] += side / 2 - np.array([width, height]) / 2
    # Blurred to the new scale first: warpAffine takes single samples.
    soft = cv2.GaussianBlur(np.ascontiguousarray(shape), (0, 0), FINE / 2)
    return (cv2.warpAffine(soft, turned, (side, side), flags=cv2.INTER_LINEAR) > 127).astype(np.uint8)


def noise(rng: np.random.Generator, scale: float) -> Field:
    """Smooth noise over the canvas at a quarter of its size, about -1..1, with hills `scale` pixels wide."""
    height, width = HEIGHT // 4, WIDTH // 4
    lattice = rng.standard_normal((int(HEIGHT / scale) + 5, int(WIDTH / scale) + 5)).astype(np.float32)
    step = scale / 4
    matrix = np.array([[step, 0, -2 * step], [0, step, -2 * step]])
    field = cv2.warpAffine(lattice, matrix, (width, height), flags=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(field, (0, 0), step / 3)


def draw_tissue(rng: np.random.Generator) -> Mask:
    """Draw four fragments with ragged edges and tears: 0 or 1, uint8 [y, x]."""
    ys, xs = np.mgrid[: HEIGHT // 4, : WIDTH // 4].astype(np.float32) * 4
    fragments = (  # centre y, x; half axes; angle in degrees
        (1180, 1330, 1150, 880, 8),
        (1010, 3780, 1200, 740, -14),
        (2990, 3450, 1480, 780, 12),
        (3230, 1130, 950, 660, 20),
    )
    depths = []  # pixels inside the edge of each fragment, roughly
    for cy, cx, long, short, angle in fragments:
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        u, v = (xs - cx) * cos + (ys - cy) * sin, (ys - cy) * cos - (xs - cx) * sin
        round_ = (1 - (np.abs(u / long) ** 2.6 + np.abs(v / short) ** 2.6) ** (1 / 2.6)) * short
        ragged = sum(size * noise(rng, scale) for scale, size in ((900, 150), (320, 95), (110, 30), (36, 7)))
        depths.append(round_ + ragged)
    first, second = np.sort(np.stack(depths), axis=0)[::-1][:2]
    frame = np.minimum.reduce([ys, xs, HEIGHT - 4 - ys, WIDTH - 4 - xs]) - 70 + 20 * noise(rng, 200)
    depth = np.minimum.reduce([first, (first - second - 70) / 1.5, frame])
    tissue = (cv2.resize(depth, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) > 0).astype(np.uint8)
    for _ in range(11):
        tear(tissue, rng)
    return _without_specks(tissue)


def tear(tissue: Mask, rng: np.random.Generator) -> None:
    """Open a slit, wide in the middle and pointed at its ends, along a bending line."""
    y, x = rng.uniform(300, HEIGHT - 300), rng.uniform(300, WIDTH - 300)
    heading, bend = rng.uniform(0, 2 * np.pi), 0.0
    steps, widest = int(rng.uniform(60, 220)), rng.uniform(5, 15)
    wobble = np.convolve(rng.standard_normal(steps + 8), np.ones(9) / 9, "valid")
    for step in range(steps):
        bend = 0.85 * bend + rng.normal(0, 0.012)
        heading += bend
        y, x = y + 4 * np.sin(heading), x + 4 * np.cos(heading)
        radius = widest * np.sin(np.pi * (step + 1) / (steps + 1)) ** 0.8 * (1 + wobble[step])
        cv2.circle(tissue, (int(16 * x), int(16 * y)), max(int(16 * radius), 8), 0, -1, cv2.LINE_8, 4)


def _without_specks(tissue: Mask) -> Mask:
    """Drop crumbs of tissue and fill pinholes."""
    for value, least in ((1, 20_000), (0, 1_500)):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((tissue == value).astype(np.uint8))
        small = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] < least]
        tissue[np.isin(parts, small)] = 1 - value
    return tissue


def draw_zones(rng: np.random.Generator) -> Mask:
    """Say which zone each pixel of the coarse map lies in: an index of ZONES, or len(ZONES) for bare stroma."""
    size = (WIDTH // COARSE, HEIGHT // COARSE)
    kind = cv2.resize(noise(rng, 1300), size) + 0.15 * cv2.resize(noise(rng, 250), size)
    low, high = np.quantile(kind, (0.40, 0.70))
    zones = np.digitize(kind, (low, high)).astype(np.uint8)
    bare = cv2.resize(noise(rng, 600), size) + 0.3 * cv2.resize(noise(rng, 220), size)
    zones[bare > np.quantile(bare, 0.91)] = len(ZONES)
    return zones


class Canvas:
    """Where glands stand, and where there is room for more.

    Parameters
    ----------
    tissue : 0 or 1, uint8 [y, x].
    zones : from `draw_zones`.
    """

    def __init__(self, tissue: Mask, zones: Mask) -> None:
        self.labels = tissue.copy()
        self.zones = zones
        edge = cv2.dilate(1 - tissue, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21)))
        self.taken = _coarse(edge)
        self.taken[zones == len(ZONES)] = 1

    def room(self) -> Field:
        """Canvas pixels from each coarse pixel to what is taken."""
        return cv2.distanceTransform(1 - self.taken, cv2.DIST_L2, 5) * np.float32(COARSE)

    def lay(self, shape: Mask, y: int, x: int, gap: int, reach: int) -> bool:
        """Lay a shape where it fits best within `reach` coarse pixels of (y, x); tell whether it fitted.

        Parameters
        ----------
        shape : 0 or 1, uint8 [y, x], canvas scale.
        y, x : coarse position of its middle.
        gap : canvas pixels kept free around it.
        """
        small = _coarse(shape)
        pad = gap // COARSE + 3
        small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        needs = cv2.dilate(small, _disk(gap // COARSE))
        rim = cv2.dilate(needs, _disk(3)) - needs
        top, left = y - small.shape[0] // 2 - reach, x - small.shape[1] // 2 - reach
        bottom, right = top + small.shape[0] + 2 * reach, left + small.shape[1] + 2 * reach
        if min(top, left) < 0 or bottom > self.taken.shape[0] or right > self.taken.shape[1]:
            return False
        window = self.taken[top:bottom, left:right].astype(np.float32)
        clash = cv2.matchTemplate(window, needs.astype(np.float32), cv2.TM_CCORR)
        if clash.min() > 0.5:
            return False
        touch = cv2.matchTemplate(window, rim.astype(np.float32), cv2.TM_CCORR)
        row, col = np.unravel_index(np.where(clash > 0.5, -1, touch).argmax(), touch.shape)
        top, left = top + int(row), left + int(col)
        self.taken[top : top + small.shape[0], left : left + small.shape[1]] |= small
        y0, x0 = (top + pad) * COARSE, (left + pad) * COARSE
        self.labels[y0 : y0 + shape.shape[0], x0 : x0 + shape.shape[1]][shape > 0] = GLAND
        return True


def _coarse(mask: Mask) -> Mask:
    """Halve a 0/1 mask; a pixel is taken where any of its four is."""
    return mask.reshape(mask.shape[0] // COARSE, COARSE, mask.shape[1] // COARSE, COARSE).max(axis=(1, 3))


def _disk(radius: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def spots(canvas: Canvas, least: float, rng: np.random.Generator) -> Iterator[tuple[int, int, float]]:
    """Yield coarse places (y, x) with at least this much room, each far from the ones before it."""
    open_ = np.ones_like(canvas.taken)
    while True:
        room = canvas.room()
        ys, xs = np.nonzero((room >= least) & (open_ > 0))
        if len(ys) == 0:
            return
        for pick in rng.permutation(len(ys))[:40]:
            y, x = int(ys[pick]), int(xs[pick])
            if open_[y, x] and not canvas.taken[y, x]:
                cv2.circle(open_, (x, y), max(2, int(least / COARSE / 2)), 0, -1)
                yield y, x, float(room[y, x])


def lay_groups(
    canvas: Canvas, stamps: Sequence[Sequence[Stamp]], rng: np.random.Generator, tries: int = 3
) -> int:
    """Lay groups of glands as they stood in the tissue, with the gaps they had."""
    laid = 0
    # Large groups first where there is room: later ones find only small places.
    odds = [np.array([stamp.area for stamp in zone]) / sum(stamp.area for stamp in zone) for zone in stamps]
    for y, x, _ in spots(canvas, 60, rng):
        zone = canvas.zones[y, x]
        for _ in range(tries):
            stamp = stamps[zone][int(rng.choice(len(odds[zone]), p=odds[zone]))]
            if canvas.lay(turn(stamp, rng), y, x, int(rng.integers(5, 10)), 40):
                laid += 1
                break
    return laid


def lay_singles(
    canvas: Canvas, stamps: Sequence[Sequence[Stamp]], rng: np.random.Generator, tries: int = 6
) -> int:
    """Fill the room that is left, largest places first."""
    laid = 0
    areas = [np.array([stamp.area for stamp in zone]) for zone in stamps]
    for least in (34, 26, 20):
        for y, x, room in spots(canvas, least, rng):
            zone = canvas.zones[y, x]
            radius = np.sqrt(areas[zone] / np.pi)
            fits = np.nonzero((radius > 0.6 * room) & (radius < 1.15 * room))[0]
            for pick in rng.permutation(fits)[:tries]:
                gap = int(rng.integers(4, 12))
                if canvas.lay(turn(stamps[zone][pick], rng), y, x, gap, 12):
                    laid += 1
                    break
    return laid


@click.command()
@click.argument("ebhi", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=11, show_default=True, help="Seed of every random choice.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def main(ebhi: Path, out: Path, seed: int, overwrite: bool) -> None:
    """Make the mask that ships from the EBHI gland masks in folder EBHI."""
    rng = np.random.default_rng(seed)
    single, groups = zip(*(read_stamps(ebhi / zone) for zone in ZONES), strict=True)
    canvas = Canvas(draw_tissue(rng), draw_zones(rng))
    laid = lay_groups(canvas, groups, rng), lay_singles(canvas, single, rng)
    share = [float((canvas.labels == value).mean()) for value in (GLASS, STROMA, GLAND)]
    write_labels(
        out,
        lambda rows, cols: canvas.labels[rows, cols],
        height=HEIGHT,
        width=WIDTH,
        mpp=1.0,
        overwrite=overwrite,
    )
    click.echo(f"{laid[0]} groups, {laid[1]} single glands; glass, stroma, gland: {share}")


if __name__ == "__main__":
    main()
