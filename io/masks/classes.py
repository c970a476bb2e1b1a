"""Which label stands for a class of nuclei or of tissue?

Sources name their classes as they like, and a generator knows its own. A table says which of its labels stands for each;
those of known sources are in ``class_tables.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.io.errors import BadInput
from safron.io.fields import Byte, convert
from safron.io.files import parse_text
from safron.io.json_texts import parse_json
from safron.io.legend import Label

from .polygons import PolygonSet

FORM = 'it must look like {"classes": {"Tumor cell": "epithelial"}}, and may have "labels" as in a card'


class ClassTable(Struct, frozen=True, forbid_unknown_fields=True):
    """The labels of a generator, and the one that stands for each class.

    Attributes
    ----------
    classes
        Value or name of a label, by the name of a class.
    labels
        Those that names refer to.
    """

    classes: dict[str, Byte | str]
    labels: tuple[Label, ...] = ()

    def values(self, names: Iterable[str], *, source: str, remedy: str = "") -> npt.NDArray[np.uint8]:
        """Give the label of each class.

        Parameters
        ----------
        names
            Classes.
        source
            What has these classes, for messages.
        remedy
            Ends the message on unknown classes: what else can be done.

        Returns
        -------
        npt.NDArray[np.uint8]
            uint8 [classes].

        Raises
        ------
        BadInput
            A class is not in the table, or its label does not exist.
        """
        known = {name.lower(): label for name, label in self.classes.items()}
        wanted = list(names)
        if unknown := [name for name in wanted if name.lower() not in known]:
            raise BadInput(
                f"{source}: no label is known for {', '.join(map(repr, unknown[:8]))}; known are {', '.join(self.classes)}; add "
                f"them to a table for --classes{remedy}"
            )
        return np.array([self._value(known[name.lower()]) for name in wanted], np.uint8)

    def _value(self, label: int | str) -> int:
        by_name = {entry.name: entry.value for entry in self.labels}
        if isinstance(label, int):
            return label
        if label not in by_name:
            raise BadInput(f"--classes: {label!r} is not the name of a label; they are {', '.join(by_name)}")
        return by_name[label]

    def name(self, value: int) -> str:
        """Name of a label, or its value where it has none."""
        return next((label.name for label in self.labels if label.value == value), str(value))


@cache
def shipped_tables() -> Mapping[str, ClassTable]:
    """Tables that come with this package, by the name of their generator."""
    text = Path(__file__).with_name("class_tables.toml").read_text(encoding="utf-8")
    return {name: convert(table, ClassTable, name) for name, table in tomllib.loads(text).items()}


def read_table(source: str) -> ClassTable:
    """Read a table.

    Parameters
    ----------
    source
        Name of a shipped one, or a file of JSON or TOML; where that has no labels, they are those of the table
        "nuclei".

    Raises
    ------
    BadInput
        It is neither, or has another form.
    """
    if source in shipped_tables():
        return shipped_tables()[source]
    if not Path(source).exists():
        shipped = ", ".join(shipped_tables())
        raise BadInput(
            f"--classes {source}: neither a shipped table ({shipped}) nor a file; give one of these"
        )
    toml = source.lower().endswith(".toml")
    plain = parse_text(
        source,
        tomllib.loads if toml else parse_json,
        kind="TOML" if toml else "JSON",
        remedy=f"{FORM}; shipped are {', '.join(shipped_tables())}",
        name="--classes ",
    )
    table: ClassTable = convert(plain, ClassTable, f"--classes {source}", then=FORM)
    return table if table.labels else ClassTable(table.classes, shipped_tables()["nuclei"].labels)


def table_of(polygons: Iterable[PolygonSet]) -> ClassTable:
    """Number the classes of a source in its order: what is drawn where no table is given."""
    return table_of_names(name for found in polygons for name in found.names)


def table_of_names(classes: Iterable[str]) -> ClassTable:
    """Number classes in their order, after the background."""
    names: list[str] = ["background"]
    for name in classes:
        if name.lower() not in {*map(str.lower, names)}:
            names.append(name)
    if len(names) > 256:
        raise BadInput(
            f"{len(names) - 1} classes; a mask has at most 255: bring them together by --classes TABLE"
        )
    labels = tuple(Label(value, name, _color(value)) for value, name in enumerate(names))
    return ClassTable({name: value for value, name in enumerate(names)}, labels)


def _color(value: int) -> Any:
    """Colour of a label that has none: white for the background, others apart."""
    return (255, 255, 255) if value == 0 else tuple((value * step) % 256 for step in (67, 151, 211))
