"""Which nuclei does a task network find in a real tile?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .data import as_tensor

Integers = npt.NDArray[np.int32]
SURELY_INTERIOR = 2.0
"""Logit from which on a pixel is interior to a network that learned from pseudo-labels.

These leave out the pixels between nuclei, of which it was not sure, so that it is too sure of them in the end.
"""

GROW = 8
"""Steps by which interiors grow into the nucleus around them."""


def find_nuclei(
    network: nn.Module, rgb: npt.NDArray[np.uint8], *, smallest: int = 30, interior: float = 0.0
) -> Integers:
    """Segment a picture.

    Parameters
    ----------
    network
        A `TaskNet`.
    rgb
        uint8 [y, x, 3].
    smallest
        Pixels of the smallest nucleus that is kept.
    interior
        Logit from which on a pixel is interior; see `SURELY_INTERIOR`.

    Returns
    -------
    Integers
        int32 [y, x]: 0, or the number of a nucleus from 1 on.
    """
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    with torch.no_grad():
        logits = network(as_tensor([padded]))[0, :, :height, :width].numpy()
    nucleus = logits[0] > 0
    inside = (logits[1] > interior) & nucleus
    _, numbers = cv2.connectedComponents(inside.view(np.uint8))
    grown = numbers.astype(np.float32)
    for _ in range(GROW):
        wide = np.asarray(cv2.dilate(grown, np.ones((3, 3), np.uint8)))
        grown = np.where((grown == 0) & nucleus, wide, grown)
    # Nuclei so thin that none of their pixels is interior.
    _, thin = cv2.connectedComponents(((grown == 0) & nucleus).view(np.uint8))
    found = np.where(thin > 0, thin + int(grown.max()), grown).astype(np.int32)
    counts = np.bincount(found.reshape(-1))
    found[counts[found] < smallest] = 0
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)
