"""Does a plan say beforehand what a render will take?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.prepare import prepare
from safron.io.errors import BadInput


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "m.zarr", data=np.zeros((600, 600), np.uint8), chunks=(256, 256))
    return tmp_path / "m.zarr"


def test_a_dry_run_counts_the_memory_of_all_processes(mask: Path, tmp_path: Path) -> None:
    options = RenderOptions(model="identity", block=512, executor="processes", workers=2, memory=1 << 40)
    two = prepare(mask, tmp_path / "o.tiff", options, dry_run=True).projected_bytes
    three = prepare(mask, tmp_path / "o.tiff", replace(options, workers=3), dry_run=True).projected_bytes
    assert three - two > 60 << 20, "one process takes that much before its first block"
    with pytest.raises(BadInput, match="projected peak memory is"):
        prepare(mask, tmp_path / "o.tiff", replace(options, memory=two // 2), dry_run=True).check_budget()


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_terms_of_a_budget_add_up(executor: str, mask: Path, tmp_path: Path) -> None:
    options = RenderOptions(model="identity", block=512, executor=executor, workers=2)  # type: ignore[arg-type]
    budget = prepare(mask, tmp_path / "o.tiff", options, dry_run=True).budget
    terms = [int(number) << 20 for number in re.findall(r"(\d+) [a-z]", str(budget).replace(" x (", "x("))]
    if executor == "processes":
        driver, *each = terms
        assert budget.total == pytest.approx(driver + 2 * sum(each), abs=len(terms) << 20)
    else:
        assert budget.total == pytest.approx(sum(terms), abs=len(terms) << 20)


@pytest.mark.parametrize("compression", ["none", "jpeg"])
@pytest.mark.parametrize("overlap", [0, 20])
def test_large_blocks_take_no_more_than_planned(overlap: int, compression: str, tmp_path: Path) -> None:
    """Uncompressed tiles of all levels are larger than the image."""
    mask = zarr.create_array(tmp_path / "mask.zarr", shape=(8192, 8192), chunks=(1024, 1024), dtype="uint8")
    mask[:] = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8).repeat(128, 0).repeat(128, 1)
    report = tmp_path / "report.json"
    program = [sys.executable, "-c", "from safron.engine.cli import main; main()", tmp_path / "mask.zarr"]
    options = ["--model", "identity", "--block", "4096", "--workers", "2", "--overlap", str(overlap)]
    options += ["--compression", compression, "--quiet", "--report", str(report)]
    subprocess.run([*program, tmp_path / "out.tiff", *options], check=True)
    found = json.loads(report.read_text())
    assert found["peak_bytes"] <= found["projected_bytes"]


def test_huge_chunks_are_in_the_plan_and_not_in_the_heap(tmp_path: Path) -> None:
    """A chunk is decoded whole, whatever part of it is read; nothing of it is stored here."""
    side, plans = 12_000, []
    for chunk in (1000, side):
        path = tmp_path / f"{chunk}.zarr"
        zarr.create_array(path, shape=(side, side), chunks=(chunk, chunk), dtype="uint8")
        plans.append(prepare(path, tmp_path / "o.tiff", RenderOptions(model="identity")))
    small, large = plans
    assert large.projected_bytes - small.projected_bytes > 2 * side**2
    assert large.reserved <= small.reserved


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 1 << 31), "2147483648 px make more than 16384 blocks along a side"),
        ((1 << 31, 1 << 31), "more than 16384 blocks"),
        ((1 << 40, 3), "a slide has at most 4294967295 a side"),
        ((2**63 - 1, 2**63 - 1), "a slide has at most 4294967295 a side"),
        ((33_000_000, 400_000), "are needed, .* are free"),
    ],
    ids=str,
)
def test_huge_shapes_are_refused_by_arithmetic(shape: tuple[int, int], says: str, tmp_path: Path) -> None:
    """Nothing is stored of them, and no loop over their pixels, patches or blocks would end."""
    zarr.create_array(tmp_path / "m.zarr", shape=shape, chunks=(1024, 1024), dtype="uint8")
    with pytest.raises(BadInput, match=says):
        prepare(tmp_path / "m.zarr", tmp_path / "o.tiff", RenderOptions(model="identity")).check_budget()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({0: "background", 1: "Stroma", 2: "Gland"}, "label 2 is Gland in it and epithelial to generator 'nuclei'; if"),
        ({2: "fat", 4: "Tumor"}, "label 2 is fat in it and epithelial to generator 'nuclei', label 4 is Tumor in it and spindle"),
        ({0: "Glass", 1: "tissue", 2: "Epithelial", 3: "inflammatory_", 4: "label 4", 99: "Fat"}, ""),
        ({0: "background", 1: "stroma"}, ""),
        (["0", "1"], ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_names_that_differ_from_those_of_the_card_are_told(
    names: dict[int, str] | list[str], told: str, mask: Path, tmp_path: Path
) -> None:
    """Numbers of another generator's labels are right in form; a list of something else is another program's attribute."""
    if isinstance(names, dict):
        said = [{"value": value, "name": name, "color": [9, 9, value]} for value, name in names.items()]
    zarr.open_array(mask).attrs["labels"] = said if isinstance(names, dict) else names
    options = RenderOptions(model="nuclei", mpp=0.5, instances=mask)
    notes = prepare(mask, tmp_path / "o.tiff", options).warnings
    found = [note for note in notes if "to generator" in note]
    assert len(found) == (1 if told else 0), notes
    assert all(note.startswith(f"mask {mask}: {told}") for note in found)
    assert all("safron-mask import --map" in note and "\n" not in note for note in found)
