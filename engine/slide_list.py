"""How are many slides rendered with one command?

The list is a CSV file with a header: ``mask``, ``out`` and, as further columns, any option of a single slide by its long
name without dashes. Columns are separated by commas, semicolons or tabs. Slides are rendered one after the other on the
same workers. If one fails, the others are still rendered. Slides that exist are skipped if they were made from the same
inputs, so the same command resumes a list just as it resumes a slide; others are refused, as for a single slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safron.engine.generator.model import PatchModel, load_model
from safron.engine.preparation.earlier_slide import require_same_slide
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.output_paths import extra_outputs, scratch_path
from safron.engine.preparation.placement import placement_of
from safron.engine.preparation.prepare import plan_only, prepare
from safron.engine.preparation.prepared import Prepared
from safron.engine.scratch.arrays import recorded
from safron.engine.scratch.completion import Finished
from safron.engine.system.failures import Lost, Stuck
from safron.io.advice import typed
from safron.io.apart import READS, check_outputs, is_there, place_of
from safron.io.errors import BadInput, SafronError, one_line
from safron.io.files import parse_text
from safron.io.remote import Target
from safron.io.tables import read_table

from .rendering import open_runner, run
from .report import RenderReport

# These options describe the workers, which all slides share.
SHARED = {"workers", "executor", "scheduler", "cluster", "security", "dashboard", "device", "memory"}
MAX_LIST_BYTES = 64 << 20

SEED = "{seed}"

Convert = Callable[[str, str], Any]
Watch = Callable[[Prepared], AbstractContextManager[Callable[..., None] | None]]


@dataclass(frozen=True)
class Row:
    """One slide of a list.

    Attributes
    ----------
    line
        Line number in the file.
    mask, out
        As written there.
    options
        Its other cells that are not empty, by column.
    """

    line: int
    mask: str
    out: str
    options: dict[str, str]


@dataclass(frozen=True)
class SlideResult:
    """The outcome for one slide.

    Attributes
    ----------
    line, mask, out
        See `Row`.
    state
        "done", "exists" or "failed".
    error
        The reason if it failed.
    report
        The report if it was rendered.
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
        The file cannot be read, has unknown columns, or lists no slide.
    """
    rows = parse_text(
        file,
        partial(_parse, f"--slides {file}"),
        kind="CSV",
        remedy="give a CSV file in UTF-8 with columns mask and out",
        name="--slides ",
        max_bytes=MAX_LIST_BYTES,
    )
    if not rows:
        raise BadInput(f"--slides {file}: lists no slide; add a line for each below the header")
    return rows


def seed_rows(mask: str, out: str, seeds: Sequence[int], options: RenderOptions) -> list[Row]:
    """List a slide for each seed; ``{seed}`` stands for it in the names of all that is written.

    Raises
    ------
    BadInput
        One name stands for several slides.
    """
    names = {name.strip("-"): str(path) for name, path in extra_outputs(options) if name != "--report"}
    for name, text in (("OUT", out), *((f"--{name}", text) for name, text in names.items())):
        if SEED not in text:
            raise BadInput(
                f"--seeds: {name} {text} would be written for every seed; put {SEED} into its name"
            )
    return [
        Row(
            seed,
            mask,
            out.replace(SEED, str(seed)),
            {"seed": str(seed)} | {name: text.replace(SEED, str(seed)) for name, text in names.items()},
        )
        for seed in seeds
    ]


def _parse(name: str, text: str) -> list[Row]:
    table = read_table(text)
    _check_columns(table.columns, name)
    return [_row(f"{name}, line {line}", line, table.columns, cells) for line, cells in table.rows]


def _check_columns(columns: list[str], name: str) -> None:
    options = {item.name.replace("_", "-") for item in fields(RenderOptions)} - SHARED
    for required in ("mask", "out"):
        if required not in columns:
            raise BadInput(f"{name}: its first line must name the columns, mask and out among them")
    for column in columns:
        if columns.count(column) > 1:
            raise BadInput(f"{name}: two columns are called {column!r}")
        if column in SHARED:
            raise BadInput(f"{name}: {column} is the same for all slides; give it as --{column}")
        if column not in options | {"mask", "out"}:
            raise BadInput(f"{name}: unknown column {column!r}; use the name of a safron-render option")


def _row(place: str, line: int, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        raise BadInput(f"{place}: must have as many cells as the first line has names")
    values = dict(zip(columns, cells, strict=True))
    mask, out = values.pop("mask"), values.pop("out")
    return Row(line, mask, out, {column: text for column, text in values.items() if text})


def check_rows(rows: Sequence[Row], options: RenderOptions) -> None:
    """Refuse outputs that replace what another slide of the list is made from; `prepare` looks at each slide's own.

    Raises
    ------
    BadInput
        An output is an input of another line, or the report is an input of any.
    """
    read: dict[Path, tuple[Row | None, str, str]] = {
        place_of(text): (None, name, text) for name, text in options.inputs() if is_there(text)
    }
    for row in rows:
        for name, text in {"mask": row.mask, **row.options}.items():
            if text and (name == "mask" or name.replace("-", "_") in READS) and is_there(text):
                read[place_of(text)] = row, "mask" if name == "mask" else f"--{name}", text
    for row in rows if options.overwrite else ():  # else nothing is replaced
        made = {name: row.options.get(name) for name in ("preview", "labels-out", "html")}
        for text in filter(None, (row.out, *made.values())):
            other, name, _ = read.get(place_of(text), (row, "", ""))
            if other is not row:
                whose = f"{name} of line {other.line}" if other else f"{name} of all lines"
                raise BadInput(f"line {row.line}: {text}: is the {whose}; give another name")
    if options.report is not None:
        check_outputs(
            [(name, text) for _, name, text in read.values()], [("--report ", options.report)], replaced=False
        )


def render_list(
    rows: list[Row], options: RenderOptions, *, convert: Convert, watch: Watch
) -> Iterator[SlideResult]:
    """Render the slides of a list one after the other and yield the outcome of each.

    Parameters
    ----------
    rows
        The list.
    options
        Options of all slides; a row's own options override them.
    convert
        Turns the name and the text of an option into its value.
    watch
        Returns a context manager with the function that is told how many patches of a slide are done.
    """
    lines: dict[str, int] = {}
    with ExitStack() as stack:
        renderer = _ListRenderer(options, convert, watch, stack)
        for row in rows:
            try:
                if row.out in lines:
                    raise BadInput(f"{row.out}: line {lines[row.out]} has the same OUT; give another name")
                lines[row.out] = row.line
                yield renderer.render(row)
            except (Lost, Stuck):
                raise
            except Exception as error:
                text = (
                    str(error)
                    if isinstance(error, SafronError)
                    else f"{type(error).__name__}: {one_line(error)}"
                )
                yield SlideResult(row.line, row.mask, row.out, "failed", typed(" ".join(text.split())))


@dataclass
class _ListRenderer:
    """Renders single rows. The cluster is opened for the first row that needs it and kept for the others."""

    options: RenderOptions
    convert: Convert
    watch: Watch
    stack: ExitStack
    cluster: Any = None
    read: tuple[Any, PatchModel] | None = None

    def render(self, row: Row) -> SlideResult:
        if not row.mask or not row.out:
            raise BadInput("mask and out must be given")
        own = {name.replace("-", "_"): self.convert(name, text) for name, text in row.options.items()}
        options = replace(replace(self.options, report=None), **own)
        target = Target.of(row.out, folder=options.scratch)
        if (
            not (options.overwrite or options.fresh)
            and target.exists()
            and not _is_unfinished(target, options)
        ):
            require_same_slide(target, plan_only(row.mask, target, options, self._described(options)))
            return SlideResult(row.line, row.mask, row.out, "exists")
        self.read = None  # a generator takes memory
        prepared = prepare(row.mask, row.out, options)
        if prepared.where != "threads" and self.cluster is None:
            from safron.engine.execution.cluster_start import open_cluster

            self.cluster = self.stack.enter_context(open_cluster(placement_of(prepared.options)))
        with open_runner(prepared, self.cluster) as (settled, runner), self.watch(settled) as advance:
            report = run(settled, runner, progress=advance, tell=advance and partial(advance, 0))
        return SlideResult(row.line, row.mask, row.out, "done", report=report)

    def _described(self, options: RenderOptions) -> PatchModel:
        """Load a generator for what it says of itself, once for slides in a row."""
        if self.read is None or self.read[0] != options.model:
            self.read = None
            self.read = options.model, load_model(options.model, device="cpu", threads=options.threads)
        return self.read[1]


def _is_unfinished(target: Target, options: RenderOptions) -> bool:
    """Whether a run of this slide still has something to do, if only to clean up; remains of a removal do not count."""
    folder = scratch_path(target, options.scratch)
    return bool(recorded(folder)) or Finished.of(target, folder) is not None


def outcome(results: Iterable[SlideResult]) -> dict[str, Any]:
    """The outcome of all slides as JSON values."""
    slides = [asdict(result) | {"report": result.report and result.report.values()} for result in results]
    counts = {
        state: sum(slide["state"] == state for slide in slides) for state in ("done", "exists", "failed")
    }
    return counts | {"slides": slides}
