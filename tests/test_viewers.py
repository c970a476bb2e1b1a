"""Do the programs of docs/viewers.md see every level of a slide as it was written?

tifffile, OpenSlide 4 and Bio-Formats run in `make test`. `make test-readers` installs the others into an environment
of its own; a reader that is not installed is skipped. tests/readers.txt has their versions.
"""

from __future__ import annotations

import functools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import openslide_3 as openslide_of_system
import pytest
import tifffile
from bioformats_jar import DUMP, find_jar
from safron.io.slides.pyramid import Pixels
from safron.io.slides.spec import SlideSpec, choose_pyramid
from slide_cases import CODINGS, SUFFIXES, agree, canvas_for, levels_for, spec_for, write_slide

pytestmark = pytest.mark.filterwarnings("ignore")  # of other projects' code

INSTALL = "is not installed; run: make test-readers"
FLAVORS = ("svs", "ome", "generic")
SHORT = ("jpeg420", "deflate")
SIZES = (
    (1537, 2049),  # levels that are rounded up
    (1000, 1200),  # a last level smaller than a tile of 512
    (90, 130),  # smaller than a tile
    (300, 5000),  # long, and narrower than a tile
)
Case = tuple[str, str, tuple[int, int]]
CASES: list[Case] = [(flavor, coding, size) for size in SIZES for flavor in FLAVORS for coding in SHORT]
SVS_AND_OME = [case for case in CASES if case[0] != "generic"]


@dataclass(frozen=True)
class Slide:
    """A slide, and the levels that it was made of."""

    path: Path
    spec: SlideSpec
    levels: list[Pixels]
    coding: str

    @property
    def scale(self) -> float:
        assert self.spec.mpp is not None
        return self.spec.mpp


Write = Callable[[str, str, tuple[int, int], int], Slide]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """A function that writes a slide as a render does, once for each case."""
    folder = tmp_path_factory.mktemp("viewers")

    @functools.cache
    def written(flavor: str, coding: str, size: tuple[int, int], tile: int) -> Slide:
        options = CODINGS[coding]
        pyramid = choose_pyramid(
            *size, tile=tile, level_count="auto", flavor=flavor, compression=options["compression"]
        )
        spec = spec_for(
            *size, flavor=flavor, level_count=pyramid.level_count, **{**options, "tile": pyramid.tile}
        )
        path = folder / f"{flavor}-{coding}-{size[0]}x{size[1]}-{tile}{SUFFIXES[flavor]}"
        canvas = canvas_for(*size)
        write_slide(path, canvas, spec)
        return Slide(path, spec, levels_for(canvas, spec), coding)

    return written


def name_of(case: Case) -> str:
    return f"{case[0]}-{case[1]}-{case[2][0]}x{case[2][1]}"


def each(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=name_of)


def near(read: Pixels, wanted: Pixels) -> None:
    """Equal but for JPEG, and for a reader that interpolates between levels of odd size."""
    assert read.shape == wanted.shape
    assert np.abs(read.astype(int) - wanted).mean() < 6


@each(CASES)
def test_tifffile(case: Case, write: Write) -> None:
    slide = write(*case, 512)
    with tifffile.TiffFile(slide.path) as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert len(levels) == len(slide.levels)
    for read, wanted in zip(levels, slide.levels, strict=True):
        agree(read, wanted, slide.coding)


@each(CASES)
def test_openslide_4(case: Case, write: Write) -> None:
    slide = write(*case, 512)
    with openslide.OpenSlide(slide.path) as reader:
        assert reader.level_dimensions == tuple(level.shape[1::-1] for level in slide.levels)
        assert float(reader.properties["openslide.mpp-x"]) == pytest.approx(slide.scale)
        for index, wanted in enumerate(slide.levels):
            rgba = np.asarray(reader.read_region((0, 0), index, wanted.shape[1::-1]))
            assert (rgba[..., 3] == 255).mean() > 0.99
            near(rgba[..., :3], wanted)


@pytest.fixture(scope="module")
def openslide_3() -> str:
    """The script that reads with Debian's OpenSlide, whose libtiff refuses to read beyond an image since a security fix."""
    if openslide_of_system.LIBRARY is None:
        pytest.skip("OpenSlide 3 is not installed; on Debian 12: apt install libopenslide0")
    command = [
        sys.executable,
        "-c",
        "import openslide_3; print(openslide_3.load().openslide_get_version().decode())",
    ]
    folder = Path(__file__).parent
    version = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    if not version.startswith("3."):
        pytest.skip(f"not OpenSlide 3: {version}")
    return openslide_of_system.__file__


