"""Is a good slide called good by every rule, and a broken one told by what is broken?"""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from safron.io.errors import BadInput
from safron.io.slides.validate import validate_slide
from safron.io.slides.writer import EncodedTile, encode_tile
from slide_cases import CODINGS, GLASS, canvas_for, levels_for, slide_at, spec_for, tiles_for, writer_for

FLAVORS = ("svs", "ome", "generic")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return slide_at(tmp_path, "svs", "jpeg420", (491, 493))[0]


def patch_tag(path: Path, page: int, code: int, value: bytes, *, at: int = 0) -> None:
    """Overwrite a tag's value in place."""
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[page].tags[code].valueoffset
    with path.open("r+b") as file:
        file.seek(place + at)
        file.write(value)


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_every_flavor_and_coding_is_good(flavor: str, coding: str, tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, flavor, coding, (491, 493))
    assert validate_slide(path) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (128, 128), (255, 257), (1025, 700), (3, 600), (600, 1)])
@pytest.mark.parametrize("flavor", FLAVORS)
def test_every_size_is_good(flavor: str, size: tuple[int, int], tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, flavor, "jpeg420", size)
    assert validate_slide(path) == []


def test_an_unfinished_slide_was_never_finished(tmp_path: Path) -> None:
    spec = spec_for(300, 300)
    with writer_for(tmp_path / "out.svs", spec) as writer:
        writer.append(tiles_for(canvas_for(300, 300), spec))
    assert "never finished" in only(validate_slide(tmp_path / "out.svs.part"))


def test_a_missing_file_is_bad_input_and_any_other_file_no_tiff(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give the path of a slide"):
        validate_slide(tmp_path / "nothing.svs")
    with pytest.raises(BadInput, match="directory"):
        validate_slide(tmp_path)
    for content in (b"", b"II", b"PNG....not a tiff at all", b"II*\0" + b"\0" * 4, b"II+\0" + b"\0" * 12):
        (tmp_path / "file").write_bytes(content)
        assert only(validate_slide(tmp_path / "file"))


def test_a_cut_slide_is_told(slide: Path) -> None:
    slide.write_bytes(slide.read_bytes()[:-300])
    assert "beyond" in only(validate_slide(slide))


@pytest.mark.parametrize(
    ("page", "code", "value", "at", "told"),
    [
        (2, 325, struct.pack("<I", 0), 0, "level 1: 1 of 4 tiles are empty"),
        (0, 324, struct.pack("<Q", 1 << 40), 8, "level 0: 1 of 16 tiles lie beyond"),
        (2, 282, struct.pack("<2I", 20_000, 1), 0, "level 1: resolution is missing or different in x and y"),
        (2, 254, struct.pack("<I", 1), 0, "level 1: NewSubfileType is not 0"),
        (3, 256, struct.pack("<I", 124), 0, "level 2: 122 x 124 under 245 x 246 pixels is not half"),
        (0, 258, struct.pack("<H", 16), 0, "level 0: BitsPerSample is 16, 8, 8, not 8, 8, 8"),
        (0, 259, struct.pack("<H", 50_000), 0, "level 0: compression 50000 is not read by all viewers"),
        (0, 262, struct.pack("<H", 1), 0, "level 0: photometric 1 is neither"),
        (0, 530, struct.pack("<2H", 1, 1), 0, "level 0: YCbCrSubSampling 1, 1 shows wrong colours"),
        (1, 256, struct.pack("<I", 400), 0, "the thumbnail of 61 x 400 pixels is not smaller"),
        (2, 270, b"Leica", 0, "level 1: has no Aperio description"),
        (2, 262, struct.pack("<H", 2), 0, "level 1: photometric is 2, but safron's JPEG tiles are YCbCr"),
        (1, 273, struct.pack("<Q", 1 << 40), 0, "OpenSlide does not read it"),
    ],
)
def test_each_broken_promise_is_told(
    page: int, code: int, value: bytes, at: int, told: str, slide: Path
) -> None:
    patch_tag(slide, page, code, value, at=at)
    assert any(problem.startswith(told) for problem in validate_slide(slide)), validate_slide(slide)


@pytest.mark.parametrize(
    ("code", "value", "told"),
    [
        (317, 1, "level 0: predictor is 1, but safron's tiles are differences"),
        (262, 6, "level 0: photometric 6 (YCbCr) without JPEG"),
    ],
)
def test_coding_that_does_not_fit_is_told(code: int, value: int, told: str, tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "generic", "deflate", (491, 493))
    patch_tag(path, 0, code, struct.pack("<H", value))
    assert any(problem.startswith(told) for problem in validate_slide(path)), validate_slide(path)


def test_half_a_jpeg_tile_is_told(slide: Path) -> None:
    """Which libjpeg decodes without a word."""
    with tifffile.TiffFile(slide) as tiff:
        count = tiff.pages[0].databytecounts[5]
    patch_tag(slide, 0, 325, struct.pack("<I", count // 2), at=4 * 5)
    assert "tile 5 does not decode (its data are cut off)" in only(validate_slide(slide))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"<Pixels", b"<Pixel ", "the OME-XML is damaged"),
        (b'SizeX="493"', b'SizeX="494"', "the OME-XML says 491 x 494 pixels, level 0 has 491 x 493"),
        (b'PhysicalSizeY="0.', b'PhysicalSizeY="1.', "the OME-XML says that pixels are not square"),
    ],
)
def test_ome_xml_is_held_to_the_image(old: bytes, new: bytes, told: str, tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "ome", "jpeg420", (491, 493))
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    assert any(problem.startswith(told) for problem in validate_slide(path)), validate_slide(path)


