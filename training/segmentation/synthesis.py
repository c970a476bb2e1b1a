"""How are synthetic images made of many masks? As a user makes them: all masks side by side, one run of ``safron-render``.

Each mask gets a margin of its own outermost labels, so that its image is what it would be alone, for every generator that
reads no more than `MARGIN` pixels beyond a patch. Noise differs from place to place, so equal masks give different images.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safron.io.errors import BadInput, Failed
from safron.io.files import replacing
from safron.io.masks.colon import Colon
from safron.io.slides.reader import Pixels
from safron.training.data.source import Bytes

MARGIN = 64
"""Pixels of repeated labels around each mask."""

GLAND = 90.0
"""Diameter of a healthy gland in micrometres."""
GRADES = (0, 1, 2)
"""Grades that procedural masks take turns in: healthy, well and moderately differentiated."""


@dataclass(frozen=True)
class Mosaic:
    """Where masks lie on one canvas: upper left pixel (y, x) of each, and the canvas's height and width."""

    places: tuple[tuple[int, int], ...]
    shape: tuple[int, int]


def lay_out(sizes: Sequence[tuple[int, int]], margin: int) -> Mosaic:
    """Place rectangles (height, width) in rows, `margin` pixels on each side of each, on a canvas that is about square.

    Examples
    --------
    >>> lay_out([(4, 6), (4, 6)], margin=1)
    Mosaic(places=((1, 1), (7, 1)), shape=(12, 8))
    """
    area = sum((height + 2 * margin) * (width + 2 * margin) for height, width in sizes)
    most = max(math.isqrt(area), *(width + 2 * margin for _, width in sizes))
    places, y, x, tall, wide = [], 0, 0, 0, 0
    for height, width in sizes:
        if x + width + 2 * margin > most:
            y, x, tall = y + tall, 0, 0
        places.append((y + margin, x + margin))
        x += width + 2 * margin
        tall, wide = max(tall, height + 2 * margin), max(wide, x)
    return Mosaic(tuple(places), (y + tall, wide))


def draw_mosaic(labels: Sequence[Bytes], mosaic: Mosaic, margin: int) -> Bytes:
    """Draw masks and their margins on the canvas; uint8 [y, x], 0 where nothing lies."""
    canvas = np.zeros(mosaic.shape, np.uint8)
    for mask, (y, x) in zip(labels, mosaic.places, strict=True):
        height, width = mask.shape
        around = np.s_[y - margin : y + height + margin, x - margin : x + width + margin]
        canvas[around] = np.pad(mask, margin, mode="edge")
    return canvas


def synthesize(
    labels: Sequence[Bytes], folder: Path, *, model: str, seed: int, mpp: float | None, threads: int | None
) -> tuple[Bytes, ...]:
    """Generate an image of each mask; `folder` keeps the rendered canvas for the next run.

    Parameters
    ----------
    labels
        uint8 [y, x] each, labels of the generator.
    model
        A shipped generator's name, or an ONNX file.
    mpp
        Pixel size of the masks in micrometres; None if it is not known.
    threads
        CPU threads; None leaves it to ``safron-render``.

    Returns
    -------
    tuple[Bytes, ...]
        uint8 [y, x, 3] each, RGB, of the masks' sizes.

    Raises
    ------
    BadInput, Failed
        ``safron-render`` could not; with its message.
    """
    mosaic = lay_out([mask.shape for mask in labels], MARGIN)
    canvas = draw_mosaic(labels, mosaic, MARGIN)
    options = ["--model", model, "--seed", str(seed), *(["--mpp", f"{mpp:.6g}"] if mpp else [])]
    made_by = {
        "mask": hashlib.sha256(canvas.tobytes()).hexdigest(),
        "options": options,
        "model": _content(model),
    }
    slide, said = folder / "slide.tiff", folder / "made_by.json"
    if not (slide.exists() and said.exists() and json.loads(said.read_text()) == made_by):
        said.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "mask.npy") as file:
            np.save(file, canvas)
        _render(folder / "mask.npy", slide, [*options, *(["--threads", str(threads)] if threads else [])])
        with replacing(said) as file:
            file.write(json.dumps(made_by, indent=2).encode())
    with Pixels(slide) as pixels:
        return tuple(
            pixels.read(y, x, *mask.shape) for mask, (y, x) in zip(labels, mosaic.places, strict=True)
        )


def _content(model: str) -> str:
    """SHA-256 of a generator's file; a shipped one is known by its name and our version."""
    return hashlib.sha256(Path(model).read_bytes()).hexdigest() if Path(model).is_file() else model


def _render(mask: Path, slide: Path, options: list[str]) -> None:
    """Run ``safron-render`` in a process of its own, losslessly and without a pyramid."""
    command = [sys.executable, "-m", "safron.engine", str(mask), str(slide), *options]
    command += ["--compression", "deflate", "--level-count", "1", "--overwrite", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        said = last.removeprefix("safron-render: ").removeprefix("error: ")
        raise (BadInput if done.returncode == 2 else Failed)(f"safron-render: {said}")


def procedural_masks(
    count: int, size: tuple[int, int], *, seed: int, mpp: float | None = None
) -> tuple[Bytes, ...]:
    """Cut masks from procedural colon tissue: 0 background, 1 stroma, 2 gland; uint8 [y, x] each.

    Parameters
    ----------
    size
        Height and width of each.
    mpp
        Their pixel size in micrometres; 1 where it is not known.
    """
    height, width = size
    tissues = [
        Colon(seed, grade=grade, diameter=max(16.0, GLAND / (mpp or 1.0)), outline="full") for grade in GRADES
    ]
    made: list[Bytes] = []
    place = 0
    while len(made) < count:
        # Places side by side along a row of an endless canvas; those without glands teach nothing.
        columns = slice(place * width, (place + 1) * width)
        labels = tissues[place % len(tissues)].paint(slice(0, height), columns)
        place += 1
        if (labels == 2).mean() > 0.05:
            made.append(labels)
    return tuple(made)