@each(CASES)
def test_openslide_3(case: Case, write: Write, tmp_path: Path, openslide_3: str) -> None:
    slide = write(*case, 512)
    command = [sys.executable, openslide_3, str(slide.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{level.shape[1]} {level.shape[0]}" for level in slide.levels]
    for index, wanted in enumerate(slide.levels):
        bgra = np.fromfile(tmp_path / f"{index}.raw", np.uint8).reshape(*wanted.shape[:2], 4)
        assert (bgra[..., 3] == 255).mean() > 0.99
        near(bgra[..., 2::-1], wanted)


def test_bioformats(write: Write, tmp_path: Path) -> None:
    jar, slides = find_jar(), [write(*case, 512) for case in SVS_AND_OME]
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", str(jar), str(DUMP), str(tmp_path)]
    command += [str(slide.path) for slide in slides]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if "|" in line]
    for number, (slide, line) in enumerate(zip(slides, lines, strict=True)):
        facts = dict(fact.split("=", 1) for fact in line.split("|")[1:])
        shapes = [level.shape for level in slide.levels]
        assert facts["levels"] == ",".join(f"{height}x{width}" for height, width, _ in shapes), line
        assert float(facts["mpp"]) == pytest.approx(slide.scale), line
        for index, wanted in enumerate(slide.levels):
            pixels = np.fromfile(tmp_path / f"{number}.{index}.raw", np.uint8).reshape(wanted.shape)
            agree(pixels, wanted, slide.coding)


def large_image_of(slide: Slide) -> Any:
    """Open a slide by the source that large_image chooses for it."""
    name = "ometiff" if slide.spec.flavor == "ome" else "tiff"
    module = pytest.importorskip(f"large_image_source_{name}", reason=f"large_image {INSTALL}")
    return module.open(str(slide.path))


def tiles_of(source: Any) -> Iterator[tuple[int, int, int]]:
    """Level, row and column of all tiles that a viewer asks large_image for."""
    for level in range(source.levels):
        scale = 2 ** (source.levels - 1 - level)
        for row in range(math.ceil(source.sizeY / scale / source.tileHeight)):
            for column in range(math.ceil(source.sizeX / scale / source.tileWidth)):
                yield level, row, column


def check_large_image(slide: Slide) -> int:
    source = large_image_of(slide)
    assert (source.sizeY, source.sizeX) == slide.levels[0].shape[:2]
    tiles = list(tiles_of(source))
    for level, row, column in tiles:
        read = np.asarray(source.getTile(column, row, level, numpyAllowed="always"))[..., :3]
        index = source.levels - 1 - level
        if index < len(slide.levels):  # further levels are made by large_image
            y, x = row * source.tileHeight, column * source.tileWidth
            wanted = slide.levels[index][y : y + source.tileHeight, x : x + source.tileWidth]
            if wanted.size:
                differences = np.abs(read[: wanted.shape[0], : wanted.shape[1]].astype(int) - wanted)
                assert differences.mean() < (
                    4 if wanted.size > 20_000 else 16
                )  # JPEG, with little to average
    return len(tiles)


@each(CASES)
def test_large_image_gives_every_tile(case: Case, write: Write) -> None:
    slide = write(*case, 512)
    assert check_large_image(slide) == (29 if case[2] == (1537, 2049) else pytest.approx(100, abs=99))


def test_large_image_gives_every_tile_of_random_sizes(write: Write) -> None:
    rng, tile, affected = random.Random(3), 64, 0
    for _ in range(200):
        size = rng.randint(1, 900), rng.randint(1, 900)
        slide = write("svs", "jpeg420", size, tile)
        check_large_image(slide)
        slide.path.unlink()
        affected += any(
            side > (of >> index) > 0
            for index, level in enumerate(slide.levels)
            for side, of in zip(level.shape, size, strict=False)
        )
    assert affected > 4


@each(CASES)
def test_slideio(case: Case, write: Write) -> None:
    slideio = pytest.importorskip("slideio", reason=f"slideio {INSTALL}")
    slide, driver = write(*case, 512), {"svs": "SVS", "ome": "OMETIFF", "generic": "GDAL"}[case[0]]
    scene = slideio.open_slide(str(slide.path), driver).get_scene(0)
    if case[0] != "generic":  # there, each level is a scene
        assert scene.num_zoom_levels == len(slide.levels)
        assert scene.resolution[0] * 1e6 == pytest.approx(slide.scale)
    for index in range(scene.num_zoom_levels):
        size = scene.get_zoom_level_info(index).size
        near(scene.read_block((0, 0, 0, 0), (size.width, size.height)), slide.levels[index])


@each(CASES)
def test_tiffslide(case: Case, write: Write) -> None:
    tiffslide = pytest.importorskip("tiffslide", reason=f"tiffslide {INSTALL}")
    slide = write(*case, 512)
    with tiffslide.TiffSlide(slide.path) as reader:
        assert reader.level_dimensions == tuple(level.shape[1::-1] for level in slide.levels)
        assert float(reader.properties["tiffslide.mpp-x"]) == pytest.approx(slide.scale)
        for index, wanted in enumerate(slide.levels):
            agree(np.asarray(reader.read_region((0, 0), index, wanted.shape[1::-1])), wanted, slide.coding)


def need_turbojpeg() -> None:
    """Skip unless opentile finds the library that it loads by itself."""
    module = pytest.importorskip("turbojpeg", reason=f"opentile {INSTALL}")
    try:
        module.TurboJPEG(os.environ.get("TURBOJPEG"))
    except (RuntimeError, OSError):
        pytest.skip("opentile needs the library turbojpeg; on Debian: apt install libturbojpeg0")


@each(SVS_AND_OME)
def test_opentile(case: Case, write: Write) -> None:
    need_turbojpeg()
    opentile = pytest.importorskip("opentile", reason=f"opentile {INSTALL}")
    slide = write(*case, 512)
    with opentile.OpenTile.open(slide.path) as reader:
        assert len(reader.levels) == len(slide.levels)
        assert reader.levels[0].mpp.width == pytest.approx(slide.scale)
        for level, wanted in zip(reader.levels, slide.levels, strict=True):
            assert (level.image_size.height, level.image_size.width) == wanted.shape[:2]
            side = level.tile_size.width
            for y in range(level.tiled_size.height):
                for x in range(level.tiled_size.width):
                    part = wanted[y * side : (y + 1) * side, x * side : (x + 1) * side]
                    read = np.asarray(level.get_decoded_tile((x, y)))[: part.shape[0], : part.shape[1]]
                    agree(read, part, slide.coding)


def jpeg_tiles(path: Path, level: int) -> list[bytes]:
    raw = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].pages[0]
        return [raw[at : at + count] for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)]