def test_sub_ifds_are_held_to_the_chain(tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "ome", "jpeg420", (491, 493))
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        child = tiff.pages[0].pages[0]
        width, offsets = child.tags[256].valueoffset, child.tags[324].valueoffset
        count = next(tag for tag in tiff.pages[0].tags if tag.code == 330).offset + 4
    for place, value in ((width, struct.pack("<I", 240)), (offsets, struct.pack("<Q", 16))):
        path.write_bytes(whole[:place] + value + whole[place + len(value) :])
        assert only(validate_slide(path)) == "level 1: its SubIFD and the chain point at different tiles"
    path.write_bytes(whole[:count] + struct.pack("<Q", 1) + whole[count + 8 :])
    assert any("SubIFDs have" in problem or "tag" in problem for problem in validate_slide(path))


def test_scales_that_disagree_are_told(slide: Path) -> None:
    with tifffile.TiffFile(slide) as tiff:
        at = tiff.pages[0].description.index("MPP = ") + 6
    patch_tag(slide, 0, 270, b"0.9", at=at)
    assert any("the description says 0.9527" in problem for problem in validate_slide(slide))


def test_a_slide_may_claim_no_scale(tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "svs", "jpeg420", (300, 200), mpp=None)
    assert validate_slide(path) == []


@pytest.mark.parametrize("coding", CODINGS)
def test_damaged_tiles_are_told(coding: str, tmp_path: Path) -> None:
    canvas, spec = canvas_for(300, 300), spec_for(300, 300, **CODINGS[coding])
    tiles = [
        EncodedTile(
            tile.level,
            tile.row,
            tile.col,
            tile.data[:50] if (tile.row, tile.col) == (1, 2) else tile.data,
            False,
        )
        for tile in tiles_for(canvas, spec)
    ]
    with writer_for(tmp_path / "out.svs", spec) as writer:
        writer.append(tiles)
        writer.finish(tmp_path / "out.svs", levels_for(canvas, spec)[-1], overwrite=False)
    assert only(validate_slide(tmp_path / "out.svs")).startswith("level 0: tile 5 d")


def tifffile_pyramid(path: Path, *, level_options: dict[str, Any], description: str | None = None) -> None:
    canvas = canvas_for(512, 512)
    options: dict[str, Any] = {
        "tile": (256, 256),
        "photometric": "rgb",
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate(levels_for(canvas, spec_for(512, 512, tile=256))):
            resolution = (20_000 / 2**index,) * 2
            extra = level_options if index else {}
            tiff.write(level, resolution=resolution, description=description, **options, **extra)


def test_files_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "other.tif"
    tifffile_pyramid(path, level_options={"subfiletype": 1})
    assert validate_slide(path) == []
    tifffile_pyramid(path, level_options={}, description="Aperio Image |MPP = 0.5")
    assert only(validate_slide(path)).startswith("directory 1 is not a thumbnail")
    tifffile.imwrite(path, canvas_for(100, 100))
    assert only(validate_slide(path)).startswith("directory 0 is not tiled")
    tifffile.imwrite(path, np.zeros((300, 300), np.uint16), tile=(64, 64), byteorder=">")
    assert any("BitsPerSample is 16" in problem for problem in validate_slide(path))
    image = pyvips.Image.new_from_array(canvas_for(1030, 700)).copy(xres=2000, yres=2000)
    image.tiffsave(str(path), tile=True, pyramid=True, bigtiff=True, compression="jpeg", Q=80, resunit="cm")
    told = validate_slide(path)  # libvips gives all levels the resolution of the first
    assert [problem[:22] for problem in told] == [f"level {n}: resolution is" for n in (1, 2, 3)]
    image.tiffsave(
        str(path), tile=True, pyramid=True, subifd=True, compression="deflate", predictor="horizontal"
    )
    assert all("resolution is" in problem for problem in validate_slide(path))


def test_no_damage_makes_a_traceback(slide: Path, tmp_path: Path) -> None:
    whole = slide.read_bytes()
    with tifffile.TiffFile(slide) as tiff:
        start = min(page.offset for page in tiff.pages)
    chance = random.Random(1)
    broken = tmp_path / "broken.svs"
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 4, 30])):
            place = chance.randrange(16) if chance.random() < 0.1 else chance.randrange(start, len(whole))
            damaged[place] = chance.choice([0, 255, chance.randrange(256)])
        broken.write_bytes(damaged)
        assert all("\n" not in problem for problem in validate_slide(broken))


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    spec = spec_for(51_200, 51_200)
    data, uniform = encode_tile(np.full((128, 128, 3), GLASS, np.uint8), spec)
    with writer_for(tmp_path / "out.svs", spec) as writer:
        writer.append(
            EncodedTile(level.index, row, col, data, uniform)
            for level in spec.pyramid.levels
            for row in range(level.rows)
            for col in range(level.cols)
        )
        writer.finish(tmp_path / "out.svs", np.zeros((40, 40, 3), np.uint8), overwrite=False)
    tracemalloc.start()
    try:
        assert validate_slide(tmp_path / "out.svs") == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # 213,000 tiles
