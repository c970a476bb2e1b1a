"""Which styles do the training images have, and which of them get a name on the card?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.training.config import TrainConfig
from safron.training.data.source import Floats, Source

SAMPLE = 512
"""At most so many windows are read."""

HAEMATOXYLIN, EOSIN = 3, 4
"""Places of these numbers in a style."""

NAMES = ("pale", "dark", "pink", "blue")


def sample_styles(source: Source, config: TrainConfig) -> Floats:
    """Read the styles of windows all over a source, float32 [n, s], the same every time."""
    rng = np.random.default_rng(0)
    side = config.tile_side + 2 * config.model.context
    chosen = rng.permutation(len(source))[:SAMPLE]
    return np.stack(
        [source.read(int(index), source.place(rng, int(index), side), side).style for index in chosen]
    )


def named_styles(styles: Floats) -> dict[str, list[float]]:
    """Name four of the styles [n, s]: the tenth from either end in haematoxylin, and in its share against eosin."""
    density = styles[:, HAEMATOXYLIN]
    share = density - styles[:, EOSIN]
    places = (_at(density, 0.1), _at(density, 0.9), _at(share, 0.1), _at(share, 0.9))
    return {
        name: [round(float(value), 4) for value in styles[place]]
        for name, place in zip(NAMES, places, strict=True)
    }


def _at(values: npt.NDArray[np.floating], share: float) -> int:
    """Place of the value that is larger than a share of all."""
    return int(np.argsort(values, kind="stable")[round(share * (len(values) - 1))])