@each(SVS_AND_OME)
def test_wsidicomizer(case: Case, write: Write, tmp_path: Path) -> None:
    need_turbojpeg()
    wsidicomizer = pytest.importorskip("wsidicomizer", reason=f"wsidicomizer {INSTALL}")
    import pydicom
    from wsidicom import WsiDicom

    slide = write(*case, 512)
    with wsidicomizer.WsiDicomizer.open(slide.path) as reader:
        reader.save(tmp_path)
    with WsiDicom.open(tmp_path) as made:
        assert len(made.levels) == len(slide.levels)
        for level, wanted in zip(made.levels, slide.levels, strict=True):
            size = (level.size.width, level.size.height)
            near(np.asarray(made.read_region((0, 0), level.level, size)), wanted)
    if not slide.coding.startswith("jpeg"):
        return  # compressed again
    copied = set()
    for file in tmp_path.iterdir():
        image = pydicom.dcmread(file)
        width = int(image.TotalPixelMatrixColumns)
        index = next((n for n, level in enumerate(slide.levels) if level.shape[1] == width), None)
        if "VOLUME" not in image.ImageType or index is None:
            continue
        frames = pydicom.encaps.generate_frames(image.PixelData, number_of_frames=int(image.NumberOfFrames))
        tiles = jpeg_tiles(slide.path, index)
        assert [frame.rstrip(b"\0") for frame in frames] == [tile.rstrip(b"\0") for tile in tiles]
        copied.add(index)
    assert copied == set(range(len(slide.levels)))


@each(CASES)
def test_gdal(case: Case, write: Write) -> None:
    rasterio = pytest.importorskip("rasterio", reason=f"GDAL (by rasterio) {INSTALL}")
    slide = write(*case, 512)
    with rasterio.open(slide.path) as reader:
        near(np.moveaxis(reader.read(), 0, 2), slide.levels[0])
        overviews = reader.overviews(1)
    levels = [2**index for index in range(1, len(slide.levels))]
    # OME: by the chain, and again by SubIFDs; svs: levels are subdatasets.
    assert overviews == {"svs": [], "ome": levels * 2, "generic": levels}[case[0]]
