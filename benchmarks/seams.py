"""How visible are the patches of generators, on masks of held-out slides?

    python benchmarks/seams.py PAIRS tile=tile.onnx ours=ours.onnx none=overlap0.onnx@0 random --tile 64
    python benchmarks/seams.py --slide slide.tiff --mask mask.zarr --model safron-seamless

The first form makes one mosaic of the held-out masks in a folder of training pairs and renders it losslessly with each
generator (NAME=FILE, with @OVERLAP if it is not 20). It prints one table with the measures of ``safron-eval seams``, texture
distances from the real images under the same masks, of tiles and of crops on overlaps (Table II of the SAFRON paper has
the FID of such crops), and the strength of a lattice of four pixels. Several files under one NAME are one recipe trained
with several seeds: a further table has their means and standard deviations. ``random`` and ``real`` in place of a
generator are controls: noise, and real tissue of other places. The second form measures an existing slide. Prints tables,
then one line of JSON. The pairs need the extra "train".

The mosaic has edges of its own, where frames meet. Frames are cropped so that those edges fall on no patch edge.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from common import parser_of
from safron.engine import render
from safron.engine.evaluation.boundary_profiles import find_tissue
from safron.engine.evaluation.seam_report import SeamReport, evaluate_seams, format_table, seam_table
from safron.engine.evaluation.slide_grid import SlideGrid
from safron.engine.evaluation.texture_distance import (
    frechet_distance,
    kernel_distance,
    standardize,
    texture_features,
)
from safron.engine.generator.model import load_model
from safron.io.slides.reader import Pixels

Bytes = npt.NDArray[np.uint8]

HELD_OUT = 0.1  # as in training
COLUMNS = 7
FRAME_TILE = 96  # two down a frame, and three across where its crop leaves room
PAPER_CROP, CROPS = 76, 5000  # the paper's, in Table II
CROP = 32  # for patches of 64 pixels, where 76 reach the next overlaps
LATTICE = 4
CONTROLS = ("random", "real")
DISTANCES = {
    "texture_kernel": "texture kernel",
    "texture_frechet": "texture Frechet",
    "overlaps_frechet": "overlaps, Frechet",
    "overlaps_kernel": "overlaps, kernel",
    "narrow_frechet": "narrow, Frechet",
    "narrow_kernel": "narrow, kernel",
    "inside_kernel": "inside, kernel",
    "lattice": "lattice",
}
PAPER = "SAFRON paper, Table II (FID of crops on overlaps): random 1387.9, patch discriminator 227.5, tile discriminator 142.8"


@dataclass(frozen=True, eq=False)
class Frames:
    """Held-out frames: images [y, x, 3] and labels [y, x] of one size."""

    images: list[Bytes]
    labels: list[Bytes]


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Held-out frames side by side: labels [y, x], real image [y, x, 3], and the first pixel of each row and column."""

    labels: Bytes
    image: Bytes
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def read_frames(folder: Path, prepared: Path) -> Frames:
    """Images and labels of the slides that training holds out, prepared as for training, at 1 um per pixel."""
    from safron.training.data import split
    from safron.training.data.ebhi import prepare

    held = split(prepare(folder, prepared), HELD_OUT)[1]
    return Frames(list(held.images), list(held.labels))


