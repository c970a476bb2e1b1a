"""How is a table read that somebody wrote in a spreadsheet?

CSV with commas, or with semicolons, as Excel writes where numbers have a decimal comma, or with tabs. Its first line names the columns;
a line such as ``sep=;`` may stand above it, from which Excel takes the separator.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from io import StringIO

SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Table:
    """The cells of a table, as texts without spaces around them.

    Attributes
    ----------
    columns
        The cells of the first line.
    rows
        For each line below that is not empty: its number in the file, and its cells.
    """

    columns: list[str]
    rows: list[tuple[int, list[str]]]


def read_table(text: str) -> Table:
    r"""Read a table.

    Parameters
    ----------
    text
        The file's content; lines may end in any way.

    Raises
    ------
    csv.Error
        The text is no CSV, such as one with a cell that is too long.

    Examples
    --------
    >>> read_table("mask; out\r\na.zarr; b.tiff\r\n")
    Table(columns=['mask', 'out'], rows=[(2, ['a.zarr', 'b.tiff'])])
    >>> read_table("sep=;\nmask;out\na,1.zarr;b.tiff\n").rows
    [(3, ['a,1.zarr', 'b.tiff'])]
    """
    lines = StringIO(text, newline=None)
    first = next(lines, "")
    named = re.fullmatch(r"sep=([,;\t])[,;\t]*\n?", first)
    if named is None:
        lines.seek(0)
    separator = named[1] if named else max(SEPARATORS, key=first.count)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    above = 0 if named is None else 1
    cells = [(reader.line_num + above, [cell.strip() for cell in row]) for row in reader]
    columns = cells[0][1] if cells else []
    return Table(columns, [(line, row) for line, row in cells[1:] if any(row)])
