"""What style vector has a reference slide, as a generator's own encoder sees it?

Squares of tissue from all over the reference go through the encoder, and their vectors are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.generator.card import StyleEncoder
from safron.engine.generator.onnx_file import OnnxFile
from safron.engine.generator.pictures import Picture, open_picture
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, Failed, one_line
from safron.io.synthesis.stains import tissue_share

LEAST_TISSUE = 0.5
"""Share of a square that must be tissue."""

SQUARES, TRIES = 16, 900
"""Squares that are averaged, and that are looked at to find them."""


def reference_style(encoder: StyleEncoder, folder: Path, reference: str) -> tuple[float, ...]:
    """Measure the style of a slide or an image.

    Parameters
    ----------
    encoder
        Of the generator.
    folder
        Of the generator's file.
    reference
        Path of a slide, an image or a Zarr of RGB.

    Returns
    -------
    tuple[float, ...]
        The vector.

    Raises
    ------
    BadInput
        The reference has no tissue or cannot be read, or the encoder is missing.
    Failed
        The encoder fails.
    """
    session = _open(str(folder / encoder.file))
    try:
        picture = open_picture(str(Path(reference).absolute()))
    except BadInput as error:
        raise BadInput(f"--style {error}") from error
    vectors = []
    for square in _tissue(picture, encoder):
        planes = np.ascontiguousarray(square.transpose(2, 0, 1))[None]
        try:
            vectors.append(np.asarray(session.run(["style"], {"image": planes})[0][0], np.float64))
        except Exception as error:  # ONNX Runtime's exception classes have no common public base
            raise Failed(f"{encoder.file}: the style encoder failed: {one_line(error)}") from error
    if not vectors:
        raise BadInput(
            f"--style {reference}: no square of {encoder.side} px with {100 * LEAST_TISSUE:.0f} % tissue was found; "
            "give a reference with more tissue"
        )
    return tuple(float(value) for value in np.mean(vectors, axis=0).astype(np.float32))


def _open(path: str) -> Any:
    """Session of an encoder."""
    import onnxruntime as ort

    if not Path(path).is_file():
        raise BadInput(f"{path}: the generator's style encoder is missing; put it beside the generator")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        off = OnnxFile.parse(Path(path).read_bytes()).disabled_optimizers
        return ort.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=off
        )
    except Exception as error:  # as above
        raise BadInput(
            f"{path}: cannot load the style encoder ({one_line(error)}); export it again"
        ) from error


def _tissue(picture: Picture, encoder: StyleEncoder) -> Iterator[npt.NDArray[np.uint8]]:
    """Squares of tissue, uint8 [side, side, 3], found on a lattice from coarse to fine; at most `SQUARES`."""
    wanted = encoder.side
    scale = encoder.mpp / picture.mpp if encoder.mpp and picture.mpp else 1.0
    side = max(1, round(wanted * scale))
    height, width = picture.shape
    if height < side or width < side:
        return
    seen: set[tuple[int, int]] = set()
    found = 0
    for count in (1, 2, 4, 8, 16, 24):
        rows, columns = (
            np.unique(((np.arange(count) + 0.5) / count * (length - side)).astype(int)).tolist()
            for length in (height, width)
        )
        for y in rows:
            for x in columns:
                if (y, x) in seen or len(seen) >= TRIES:
                    continue
                seen.add((y, x))
                square = picture.read(Window(y, x, side, side))
                if tissue_share(square) < LEAST_TISSUE:
                    continue
                if side != wanted:
                    square = np.asarray(
                        cv2.resize(square, (wanted, wanted), interpolation=cv2.INTER_AREA), np.uint8
                    )
                yield square
                found += 1
                if found == SQUARES:
                    return
