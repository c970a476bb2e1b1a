"""OpenCV gives black pixels for parts of a TIFF that it cannot decode; such files are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from safron.engine.evaluation.tile_sets import find_tiles
from safron.io.errors import BadInput
from safron.io.image_pages import count_images
from safron.io.synthesis.tiles import read_tiles
from safron.io.whole_image import read_image

PIXELS = np.random.default_rng(0).integers(100, 200, (200, 300, 3), np.uint8)
READ: dict[str, Callable[[Path], Any]] = {"image": read_image, "tile": lambda path: read_tiles([path])[0][1]}


def write(folder: Path, compression: str | None, tile: tuple[int, int] | None) -> Path:
    path = folder / "a.tif"
    rows = None if tile else 16
    tifffile.imwrite(path, PIXELS, compression=compression, photometric="rgb", tile=tile, rowsperstrip=rows)
    return path


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "packbits"])
@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_a_tiff_is_read(
    tmp_path: Path, read: Callable[[Path], Any], compression: str | None, tile: tuple[int, int] | None
) -> None:
    np.testing.assert_array_equal(read(write(tmp_path, compression, tile)), PIXELS)


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", ["deflate", "lzw"])
@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_damaged_parts_are_not_black(
    tmp_path: Path, read: Callable[[Path], Any], compression: str, tile: tuple[int, int] | None
) -> None:
    path = write(tmp_path, compression, tile)
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    with path.open("r+b") as bare:
        bare.seek(start + 2)
        bare.write(b"\xee" * (size - 2))
    with pytest.raises(BadInput, match=re.escape(f"{path}: is damaged, or breaks off before its end")):
        read(path)


@pytest.mark.parametrize("compression", ["jpeg2000", "aperio_jp2000_rgb", "jpegxl", "png", "zstd"])
@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_what_is_not_decoded_is_not_black(
    tmp_path: Path, read: Callable[[Path], Any], compression: str
) -> None:
    path = write(tmp_path, compression, (64, 64))
    says = f"{path}: is a TIFF compressed as {compression.upper()}, which is not read here; save it as PNG"
    with pytest.raises(BadInput, match=re.escape(says)):
        read(path)


def pages(path: Path, *sides: tuple[int, int], reduced: bool = False, nested: bool = False) -> Path:
    """A TIFF of pages of these heights and widths; all but the first marked as reduced, or nested in the first as SubIFDs."""
    with tifffile.TiffWriter(path) as file:
        for number, (height, width) in enumerate(sides):
            kind = 1 if number and (reduced or nested) else 0
            below = len(sides) - 1 if nested and not number else 0
            image = PIXELS[:height, :width]
            file.write(image, photometric="rgb", tile=(64, 64), subfiletype=kind, subifds=below)
    return path


SEVERAL = {
    "a stack": ({}, ((200, 300),) * 3, 3),
    "pictures of any shape": ({}, ((200, 300), (100, 90), (50, 250)), 3),
    "one": ({}, ((200, 300),), 1),
    "levels": ({"reduced": True}, ((200, 300), (100, 150), (50, 75)), 1),
    "levels without a mark, rounded down": ({}, ((199, 299), (99, 149), (49, 74)), 1),
    "levels in SubIFDs": ({"nested": True}, ((200, 300), (100, 150)), 1),
    "levels and another picture": ({}, ((200, 300), (100, 150), (200, 300)), 2),
}


@pytest.mark.parametrize(("kind", "sides", "count"), SEVERAL.values(), ids=SEVERAL)
def test_levels_of_a_pyramid_are_no_images_of_their_own(
    tmp_path: Path, kind: dict[str, bool], sides: tuple[tuple[int, int], ...], count: int
) -> None:
    assert count_images(pages(tmp_path / "a.tif", *sides, **kind)) == count


def test_a_warning_tells_once_of_tiffs_with_several_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tiles").mkdir()
    pages(tmp_path / "tiles/a.tif", (200, 300))
    pages(tmp_path / "tiles/b.tif", (200, 300), (100, 150), reduced=True)
    tifffile.imwrite(tmp_path / "tiles/slide.tif", PIXELS, photometric="rgb")
    assert len(read_tiles([tmp_path / "tiles"])) == 3
    assert not caplog.messages
    stack = pages(tmp_path / "tiles/c.tif", *[(200, 300)] * 4)
    several = "holds 4 images, of which the first is read; save the others as files of their own"
    read_tiles([tmp_path / "tiles"])
    find_tiles(tmp_path / "tiles", size=32, most=2)
    assert caplog.messages == [f"{stack} {several}"] * 2
    caplog.clear()
    pages(tmp_path / "tiles/d.tif", *[(200, 300)] * 3)
    assert [len(pixels) for _, pixels in read_tiles([tmp_path / "tiles"])] == [200] * 5
    (said,) = caplog.messages
    assert said.startswith(f"2 TIFFs hold several images, as {stack}, which has 4; the first is read")


def test_the_label_of_a_slide_is_no_image_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(
            PIXELS,
            photometric="rgb",
            tile=(64, 64),
            description="Aperio Image Library\n300x200",
            metadata=None,
        )
        file.write(
            PIXELS[:90, :60],
            photometric="rgb",
            description="Aperio Image Library\nlabel 60x90",
            metadata=None,
        )
    assert count_images(tmp_path / "a.svs") == 2
    assert len(find_tiles(tmp_path / "a.svs", size=32, most=2)) == 2
    assert not caplog.messages
