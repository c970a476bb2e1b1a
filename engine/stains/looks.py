"""Which stains can be asked for: by name, of a slide, or at random?"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist

import numpy as np
from safron.io.errors import BadInput

from .stain import REFERENCE, Stain, StainChange, Vector

REAL_MEAN = (-0.4156, 0.1099, -1.0734)
REAL_SPREAD = ((0.2105, 0.0, 0.0), (0.0248, 0.1896, 0.0), (0.1197, -0.0983, 0.4062))
"""Logarithm of the optical density of the mean colour of tissue in red, green and blue, over the 266 slides of EBHI-Seg (Shi et al. 2023, CC BY 4.0): mean,
and Cholesky factor of the covariance; `benchmarks/stains.py real` measures them."""

REFERENCE_MEAN: Vector = (0.4065, 0.7046, 0.3962)
"""The same density of what the shipped generator draws, not its logarithm."""

CONTRAST, WIDTH = 1.05, 1.1
"""Raise densities and their spread. What the generator draws has more contrast than those pictures, and the mean colour of more contrast
is lighter and varies less; with these, the looks cover the real slides (`benchmarks/stains.py cover`)."""

BALANCE = 0.15
"""Standard deviation of the logarithm of the share of haematoxylin to eosin."""

_Z_MOST = 2.0


def mixed(
    *,
    gains: Vector = (1.0, 1.0, 1.0),
    haematoxylin: float = 1.0,
    eosin: float = 1.0,
    white: Vector = REFERENCE.white,
    of: Stain = REFERENCE,
) -> Stain:
    """Give another stain by factors: of all density in red, green and blue, and of the amounts of both stains.

    Examples
    --------
    >>> mixed(haematoxylin=2.0).strength[0] == 2 * REFERENCE.strength[0]
    True
    """
    matrix = of.matrix[:2] * np.array(gains)
    lengths = np.linalg.norm(matrix, axis=1)
    directions = [tuple(float(round(value, 6)) for value in row) for row in matrix / lengths[:, None]]
    (h0, h1, h2), (e0, e1, e2) = directions
    strength = of.strength[0] * haematoxylin * lengths[0], of.strength[1] * eosin * lengths[1]
    return Stain((h0, h1, h2), (e0, e1, e2), (float(strength[0]), float(strength[1])), white)


LOOKS: dict[str, Stain] = {
    "pale": mixed(haematoxylin=0.6, eosin=0.6),
    "strong": mixed(haematoxylin=1.45, eosin=1.4),
    "blue": mixed(haematoxylin=1.25, eosin=0.5, gains=(1.15, 0.95, 0.8)),
    "pink": mixed(haematoxylin=0.75, eosin=1.7),
    "violet": mixed(gains=(1.1, 1.5, 0.75), haematoxylin=1.1, eosin=1.2),
    "red": mixed(gains=(0.75, 1.15, 1.2), eosin=1.35),
    "faded": mixed(haematoxylin=0.55, eosin=0.8, gains=(0.85, 0.95, 1.25), white=(246.0, 243.0, 232.0)),
    "frozen": mixed(haematoxylin=0.8, eosin=0.55, gains=(1.05, 0.9, 1.05), white=(236.0, 238.0, 244.0)),
}
"""Looks by name, each a plain change of the reference."""

FORM = f"must be reference, {', '.join(LOOKS)}, random, random:SEED, or a slide or image"


def is_named(wanted: str) -> bool:
    """Whether a stain is found without reading a file."""
    return wanted in ("reference", *LOOKS) or re.fullmatch(r"random(?::\d{1,18})?", wanted) is not None


def stain_change(
    wanted: str, *, seed: int, variation: float = 0.0, source: Stain = REFERENCE
) -> StainChange | None:
    """Decide how finished pixels change.

    Parameters
    ----------
    wanted
        "reference", a name of `LOOKS`, "random" (of the seed), "random:SEED", or a path of a slide or image.
    seed
        Of the render.
    variation, source
        See `StainChange`.

    Returns
    -------
    StainChange | None
        None leaves every pixel as it is.

    Raises
    ------
    BadInput
        There is no such look or file, or the file does not show two stains.
    """
    if not 0 <= variation <= 0.5:
        raise BadInput(
            f"--stain-field {variation}: must be 0 to 0.5, such as 0.1 for amounts that vary by a tenth"
        )
    if wanted == "reference":
        return StainChange(wanted, source, source, variation, seed) if variation else None
    found = re.fullmatch(r"random(?::(\d+))?", wanted)
    if found:
        own = int(found[1]) if found[1] else seed
        return StainChange(f"random:{own}", random_stain(own), source, variation, seed)
    if wanted in LOOKS:
        return StainChange(wanted, LOOKS[wanted], source, variation, seed)
    path = Path(wanted)
    if not path.exists():
        raise BadInput(f"--stain {wanted}: {FORM}; there is no such look or file")
    from .estimate import estimate_file

    try:
        target = estimate_file(path)
    except BadInput as error:
        raise BadInput(f"--stain {error}") from None
    return StainChange(f"of {path.name}", target, source, variation, seed)


def random_stain(seed: int) -> Stain:
    """Draw a stain as those of real slides vary: hue, strength, balance of both stains, and the empty slide's colour.

    Parameters
    ----------
    seed
        Whole number; equal seeds give equal stains.
    """
    normal = [max(-_Z_MOST, min(_Z_MOST, _normal(seed, number))) for number in range(8)]
    density = CONTRAST * np.exp(np.array(REAL_MEAN) + WIDTH * np.array(REAL_SPREAD) @ np.array(normal[:3]))
    red, green, blue = (density / np.array(REFERENCE_MEAN)).tolist()
    balance = float(np.exp(BALANCE * normal[3] / 2))
    light = 241.0 + 4.0 * normal[4]
    white = tuple(round(min(252.0, light + 1.5 * tint), 2) for tint in normal[5:8])
    return replace(
        mixed(gains=(red, green, blue), haematoxylin=balance, eosin=1 / balance),
        white=(white[0], white[1], white[2]),
    )


def _normal(seed: int, number: int) -> float:
    """Draw a standard normal number that no version of a library changes."""
    digest = blake2b(f"stain {seed} {number}".encode(), digest_size=8).digest()
    return NormalDist().inv_cdf((int.from_bytes(digest, "little") + 0.5) / 2**64)
