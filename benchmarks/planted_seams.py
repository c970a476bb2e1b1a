"""Are seams of known size found, and are images without seams passed?

    python benchmarks/planted_seams.py FOLDER...
    python benchmarks/planted_seams.py --generated 20 FOLDER --tile 64 --overlap 12

Reads the images of each folder (and renders `--generated` phantoms with the shipped generator), cuts them into patches,
changes the patches, blends them as the engine does, and asks the measures of ``safron-eval seams`` for seams. Plantings:

    offset    a colour of its own for each patch, random in RGB, of 1, 2, 4 or 8 grey levels (root mean square)
    gain      brightness of each patch times 1 +- 2, 5 or 10 %, sign by chance
    blur      overlaps blurred by a Gaussian of 1 pixel
    instance  each patch brought to the whole image's mean and deviation by its own: instance normalization
    shifted   one patch of the image moved by 8 pixels down and right
    jitter    every patch moved by up to 4 pixels

`none` is the control: the image as it is, its grid at a place drawn by chance. Every image is measured with and without
JPEG of quality 90, 4:2:0. Prints a table of found/measured, then one line of JSON. Images with too little tissue are
left out of the counts; their number is printed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from common import parser_of
from safron.engine import render
from safron.engine.evaluation.boundary_profiles import measure_profiles
from safron.engine.evaluation.seam_report import format_table
from safron.engine.evaluation.seam_scores import SeamScores, score_seams
from safron.engine.evaluation.slide_grid import SlideGrid
from safron.engine.plan.taper import Taper
from safron.io.masks.phantoms import Phantom
from safron.io.slides.reader import Pixels

Image = npt.NDArray[np.uint8]
Random = np.random.Generator

PLANTINGS: tuple[tuple[str, float], ...] = (
    ("offset", 1), ("offset", 2), ("offset", 4), ("offset", 8), ("gain", 2), ("gain", 5), ("gain", 10),
    ("blur", 1), ("instance", 0), ("shifted", 8), ("jitter", 4),
)  # fmt: skip
MEASURES = ("step", "ramp", "edge", "blur", "patch")


class Held:
    """An image in memory in place of a slide."""

    def __init__(self, image: Image) -> None:
        self.image, self.shape = image, image.shape[:2]

    def read(self, y: int, x: int, height: int, width: int) -> Image:
        """Region of the image, as of a slide."""
        return self.image[y : y + height, x : x + width]


def score(image: Image, grid: SlideGrid) -> SeamScores | None:
    """What ``safron-eval seams`` measures on an image."""
    slide: Any = Held(image)
    return score_seams(measure_profiles(slide, grid), grid)


def blend(image: Image, grid: SlideGrid, taper: Any, change: Callable[..., Any]) -> Image:
    """Cut an image into patches, change each by ``change(patch, y, x)``, and blend them by the weights of the engine."""
    total, weight = np.zeros(image.shape), np.zeros((*image.shape[:2], 1))
    along = Taper(taper).weights(tile=grid.tile, overlap=grid.overlap).astype(float)
    for y in range(0, max(1, image.shape[0] - grid.overlap), grid.stride):
        for x in range(0, max(1, image.shape[1] - grid.overlap), grid.stride):
            place = np.s_[y : y + grid.tile, x : x + grid.tile]
            patch = change(image[place].astype(float), y, x)
            weights = np.outer(along[: patch.shape[0]], along[: patch.shape[1]])[..., None]
            total[place] += patch * weights
            weight[place] += weights
    return np.clip(np.rint(total / weight), 0, 255).astype(np.uint8)


def plant(image: Image, kind: str, size: float, grid: SlideGrid, taper: str, rng: Random) -> Image:
    """Plant seams of one kind; see the module."""
    height, width = image.shape[:2]
    if kind == "blur":
        soft, blurred = cv2.GaussianBlur(image, (0, 0), size), image.copy()
        for start in range(grid.stride, max(height, width), grid.stride):
            rows, columns = np.s_[start : start + grid.overlap], np.s_[:, start : start + grid.overlap]
            blurred[rows], blurred[columns] = soft[rows], soft[columns]
        return blurred
    mean, deviation = image.mean(axis=(0, 1)), image.std(axis=(0, 1))
    wrong = [
        int(rng.integers(0, max(1, (side - grid.overlap - 1) // grid.stride))) * grid.stride
        for side in (height, width)
    ]

    def change(patch: Any, y: int, x: int) -> Any:
        if kind == "offset":
            color = rng.standard_normal(3)
            return patch + size * color / np.sqrt((color**2).mean())
        if kind == "gain":
            return patch * (1 + size / 100 * rng.choice([-1, 1]))
        if kind == "instance":
            return (patch - patch.mean(axis=(0, 1))) / np.maximum(
                patch.std(axis=(0, 1)), 4
            ) * deviation + mean
        if kind == "shifted" and [y, x] != wrong:
            return patch
        by = (size, size) if kind == "shifted" else rng.uniform(-size, size, 2)
        moved = cv2.warpAffine(
            image,
            np.array([[1, 0, by[1]], [0, 1, by[0]]], np.float32),
            (width, height),
            borderMode=cv2.BORDER_REFLECT,
        )
        return moved[y : y + grid.tile, x : x + grid.tile].astype(float)

    return blend(image, grid, taper, change)


def as_jpeg(image: Image) -> Image:
    """Code and decode at quality 90, 4:2:0."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


