"""The published SAFRON recipe: crops to PNG, each through the generator to a PNG, all joined in memory, one PNG out.

Written after the paper's code, which joins in two float64 arrays of the whole image, sums and counts; its TensorFlow network is
replaced by the generator that all share, its crops are placed where SAFRON places them, and OpenCV reads and writes the PNGs.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from job import TILE, Generator, Job, main, to_uint8, windows


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a PNG, uint8 RGB."""
    crops, patches = job.out / "crops", job.out / "patches"
    crops.mkdir()
    patches.mkdir()
    for y, x, labels in windows(job.labels()):
        cv2.imwrite(str(crops / f"{y}_{x}.png"), labels)
    for crop in sorted(crops.iterdir()):
        labels = cv2.imread(str(crop), cv2.IMREAD_GRAYSCALE)
        image = to_uint8(generator(labels[None]))[0]
        cv2.imwrite(str(patches / crop.name), image[..., ::-1])
    path = job.out / "recipe.png"
    cv2.imwrite(str(path), join(patches, job.side))
    return {"kind": "png", "path": str(path)}


def join(patches: Path, side: int) -> np.ndarray:
    """Average the PNGs where they overlap: uint8 BGR [side, side, 3]."""
    sums, counts = np.zeros((side, side, 3)), np.zeros((side, side, 3))
    for path in patches.iterdir():
        y, x = map(int, path.stem.split("_"))
        patch = cv2.imread(str(path))
        rows, columns = min(TILE, side - y), min(TILE, side - x)
        sums[y : y + rows, x : x + columns] += patch[:rows, :columns]
        counts[y : y + rows, x : x + columns] += 1
    sums /= counts
    return np.rint(sums, out=sums).astype(np.uint8)


if __name__ == "__main__":
    main(render)
