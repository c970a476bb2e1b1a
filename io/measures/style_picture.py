"""Which style has a picture, if it shows stained tissue at all? Any picture has nine numbers, also a mask or a white one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safron.io.errors import BadInput, counted
from safron.io.whole_image import read_image

from .style import measure_style
from .two_stains import measure_stains

DENSITIES = ((0.1, 4.0), (-0.5, 4.0), (-1.0, 1.0))
"""Of haematoxylin, eosin and the rest in tissue; 474 pictures of EBHI-Seg and CoNSeP have 0.45 to 1.97, -0.03 to 1.83 and -0.47 to 0.36."""

LEAST_COLORS = 24
"""Of a picture of tissue; those pictures have thousands."""

_SAMPLED = 1 << 14


def measure_style_of(path: Path, option: str) -> tuple[float, ...]:
    """Measure the style of an image that shows stained tissue.

    Parameters
    ----------
    path
        The image.
    option
        What asks for it, such as "--style".

    Returns
    -------
    tuple[float, ...]
        The numbers; see `safron.io.measures.style`.

    Raises
    ------
    BadInput
        It cannot be read, or shows no tissue in haematoxylin and eosin.
    """
    try:
        picture = read_image(path)
        measure_stains(picture, str(path))
    except BadInput as error:
        raise BadInput(f"{option} {error}") from error
    every = picture.reshape(-1, 3)
    colors = len(np.unique(every[:: -(-len(every) // _SAMPLED)], axis=0))
    vector = tuple(float(value) for value in measure_style(picture))
    inside = all(low <= value <= high for value, (low, high) in zip(vector[3:6], DENSITIES, strict=True))
    if colors < LEAST_COLORS or not inside:
        why = f"has {counted(colors, 'colour')}" if colors < LEAST_COLORS else "has colours that no stain has"
        raise BadInput(
            f"{option} {path}: {why}, as a mask or a drawing; give a picture of tissue in haematoxylin and eosin"
        )
    return vector