def read_images(folder: Path, most: int, side: int) -> Iterator[Image]:
    """Images of a folder, evenly drawn; those of over twice `side` pixels are cut into squares of it."""
    cuts = []
    for path in sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".png", ".webp", ".svs", ".tif", ".tiff", ".jpg")
    ):
        if ".gland" in path.name or ".mask" in path.name:
            continue
        with Pixels(path) as pixels:
            height, width = pixels.shape
        if min(height, width) < 2 * side:
            cuts.append((path, 0, 0, height, width))
        else:
            cuts += [
                (path, y, x, side, side)
                for y in range(0, height - side + 1, side)
                for x in range(0, width - side + 1, side)
            ]
    for index in np.unique(np.linspace(0, len(cuts) - 1, min(most, len(cuts))).round().astype(int)):
        path, *place = cuts[index]
        with Pixels(path) as pixels:
            yield np.ascontiguousarray(pixels.read(*place))


def generate(seeds: range, side: int) -> Iterator[Image]:
    """Phantoms rendered by the shipped generator, without loss."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            mask = Phantom(seed, "tissue", 100 if seed % 2 else 160).paint(slice(0, side), slice(0, side))
            out = Path(folder) / f"{seed}.tiff"
            render(mask, out, model="safron-seamless", seed=seed, compression="deflate")
            with Pixels(out) as pixels:
                yield pixels.read(0, 0, *pixels.shape)
            out.unlink()


def measure(
    images: list[Image], grid: SlideGrid, taper: str, controls: int, first: int
) -> list[dict[str, Any]]:
    """Rows: a planting each, with and without JPEG."""
    rows = []
    for kind, size in (("none", 0.0), *PLANTINGS):
        if kind == "blur" and grid.overlap < 4:
            continue
        for jpeg in (False, True):
            found: list[SeamScores | None] = []
            for number, image in enumerate(images * (controls if kind == "none" else 1)):
                rng = np.random.default_rng(first + number)
                here = grid
                if kind == "none":
                    made, place = image, rng.integers(0, grid.stride, 2)
                    here = SlideGrid(grid.tile, grid.overlap, int(place[0]), int(place[1]))
                else:
                    made = plant(image, kind, size, grid, taper, rng)
                found.append(score(as_jpeg(made) if jpeg else made, here))
            known = [scores for scores in found if scores is not None]
            rows.append(
                {
                    "planted": f"{kind} {size:g}" if size else kind,
                    "jpeg": jpeg,
                    "images": len(known),
                    "too_little_tissue": len(found) - len(known),
                    "found": sum(bool(scores.found) for scores in known),
                    "by": {name: sum(name in scores.found for scores in known) for name in MEASURES},
                    "weakest": min((scores.z for scores in known), default=None),
                    "strongest": max((scores.z for scores in known), default=None),
                }
            )
    return rows


def main() -> None:
    """Read the command line and measure."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folder of images without seams"
    )
    parser.add_argument("--generated", type=int, default=0, help="phantoms to render and measure likewise")
    parser.add_argument("--first-seed", type=int, default=0, help="of phantoms and of plantings")
    parser.add_argument("--images", type=int, default=20, help="images of a folder")
    parser.add_argument(
        "--controls", type=int, default=1, help="places of the grid on each image without seams"
    )
    parser.add_argument(
        "--side", type=int, default=1000, help="larger images are cut into squares of this side"
    )
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=20)
    parser.add_argument("--taper", choices=("flat", "linear", "cosine"), default="flat")
    given = parser.parse_args()
    grid = SlideGrid(given.tile, given.overlap)
    sources = {
        folder.name: lambda folder=folder: read_images(folder, given.images, given.side)
        for folder in given.folders
    }
    if given.generated:
        seeds = range(given.first_seed, given.first_seed + given.generated)
        sources["generated"] = lambda: generate(seeds, given.side)
    if not sources:
        parser.error("give a FOLDER of images, or --generated")
    results = {
        name: measure(list(read()), grid, given.taper, given.controls, given.first_seed)
        for name, read in sources.items()
    }
    head = ["images", "planted", "found", "with JPEG", *MEASURES, "weakest z", "strongest z"]
    table = [head]
    for name, rows in results.items():
        for plain, coded in zip(rows[::2], rows[1::2], strict=True):
            both = [row for row in (plain, coded) if row["images"]]
            table.append(
                [
                    name,
                    plain["planted"],
                    *(f"{row['found']}/{row['images']}" for row in (plain, coded)),
                    *(str(plain["by"][measure] + coded["by"][measure]) for measure in MEASURES),
                    f"{min((row['weakest'] for row in both), default=0):.1f}",
                    f"{max((row['strongest'] for row in both), default=0):.1f}",
                ]
            )
    print(*format_table(table), sep="\n")
    print(json.dumps({"grid": [given.tile, given.overlap], "taper": given.taper, "results": results}))


if __name__ == "__main__":
    main()
