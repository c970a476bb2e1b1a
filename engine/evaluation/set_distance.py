"""How far apart are two sets of tiles, in the features of which encoder?

What each encoder needs is imported when it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safron.io.errors import BadInput

from .tile_sets import TileSet

NOT_FID = "weight-free; not FID or KID, only comparable with itself"

Measured = dict[str, Any]
"""``measures`` (name, distance, its spread or None), ``what`` they mean, ``dimensions`` of the features, ``weights_sha256``."""


def by_encoder(real: TileSet, fake: TileSet) -> Measured:
    """Kernel and Frechet distance in features of EfficientNet-Lite0."""
    from .encoder import DIMENSIONS, load_encoder
    from .encoder import NAME as ENCODER
    from .encoder_distance import encoder_distances

    encoder = load_encoder()
    found = encoder_distances(encoder.features(real), encoder.features(fake))
    measures = [
        (f"KD, {ENCODER}", found.kernel, found.error),
        (f"Frechet, {ENCODER}", found.frechet, None),
    ]
    what = f"tiles are not resized, +- is the standard error; not FID or KID; weights' sha256 {encoder.sha256[:12]}"
    return {"measures": measures, "what": what, "dimensions": DIMENSIONS, "weights_sha256": encoder.sha256}


def by_texture(real: TileSet, fake: TileSet) -> Measured:
    """Distances in features of texture, which need no weights."""
    from .texture_distance import frechet_distance, kernel_distance, standardize, texture_features

    first, second = standardize(texture_features(real), texture_features(fake))
    kernel, spread = kernel_distance(first, second)
    measures = [
        ("texture Frechet", frechet_distance(first, second), None),
        ("texture kernel", kernel, spread),
    ]
    return {"measures": measures, "what": NOT_FID, "dimensions": first.shape[1], "weights_sha256": None}


def by_weights(real: TileSet, fake: TileSet, weights: Path, device: str) -> Measured:
    """FID and KID by an encoder that the user gives.

    Raises
    ------
    BadInput
        What runs it is not installed, or it cannot be read.
    """
    import importlib.util

    for module in ("torch", "torchmetrics"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(
                f"--weights: needs {module}, which is not installed; run: pip install 'safron[train]'"
            )
    from .fid import deep_distances
    from .texture_distance import subset_size

    found = deep_distances(real, fake, weights, subset=subset_size(len(real), len(fake)), device=device)
    measures = [("FID", found.fid, None), ("KID", found.kid, found.kid_deviation)]
    what = f"encoder {weights.name}, sha256 {found.weights_sha256[:12]}, resized by the encoder itself"
    return {
        "measures": measures,
        "what": what,
        "dimensions": found.dimensions,
        "weights_sha256": found.weights_sha256,
    }
