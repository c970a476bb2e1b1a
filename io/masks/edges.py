"""Where does one nucleus end and another begin?

A pixel is an edge where one of its four neighbours belongs to another instance, on both sides of the border:

    instances 0 0 7 7 7 0    edges 0 1 1 0 1 1

This depends on a window and one pixel around it alone, so that windows of any size give the same edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt


def find_edges(
    labels: npt.NDArray[np.uint8],
    nuclei: Sequence[int],
    instances: npt.NDArray[np.unsignedinteger] | None = None,
) -> npt.NDArray[np.uint8]:
    """Find the edges of nuclei.

    Parameters
    ----------
    labels
        uint8 [y + 2, x + 2]: a window and one pixel around it.
    nuclei
        Labels of nuclei; borders between others are no edges.
    instances
        Of any unsigned type, [y + 2, x + 2]: the number of each nucleus, 0 elsewhere. None takes the borders of
        labels, so that touching nuclei of one label are one.

    Returns
    -------
    npt.NDArray[np.uint8]
        uint8 [y, x], 1 on edges, else 0. Where numbers repeat over labels, the border between labels is an edge.

    Examples
    --------
    >>> two = np.array([[7, 7, 7, 9, 9, 0, 0]] * 3, np.uint16)
    >>> find_edges((two > 0).astype(np.uint8), [1], two)
    array([[0, 1, 1, 1, 1]], dtype=uint8)
    >>> find_edges((two > 0).astype(np.uint8), [1])
    array([[0, 0, 0, 1, 1]], dtype=uint8)
    """
    table = np.zeros(256, np.uint8)
    table[list(nuclei)] = list(nuclei)
    planes = [np.asarray(cv2.LUT(labels, table))]
    if instances is not None:
        planes.append(instances)
    return borders(planes)


def borders(planes: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.uint8]:
    """Find the pixels that differ from one of four neighbours in any of some planes.

    Parameters
    ----------
    planes
        One at least, each [y + 2, x + 2]: a window and one pixel around it.

    Returns
    -------
    npt.NDArray[np.uint8]
        uint8 [y, x], 1 where they differ, else 0.
    """
    # All rows are compared as one line: row by row takes nearly twice as long. Where it goes from one row to the next is cut off.
    height, width = planes[0].shape
    lines = [np.ascontiguousarray(plane).reshape(-1) for plane in planes]
    down = _any_differs([(line[width:], line[:-width]) for line in lines])
    inner = [line[width:-width] for line in lines]
    right = _any_differs([(line[1:], line[:-1]) for line in inner])
    found = down[:-width] | down[width:]
    found[1:] |= right
    found[:-1] |= right
    return found.reshape(height - 2, width)[:, 1:-1].view(np.uint8)


LEAST_COMMON = 0.5
"""Share of the pixels of nuclei that must have both a label of nuclei and a number."""


def not_alike(labelled: npt.NDArray[np.bool_], numbered: npt.NDArray[np.bool_]) -> str:
    """Say where labels and numbers are not of the same nuclei; nothing where they are.

    Parameters
    ----------
    labelled, numbered
        Bool, of one shape: which pixels have a label of nuclei, and which a number.

    Examples
    --------
    >>> not_alike(np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool))
    ''
    >>> not_alike(np.array([1, 1, 1, 0], bool), np.array([0, 0, 1, 1], bool))
    'are not of the same nuclei: of the pixels that have a number or a class of nuclei 25 % have both'
    """
    either = int(np.count_nonzero(labelled | numbered))
    share = int(np.count_nonzero(labelled & numbered)) / max(either, 1)
    if not either or share >= LEAST_COMMON:
        return ""
    pixels = "of the pixels that have a number or a class of nuclei"
    return f"are not of the same nuclei: {pixels} {100 * share:.0f} % have both"


def _any_differs(
    pairs: Sequence[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]],
) -> npt.NDArray[np.bool_]:
    """Where the two lines of any pair differ."""
    found = np.not_equal(*pairs[0])
    for one, other in pairs[1:]:
        found |= one != other
    return np.asarray(found)
