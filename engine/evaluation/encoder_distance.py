"""How far apart are two sets of tiles in an encoder's features, and how sure is that?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .texture_distance import Floats, frechet_distance, kernel_distance, subset_size


@dataclass(frozen=True)
class EncoderDistances:
    """Distances of two sets of features.

    Attributes
    ----------
    kernel, error
        Squared maximum mean discrepancy under the cubic kernel (x . y / d + 1)^3, unbiased: negative values occur where the
        sets are alike. Its standard error.
    frechet
        Frechet distance; it is biased upwards, by much where there are fewer tiles than features.
    """

    kernel: float
    error: float
    frechet: float


def encoder_distances(real: Floats, fake: Floats) -> EncoderDistances:
    """Compare two sets of features.

    The standard error comes from random halves of both sets, as a delete-half jackknife (Shao and Wu, 1989): the deviation
    of the distance over them is that of the whole sets. For more than 2000 tiles, subsets have 1000, and the deviation is
    scaled accordingly. Where the sets are alike it is too large rather than too small.

    Parameters
    ----------
    real, fake
        float64 [n, d] each, at least 4 rows.

    Returns
    -------
    EncoderDistances
        See there.
    """
    size, rows = subset_size(len(real), len(fake)), min(len(real), len(fake))
    kernel, deviation = kernel_distance(real, fake)
    error = deviation * math.sqrt(size / max(1, rows - size))
    return EncoderDistances(kernel, error, frechet_distance(real, fake))
