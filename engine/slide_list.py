"""How are many slides rendered with one command?

The list is CSV with a header: ``mask`` and ``out``, and any option of one slide as a further column, by its
long name without the dashes. Slides are rendered one after the other on the same workers; one that
fails does not stop the others, and one that exists already is passed over, so that the same command
continues a list as it continues a slide.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.output_paths import scratch_path
from safron.engine.preparation.placement import placement_of
from safron.engine.preparation.prepare import prepare
from safron.engine.preparation.prepared import Prepared
from safron.engine.scratch.arrays import recorded
from safron.engine.scratch.completion import Finished
from safron.engine.system.failures import Lost, Stuck
from safron.io.errors import BadInput, SafronError, one_line
from safron.io.remote import Target

from .rendering import open_runner, run
from .report import RenderReport

# Options of all slides together: they say who renders, not what.
SHARED = {"workers", "executor", "scheduler", "cluster", "security", "dashboard", "device", "memory"}


@dataclass(frozen=True)
class Row:
    """One slide of a list.

    Attributes
    ----------
    line : its line in the file.
    mask, out : as written there.
    options : what its other columns say, as text.
    """

    line: int
    mask: str
    out: str
    options: dict[str, str]


@dataclass(frozen=True)
class SlideResult:
    """What became of one slide.

    Attributes
    ----------
    line, mask, out : see `Row`.
    state : "done", "exists" or "failed".
    error : why it failed.
    report : of the render, where there was one.
    """

    line: int
    mask: str
    out: str
    state: Literal["done", "exists", "failed"]
    error: str | None = None
    report: RenderReport | None = None


def read_list(file: Path) -> list[Row]:
    """Read a list of slides.

    Raises
    ------
    BadInput
        When it is no such list.
    """
    known = {item.name.replace("_", "-") for item in fields(RenderOptions)} - SHARED
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            _check_columns(file, names, known)
            return [_row(file, reader.line_num, cells) for cells in reader if any(cells.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"--slides {file}: cannot read it ({getattr(error, 'strerror', None) or error}); "
            "give a CSV file with columns mask and out"
        ) from error


def _check_columns(file: Path, names: list[str], known: set[str]) -> None:
    for name in ("mask", "out"):
        if name not in names:
            raise BadInput(f"--slides {file}: its first line must name the columns, mask and out among them")
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"--slides {file}: two columns are called {name!r}")
        if name in SHARED:
            raise BadInput(f"--slides {file}: {name} is the same for all slides; give it as --{name}")
        if name not in known | {"mask", "out"}:
            raise BadInput(f"--slides {file}: column {name!r} is no option of a slide")


def _row(file: Path, line: int, cells: dict[Any, Any]) -> Row:
    if None in cells or None in cells.values():
        raise BadInput(f"--slides {file}, line {line}: has not as many cells as the first line has names")
    values = {name: text.strip() for name, text in cells.items()}
    mask, out = values.pop("mask"), values.pop("out")
    return Row(line, mask, out, {name: text for name, text in values.items() if text})


def render_list(
    rows: list[Row],
    options: RenderOptions,
    *,
    convert: Callable[[str, str], Any],
    watch: Callable[[Prepared], AbstractContextManager[Callable[[int], None] | None]],
) -> Iterator[SlideResult]:
    """Render the slides of a list one after the other; yield what became of each.

    Parameters
    ----------
    rows : the list.
    options : of all slides; a row's own come before them.
    convert : turns the name and the text of an option into its value.
    watch : gives the function that hears of a slide's patches.
    """
    taken: dict[str, int] = {}
    with ExitStack() as stack:
        clusters: list[Any] = []
        for row in rows:
            try:
                if row.out in taken:
                    raise BadInput(f"{row.out}: is OUT of line {taken[row.out]}, too")
                taken[row.out] = row.line
                yield _render_row(row, options, convert, watch, stack, clusters)
            except (Lost, Stuck):
                raise
            except Exception as error:
                text = (
                    str(error)
                    if isinstance(error, SafronError)
                    else f"{type(error).__name__}: {one_line(error)}"
                )
                yield SlideResult(row.line, row.mask, row.out, "failed", " ".join(text.split()))


def _render_row(
    row: Row,
    options: RenderOptions,
    convert: Callable[[str, str], Any],
    watch: Callable[[Prepared], AbstractContextManager[Callable[[int], None] | None]],
    stack: ExitStack,
    clusters: list[Any],
) -> SlideResult:
    if not row.mask or not row.out:
        raise BadInput("mask and out must be given")
    own = {name.replace("-", "_"): convert(name, text) for name, text in row.options.items()}
    mine = replace(replace(options, report=None), **own)
    target = Target.of(row.out, folder=mine.scratch)
    if not (mine.overwrite or mine.fresh) and target.exists() and not _is_begun(target, mine):
        return SlideResult(row.line, row.mask, row.out, "exists")
    prepared = prepare(row.mask, row.out, mine)
    if prepared.where != "threads" and not clusters:
        from safron.engine.execution.dask_cluster import open_cluster

        clusters.append(stack.enter_context(open_cluster(placement_of(prepared.options))))
    cluster = clusters[0] if clusters else None
    with open_runner(prepared, cluster) as (settled, runner), watch(settled) as advance:
        report = run(settled, runner, progress=advance)
    return SlideResult(row.line, row.mask, row.out, "done", report=report)


def _is_begun(target: Target, options: RenderOptions) -> bool:
    """Whether a run was begun that is not done, be it that it has only to clean up; leavings of a removal are none."""
    folder = scratch_path(target, options.scratch)
    return bool(recorded(folder)) or Finished.of(target, folder) is not None


def write_results(path: Path, results: Iterable[SlideResult]) -> None:
    """Write what became of all slides as JSON."""
    slides = [asdict(result) for result in results]
    counts = {
        state: sum(slide["state"] == state for slide in slides) for state in ("done", "exists", "failed")
    }
    path.write_text(json.dumps(counts | {"slides": slides}, indent=2) + "\n", encoding="utf-8")
