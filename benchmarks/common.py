"""What do the benchmarks share: masks of any size from the shipped one, and whole renders as a user runs them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

CHUNK = 1024
CROP, APART = 128, 62
"""Side of the crops whose features are compared, and pixels from one to the next."""
GLANDS = Path(__file__).parent.parent / "examples" / "glands.zarr"


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line, whose help is the module's docstring as it stands."""
    return argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)


def gland_labels(height: int, width: int, y: int = 0) -> npt.NDArray[np.uint8]:
    """Rows from `y` of the shipped gland mask, repeated to any size: uint8 [height, width]."""
    labels = np.asarray(zarr.open_array(GLANDS, mode="r")[:], np.uint8)
    rows, columns = np.arange(y, y + height) % labels.shape[0], np.arange(width) % labels.shape[1]
    return np.take(labels[rows], columns, axis=1)


def planes_of(card: Any, height: int, width: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of one patch beside its labels: random planes, a tenth of each binary one set, and the card's style."""
    from safron.engine.generator.planes import card_specs

    rng, planes = np.random.default_rng(0), {}
    for spec in card_specs(card):
        shape = (1, spec.channels, height, width) if spec.spatial else (1, spec.channels)
        drawn = rng.random(shape) < 0.1 if spec.dtype == "uint8" else rng.standard_normal(shape)
        planes[spec.name] = drawn.astype(spec.dtype)
    if card.style and not card.style.field:
        planes["style"] = np.array([card.style.default], np.float32)
    return planes


def write_mask(path: Path, side: int) -> None:
    """Write the repeated gland mask as Zarr for the price of one: all other chunks are links to those of the first."""
    period = zarr.open_array(GLANDS, mode="r").shape
    assert not any(length % CHUNK for length in period), "the mask repeats in whole chunks"
    first = tuple(min(side, length) for length in period)
    mask = zarr.create_array(path, shape=(side, side), chunks=(CHUNK, CHUNK), dtype="uint8")
    mask[: first[0], : first[1]] = gland_labels(*first)
    for row, column in product(range(-(-side // CHUNK)), repeat=2):
        link = path / "c" / str(row) / str(column)
        source = path / "c" / str(row % (period[0] // CHUNK)) / str(column % (period[1] // CHUNK))
        if source != link and source.exists():  # a chunk of background alone is not stored
            link.parent.mkdir(exist_ok=True)
            link.hardlink_to(source)


def crops_of(images: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Cut images, uint8 [y, x, 3] each, into overlapping crops of `CROP` pixels."""
    return [
        np.ascontiguousarray(image[y : y + CROP, x : x + CROP])
        for image in images
        for y in range(0, image.shape[0] - CROP + 1, APART)
        for x in range(0, image.shape[1] - CROP + 1, APART)
    ]


def timed(call: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def render_apart(folder: Path, mask: Path, **options: Any) -> dict[str, Any]:
    """Run ``safron-render`` as a user does; return its report, and the wall seconds of the whole process."""
    report = folder / "report.json"
    command = ["safron-render", str(mask), str(folder / "slide.tiff"), "--report", str(report)]
    command += ["--overwrite", "--quiet"]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    # Installed modules are compiled; without this an editable checkout would be anew at each start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    wall = timed(partial(subprocess.run, command, check=True, env=environment))
    result: dict[str, Any] = json.loads(report.read_text()) | {"wall": wall}
    return result
