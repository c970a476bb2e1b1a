"""OpenCV gives black pixels for parts of a TIFF that it cannot decode; such files are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from safron.io.errors import BadInput
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
