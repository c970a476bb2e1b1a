"""Blending in one pass, compiled; see accumulate.py."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

def add(
    image: Array,
    across: Array,
    down: Array,
    rows: Array,
    columns: Array,
    patches: Array,
    weights: Array,
    y: int,
    x: int,
    stride: int,
    bits: int,
    /,
) -> None: ...
def divide(
    image: Array,
    across: Array,
    down: Array,
    rows: Array,
    columns: Array,
    row_total: Array,
    column_total: Array,
    bits: int,
    narrow: bool,
    /,
) -> None: ...
def paint(out: Array, labels: Array, table: Array, /) -> None: ...
