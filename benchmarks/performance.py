"""How are the tables of docs/performance.md made?

    python benchmarks/performance.py --minutes 60     measures what this machine lacks, then writes the page
    python benchmarks/performance.py --minutes 0      only writes the page

Rows are kept in benchmarks/performance.json, each under the name of its machine, so that a run that was ended goes on, and several
machines fill one page. A row that is to be measured anew is deleted there. Times are CPU times, in turns (benchmarks/runtimes.py).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from common import GLANDS, parser_of, render_apart, write_mask
from peers import write_cheap
from results import Results
from runtimes import WAYS, commands, cpu_type, measure

HERE = Path(__file__).parent
PAPER = (
    "the paper's network, random weights",
    "the same, rewritten by `safron-optimize`",
    "the same, by `safron-optimize --runtime openvino`",
)
GENERATORS = ("safron-tissue", "safron-seamless", "nuclei", *PAPER)
RENDERED = ("safron-tissue", "safron-seamless")  # which know the labels of the gland mask
SIDES = (4096, 8192, 16384)
BEGIN, END = "<!-- {}: by benchmarks/performance.py -->", "<!-- end -->"

Row = dict[str, Any]
Rows = dict[str, Row]


def paper_files(folder: Path) -> dict[str, Path]:
    """Write the paper's network, and its rewritten forms, where they are not there."""
    plain, *rewritten = (folder / f"paper{kind}.onnx" for kind in ("", "-cpu", "-openvino"))
    if not plain.exists():
        export = ["safron-train", "export-random", str(plain), "--preset", "safron", "--seed", "0"]
        subprocess.run(export, check=True)
    for path, runtime in zip(rewritten, ("onnxruntime", "openvino"), strict=True):
        if not path.exists():
            subprocess.run(["safron-optimize", str(plain), str(path), "--runtime", runtime], check=True)
    return dict(zip(PAPER, (plain, *rewritten), strict=True))


def calls(name: str, folder: Path, repeats: int) -> Row:
    """Milliseconds of a patch, and pixels, with each runtime."""
    model = str(paper_files(folder)[name]) if name in PAPER else name
    return {row["way"]: row for row in measure(model, repeats, windows=False)}


def renders(name: str, repeats: int) -> Row:
    """CPU seconds of whole commands with each runtime."""
    return {row["way"]: row for row in commands(GLANDS, [name], repeats)}


def memory(side: int) -> Row:
    """Peak memory of one canvas, with a generator that costs next to nothing, as ``--executor auto`` chooses, and scheduled by Dask."""
    with tempfile.TemporaryDirectory() as folder:
        mask, model = Path(folder) / "mask.zarr", Path(folder) / "cheap.onnx"
        write_mask(mask, side)
        write_cheap(model)
        made = {
            executor: render_apart(Path(folder), mask, model=model, workers=2, executor=executor)
            for executor in ("auto", "dask")
        }
    return {
        executor: {"peak_mib": report["peak_bytes"] / 2**20, "planned_mib": report["projected_bytes"] / 2**20}
        for executor, report in made.items()
    }


def wanted(folder: Path, repeats: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """All rows, the most important first."""
    for name in GENERATORS:
        yield f"calls: {name}", partial(calls, name, folder, repeats)
    for name in RENDERED:
        yield f"renders: {name}", partial(renders, name, repeats)
    for side in SIDES:
        yield f"memory: {side}", partial(memory, side)


def of_kind(rows: Rows, kind: str) -> dict[str, Rows]:
    """Rows of one kind by machine, then by name."""
    found: dict[str, Rows] = {}
    for key, row in rows.items():
        machine, _, rest = key.partition(" | ")
        if rest.startswith(f"{kind}: "):
            found.setdefault(machine, {})[rest.removeprefix(f"{kind}: ")] = row
    return found


def calls_table(rows: Rows) -> list[str]:
    """Generators and runtimes, a table for each machine."""
    lines = []
    for machine, by_name in of_kind(rows, "calls").items():
        lines += [f"**{machine}**, milliseconds of CPU time per patch:", ""]
        lines += [f"| generator | {' | '.join(WAYS)} | pixels in bfloat16 |", "|---|---|---|---|---|"]
        for name, row in by_name.items():
            best = min(found["ms"] for found in row.values())
            cells = [
                "-"
                if way not in row
                else f"**{row[way]['ms']:.1f}**"
                if row[way]["ms"] == best
                else f"{row[way]['ms']:.1f}"
                for way in WAYS
            ]
            off = row.get("OpenVINO bfloat16")
            pixels = "-" if off is None else f"mean {off['mean_levels']:.2f}, largest {off['max_levels']:.0f}"
            label = name if name in PAPER else f"`{name}`"
            lines.append(f"| {label} | {' | '.join(cells)} | {pixels} |")
        lines.append("")
    return lines


def renders_table(rows: Rows) -> list[str]:
    """Whole commands."""
    lines = [
        "| machine | generator | runtime | CPU seconds | times | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for machine, by_name in of_kind(rows, "renders").items():
        for name, row in by_name.items():
            lines += [
                f"| {machine} | `{name}` | {way} | {found['cpu_s']:.1f} | {found['times']:.2f} | {found['peak_mib']:.0f} |"
                for way, found in row.items()
            ]
    return lines


def memory_table(rows: Rows) -> list[str]:
    """Memory against the canvas."""
    lines = ["| canvas | peak (planned) MiB | with `--executor dask` |", "|---|---|---|"]
    for by_side in of_kind(rows, "memory").values():
        for side, row in by_side.items():
            cells = [
                f"{row[how]['peak_mib']:.0f} ({row[how]['planned_mib']:.0f})" for how in ("auto", "dask")
            ]
            lines.append(f"| {side} x {side} | {cells[0]} | {cells[1]} |")
    return lines


def write_page(page: Path, rows: Rows) -> None:
    """Put the tables between their marks."""
    text = page.read_text(encoding="utf-8")
    tables = {"calls": calls_table, "renders": renders_table, "memory": memory_table}
    for name, table in tables.items():
        begin = BEGIN.format(name)
        before, mark, rest = text.partition(begin)
        assert mark, f"{page} has no line {begin}"
        after = rest.partition(END)[2]
        lines = table(rows) if of_kind(rows, name) else ["Not measured yet."]
        text = "\n".join([before + begin, "", *lines]).rstrip() + f"\n\n{END}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, write, and print all rows as JSON in the last line."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="no row is begun later; 0 only writes")
    parser.add_argument(
        "--repeats", type=int, default=7, help="calls, or commands, of which the median counts"
    )
    parser.add_argument("--only", default="", help="rows whose names begin so: calls, renders, memory")
    parser.add_argument("--rows", type=Path, default=HERE / "performance.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "performance.md")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/performance"), help="keeps the paper's network"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results, machine = Results(args.rows, args.minutes), cpu_type()
    for name, call in wanted(args.folder, args.repeats):
        key = f"{machine} | {name}"
        if name.startswith(args.only) and results.wants(key):
            print(f"{name}, {results.minutes:.0f} minutes left", flush=True)
            results.keep(key, call())
    write_page(args.page, results.found)
    print(json.dumps(results.found))


if __name__ == "__main__":
    main()
