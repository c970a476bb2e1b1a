"""Which runtime is fastest on this CPU, and what does it change?

    python benchmarks/runtimes.py                                        the generator that renders by default
    python benchmarks/runtimes.py safron-seamless paper.onnx fast.onnx   and others
    python benchmarks/runtimes.py --windows                              and windows of several patches in one call
    python benchmarks/runtimes.py --command examples/glands.zarr         and whole ``safron-render`` commands

Each generator is called on one thread by ONNX Runtime in float32, OpenVINO in float32 and OpenVINO in bfloat16, one after the
other, over and over; the table has medians. Time is CPU time: other work on the machine disturbs it little. Pixels are compared
with those of ONNX Runtime: mean and largest difference in grey levels after rounding.

A window of m x m patches is what m x m patches at a stride of 236 read, run in one call: less is computed twice, but larger images
leave the core's cache. Time is per patch; "bits" says whether each patch is the same as alone.

A table, then one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from common import gland_labels, parser_of, planes_of

WAYS = {
    "ONNX Runtime float32": {"runtime": "onnxruntime"},
    "OpenVINO float32": {"runtime": "openvino"},
    "OpenVINO bfloat16": {"runtime": "openvino", "precision": "bfloat16"},
}
SHAPES = ((1, 1), (2, 2), (3, 3), (4, 4))
OVERLAP = 20
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
TOP, LEFT = 900, 1500
"""Where the gland mask has tissue all around."""

Inputs = dict[str, npt.NDArray[Any]]


def open_ways(model: str) -> dict[str, Any]:
    """Load a generator in each way that this machine has, for one thread."""
    from safron.engine import load_model
    from safron.io.errors import BadInput

    found = {}
    for name, options in WAYS.items():
        try:
            found[name] = load_model(model, device="cpu", threads=1, **options)
        except BadInput as error:
            print(f"  {name}: {error}")
    return found


def inputs_of(card: Any, rows: int = 1, columns: int = 1) -> Inputs:
    """Labels of the gland mask and whatever else the generator takes, for a window of so many patches."""
    height, width = (
        card.tile + 2 * card.context + (count - 1) * (card.tile - OVERLAP) for count in (rows, columns)
    )
    labels = gland_labels(height, LEFT + width, TOP)[:, LEFT:]
    return {"labels": np.ascontiguousarray(labels[None])} | planes_of(card, height, width)


def interleaved(calls: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Median CPU seconds of each call, one after the other, over and over; the first of each does not count."""
    spent: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            spent[name].append(time.process_time() - start)
    return {name: median(times[1:]) for name, times in spent.items()}


def measure(model: str, repeats: int, *, windows: bool) -> list[dict[str, Any]]:
    """Rows of one generator."""
    ways = open_ways(model)
    reference = next(iter(ways.values()))
    card = reference.card
    given = inputs_of(card)
    expected = reference(**given)
    seconds = interleaved({name: lambda way=way: way(**given) for name, way in ways.items()}, repeats)
    first = next(iter(seconds.values()))
    rows = []
    for name, way in ways.items():
        made = way(**given)
        off = np.abs(np.rint(made).clip(0, 255) - np.rint(expected).clip(0, 255))
        row = {
            "model": card.name if model == card.name else Path(model).stem,
            "way": name,
            "ms": 1e3 * seconds[name],
            "times": first / seconds[name],
            "max_abs": float(np.abs(made - expected).max()),
            "mean_levels": float(off.mean()),
            "max_levels": float(off.max()),
        }
        if windows and card.tile_multiple:
            row["windows"] = in_windows(way, repeats)
        rows.append(row)
        show(row)
    return rows


def in_windows(way: Any, repeats: int) -> dict[str, Any]:
    """Time per patch of windows of several patches, as a share of single ones, and whether their bits are the same."""
    given = {shape: inputs_of(way.card, *shape) for shape in SHAPES}
    seconds = interleaved({shape: lambda shape=shape: way(**given[shape]) for shape in SHAPES}, repeats)
    return {
        f"{rows} x {columns}": {
            "times": seconds[1, 1] * rows * columns / seconds[rows, columns],
            "same_bits": same_bits(way, given[rows, columns], rows, columns),
        }
        for rows, columns in SHAPES[1:]
    }


