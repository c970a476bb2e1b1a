"""A rendered slide, opened by the readers that users have: the same pixels at 100 random places of every level."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from bioformats_jar import DUMP, find_jar
from masks import blobs
from models import StainModel
from safron.engine import render
from safron.io.slides.pyramid import Pyramid
from safron.io.slides.validate import validate_slide

SIZE = (1536, 2048)
NAMES = {"svs": "slide.tiff", "ome": "slide.ome.tiff"}
MEAN_TOLERANCE = 4.0  # grey levels: JPEG at quality 90 with halved colour, on texture
Levels = list[np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Levels]:
    """The same render as JPEG in both flavors, and its levels without loss."""
    folder = tmp_path_factory.mktemp("readers")
    mask = blobs(*SIZE, cell=200)
    options: dict[str, Any] = {"model": StainModel(tile=256, context=20), "tiff_tile": 256, "mpp": 0.5}
    options["level_count"] = 4  # automatic ones differ between flavors, and with compression
    paths = {}
    for flavor, name in NAMES.items():
        paths[flavor] = folder / name
        report = render(mask, paths[flavor], report=folder / f"{flavor}.json", **options)
        assert json.loads((folder / f"{flavor}.json").read_text())["digest"] == report.digest
    render(mask, folder / "exact.tif", compression="none", **options)
    with tifffile.TiffFile(folder / "exact.tif") as tiff:
        return paths, [level.asarray() for level in tiff.series[0].levels]


def places(levels: Levels) -> Iterator[tuple[int, int, int, int, int]]:
    """100 random regions (level, y, x, height, width) of every level."""
    rng = np.random.default_rng(1)
    for level, pixels in enumerate(levels):
        height, width = pixels.shape[:2]
        for _ in range(100):
            h, w = int(rng.integers(32, min(height, 200))), int(rng.integers(32, min(width, 200)))
            yield level, int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w


def compare(levels: Levels, read: Any) -> None:
    for level, y, x, h, w in places(levels):
        found = read(level, y, x, h, w).astype(int)
        wanted = levels[level][y : y + h, x : x + w]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < MEAN_TOLERANCE, (level, y, x, h, w)


def test_levels_are_those_planned(slides: tuple[dict[str, Path], Levels]) -> None:
    pyramid = Pyramid.auto(*SIZE, 256)
    assert [level.shape[:2] for level in slides[1]] == [
        (level.height, level.width) for level in pyramid.levels
    ]


@pytest.mark.parametrize("flavor", NAMES)
def test_openslide(slides: tuple[dict[str, Path], Levels], flavor: str) -> None:
    paths, levels = slides
    with openslide.OpenSlide(paths[flavor]) as slide:
        assert slide.dimensions == SIZE[::-1]
        assert slide.level_count == len(levels)
        assert slide.level_downsamples == tuple(2.0**level for level in range(len(levels)))
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.5, rel=1e-9)
        if flavor == "svs":
            assert slide.properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER] == "20"
            assert slide.properties["aperio.Seed"] == "0"

        def read(level: int, y: int, x: int, h: int, w: int) -> np.ndarray[Any, Any]:
            return np.array(slide.read_region((x << level, y << level), level, (w, h)))[..., :3]

        compare(levels, read)


@pytest.mark.parametrize("flavor", NAMES)
def test_tifffile(slides: tuple[dict[str, Path], Levels], flavor: str) -> None:
    paths, levels = slides
    with tifffile.TiffFile(paths[flavor]) as tiff:
        assert tiff.is_bigtiff
        read = [level.asarray() for level in tiff.series[0].levels]
    assert len(read) == len(levels)
    compare(levels, lambda level, y, x, h, w: read[level][y : y + h, x : x + w])


@pytest.mark.parametrize("flavor", NAMES)
def test_libvips(slides: tuple[dict[str, Path], Levels], flavor: str) -> None:
    paths, levels = slides
    skip = int(flavor == "svs")  # an svs slide's thumbnail is page 1
    pages = [
        pyvips.Image.new_from_file(str(paths[flavor]), page=level + (skip if level else 0), fail_on="warning")
        for level in range(len(levels))
    ]
    assert pages[0].xres == pytest.approx(1000 / 0.5, rel=1e-6)  # pixels a millimetre
    compare(levels, lambda level, y, x, h, w: pages[level].crop(x, y, w, h).numpy())


def test_bioformats(slides: tuple[dict[str, Path], Levels], tmp_path: Path) -> None:
    paths, levels = slides
    jar = find_jar()
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", str(jar), str(DUMP), str(tmp_path)]
    done = subprocess.run(
        [*command, *map(str, paths.values())], capture_output=True, text=True, check=True, timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(paths["svs"].parent))]
    for number, line in enumerate(lines):
        facts = dict(fact.split("=", 1) for fact in line.split("|")[1:])
        assert facts["levels"] == ",".join(f"{pixels.shape[0]}x{pixels.shape[1]}" for pixels in levels)
        assert float(facts["mpp"]) == pytest.approx(0.5)
        read = [
            np.fromfile(tmp_path / f"{number}.{level}.raw", np.uint8).reshape(pixels.shape)
            for level, pixels in enumerate(levels)
        ]
        compare(levels, lambda level, y, x, h, w, read=read: read[level][y : y + h, x : x + w])
    assert len(lines) == len(paths)


@pytest.mark.parametrize("flavor", NAMES)
def test_keeps_every_promise(slides: tuple[dict[str, Path], Levels], flavor: str) -> None:
    assert validate_slide(slides[0][flavor]) == []
