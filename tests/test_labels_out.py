"""The labels of a slide lie upon it pixel by pixel, at every level, and no level averages them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from disks import small_disk
from masks import blobs
from safron.engine import render
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask
from safron.io.masks.write import write_labels

MASK = blobs(1301, 1537)


def levels(path: Path) -> list[npt.NDArray[np.uint8]]:
    if path.is_dir():
        group: Any = zarr.open_group(path, mode="r")
        return [group[name][:] for name in sorted(group.array_keys())]
    with tifffile.TiffFile(path) as tif:
        return [level.asarray() for level in tif.series[0].levels]


def rendered(out: str, **options: Any) -> list[tuple[int, int]]:
    """Size of the slide's levels."""
    render(MASK, out, model="identity", scale="1", mpp=0.5, workers=1, **options)
    with tifffile.TiffFile(out) as tif:
        return [level.shape[:2] for level in tif.series[0].levels]


@pytest.mark.parametrize("name", ["labels.ome.tiff", "labels.ome.zarr"])
@pytest.mark.parametrize(
    "options", [{}, {"region": (100, 33, 1111, 1025)}, {"align": True}], ids=["all", "region", "align"]
)
def test_every_level_shows_one_pixel_of_level_0(here: Path, name: str, options: dict[str, Any]) -> None:
    sizes = rendered("s.ome.tiff", labels_out=name, tiff_tile=128, **options)
    x, y, width, height = options.get("region", (0, 0, 1537, 1301))
    found = levels(Path(name))
    assert [level.shape for level in found] == sizes
    expected = np.zeros(sizes[0], np.uint8)
    expected[:height, :width] = MASK[y : y + height, x : x + width]
    np.testing.assert_array_equal(found[0], expected)
    for index, level in enumerate(found[1:], 1):
        rows, cols = (
            np.minimum(np.arange(side) * 2**index + 2 ** (index - 1), whole - 1)
            for side, whole in zip(level.shape, expected.shape, strict=True)
        )
        np.testing.assert_array_equal(level, expected[np.ix_(rows, cols)])
    mask = open_mask(name)
    assert (mask.shape, mask.mpp) == (sizes[0], 0.5)


def test_name_scale_and_origin_link_it_to_the_slide(here: Path) -> None:
    write_labels(Path("m.zarr"), lambda rows, cols: MASK[rows, cols], height=1301, width=1537)
    report = render(
        "m.zarr",
        "s.svs",
        model="identity",
        mpp=0.5,
        workers=1,
        region=(8, 16, 700, 600),
        labels_out="l.ome.tiff",
    )
    with tifffile.TiffFile("l.ome.tiff") as tif:
        said = tif.ome_metadata or ""
    for part in (
        "s.svs",
        report.digest,
        'PositionX="4.0"',
        'PositionY="8.0"',
        'PhysicalSizeX="0.5"',
        "gland",
    ):
        assert part in said
    render(
        "m.zarr",
        "t.svs",
        model="identity",
        mpp=0.5,
        workers=1,
        region=(8, 16, 700, 600),
        labels_out="l.ome.zarr",
    )
    ome = json.loads(Path("l.ome.zarr/zarr.json").read_text())["attributes"]["ome"]
    assert ome["image-label"]["source"] == {"image": "../t.svs"}
    scale, shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert (scale["scale"], shift["translation"]) == ([0.5, 0.5], [8.0, 4.0])
    assert {one["class"] for one in ome["image-label"]["properties"]} >= {"stroma", "gland"}


def test_the_slide_is_the_same_with_and_without(here: Path) -> None:
    one = render(MASK, "a.svs", model="identity", mpp=0.5, workers=1)
    two = render(MASK, "b.svs", model="identity", mpp=0.5, workers=1, labels_out=Path("l.ome.zarr"))
    assert one.digest == two.digest


def test_what_exists_is_not_replaced(here: Path) -> None:
    Path("l.ome.tiff").write_bytes(b"mine")
    Path("l.ome.zarr").mkdir()
    for name, options, message in (
        ("l.ome.tiff", {}, "exists already"),
        ("l.ome.zarr", {"overwrite": True}, "holds no labels of a slide"),
        ("l.tiff", {}, "must be a local name that ends in"),
        ("s.svs.ome.tiff/l.ome.tiff", {}, "does not exist"),
    ):
        with pytest.raises(BadInput, match=message):
            render(MASK, "s.svs", model="identity", mpp=0.5, labels_out=name, **options)
    assert not Path("s.svs").exists()
    assert Path("l.ome.tiff").read_bytes() == b"mine"
    render(MASK, "s.svs", model="identity", mpp=0.5, workers=1, labels_out="l.ome.tiff", overwrite=True)
    assert len(levels(Path("l.ome.tiff"))) == 3


FULL = """
import numpy as np
from safron.engine import render
render(np.zeros((4000, 4000), np.uint8), "s.tiff", model="identity", mpp=0.5, workers=1, labels_out="small/labels.ome.zarr")
"""


def test_a_full_disk_is_one_line_and_the_slide_is_finished(here: Path) -> None:
    """A write to mapped memory without room on the disk would kill the process."""
    with small_disk(here / "small", "size=1m"):
        done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True)
        assert done.returncode == 1
        assert "labels.ome.zarr: cannot write the labels: No space left on device" in done.stderr
        assert not [*(here / "small").iterdir()]
    assert (here / "s.tiff").exists()
