"""Do the stains of `--stain random` vary as those of real slides do?

    python benchmarks/stains.py reference slide.tiff            # what the generator draws; REFERENCE in engine/stains/stain.py
    python benchmarks/stains.py real EBHI                       # REAL_MEAN and REAL_SPREAD in engine/stains/looks.py
    python benchmarks/stains.py cover EBHI slide.tiff --seeds 100
    python benchmarks/stains.py halves EBHI slide.tiff --seeds 100
    python benchmarks/stains.py picture EBHI slide.tiff looks.jpg --whole A.svs B.svs --colours-of B.svs
    python benchmarks/stains.py whole EBHI slide.tiff --whole A.svs B.svs

EBHI is a folder of EBHI-Seg: any depth, images named SLIDE-NUMBER.webp or .png; masks (.gland.png) are left out. The slide is a lossless render
with `--stain reference`. `cover` compares mean colours of tissue in CIELAB: how many random stains lie within the real spread
(no further from the real mean, in standard deviations of the real slides, than the furthest of these), whether random stains reach beyond
the middle 80 % of the real ones, and how far each real slide is from the nearest random stain. `halves` draws random stains as they vary over
every second slide, and compares them with the others; then the other way round. `whole` says for whole slides how near a look comes that is
taken over from them, and where they lie in the real spread. In the picture each whole slide stands beside the slide in its stain; of those in
`--colours-of`, whose pixels may not be passed on, the colours alone. The last line is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pyvips
import tifffile
from common import parser_of
from safron.engine.stains import looks
from safron.engine.stains.estimate import estimate
from safron.engine.stains.looks import LOOKS, stain_change
from safron.engine.stains.stain import DRAWN, REFERENCE
from safron.io.measures.two_stains import MIN_DENSITY

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

USUAL_WHITE = (240.0, 240.0, 240.0)
IMAGES_OF_A_SLIDE = 6
TILE = 200


def tissue(rgb: Pixels, white: Any = USUAL_WHITE) -> Pixels:
    """Pixels [n, 3] that are stained."""
    pixels = rgb.reshape(-1, 3)
    density = -np.log(np.maximum(pixels, 1) / np.array(white)).sum(axis=1)
    return pixels[density > MIN_DENSITY]


def mean_lab(rgb: Pixels) -> Floats:
    """Mean colour of tissue: L, a and b."""
    part = (tissue(rgb) / 255).astype(np.float32)[:, None]
    return np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(axis=0), np.float64)


def mean_density(rgb: Pixels, white: Any = USUAL_WHITE) -> Floats:
    """Optical density of the mean colour of tissue."""
    return np.asarray(-np.log((np.maximum(tissue(rgb, white), 1) / np.array(white)).mean(axis=0)))


def real_slides(folder: Path) -> dict[str, list[Path]]:
    """Images by slide: the name up to its last hyphen."""
    slides: dict[str, list[Path]] = {}
    for path in sorted([*folder.rglob("*.webp"), *folder.rglob("*.png")]):
        if ".gland." not in path.name:
            slides.setdefault(path.name.rpartition("-")[0], []).append(path)
    return slides


def read(path: Path) -> Pixels:
    """Pixels of an image."""
    return np.asarray(pyvips.Image.new_from_file(str(path))[0:3].numpy())


def colours(slides: dict[str, list[Path]]) -> list[Pixels]:
    """Pixels [n, 3] of a few images of each slide."""
    return [
        np.concatenate([read(path).reshape(-1, 3) for path in paths[:IMAGES_OF_A_SLIDE]])
        for paths in slides.values()
    ]


def part_of(slide: Path) -> Pixels:
    """Middle of a render, at half its resolution."""
    image = tifffile.imread(slide)
    y, x = (side // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[max(0, y - 512) : y + 512 : 2, max(0, x - 512) : x + 512 : 2])


def restained(image: Pixels, name: str) -> Pixels:
    """Give an image another stain."""
    changed = image.copy()
    change = stain_change(name, seed=0, source=DRAWN["safron-tissue"])
    if change is not None:
        change.apply(changed, 0, 0)
    return changed


def fit(real: list[Pixels]) -> dict[str, Any]:
    """Measure how the density of the mean colour of tissue varies over slides: the constants of `safron.engine.stains.looks`."""
    logs = np.log([mean_density(pixels) for pixels in real])
    factor = np.linalg.cholesky(np.cov(logs.T))
    return {"REAL_MEAN": logs.mean(axis=0).round(4).tolist(), "REAL_SPREAD": factor.round(4).tolist()}


def halves(folder: Path, slide: Path, seeds: int) -> dict[str, Any]:
    """Fit random stains on one half of the slides and compare them with the other half, both ways."""
    real, image, found = colours(real_slides(folder)), part_of(slide), {}
    for half in (0, 1):
        fitted = fit(real[half::2])
        for name, value in fitted.items():
            setattr(looks, name, value)
        found[f"half {half}"] = fitted | cover(real[1 - half :: 2], image, seeds)
    return found


def cover(pixels: list[Pixels], image: Pixels, seeds: int) -> dict[str, Any]:
    """Compare random stains of an image with those of real slides."""
    real = np.array([mean_lab(part) for part in pixels])
    made = np.array([mean_lab(restained(image, f"random:{seed}")) for seed in range(seeds)])
    inverse, centre = np.linalg.inv(np.cov(real.T)), real.mean(axis=0)

    def spread(colours: Floats) -> Floats:
        away = colours - centre
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", away, inverse, away)))

    nearest = np.linalg.norm(real[:, None] - made[None], axis=2).min(axis=1)
    low, high = np.percentile(real, [10, 90], axis=0)
    for name, values in (("real", real), ("random", made)):
        print(f"{name:7s} {'L':>22s} {'a':>22s} {'b':>22s}")
        for share in (0, 10, 50, 90, 100):
            print(
                f"{share:6d}% " + " ".join(f"{value:22.1f}" for value in np.percentile(values, share, axis=0))
            )
    return {
        "slides": len(real),
        "seeds": seeds,
        "within the real spread": round(float((spread(made) <= spread(real).max()).mean()), 3),
        "beyond the middle 80 %": bool((made.min(axis=0) <= low).all() and (made.max(axis=0) >= high).all()),
        "real to nearest random, median and 80 %": np.percentile(nearest, [50, 80]).round(1).tolist(),
    }


def picture(folder: Path, slide: Path, out: Path, *, whole: list[Path], colours_of: list[Path]) -> None:
    """Draw 12 looks above 12 real slides, and below these each whole slide beside its own look."""
    image = part_of(slide)[:TILE, :TILE]
    names = ["reference", *LOOKS, "random:1", "random:5", "random:9"]
    made = [_named(restained(image, name), name) for name in names]
    slides = [*real_slides(folder).values()][:: max(1, len(real_slides(folder)) // 12)][:12]
    real = [_square(unsqueezed(read(paths[0]))) for paths in slides]
    gap = np.full((12, 6 * TILE, 3), 255, np.uint8)
    rows = [np.hstack(tiles[at : at + 6]) for tiles in (made, real) for at in (0, 6)]
    rows.insert(2, gap)
    for at in range(0, len(whole), 2):
        beside = [_whole(path, image, shown=path not in colours_of) for path in whole[at : at + 2]]
        row = np.hstack(beside)
        rows += [gap, np.pad(row, ((0, 0), (0, 6 * TILE - row.shape[1]), (0, 0)), constant_values=255)]
    cv2.imwrite(str(out), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def unsqueezed(frame: Pixels) -> Pixels:
    """Give a square frame of EBHI-Seg the width that it had under the microscope, 4 to 3."""
    height, width = frame.shape[:2]
    wide = (round(width * 4 / 3), height) if width == height else (width, height)
    return np.asarray(cv2.resize(frame, wide, interpolation=cv2.INTER_CUBIC), np.uint8)


def _square(frame: Pixels) -> Pixels:
    """Middle of a frame as a tile of the picture."""
    side = min(frame.shape[:2])
    y, x = ((length - side) // 2 for length in frame.shape[:2])
    tile = frame[y : y + side, x : x + side]
    return np.asarray(cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8)


def overview(path: Path) -> Pixels:
    """A whole slide, 1200 pixels a side at most."""
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.get_thumbnail((1200, 1200)).convert("RGB"), np.uint8)


def _whole(path: Path, image: Pixels, *, shown: bool) -> Pixels:
    """Three tiles: a whole slide or white, its colours, and the image in its stain."""
    seen, own = overview(path), restained(image, str(path))
    view = _square(seen) if shown else np.full((TILE, TILE, 3), 255, np.uint8)
    if not shown:
        cv2.putText(
            view, "its colours alone", (20, 104), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (90, 90, 90), 1, cv2.LINE_AA
        )
    view = _named(view, path.name.split("-region")[0].split("-01a")[0])
    pair = np.vstack([_bands(seen), _bands(own)])
    return np.hstack([view, _named(pair, "slide / render"), _named(own, "in its stain")])


def _bands(rgb: Pixels) -> Pixels:
    """The empty slide, and tissue from light to dark: mean colours of its tenths, side by side."""
    pixels = tissue(rgb)
    order = np.argsort(pixels.sum(axis=1, dtype=int))[::-1]
    parts = [rgb.reshape(-1, 3)[rgb.sum(axis=2, dtype=int).reshape(-1) > 3 * USUAL_WHITE[0] - 30]]
    parts += [pixels[part] for part in np.array_split(order, 9)]
    means = [part.mean(axis=0) if len(part) else np.full(3, 255.0) for part in parts]
    return np.asarray(
        np.array(means).round().astype(np.uint8)[None].repeat(TILE // 2, 0).repeat(TILE // 10, 1)
    )


def whole_slides(folder: Path, slide: Path, whole: list[Path], seeds: int) -> dict[str, Any]:
    """Mean colour of tissue of whole slides, of a render in their stain, and how far they are from real slides and random stains."""
    real = np.array([mean_lab(part) for part in colours(real_slides(folder))])
    image, inverse, centre = part_of(slide), np.linalg.inv(np.cov(real.T)), real.mean(axis=0)
    made = np.array([mean_lab(restained(image, f"random:{seed}")) for seed in range(seeds)])
    found: dict[str, Any] = {}
    away = real - centre
    most = np.sqrt(np.einsum("ij,jk,ik->i", away, inverse, away)).max()
    for path in whole:
        theirs, ours = mean_lab(overview(path)), mean_lab(restained(image, str(path)))
        far = theirs - centre
        found[path.name] = {
            "slide": theirs.round(1).tolist(),
            "in its stain": ours.round(1).tolist(),
            "distance": round(float(np.linalg.norm(theirs - ours)), 1),
            "nearest random stain": round(float(np.linalg.norm(made - theirs, axis=1).min()), 1),
            "within the real spread": bool(np.sqrt(far @ inverse @ far) <= most),
        }
    return found


def _named(image: Pixels, name: str) -> Pixels:
    image = np.ascontiguousarray(image)
    cv2.rectangle(image, (0, 0), (9 * len(name) + 8, 20), (255, 255, 255), -1)
    cv2.putText(image, name, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def main() -> None:
    """Run one of the six."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["reference", "real", "cover", "halves", "picture", "whole"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--whole", nargs="*", type=Path, default=[])
    parser.add_argument("--colours-of", nargs="*", type=Path, default=[])
    given = parser.parse_args()
    if given.what == "picture":
        picture(*given.paths, whole=given.whole, colours_of=given.colours_of)
        return
    if given.what == "whole":
        found = whole_slides(*given.paths, given.whole, given.seeds)
    elif given.what == "cover":
        found = cover(colours(real_slides(given.paths[0])), part_of(given.paths[1]), given.seeds)
    elif given.what == "halves":
        found = halves(*given.paths, given.seeds)
    elif given.what == "real":
        found = fit(colours(real_slides(given.paths[0])))
    else:
        image = tifffile.imread(given.paths[0])
        stain = estimate(image)
        found = {
            "stain": str(stain),
            "REFERENCE_MEAN": mean_density(image, REFERENCE.white).round(4).tolist(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
