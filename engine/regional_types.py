"""How do types of nuclei differ from region to region of one canvas?

A mask model takes its types as one vector. Where regions of a patch have different ones, the model is asked once for each, and each pixel
takes the prediction with the types of its own region, as MultiDiffusion (Bar-Tal et al., 2023) has it for regions of a picture. It is a
function of the labels under the patch alone, and predictions of neighbouring patches are averaged as ever, so the picture is the same for
any blocks and workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .generator.card import Card
from .generator.model import PatchModel

NONE = "none"
"""Says that a region has no nuclei."""


class RegionalTypes:
    """A mask model whose types depend on the region.

    Parameters
    ----------
    model
        The mask model.
    types
        float32 [256, types]: for each label, 1 where a type may be.
    """

    def __init__(self, model: PatchModel, types: npt.NDArray[np.float32]) -> None:
        self.model = model
        self._vectors, kinds = np.unique(types, axis=0, return_inverse=True)
        self._kinds = kinds.reshape(-1).astype(np.uint8)
        self.sha256 = hashlib.sha256(model.sha256.encode() + types.astype("<f4").tobytes()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: Any = None, **planes: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """See `PatchModel`; the input "style" is what the regions say."""
        card = self.model.card
        inner = labels[
            :, card.context : labels.shape[1] - card.context, card.context : labels.shape[2] - card.context
        ]
        kinds = self._kinds[inner]
        # Background has no nuclei, so it is no reason to ask.
        first, *others = np.unique(kinds[~card.is_fill[inner]]).tolist() or [int(kinds.flat[0])]
        made = self._with(first, labels, noise, planes)
        for kind in others:
            made = np.where((kinds == kind)[..., None], self._with(kind, labels, noise, planes), made)
        return made

    def _with(
        self, kind: int, labels: npt.NDArray[np.uint8], noise: Any, planes: Mapping[str, Any]
    ) -> npt.NDArray[Any]:
        style = np.broadcast_to(self._vectors[kind], (len(labels), self._vectors.shape[1]))
        return self.model(labels, noise, **{**planes, "style": style})


def read_region_types(text: str, card: Card, types: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
    """Read which types which regions have.

    Parameters
    ----------
    text
        As ``tumor=neoplastic+inflammatory,stroma=connective``; a region is named or numbered, and "none" are no nuclei.
    card
        Of the mask model, which names the regions.
    types
        All that the model knows.

    Returns
    -------
    dict[int, tuple[int, ...]]
        For each region's label the places of its types in `types`.

    Raises
    ------
    BadInput
        A region or a type is not known, or a region is given twice.
    """
    regions = {label.name.lower(): label.value for label in card.labels if label.fill is None}
    known = {name.lower(): place for place, name in enumerate(types)}
    found: dict[int, tuple[int, ...]] = {}
    for part in text.split(","):
        region, equals, names = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise BadInput(
                f"--region-types {text}: {part.strip()!r} must be a region and its types, as tumor=neoplastic+inflammatory"
            )
        label = int(region) if region.isdecimal() else regions.get(region.lower())
        if label is None or label not in regions.values():
            raise BadInput(
                f"--region-types {text}: {card.name!r} knows no region {region!r} with tissue; it has "
                f"{', '.join(f'{value} {name}' for name, value in regions.items())}"
            )
        if label in found:
            raise BadInput(f"--region-types {text}: region {region!r} is there twice; give its types once")
        wanted = [name.strip().lower() for name in names.split("+")]
        if wanted == [NONE]:
            wanted = []
        if unknown := [name for name in wanted if name not in known]:
            raise BadInput(
                f"--region-types {text}: {card.name!r} knows no type {unknown[0]!r}; it has {', '.join(types)}, and {NONE}"
            )
        found[label] = tuple(sorted({known[name] for name in wanted}))
    return found
