"""How are synthetic images made of many masks? As a user makes them: all masks side by side, one run of ``safron-render``.

Each mask gets a margin of its own outermost labels, as wide as the generator's card says that it reads. So its image is
what it would be alone, but for noise, which differs from place to place: equal masks give different images. Where looks vary, by
the style of a generator or by random stains, each look has a canvas, and the masks take turns.
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
from typing import Any

import cv2
import numpy as np
from safron.io.errors import BadInput, Failed
from safron.io.files import replacing
from safron.io.masks.colon import Colon
from safron.io.measures.guides import LATTICE
from safron.io.measures.style import STYLE_NAMES
from safron.io.slides.reader import Pixels
from safron.training.data.source import Bytes

LEAST_MARGIN = 64
"""Least number of pixels of repeated labels around each mask: some networks see more than their card says."""
RESAMPLING = 4
"""Drawn pixels beyond its own that a pixel may be made of, where mask and generator have different pixel sizes."""

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
    """Place rectangles (height, width) in rows, at least `margin` pixels on each side of each, on a canvas that is about square.

    Places are multiples of `LATTICE` apart, to which guides and halvings are aligned.

    Examples
    --------
    >>> lay_out([(5, 6), (5, 6)], margin=4)
    Mosaic(places=((4, 4), (20, 4)), shape=(32, 16))
    """
    cells = [tuple(-(-(side + 2 * margin) // LATTICE) * LATTICE for side in size) for size in sizes]
    most = max(math.isqrt(sum(map(math.prod, cells))), *(width for _, width in cells))
    places, y, x, tall, wide = [], 0, 0, 0, 0
    for height, width in cells:
        if x + width > most:
            y, x, tall = y + tall, 0, 0
        places.append((y + margin, x + margin))
        x += width
        tall, wide = max(tall, height), max(wide, x)
    return Mosaic(tuple(places), (y + tall, wide))


def margin_of(card: dict[str, Any], mpp: float | None) -> int:
    """Decide how far each mask's outermost labels are repeated.

    Parameters
    ----------
    card
        Of the generator, as ``safron-generator card`` prints it.
    mpp
        Pixel size of the masks in micrometres; None if it is not known.

    Returns
    -------
    int
        Pixels of the masks, a multiple of `LATTICE`.

    Examples
    --------
    >>> margin_of({"reach": 20, "mpp": 1.0}, 1.0), margin_of({"reach": 164, "mpp": 1.0}, 0.5)
    (64, 336)
    """
    enlarged = max(1.0, float(card["mpp"]) / mpp) if card["mpp"] and mpp else 1.0
    wanted = max(LEAST_MARGIN, math.ceil((int(card["reach"]) + RESAMPLING) * enlarged))
    return -(-wanted // LATTICE) * LATTICE


def draw_mosaic(labels: Sequence[Bytes], mosaic: Mosaic, margin: int) -> Bytes:
    """Draw masks and their margins on the canvas; uint8 [y, x], 0 where nothing lies."""
    canvas = np.zeros(mosaic.shape, np.uint8)
    for mask, (y, x) in zip(labels, mosaic.places, strict=True):
        height, width = mask.shape
        around = np.s_[y - margin : y + height + margin, x - margin : x + width + margin]
        canvas[around] = np.pad(mask, margin, mode="edge")
    return canvas


def synthesize(
    labels: Sequence[Bytes],
    folder: Path,
    *,
    model: str,
    seed: int,
    mpp: float | None,
    threads: int | None,
    styles: Sequence[Bytes] = (),
    stain: str = "reference",
) -> tuple[Bytes, ...]:
    """Generate an image of each mask; `folder` keeps the rendered canvases for the next run.

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
    styles
        Images, uint8 [y, x, 3] each, whose styles the masks take in turn, if the generator can measure them.
    stain
        As ``safron-render --stain``. "random": as many canvases as there are `styles`, each in a stain of its own, upon its style if
        it has one.

    Returns
    -------
    tuple[Bytes, ...]
        uint8 [y, x, 3] each, RGB, of the masks' sizes.

    Raises
    ------
    BadInput, Failed
        ``safron-render`` could not; with its message.
    """
    card = json.loads(_program("safron.engine.generator_cli", "card", model))
    margin = margin_of(card, mpp)
    options = ["--model", model, "--seed", str(seed), *(["--mpp", f"{mpp:.6g}"] if mpp else [])]
    style = card["style"]
    measured = bool(style and (style["encoder"] or tuple(style["numbers"]) == STYLE_NAMES))
    shown = _content(stain).encode() if Path(stain).is_file() else b""
    if stain not in ("reference", "random"):
        options += ["--stain", stain]
    if not styles or not (measured or stain == "random"):
        return _draw(labels, folder, margin, options, model, threads, content=shown)
    made: list[Bytes] = [np.empty(0, np.uint8)] * len(labels)
    for turn, image in enumerate(styles[: len(labels)]):
        own, part, content = folder / f"style-{turn}", [*options], shown
        own.mkdir(parents=True, exist_ok=True)
        if measured:
            coded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            with replacing(own / "style.png") as file:
                file.write(coded)
            content += coded
            part += ["--style", str(own / "style.png")]
        if stain == "random":
            part += ["--stain", f"random:{seed * len(styles) + turn}"]
        drawn = _draw(labels[turn :: len(styles)], own, margin, part, model, threads, content=content)
        made[turn :: len(styles)] = drawn
    return tuple(made)


def _draw(
    labels: Sequence[Bytes],
    folder: Path,
    margin: int,
    options: list[str],
    model: str,
    threads: int | None,
    content: bytes = b"",
) -> tuple[Bytes, ...]:
    """Render one canvas of masks, or take the one that `folder` keeps; see `synthesize`. `content` of files that options name."""
    mosaic = lay_out([mask.shape for mask in labels], margin)
    canvas = draw_mosaic(labels, mosaic, margin)
    made_by = {
        "mask": hashlib.sha256(canvas.tobytes() + content).hexdigest(),
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


def _content(name: str) -> str:
    """SHA-256 of a generator's file, or of a slide's; a shipped generator is known by its name and our version."""
    if not Path(name).is_file():
        return name
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _render(mask: Path, slide: Path, options: list[str]) -> None:
    """Render losslessly and without a pyramid."""
    quiet = ["--compression", "deflate", "--level-count", "1", "--overwrite", "--quiet"]
    _program("safron.engine", str(mask), str(slide), *options, *quiet)


def _program(module: str, *words: str) -> str:
    """Run a program of the engine in a process of its own; return what it printed."""
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        said = last.removeprefix("safron-render: ").removeprefix("safron-generator: ").removeprefix("error: ")
        raise (BadInput if done.returncode == 2 else Failed)(f"safron-render: {said}")
    return done.stdout


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
