"""Which label does a stored number become?

Masks of other programs hold 0 and 255, numbers of instances, or classes in another order. Rules say what they mean here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .plane import Plane, ReadChunk

_LARGEST = (1 << 63) - 1
_RULE = re.compile(r"(?:(\d+)(?:-(\d+))?|(\*))=(\d+)")


@dataclass(frozen=True)
class Relabel:
    """Rules from stored numbers to labels.

    Attributes
    ----------
    rules
        First and last number, and the label that they become; no two overlap.
    rest
        Label of all other numbers; None leaves them as they are.

    Examples
    --------
    >>> Relabel.parse("255=2,3=1").apply(np.array([255, 3, 0]))
    array([2, 1, 0])
    """

    rules: tuple[tuple[int, int, int], ...]
    rest: int | None = None

    @classmethod
    def parse(cls, text: str) -> Relabel:
        """Read rules such as ``255=2,3=1``, ``1-65535=2`` or ``0=0,*=1``.

        Raises
        ------
        BadInput
            A rule has another form, names a label above 255, or two rules name one number.
        """
        rules, rest = [], None
        for part in text.split(","):
            found = _RULE.fullmatch(part.strip())
            if found is None or int(found[4]) > 255:
                raise BadInput(
                    f"--map {text!r}: {part.strip()!r} must be NUMBER=LABEL, FIRST-LAST=LABEL or *=LABEL with a label from 0 to 255, as 255=2"
                )
            if found[3]:
                rest = int(found[4])
                continue
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last <= _LARGEST:
                raise BadInput(f"--map {text!r}: {part.strip()!r} must begin with the smaller number")
            rules.append((first, last, int(found[4])))
        rules.sort()
        for one, other in pairwise(rules):
            if other[0] <= one[1]:
                raise BadInput(f"--map {text!r}: number {other[0]} has two labels; give one")
        return cls(tuple(rules), rest)

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels of an array of whole numbers or truth values; numbers that no rule names may be no labels."""
        if values.dtype in (np.bool_, np.uint8):
            table = self._look_up(np.arange(256))
            return table[values.view(np.uint8)]
        return self._look_up(values)

    def _look_up(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        labels = values.astype(np.int64) if values.dtype != np.uint64 else values.copy()
        if self.rest is not None:
            labels[:] = self.rest
        most = np.iinfo(values.dtype).max
        for first, last, label in self.rules:
            if first <= most:
                labels[(values >= first) & (values <= min(last, int(most)))] = label
        return labels


BINARY = Relabel(((0, 0, 0),), 1)
"""Everything but 0 becomes 1."""


class RelabelledPlane:
    """A plane whose numbers are looked up in rules.

    Parameters
    ----------
    plane
        Whose numbers.
    relabel
        The rules.
    """

    def __init__(self, plane: Plane, relabel: Relabel) -> None:
        self.plane, self.relabel = plane, relabel
        self.kind, self.shape, self.chunks = plane.kind, plane.shape, plane.chunks
        self.dtype, self.mpp, self.notes = plane.dtype, plane.mpp, plane.notes
        self.keep_chunks = plane.keep_chunks
        inner = plane.read_chunk
        self.read_chunk: ReadChunk | None = None
        if inner is not None:
            self.read_chunk = lambda row, col: relabel.apply(inner(row, col))

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Labels [y, x] of an in-bounds region."""
        return self.relabel.apply(self.plane.read(rows, cols))

    def blame(self, rows: slice, cols: slice) -> str:
        """Name the part of the region that cannot be read."""
        return self.plane.blame(rows, cols)