def clear_pitch(longest: int, count: int, zoom: float, grid: SlideGrid) -> int:
    """Longest pitch whose frame edges keep three pixels, or as many as possible, from the edges of the patch grid."""

    def clearance(pitch: int) -> int:
        edges = [round(index * pitch * zoom) - 1 for index in range(1, count)]
        return min(_distance(edge, phase, grid.stride) for edge in edges for phase in grid.own_phases)

    pitch = max(range(longest, longest * 3 // 4, -1), key=lambda pitch: min(3, clearance(pitch)))
    if not clearance(pitch):
        raise SystemExit(f"no pitch of {count} frames keeps clear of a stride of {grid.stride}")
    return pitch


def _distance(edge: int, phase: int, stride: int) -> int:
    return min((edge - phase) % stride, (phase - edge) % stride)


@cache
def make_mosaic(held: Frames, mpp: float, grid: SlideGrid) -> Mosaic:
    """Lay frames out side by side and resize them to `mpp`, as training does."""
    count, zoom = len(held.images) // COLUMNS, 1.0 / mpp
    height, width = (
        clear_pitch(side, number, zoom, grid)
        for side, number in zip(held.images[0].shape, (count, COLUMNS), strict=False)
    )

    def lay(frames: list[Bytes], how: int) -> Bytes:
        rows = [
            np.concatenate(
                [frame[:height, :width] for frame in frames[row * COLUMNS : (row + 1) * COLUMNS]], axis=1
            )
            for row in range(count)
        ]
        whole = np.concatenate(rows)
        size = round(whole.shape[1] * zoom), round(whole.shape[0] * zoom)
        return np.asarray(whole if zoom == 1 else cv2.resize(whole, size, interpolation=how), np.uint8)

    return Mosaic(
        lay(held.labels, cv2.INTER_NEAREST),
        lay(held.images, cv2.INTER_AREA),
        tuple(round(index * height * zoom) for index in range(count + 1)),
        tuple(round(index * width * zoom) for index in range(COLUMNS + 1)),
    )


def frame_tiles(image: Bytes, mosaic: Mosaic, where: Bytes) -> list[Bytes]:
    """Tiles inside frames whose place in the real image `where` is tissue: the same places for every generator."""
    tiles = []
    for top, bottom in pairwise(mosaic.rows):
        for left, right in pairwise(mosaic.columns):
            for y in range(top, bottom - FRAME_TILE + 1, FRAME_TILE):
                for x in range(left, right - FRAME_TILE + 1, FRAME_TILE):
                    place = np.s_[y : y + FRAME_TILE, x : x + FRAME_TILE]
                    if find_tissue(where[place]).mean() > 0.5:
                        tiles.append(image[place])
    return tiles


def crop_places(mosaic: Mosaic, grid: SlideGrid, offset: float, side: int) -> list[tuple[int, int]]:
    """First pixels (y, x) of crops inside frames, centred on lines `offset` pixels behind patches' starts, down and across.

    They depend on the real image alone, where they are tissue: the same places for it and for every generator of a grid.
    """
    rng = np.random.default_rng(0)
    places: list[tuple[int, int]] = []
    for _ in range(50 * CROPS):
        y, x = (int(rng.integers(0, length - side)) for length in mosaic.labels.shape)
        axis = int(rng.integers(2))
        line = round(
            rng.integers(0, mosaic.labels.shape[axis] // grid.stride) * grid.stride + offset - side / 2
        )
        y, x = (line, x) if axis == 0 else (y, line)
        inside = all(
            any(first <= place and place + side <= last for first, last in pairwise(edges))
            for place, edges in ((y, mosaic.rows), (x, mosaic.columns))
        )
        if inside and find_tissue(mosaic.image[y : y + side, x : x + side]).mean() > 0.5:
            places.append((y, x))
            if len(places) == CROPS:
                break
    return places


def crop_features(image: Bytes, places: list[tuple[int, int]], side: int) -> npt.NDArray[np.float64]:
    """Texture features of the crops of `image` that start at `places`."""
    return texture_features(image[y : y + side, x : x + side] for y, x in places)


@cache
def real_crops(
    mosaic: Mosaic, grid: SlideGrid, offset: float, side: int
) -> tuple[list[tuple[int, int]], npt.NDArray[np.float64]]:
    """Places of crops and the real image's features there, once for all generators of a grid."""
    places = crop_places(mosaic, grid, offset, side)
    return places, crop_features(mosaic.image, places, side)


def lattice(image: Bytes) -> float:
    """Largest mean step between neighbouring pixels over the smallest, by place in a lattice of `LATTICE` pixels; 1 or more.

    Taken on the worse axis. A network that halves its resolution twice may leave such a lattice.
    """
    grey = image.astype(np.float32).mean(axis=2)
    worst = 1.0
    for axis in (0, 1):
        steps = np.abs(np.diff(grey, axis=axis)).mean(axis=1 - axis)
        means = [float(steps[place::LATTICE].mean()) for place in range(LATTICE)]
        worst = max(worst, max(means) / min(means))
    return worst


def crop_distances(image: Bytes, mosaic: Mosaic, grid: SlideGrid) -> dict[str, Any]:
    """Distances of crops centred on overlaps, as in the paper's Table II, and of narrow ones there and amid patches."""
    middle = grid.overlap / 2
    found: dict[str, Any] = {}
    for name, offset, side in (
        ("overlaps", middle, PAPER_CROP),
        ("narrow", middle, CROP),
        ("inside", middle + grid.stride / 2, CROP),
    ):
        places, real = real_crops(mosaic, grid, offset, side)
        pair = standardize(real, crop_features(image, places, side))
        found |= {
            f"{name}_crops": len(places),
            f"{name}_frechet": frechet_distance(*pair),
            f"{name}_kernel": kernel_distance(*pair)[0],
        }
    return found


def distances(image: Bytes, mosaic: Mosaic, grid: SlideGrid) -> dict[str, Any]:
    """Texture distances from the real image, of whole tiles and of crops on overlaps and inside patches; and the lattice."""
    real = texture_features(frame_tiles(mosaic.image, mosaic, mosaic.image))
    fake = texture_features(frame_tiles(image, mosaic, mosaic.image))
    first, second = standardize(real, fake)
    kernel, spread = kernel_distance(first, second)
    return {
        "tiles": len(real),
        "texture_frechet": frechet_distance(first, second),
        "texture_kernel": kernel,
        "texture_kernel_sd": spread,
        "lattice": lattice(image),
    } | crop_distances(image, mosaic, grid)


def control(name: str, mosaic: Mosaic) -> Bytes:
    """An image that sets the scale: random values (`random`), or real tissue of other places, mirrored (`real`)."""
    if name == "real":
        return np.ascontiguousarray(mosaic.image[:, ::-1])
    return np.random.default_rng(0).integers(0, 256, mosaic.image.shape, np.uint8)


def measure(spec: str, folder: Path, frames: Frames, tile: int | None) -> dict[str, Any]:
    """Render the mosaic with one generator, NAME=FILE[@OVERLAP], and measure the slide; or measure a control."""
    if spec in CONTROLS:
        grid = SlideGrid(tile or 256, 20)
        mosaic = make_mosaic(frames, 1.0, grid)
        return {"name": spec, "report": None, **distances(control(spec, mosaic), mosaic, grid)}
    name, _, rest = spec.partition("=")
    file, _, overlap = rest.partition("@")
    model = load_model(file, device="cpu")
    grid = SlideGrid(tile or model.card.tile, int(overlap or 20))
    mosaic = make_mosaic(frames, model.card.mpp or 1.0, grid)
    out = folder / f"{name}-{Path(file).stem}.tiff"
    options: dict[str, Any] = {"tile": grid.tile, "overlap": grid.overlap, "compression": "deflate"}
    render(mosaic.labels, out, model=model, overwrite=True, **options)
    report = evaluate_seams(out, mask=mosaic.labels, model=model)
    with Pixels(out) as slide:
        image = slide.read(0, 0, *slide.shape)
    return {"name": name, "report": report, **distances(image, mosaic, grid)}


def over_seeds(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of a table: mean and standard deviation (n - 1) of each measure over the files of a NAME."""

    def spread(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        if not known:
            return "-"
        return f"{mean(known):.3g}" + (f" +- {stdev(known):.2g}" if len(known) > 1 else "")

    rows = [["recipe", "seeds", "mismatch", "z", "boundary", *DISTANCES.values()]]
    for name in dict.fromkeys(result["name"] for result in results):
        same = [result for result in results if result["name"] == name]
        reports: list[SeamReport] = [result["report"] for result in same if result["report"]]
        columns: list[list[float | None]] = [
            [report.mismatch.mean if report.mismatch else None for report in reports],
            [report.scores.z if report.scores else None for report in reports],
            [report.boundary_ratio for report in reports],
            *([result[key] for result in same] for key in DISTANCES),
        ]
        rows.append([name, str(len(same)), *map(spread, columns)])
    return rows


def show(results: list[dict[str, Any]]) -> None:
    """Print the tables and the line of JSON."""
    rendered = [result for result in results if result["report"]]
    for line in seam_table(
        [result["report"] for result in rendered], [result["name"] for result in rendered]
    ):
        print(line)
    if "texture_kernel" in results[0]:
        rows = [[result["name"], *(f"{result[key]:.3g}" for key in DISTANCES)] for result in results]
        print(*format_table([["generator", *DISTANCES.values()], *rows]), sep="\n")
        if len({result["name"] for result in results}) < len(results):
            print(*format_table(over_seeds(results)), sep="\n")
        print(
            f"{results[0]['tiles']} tiles; crops on overlaps of {PAPER_CROP} px, narrow ones and those inside of {CROP} px"
            f" (number: overlaps_crops and so on, below); weight-free distances, not FID or KID. {PAPER}"
        )
    print(
        json.dumps([result | {"report": result["report"] and asdict(result["report"])} for result in results])
    )


def main() -> None:
    """Read the command line and measure."""
    parser = parser_of(__doc__)
    parser.add_argument("pairs", nargs="?", type=Path, help="folder of training pairs")
    parser.add_argument("generators", nargs="*", help="NAME=FILE[@OVERLAP], random or real")
    parser.add_argument(
        "--tile", type=int, help="pixels a side of a patch; each generator's own unless given"
    )
    parser.add_argument("--cache", type=Path, help="folder where prepared pairs are kept")
    parser.add_argument("--keep", type=Path, help="folder where the rendered slides are kept")
    parser.add_argument("--slide", type=Path, help="measure this slide alone")
    parser.add_argument("--mask", type=Path, help="its mask")
    parser.add_argument("--model", help="its generator")
    given = parser.parse_args()
    if given.slide is not None:
        report = evaluate_seams(given.slide, mask=given.mask, model=given.model, device="cpu")
        show([{"name": given.slide.name, "report": report}])
        return
    if given.pairs is None or not given.generators:
        parser.error("give PAIRS and generators, or --slide")
    with tempfile.TemporaryDirectory() as scratch:
        frames = read_frames(given.pairs, given.cache or Path(scratch))
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        show([measure(spec, folder, frames, given.tile) for spec in given.generators])


if __name__ == "__main__":
    main()