def same_bits(way: Any, given: Inputs, rows: int, columns: int) -> bool:
    """Whether every patch of a window has the bits that it has alone."""
    card, whole = way.card, way(**given)[0]
    stride, side = card.tile - OVERLAP, card.tile + 2 * card.context
    for row, column in product(range(rows), range(columns)):
        y, x = row * stride, column * stride
        parts = {
            name: values if values.ndim == 2 else values[..., y : y + side, x : x + side]
            for name, values in given.items()
        }
        alone = way(**{name: np.ascontiguousarray(part) for name, part in parts.items()})[0]
        if not np.array_equal(alone, whole[y : y + card.tile, x : x + card.tile]):
            return False
    return True


def commands(mask: Path, models: list[str], repeats: int) -> list[dict[str, Any]]:
    """CPU seconds and peak memory of whole renders, in turns."""
    made: dict[tuple[str, str], dict[str, list[float]]] = {}
    digests: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _, model, (name, options) in product(range(repeats), models, WAYS.items()):
            report, before = Path(folder) / "report.json", resource.getrusage(resource.RUSAGE_CHILDREN)
            words = [f"--{key}={value}" for key, value in options.items()]
            command = ["safron-render", str(mask), f"{folder}/slide.tiff", "--model", model, *words]
            start = time.perf_counter()
            subprocess.run([*command, "--report", str(report), "--overwrite", "--quiet"], check=True)
            after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
            row = made.setdefault((model, name), {"cpu_s": [], "wall_s": [], "peak_mib": []})
            told = json.loads(report.read_text())
            digests[model, name] = told["digest"]
            row["cpu_s"].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            row["wall_s"].append(wall)
            row["peak_mib"].append(told["peak_bytes"] / 2**20)
    rows = []
    for (model, name), values in made.items():
        row = {"model": model, "way": name, "digest": digests[model, name]}
        row |= {key: median(times) for key, times in values.items()}
        row["times"] = median(made[model, next(iter(WAYS))]["cpu_s"]) / row["cpu_s"]
        rows.append(row)
        print(
            f"  {model}, {name}: {row['cpu_s']:.1f} CPU seconds, {row['times']:.2f} times as fast; {row['wall_s']:.1f} s; "
            f"peak {row['peak_mib']:.0f} MiB",
            flush=True,
        )
    return rows


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    print(
        f"  {row['model']:18} {row['way']:21} {row['ms']:7.1f} ms {row['times']:5.2f} times; levels: mean {row['mean_levels']:.4f}, "
        f"max {row['max_levels']:.0f}; before rounding {row['max_abs']:.2g}",
        flush=True,
    )
    for shape, found in row.get("windows", {}).items():
        print(
            f"      {shape}: {found['times']:.2f} times; bits {'the same' if found['same_bits'] else 'DIFFER'}"
        )


def cpu_type() -> str:
    """Name and cores of this CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    has = ", ".join(flag for flag in FLAGS if flag in flags)
    return f"{name}, {len(os.sched_getaffinity(0))} cores{f', {has}' if has else ''}"


def main() -> None:
    """Print a table, and the same as JSON in the last line."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*", default=["safron-tissue"], help="names or ONNX files")
    parser.add_argument(
        "--repeats", type=int, default=7, help="calls, or commands, of which the median counts"
    )
    parser.add_argument("--windows", action="store_true", help="also windows of several patches")
    parser.add_argument("--command", type=Path, help="a mask: also whole renders of it")
    args = parser.parse_args()
    print(cpu_type())
    made: dict[str, Any] = {"cpu": cpu_type(), "calls": [], "commands": []}
    for model in args.models:
        made["calls"] += measure(model, args.repeats, windows=args.windows)
    if args.command is not None:
        made["commands"] = commands(args.command, args.models, args.repeats)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
