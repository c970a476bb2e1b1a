"""Does Bio-Formats, which QuPath and ImageJ read with, see the slides that were written?"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
from bioformats_jar import DUMP, find_jar
from safron.io.slides.pyramid import Pixels
from safron.io.slides.writer import SlideSpec
from slide_cases import CODINGS, agree, canvas_for, levels_for, slide_at

FLAVORS = ("svs", "ome", "generic")
SIZES = ((640, 448), (1, 1), (255, 257), (491, 493), (3, 600))
SHORT = ("jpeg420", "deflate")
CASES = [
    (flavor, coding, size)
    for flavor in FLAVORS
    for size in SIZES
    for coding in (CODINGS if size == SIZES[0] else SHORT)
]


@dataclass(frozen=True)
class Seen:
    """What Bio-Formats says of one file."""

    facts: dict[str, str]
    levels: list[Pixels]
    spec: SlideSpec


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, tuple[int, int]], Seen]:
    """All cases, read by one start of Java."""
    jar, folder = find_jar(), tmp_path_factory.mktemp("bioformats")
    slides = [slide_at(folder, *case) for case in CASES]
    # A .tiff has no suffix of Aperio's to be known by: the description must do.
    slides = [(path.rename(path.with_suffix(".tiff")), spec) for path, spec in slides]
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", str(jar), str(DUMP), str(folder)]
    done = subprocess.run(
        [*command, *(str(path) for path, _ in slides)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(folder))]
    assert len(lines) == len(slides), done.stdout
    found = {}
    for number, (case, line, (_, spec)) in enumerate(zip(CASES, lines, slides, strict=True)):
        facts = dict(fact.split("=", 1) for fact in line.split("|")[1:])
        sizes = [tuple(map(int, size.split("x"))) for size in facts.get("levels", "").split(",") if size]
        levels = [
            np.fromfile(folder / f"{number}.{index}.raw", np.uint8).reshape(*size, 3)
            for index, size in enumerate(sizes)
        ]
        found[case] = Seen(facts, levels, spec)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2][0]}x{case[2][1]}")
def test_bioformats_sees_what_was_written(
    case: tuple[str, str, tuple[int, int]], seen: dict[tuple[str, str, tuple[int, int]], Seen]
) -> None:
    flavor, coding, size = case
    slide = seen[case]
    levels = levels_for(canvas_for(*size), slide.spec)
    if flavor == "generic":  # Bio-Formats sees one level of a plain TIFF, and knows no objective
        levels = levels[:1]
    power = "" if flavor == "generic" else "40.0"
    facts = slide.facts
    assert "error" not in facts, facts["error"]
    assert facts["series"] == "1", facts
    assert [level.shape for level in slide.levels] == [level.shape for level in levels], facts
    assert float(facts["mpp"]) == pytest.approx(0.2527, rel=1e-9)
    assert facts["power"] == power, facts
    for read, wanted in zip(slide.levels, levels, strict=True):
        agree(read, wanted, coding)
