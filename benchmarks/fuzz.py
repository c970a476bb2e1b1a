"""Does damaged input ever end in a traceback, a hang or a loss? Inputs of every kind, mutated by a fixed seed.

    python benchmarks/fuzz.py [--count 1000] [--seed 0 ...] [--kind NAME] [--keep FOLDER]

Each case makes a folder with one valid input of a kind, mutates one file of it, and runs the command that reads it in a
process of its own. A case passes if the command ends within 20 s with exit code 0, 1 or 2; if it says what is wrong in
one line, without a traceback, where the code is not 0; and if every file of the folder is as it was: the mask always,
the slide that existed unless the code is 0, scratch of an unfinished render not. Prints a table, the cases that failed
and one JSON line; exits with 1 if a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

HANG_SECONDS = 20
MEMORY = 6 << 30
"""Bytes of address space of a case; a bomb fails by an error of its own."""
OLD_SLIDE = b"a slide that existed before"
SEEDS = "seeds"
LOADED = ("cv2", "onnxruntime", "openslide", "tifffile", "xml.etree.ElementTree", "zarr", "safron.engine.cli")
LOADED += tuple(f"safron.engine.{name}" for name in ("plan_lines", "rendering", "slide_list"))
LOADED += tuple(f"safron.io.masks.{name}" for name in ("cli", "image_planes", "palette", "to_geojson"))
LOADED += ("safron.io.slides.validate",)
"""What the programs import, once for all cases."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes
    ----------
    name
        Its folder among the seeds.
    files
        Pattern of the files that are mutated.
    command
        Program and arguments.
    many_lines
        Whether each of several slides or faults has a line of its own.
    """

    name: str
    files: str
    command: str
    many_lines: bool = False


RENDER = "safron-render {} out.tiff --tile 64 --block 128 --tiff-tile 64 --quiet --threads 1 --workers 1 --overwrite "
IDENTITY = RENDER + "--model identity --mpp 0.5"
CONTRACT = RENDER.format("mask.zarr") + "--model g.onnx --mpp 0.5"

KINDS = (
    Kind("zarr-3", "mask.zarr/zarr.json", IDENTITY.format("mask.zarr")),
    Kind("zarr-3-info", "mask.zarr/zarr.json", "safron-mask info mask.zarr"),
    Kind("zarr-2", "mask.zarr/.z*", IDENTITY.format("mask.zarr")),
    Kind("ome-zarr", "mask.ome.zarr/**/zarr.json", IDENTITY.format("mask.ome.zarr")),
    Kind("chunks", "mask.zarr/c/*/*", IDENTITY.format("mask.zarr")),
    Kind("zip", "mask.zarr.zip", IDENTITY.format("mask.zarr.zip")),
    Kind("npy", "mask.npy", IDENTITY.format("mask.npy")),
    Kind("tiff", "mask.tiff", IDENTITY.format("mask.tiff")),
    Kind("ome-tiff", "mask.ome.tiff", IDENTITY.format("mask.ome.tiff")),
    Kind("png", "mask.png", IDENTITY.format("mask.png")),
    Kind("bmp", "mask.bmp", IDENTITY.format("mask.bmp")),
    Kind("card", "g.json", CONTRACT),
    Kind("onnx", "g.onnx", CONTRACT),
    Kind("geojson", "cells.geojson", "safron-mask from-geojson cells.geojson new.zarr --size 300,260"),
    Kind("list", "list.csv", "safron-render --slides list.csv --model identity --tile 64 --tiff-tile 64 --quiet", True),
    Kind("cluster", "cluster.yaml", IDENTITY.format("mask.zarr") + " --cluster cluster.yaml --dry-run"),
    Kind("scratch-text", "out.tiff.safron/*.json*", IDENTITY.format("mask.zarr")),
    Kind("scratch-data", "out.tiff.safron/**/*", IDENTITY.format("mask.zarr")),
    Kind("slide", "slide.tiff", "safron-render --validate slide.tiff", True),
)  # fmt: skip


# Seeds: one valid input of each kind


def make_seeds(root: Path) -> None:
    """Write a folder for each kind."""
    import cv2
    import numpy as np
    import tifffile
    import zarr

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from onnx_models import CARD, write_onnx

    labels = np.zeros((260, 300), np.uint8)
    labels[30:200, 40:250] = 1
    labels[60:140, 90:190] = 2

    def folder(name: str) -> Path:
        path = root / name
        path.mkdir(parents=True)
        (path / "out.tiff").write_bytes(OLD_SLIDE)
        return path

    def zarr_mask(path: Path, **options: Any) -> None:
        array = zarr.create_array(
            path / "mask.zarr", shape=labels.shape, chunks=(128, 128), dtype="uint8", **options
        )
        array[:] = labels

    for name in (
        "zarr-3",
        "zarr-3-info",
        "chunks",
        "cluster",
        "scratch-text",
        "scratch-data",
        "card",
        "onnx",
        "list",
    ):
        zarr_mask(folder(name))  # fmt: skip
    zarr_mask(folder("zarr-2"), zarr_format=2)
    group = zarr.create_group(folder("ome-zarr") / "mask.ome.zarr")
    group.create_array("0", shape=labels.shape, chunks=(128, 128), dtype="uint8")[:] = labels
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    source = root / "zarr-3" / "mask.zarr"
    shutil.make_archive(str(folder("zip") / "mask.zarr"), "zip", source)
    np.save(folder("npy") / "mask.npy", labels)
    tifffile.imwrite(folder("tiff") / "mask.tiff", labels, tile=(64, 64), compression="zlib")
    tifffile.imwrite(folder("ome-tiff") / "mask.ome.tiff", labels, tile=(64, 64), metadata={
        "axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm",
    })  # fmt: skip
    for ending in ("png", "bmp"):
        cv2.imwrite(str(folder(ending) / f"mask.{ending}"), labels)
    for name in ("card", "onnx"):
        write_onnx(root / name / "g.onnx", card=CARD if name == "onnx" else None)
    (root / "card" / "g.json").write_text(
        json.dumps(CARD | {"mpp": 0.5, "noise_channels": 0, "alignment": 4})
    )
    ring = [[10, 10], [200, 20], [180, 190], [20, 150], [10, 10]]
    hole = [[60, 60], [90, 60], [90, 90], [60, 90], [60, 60]]
    shapes = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "MultiPolygon", "coordinates": [[ring], [hole]]},
    ]
    names = ("gland", "stroma")
    features = [
        {"type": "Feature", "geometry": shape, "properties": {"classification": {"name": name}}}
        for shape, name in zip(shapes, names, strict=True)
    ]
    (folder("geojson") / "cells.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )
    (root / "list" / "list.csv").write_text(
        "mask,out,seed,mpp\nmask.zarr,a.tiff,1,0.5\nmask.zarr,b.tiff,2,0.25\n"
    )
    (root / "cluster" / "cluster.yaml").write_text(
        "kind: slurm\nworkers: 16\ncores: 8\nmemory: 32GB\ngpus: 1\nwalltime: '04:00:00'\nqueue: gpu\n"
        "options:\n  log_directory: logs\n  job_script_prologue:\n    - echo ready\n"
    )
    for name in ("scratch-text", "scratch-data"):
        _interrupted(root / name)
    tifffile.imwrite(folder("slide") / "slide.tiff", np.zeros((64, 64, 3), np.uint8))
    _run(root / "zarr-3", IDENTITY.format("mask.zarr"))
    shutil.copy(root / "zarr-3" / "out.tiff", root / "slide" / "slide.tiff")
    (root / "zarr-3" / "out.tiff").write_bytes(OLD_SLIDE)


def _interrupted(folder: Path) -> None:
    """Leave a render unfinished after some blocks."""
    from safron.engine.execution import tasks
    from safron.engine.scratch import render_state

    done, block_task = Counter[str](), tasks.block_task
    render_state.SYNC_SECONDS = 0.0

    def stop(job: Any, index: tuple[int, int]) -> Any:
        done["blocks"] += 1
        if done["blocks"] > 4:
            raise KeyboardInterrupt
        return block_task(job, index)

    from safron.engine import rendering

    rendering.block_task = stop
    try:
        code = _run(folder, IDENTITY.format("mask.zarr"))[0]
    finally:
        rendering.block_task = block_task
    assert code == 130, "the render was to be interrupted"
    assert (folder / "out.tiff.safron").is_dir()


# Mutations

NUMBERS = ("-1", "0", "1", "1e308", "-1e-308", "9223372036854775807", "18446744073709551616", "NaN", "null", "0.5",
           '""', '"x"', "[]", "{}", "true", "1" + "0" * 400)  # fmt: skip
TEXTS = (
    '""',
    "null",
    "0",
    "[]",
    "{}",
    '"..//../etc"',
    '"' + "a" * 70000 + '"',
    '"\\u0000"',
    '"é\\n"',
    '"uint16"',
)


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Change a number, a text or a piece of the structure."""
    text = data.decode("utf-8", "replace")
    how = rng.choice(("number", "number", "text", "key", "cut", "nest", "bytes"))
    found = [*re.finditer(r"-?\d+(\.\d+)?" if how == "number" else r'"[^"]*"', text)]
    if how in ("number", "text", "key") and found:
        at = rng.choice(found)
        new = rng.choice(NUMBERS if how == "number" else TEXTS)
        if how == "key":
            new = '"' + at[0].strip('"')[::-1] + '"'
        return (text[: at.start()] + new + text[at.end() :]).encode()
    if how == "cut":
        return text[: rng.randrange(len(text) + 1)].encode()
    if how == "nest":
        depth = rng.choice((5, 100000))
        place = rng.randrange(len(text) + 1)
        return (text[:place] + "[" * depth + "]" * depth + text[place:]).encode()
    return mutate_bytes(data, rng)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, repeat or overwrite some bytes."""
    changed = bytearray(data)
    ways = rng.choice((("flip",), ("set",), ("flip", "set", "cut", "insert", "repeat", "end")))
    for _ in range(rng.choice((1, 1, 2, 8))):
        # Headers and directories are short, and lie at the beginning or the end.
        end = rng.choice((64, 512, len(changed), -512))
        at = (
            rng.randrange(max(0, len(changed) + end), len(changed) + 1)
            if end < 0
            else rng.randrange(min(end, len(changed)) + 1)
        )
        count, how = rng.choice((1, 2, 4, 8, 64)), rng.choice(ways)
        if how == "flip" and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif how == "set":
            value = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            changed[at : at + 4] = struct.pack("<I", value)
        elif how == "cut":
            del changed[at : at + count]
        elif how == "insert":
            changed[at:at] = rng.randbytes(count)
        elif how == "repeat":
            changed[at:at] = changed[at : at + count] * rng.choice((1, 100))
        elif how == "end":
            del changed[at:]
    return bytes(changed)


def mutate(path: Path, rng: random.Random) -> None:
    """Change one file in place."""
    data = path.read_bytes()
    is_text = path.suffix in (".json", ".jsonl", ".csv", ".yaml", ".geojson") or path.name.startswith(".z")
    path.write_bytes((mutate_text if is_text else mutate_bytes)(data, rng))


# Cases


def _run(folder: Path, command: str) -> tuple[int, str]:
    """Run a command in a child of this process; return its exit code (-1 where it hangs) and what it printed."""
    printed = folder / ".printed"
    child = os.fork()
    if child == 0:
        _be(folder, command, printed)
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            text = printed.read_text(encoding="utf-8", errors="replace")
            printed.unlink()
            return os.waitstatus_to_exitcode(status), text
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    printed.unlink(missing_ok=True)
    return -1, f"no end after {HANG_SECONDS} s"


def _be(folder: Path, command: str, printed: Path) -> None:
    """Become the command; does not return."""
    code = 70
    try:
        os.chdir(folder)
        out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        program, *arguments = command.split()
        sys.argv = [program, *arguments]
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            _programs()[program](arguments)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _programs() -> dict[str, Callable[[list[str]], Any]]:
    from safron.engine.cli import main as render
    from safron.io.masks.cli import main as mask

    return {"safron-render": render, "safron-mask": mask}


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _of_scratch(name: str) -> bool:
    return ".safron/" in name or name.endswith(".part")


def run_case(kind: Kind, number: int, seed: int, seeds: Path, work: Path) -> tuple[int, str | None]:
    """Run one case; return the exit code, and what is wrong with how it ended."""
    rng = random.Random(f"{seed} {kind.name} {number}")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(seeds / kind.name, work)
    mutated = rng.choice(sorted(path for path in work.glob(kind.files) if path.is_file()))
    mutate(mutated, rng)
    before = _contents(work)
    code, said = _run(work, kind.command)
    if code == -1:
        return code, said
    if code not in (0, 1, 2):
        return code, f"exit code {code}: {said[-300:]}"
    if "Traceback (most recent call last)" in said:
        return code, said[-600:]
    lines = said.splitlines()
    errors = [line for line in lines if re.match(r"safron-\w+: error: |slide\.tiff: ", line)]
    if code and kind.many_lines and not errors:
        return code, f"exit code {code} without a line 'error:': {said[-400:]}"
    if code and not kind.many_lines and (len(errors) != 1 or lines[-1] != errors[0]):
        return code, f"exit code {code} without one line 'error:' at the end: {said[-400:]}"
    after = _contents(work)
    may_change = {"out.tiff"} if code == 0 else set()
    lost = [
        name
        for name, data in before.items()
        if after.get(name) != data and name not in may_change and not _of_scratch(name)
    ]
    return code, f"changed or lost: {lost}" if lost else None


def run_cases(
    count: int, numbers: list[int], *, kinds: tuple[Kind, ...] = KINDS, folder: Path
) -> dict[str, Any]:
    """Run `count` cases of each seed, the kinds in turn; return codes by kind, and the cases that failed."""
    from warm import warm_up

    # Seeds are made in a child: zarr and OpenCV start threads.
    for name in LOADED:
        import_module(name)
    seeds = folder / SEEDS
    child = os.fork()
    if child == 0:
        try:
            make_seeds(seeds)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the seeds could not be made")
    warm = shutil.copytree(seeds / "cluster", folder / "warm", ignore=shutil.ignore_patterns("mask.zarr"))
    plan = IDENTITY.format("mask.zarr")
    warm_up(warm, [plan, f"{plan} --cluster cluster.yaml --dry-run"])
    codes: dict[str, Counter[int]] = {kind.name: Counter() for kind in kinds}
    failed: dict[str, str] = {}
    for seed, number in product(numbers, range(count)):
        kind = kinds[number % len(kinds)]
        code, wrong = run_case(kind, number // len(kinds), seed, seeds, folder / "case")
        codes[kind.name][code] += 1
        if wrong is not None:
            failed[f"{kind.name} {number // len(kinds)} of seed {seed}"] = wrong
    return {"codes": codes, "failed": failed}


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="cases of each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--kind", help="this kind alone")
    parser.add_argument("--keep", type=Path, help="folder for seeds and the last case")
    given = parser.parse_args()
    kinds = tuple(kind for kind in KINDS if given.kind in (None, kind.name))
    with tempfile.TemporaryDirectory() as made:
        start = time.monotonic()
        found = run_cases(given.count, given.seed, kinds=kinds, folder=given.keep or Path(made))
        seconds = time.monotonic() - start
    print(f"{'kind':<14}{'done':>6}{'failed':>8}{'refused':>9}")
    for name, codes in found["codes"].items():
        print(f"{name:<14}{codes[0]:>6}{codes[1]:>8}{codes[2]:>9}")
    for name, wrong in found["failed"].items():
        print(f"FAILED {name}: {wrong}")
    total = sum(sum(codes.values()) for codes in found["codes"].values())
    print(
        json.dumps(
            {"cases": total, "failed": len(found["failed"]), "seed": given.seed, "seconds": round(seconds, 1)}
        )
    )
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
