"""Which class has each number of an instance image?

A table (`safron.io.tables`) has the number of a nucleus in its first column and the name of its class in the second; further
columns are not read. Numbers may be of any size; they are written as they are if they fit uint32, else as places in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import parse_text
from safron.io.tables import read_table

from .classes import ClassTable, table_of_names
from .mask import read_plane
from .plane import Plane

MAX_TABLE_BYTES = 256 << 20
FORM = (
    "its first line must name the columns, its first two columns be number and class, such as 17,epithelial"
)


@dataclass(frozen=True)
class NumberedClasses:
    """Classes of nuclei by their numbers.

    Attributes
    ----------
    numbers
        int64 [n], ascending, none of them twice, none of them 0.
    classes
        int32 [n]: index into `names`.
    names
        Of the classes.
    """

    numbers: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    def count(self, some: npt.NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Number of nuclei of each class, of all of them or of some, bool [n]."""
        classes = self.classes if some is None else self.classes[some]
        counts = np.bincount(classes, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}


def read_instance_table(path: Path) -> NumberedClasses:
    """Read a table.

    Raises
    ------
    BadInput
        It cannot be read, has no line, a number that is none, or one number twice.
    """
    return parse_text(path, _parse, kind="CSV", remedy=FORM, max_bytes=MAX_TABLE_BYTES)


def _parse(text: str) -> NumberedClasses:
    table = read_table(text)
    rows = table.rows
    if table.columns and table.columns[0].isdecimal():
        raise ValueError(
            f"its first line begins with the number {table.columns[0]}, which would be lost as the name of a column"
        )
    if not rows:
        raise ValueError("no line below the names of its columns")
    for line, row in rows:
        if len(row) < 2 or not row[0].isdecimal() or int(row[0]) >= 1 << 63 or not row[1]:
            raise ValueError(
                f"line {line} must begin with a whole number and a class, not with {','.join(row[:2])[:40]!r}"
            )
    numbers = np.array([int(row[0]) for _, row in rows], np.int64)
    places: dict[str, int] = {}
    classes = np.array([places.setdefault(row[1], len(places)) for _, row in rows], np.int32)
    order = np.argsort(numbers, kind="stable")
    numbers, classes = numbers[order], classes[order]
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    if twice.size:
        raise ValueError(f"number {twice[0]} stands there twice")
    if (numbers == 0).any():
        raise ValueError("number 0 stands for no nucleus")
    return NumberedClasses(numbers, classes, tuple(places))


@dataclass(frozen=True)
class ClassedInstances:
    """An instance image whose numbers have classes.

    Attributes
    ----------
    plane
        The numbers.
    table
        Their classes.
    labels
        uint8 [n], the label of each number of the table.
    background
        Label where there is no nucleus.
    source
        The image, for messages.
    seen
        bool [n]: which numbers of the table have a pixel; complete when all is painted.
    """

    plane: Plane
    table: NumberedClasses
    labels: npt.NDArray[np.uint8]
    background: int
    source: str
    seen: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", np.zeros(len(self.table.numbers), bool))

    @property
    def most(self) -> int:
        """The largest number that is painted."""
        known = self.table.numbers
        return int(known[-1]) if self._fits else len(known)

    @property
    def _fits(self) -> bool:
        return int(self.table.numbers[-1]) < 1 << 32

    def paint(self, rows: slice, cols: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Give labels and numbers [y, x] of a region.

        Raises
        ------
        BadInput
            A number is not in the table.
        """
        values = read_plane(self.plane.read, rows, cols, self.plane, self.source)
        found, back = np.unique(values, return_inverse=True)
        known = self.table.numbers
        place = np.minimum(np.searchsorted(known, found), len(known) - 1)
        unknown = (known[place] != found) & (found != 0)
        if unknown.any():
            number = found[unknown][0]
            y, x = (int(at[0]) for at in np.nonzero(values == number))
            raise BadInput(
                f"{self.source}: number {number} at x={cols.start + x}, y={rows.start + y} is not in the table; add it there"
            )
        # Threads set the same flags to the same value.
        self.seen[place[found != 0]] = True
        labels = np.where(found == 0, self.background, self.labels[place]).astype(np.uint8)
        numbers = np.where(found == 0, 0, known[place] if self._fits else place + 1).astype(np.uint32)
        shape = values.shape
        return labels[back].reshape(shape), numbers[back].reshape(shape)


def labels_of(
    table: NumberedClasses, classes: ClassTable | None, *, source: str
) -> tuple[npt.NDArray[np.uint8], ClassTable]:
    """Label of each number, uint8 [n], and the table of classes that says so; None numbers the classes in their order."""
    chosen = classes or table_of_names(table.names)
    return chosen.values(table.names, source=source)[table.classes], chosen


def told(table: NumberedClasses, labels: Sequence[int] | npt.NDArray[Any], chosen: ClassTable) -> list[str]:
    """Say of each class how many nuclei it has and which label stands for it."""
    by_class = {int(kind): int(label) for kind, label in zip(table.classes, labels, strict=True)}
    return [
        f"{count:8d} {name} -> {by_class[number]} {chosen.name(by_class[number])}"
        for number, (name, count) in enumerate(table.count().items())
    ]
