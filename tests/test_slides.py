"""Do the readers that people use see the slide that was written, and nothing of one that was not finished?"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from safron.io.errors import BadInput, Failed
from safron.io.slides import flavors
from safron.io.slides.pyramid import Level, Pixels
from safron.io.slides.reader import facts_of
from safron.io.slides.writer import EncodedTile, SlideSpec, encode_region, encode_tile
from slide_cases import (
    CODINGS,
    GLASS,
    agree,
    canvas_for,
    levels_for,
    slide_at,
    spec_for,
    tiles_for,
    write_slide,
    writer_for,
)

FLAVORS = ("svs", "ome", "generic")
EVEN = (640, 448)  # multiples of 8: OpenSlide then reads all levels without resampling
ODD = ((1, 1), (2, 3), (255, 257), (491, 493), (1025, 700), (3, 600), (600, 1))


def windows(level: Pixels, seed: int) -> list[tuple[int, int, int, int]]:
    """Random windows inside a level, and the level as a whole."""
    height, width = level.shape[:2]
    chance = random.Random(seed)
    found = [(0, 0, height, width)]
    for _ in range(4):
        y, x = chance.randrange(height), chance.randrange(width)
        found.append((y, x, chance.randint(1, height - y), chance.randint(1, width - x)))
    return found


def read_openslide(path: Path, level: int, window: tuple[int, int, int, int]) -> Pixels:
    y, x, height, width = window
    with openslide.OpenSlide(path) as slide:
        rgba = np.array(slide.read_region((x << level, y << level), level, (width, height)))
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


def read_tifffile(path: Path, level: int) -> Pixels:
    with tifffile.TiffFile(path) as tiff:
        return np.asarray(tiff.series[0].levels[level].asarray())


def read_vips(path: Path, spec: SlideSpec, level: int) -> Pixels:
    page = level + (spec.flavor == "svs" and level > 0)  # an svs slide's thumbnail is page 1
    return np.asarray(pyvips.Image.new_from_file(str(path), page=page, fail_on="warning").numpy())


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_readers_see_the_pixels_that_were_written(flavor: str, coding: str, tmp_path: Path) -> None:
    path, spec = slide_at(tmp_path, flavor, coding, EVEN)
    for index, level in enumerate(levels_for(canvas_for(*EVEN), spec)):
        in_tifffile, in_vips = read_tifffile(path, index), read_vips(path, spec, index)
        for y, x, height, width in windows(level, index):
            part = (slice(y, y + height), slice(x, x + width))
            agree(in_tifffile[part], level[part], coding)
            agree(in_vips[part], level[part], coding)
            agree(read_openslide(path, index, (y, x, height, width)), level[part], coding)


@pytest.mark.parametrize("coding", ["jpeg420", "deflate"])
@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_any_size_is_read(flavor: str, size: tuple[int, int], coding: str, tmp_path: Path) -> None:
    path, spec = slide_at(tmp_path, flavor, coding, size)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == tuple((level.width, level.height) for level in spec.pyramid.levels)
    for index, level in enumerate(levels_for(canvas_for(*size), spec)):
        if min(size) > 3 or flavor != "generic":  # tifffile takes some levels of a line for other images
            agree(read_tifffile(path, index), level, coding)
        agree(read_vips(path, spec, index), level, coding)
        if index == 0:
            agree(read_openslide(path, 0, (0, 0, *size)), level, coding)


def test_the_colour_profile_is_that_of_libvips() -> None:
    assert flavors.srgb_profile() == bytes(pyvips.Operation.call("profile_load", "srgb"))


@pytest.mark.parametrize("flavor", FLAVORS)
def test_openslide_sees_scale_and_provenance(flavor: str, tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, flavor, "jpeg420", EVEN)
    with openslide.OpenSlide(path) as slide:
        found = dict(slide.properties)
        assert slide.level_downsamples == (1, 2, 4, 8)
        assert slide.color_profile is not None
        assert list(slide.associated_images) == (["thumbnail"] if flavor == "svs" else [])
    assert float(found["openslide.mpp-x"]) == pytest.approx(0.2527, rel=1e-12)
    assert float(found["openslide.mpp-y"]) == pytest.approx(0.2527, rel=1e-12)
    if flavor == "svs":
        assert found["openslide.vendor"] == "aperio"
        assert found["openslide.objective-power"] == "40"
        assert (found["aperio.Seed"], found["aperio.Model"]) == ("42", "tiny")
    else:
        assert "Seed" in found["openslide.comment"]
    assert ("xml" in found["openslide.comment"]) == (flavor == "ome")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_slide_without_scale_claims_none(flavor: str, tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, flavor, "jpeg420", (300, 200), mpp=None)
    with openslide.OpenSlide(path) as slide:
        assert openslide.PROPERTY_NAME_MPP_X not in slide.properties
        assert openslide.PROPERTY_NAME_OBJECTIVE_POWER not in slide.properties
    with tifffile.TiffFile(path) as tiff:
        assert not {282, 283, 296} & {tag.code for tag in tiff.pages[0].tags}


def test_resolutions_are_exact_fractions_of_a_centimetre(tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "generic", "deflate", EVEN)
    with tifffile.TiffFile(path) as tiff:
        for index, page in enumerate(tiff.pages):
            wanted = 10_000 / (Fraction("0.2527") * 2**index)
            assert page.tags[282].value == (wanted.numerator, wanted.denominator)
            assert page.tags[283].value == page.tags[282].value
            assert page.tags[296].value == 3


def test_each_flavor_has_its_layout(tmp_path: Path) -> None:
    subfile, tiled = {}, {}
    for flavor in FLAVORS:
        path, _ = slide_at(tmp_path, flavor, "jpeg420", EVEN)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_bigtiff
            assert tiff.byteorder == "<"
            subfile[flavor] = [int(page.tags[254].value) for page in tiff.pages]
            tiled[flavor] = [page.is_tiled for page in tiff.pages]
            assert [34675 in page.tags for page in tiff.pages].count(True) == 1
            assert 34675 in tiff.pages[0].tags
            if flavor == "ome":
                assert len(tiff.pages[0].tags[330].value) == 3
    assert subfile == {"svs": [0, 0, 0, 0, 0], "ome": [0, 1, 1, 1], "generic": [0, 1, 1, 1]}
    assert tiled["svs"] == [True, False, True, True, True]


@pytest.mark.parametrize(("coding", "subsampling"), [("jpeg420", (2, 2)), ("jpeg444", None), ("lzw", None)])
def test_subsampling_is_said_for_420_alone(
    coding: str, subsampling: tuple[int, int] | None, tmp_path: Path
) -> None:
    path, _ = slide_at(tmp_path, "svs", coding, EVEN)
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        assert (tags[530].value if 530 in tags else None) == subsampling


def test_the_unit_of_ome_is_the_sign_itself_in_utf_8(tmp_path: Path) -> None:
    path, _ = slide_at(tmp_path, "ome", "jpeg420", EVEN)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[270]
        raw = path.read_bytes()[tag.valueoffset : tag.valueoffset + tag.count]
    for axis in (b"X", b"Y"):
        assert b'PhysicalSize%b="0.2527" PhysicalSize%bUnit="\xc2\xb5m"' % (axis, axis) in raw
    assert raw.endswith(b"</OME>\0")
    assert b"&#" not in raw


def test_text_is_one_line_of_ascii_and_reads_back(tmp_path: Path) -> None:
    metadata = (("a=b", "x|y\r\nz"), ("µ", "café <&> XML"))
    for flavor in FLAVORS:
        path, _ = slide_at(tmp_path, flavor, "deflate", (300, 200), metadata=metadata)
        with openslide.OpenSlide(path) as slide:
            text = slide.properties["openslide.comment"]
            assert text.replace('Unit="µm"', "").isascii()
            if flavor == "svs":
                assert slide.properties["aperio.a-b"] == "x/y z"
                assert slide.properties["aperio.?"] == "caf? <&> XML"
        assert flavor != "generic" or "xml" not in text.lower()


def test_glass_is_stored_once(tmp_path: Path) -> None:
    canvas = np.full((1024, 1024, 3), GLASS, np.uint8)
    spec = spec_for(1024, 1024)
    write_slide(tmp_path / "glass.svs", canvas, spec)
    with tifffile.TiffFile(tmp_path / "glass.svs") as tiff:
        offsets = {offset for page in tiff.pages if page.is_tiled for offset in page.dataoffsets}
    assert len(offsets) == 1
    agree(read_openslide(tmp_path / "glass.svs", 0, (0, 0, 1024, 1024)), canvas, "jpeg420")


def test_a_tile_is_padded_with_its_edge_and_knows_uniform() -> None:
    spec = spec_for(300, 300, compression="none")
    rgb = canvas_for(100, 60)
    data, uniform = encode_tile(rgb, spec)
    tile = np.frombuffer(data, np.uint8).reshape(128, 128, 3)
    np.testing.assert_array_equal(tile, np.pad(rgb, ((0, 28), (0, 68), (0, 0)), mode="edge"))
    assert not uniform
    glass = np.full((128, 128, 3), GLASS, np.uint8)
    assert encode_tile(glass, spec) == (glass.tobytes(), True)
    assert encode_tile(glass[:5, :7], spec) == (glass.tobytes(), True)
    for y, x, channel in [(0, 1, 0), (127, 127, 2), (64, 3, 1), (127, 0, 0)]:
        speck = glass.copy()
        speck[y, x, channel] += 1
        assert encode_tile(speck, spec) == (speck.tobytes(), False)


@pytest.mark.parametrize("coding", CODINGS)
def test_encoding_does_not_depend_on_memory_layout(coding: str) -> None:
    spec = spec_for(300, 300, **CODINGS[coding])
    big = canvas_for(300, 300)
    view = big[17:145, 33:161]
    assert (
        encode_tile(view, spec)
        == encode_tile(view.copy(), spec)
        == encode_tile(np.asfortranarray(view), spec)
    )


def test_regions_give_the_tiles_of_the_whole() -> None:
    spec = spec_for(491, 493)
    canvas = canvas_for(491, 493)
    whole = {(tile.row, tile.col): tile for tile in encode_region(canvas, 0, 0, 0, spec)}
    assert len(whole) == 16
    for y, x in [(0, 0), (256, 0), (0, 256), (256, 256)]:
        for tile in encode_region(canvas[y : y + 256, x : x + 256], 0, y, x, spec):
            assert whole.pop((tile.row, tile.col)) == tile
    assert not whole
    with pytest.raises(AssertionError, match="does not begin at a tile"):
        list(encode_region(canvas, 0, 5, 0, spec))
    with pytest.raises(AssertionError, match="inside a tile"):
        list(encode_region(canvas[:200], 0, 0, 0, spec))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "multiple of 16"),
        ({"tile": 48, "compression": "none"}, "multiple of 32; use 64"),
        ({"quality": 0}, "1 to 100"),
        ({"mpp": 0.0}, "0.001 to 10000"),
        ({"mpp": float("nan")}, "0.001 to 10000"),
        ({"objective": -1.0}, "magnification"),
        ({"flavor": "ndpi"}, "svs, ome, generic"),
        ({"compression": "zstd"}, "jpeg, deflate, lzw, none"),
        ({"chroma": "422"}, "420, 444"),
        ({"background": (1, 2, 256)}, "0 to 255"),
        ({"level_count": 20}, "--level-count 20: "),
    ],
)
def test_a_spec_refuses_what_readers_do_not_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        spec_for(300, 300, **{"level_count": 1, **options})


@pytest.mark.parametrize(
    ("mpp", "power"), [(0.25, 40), (0.5, 20), (0.2322, 40), (1.0, 10), (2.1, 5), (0.12, 80)]
)
def test_the_objective_follows_from_the_scale(mpp: float, power: float) -> None:
    assert spec_for(9, 9, mpp=mpp).objective_power == power
    assert spec_for(9, 9, mpp=mpp, objective=63.0).objective_power == 63
    assert spec_for(9, 9, mpp=None).objective_power is None


def recomputed_digest(path: Path, software: str) -> str:
    """The digest by its definition, from the finished file, by other means than the writer's."""
    total = hashlib.sha256(b"safron slide 1\n")

    def hash_page(name: str, page: Any, raw: bytes) -> None:
        total.update(f"{name}\n".encode())
        for tag in sorted(page.tags, key=lambda tag: int(tag.code)):
            if tag.code in (273, 279, 306, 324, 325, 330):
                continue
            size = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8, 18: 8}[int(tag.dtype)] * tag.count
            value = raw[tag.valueoffset : tag.valueoffset + size]
            if tag.code in (270, 305):
                value = value.replace(software.encode(), b"safron 0.1.0")
            count = len(value) if tag.code in (270, 305) else tag.count
            total.update(struct.pack("<HHQ", tag.code, int(tag.dtype), count) + value)

    def hash_segments(page: Any, raw: bytes) -> None:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            data = raw[offset : offset + count]
            total.update(struct.pack("<I", count) + hashlib.blake2b(data, digest_size=16).digest())

    raw = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        pages = list(tiff.pages)
        levels = [page for page in pages if page.is_tiled]
        names = iter(f"level {index}" for index in range(len(levels)))
        for page in pages:
            hash_page(next(names) if page.is_tiled else "thumbnail", page, raw)
        for index, page in enumerate(pages[0].pages or (), 1):
            hash_page(f"sub level {index}", page, raw)
        for page in levels:
            hash_segments(page, raw)
        for page in pages:
            if not page.is_tiled:
                hash_segments(page, raw)
    return total.hexdigest()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_digest_is_what_its_definition_says(flavor: str, tmp_path: Path) -> None:
    spec = spec_for(491, 493, flavor=flavor, software="safron 3.2.1")
    digest = write_slide(tmp_path / "slide.tif", canvas_for(491, 493), spec)
    assert digest == recomputed_digest(tmp_path / "slide.tif", "safron 3.2.1")
    # As an earlier version would have given it, which counted its own name.
    by_the_first = write_slide(
        tmp_path / "first.tif", canvas_for(491, 493), replace(spec, software="safron 0.1.0")
    )
    assert by_the_first == digest


def test_the_digest_knows_content_and_not_order_or_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas, spec = canvas_for(491, 493), spec_for(491, 493)
    digest = write_slide(tmp_path / "a.svs", canvas, spec)
    made = flavors.directories

    def at_another_time(spec: SlideSpec, thumbnail: Any, written: Any) -> Any:
        return made(spec, thumbnail, written.replace(year=1999))

    monkeypatch.setattr(flavors, "directories", at_another_time)
    assert write_slide(tmp_path / "b.svs", canvas, spec, seed=7) == digest
    with tifffile.TiffFile(tmp_path / "b.svs") as tiff:
        assert tiff.pages[0].tags[306].value.startswith("1999")
    assert write_slide(tmp_path / "e.svs", canvas, replace(spec, mask_content="5af6")) == digest
    with tifffile.TiffFile(tmp_path / "e.svs") as tiff:
        assert facts_of(tiff.pages[0].description)["Mask content"] == "5af6"
    others = [replace(spec, quality=89), replace(spec, mpp=0.2528), replace(spec, metadata=(("Seed", "43"),))]
    digests = [write_slide(tmp_path / f"c{n}.svs", canvas, other) for n, other in enumerate(others)]
    canvas[0, 0, 0] ^= 255
    digests.append(write_slide(tmp_path / "d.svs", canvas, spec))
    assert len({digest, *digests}) == 5


def refuses_to_open(path: Path) -> None:
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 0
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_file(str(path))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from slide_cases import canvas_for, spec_for, tiles_for, writer_for
spec = spec_for(491, 493)
writer = writer_for(Path(sys.argv[1]), spec)
tiles = tiles_for(canvas_for(491, 493), spec)
print(writer.append(tiles[:9]), flush=True)
def rest():
    yield from tiles[9:15]
    os.kill(os.getpid(), signal.SIGKILL)
writer.append(rest())
"""


def test_a_killed_writer_leaves_no_slide_and_its_work_is_kept(tmp_path: Path) -> None:
    canvas, spec = canvas_for(491, 493), spec_for(491, 493)
    whole = write_slide(tmp_path / "whole.svs", canvas, spec)
    out = tmp_path / "out.svs"
    command = [sys.executable, "-c", KILLED, str(out), str(Path(__file__).parent)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    end = int(killed.stdout)
    part = tmp_path / "out.svs.part"
    assert part.stat().st_size > end
    refuses_to_open(part)
    tiles = tiles_for(canvas, spec)
    with writer_for(out, spec, resume_at=end) as writer:
        assert writer.missing() is not None
        refuses_to_open(part)
        writer.append(tiles[9:])
        assert writer.finish(out, levels_for(canvas, spec)[-1], overwrite=False) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.svs", "whole.svs"]


def test_a_torn_tail_is_cut_and_its_tiles_are_missing(tmp_path: Path) -> None:
    canvas, spec = canvas_for(491, 493), spec_for(491, 493)
    tiles = sorted(tiles_for(canvas, spec), key=lambda tile: (tile.level, tile.row, tile.col))
    out = tmp_path / "out.svs"
    with writer_for(out, spec) as writer:
        end = writer.append(tiles[:7])
        writer.append(tiles[7:12])
    with (tmp_path / "out.svs.part").open("ab") as part:
        part.write(b"\xff" * 1000)
    index = tmp_path / "out.svs.idx"
    torn = bytearray(index.read_bytes())
    torn[32 + 3 * 32 : 32 + 3 * 32 + 4] = b"\x20\0\0\0"  # tile 3's record: half of it from another time
    index.write_bytes(torn[: 32 + 15 * 32 - 9])
    with writer_for(out, spec, resume_at=end) as writer:
        assert (tmp_path / "out.svs.part").stat().st_size == end
        assert writer.missing() == (0, 0, 3)
        writer.append([tiles[3]])
        assert writer.missing() == (0, 1, 3)
        writer.append(tiles[7:])
        assert writer.missing() is None
        digest = writer.finish(out, canvas, overwrite=False)
    assert digest != ""
    agree(read_openslide(out, 0, (0, 0, 491, 493)), canvas, "jpeg420")


def test_a_tile_written_again_counts_last(tmp_path: Path) -> None:
    canvas, spec = canvas_for(300, 300), spec_for(300, 300, compression="deflate")
    tiles = tiles_for(canvas, spec)
    wrong = [EncodedTile(tile.level, tile.row, tile.col, b"wrong", False) for tile in tiles]
    with writer_for(tmp_path / "a.svs", spec) as writer:
        writer.append([*wrong, *tiles[:4]])
        writer.append(tiles[4:])
        digest = writer.finish(tmp_path / "a.svs", canvas, overwrite=False)
    np.testing.assert_array_equal(read_openslide(tmp_path / "a.svs", 0, (0, 0, 300, 300)), canvas)
    with writer_for(tmp_path / "b.svs", spec) as writer:
        writer.append(tiles)
        assert writer.finish(tmp_path / "b.svs", canvas, overwrite=False) == digest


def test_the_later_of_many_records_counts(tmp_path: Path) -> None:
    spec = spec_for(2000, 2000, compression="none")
    places = [(row, col) for row in range(16) for col in range(16)] * 3
    random.Random(3).shuffle(places)
    last = {place: bytes([number % 256]) * (number + 1) for number, place in enumerate(places)}
    with writer_for(tmp_path / "out.svs", spec) as writer:
        writer.append(
            EncodedTile(0, *place, bytes([number % 256]) * (number + 1), False)
            for number, place in enumerate(places)
        )
        writer.append(
            EncodedTile(level.index, row, col, b"x", True) for level, row, col in above_level_0(spec)
        )
        writer.finish(tmp_path / "out.svs", canvas_for(20, 20), overwrite=False)
    raw = (tmp_path / "out.svs").read_bytes()
    with tifffile.TiffFile(tmp_path / "out.svs") as tiff:
        page = tiff.pages[0]
        found = [
            raw[at : at + count] for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        assert all(at % 2 == 0 for at in page.dataoffsets)
    assert found == [last[place] for place in sorted(last)]


def above_level_0(spec: SlideSpec) -> list[tuple[Level, int, int]]:
    return [
        (level, row, col)
        for level in spec.pyramid.levels[1:]
        for row in range(level.rows)
        for col in range(level.cols)
    ]


def test_data_is_on_the_disk_before_what_points_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas, spec, done = canvas_for(300, 300), spec_for(300, 300), list[str]()
    sync, write, link = os.fsync, os.pwrite, os.link

    def name(file: int) -> str:
        files = {"part": tmp_path / "out.svs.part", "index": tmp_path / "out.svs.idx"}
        number = os.fstat(file).st_ino
        return next(
            (key for key, path in files.items() if path.exists() and path.stat().st_ino == number), "folder"
        )

    def note(what: str) -> None:
        if done[-1:] != [what]:
            done.append(what)

    def noted_write(file: int, data: bytes, offset: int) -> int:
        note(f"{'head of' if offset == 0 else 'write'} {name(file)}")
        return write(file, data, offset)

    monkeypatch.setattr(os, "fsync", lambda file: (note(f"sync {name(file)}"), sync(file))[1])
    monkeypatch.setattr(os, "pwrite", noted_write)
    monkeypatch.setattr(os, "link", lambda *paths: (note("rename"), link(*paths))[1])
    with writer_for(tmp_path / "out.svs", spec) as writer:
        done.clear()
        writer.append(tiles_for(canvas, spec))
        assert done == ["write part", "sync part", "write index", "sync index"]
        done.clear()
        writer.finish(tmp_path / "out.svs", canvas, overwrite=False)
        assert done == ["write part", "sync part", "head of part", "sync part", "rename", "sync folder"]


def test_an_unfinished_slide_cannot_be_finished(tmp_path: Path) -> None:
    canvas, spec = canvas_for(300, 300), spec_for(300, 300)
    tiles = [tile for tile in tiles_for(canvas, spec) if (tile.level, tile.row, tile.col) != (0, 1, 2)]
    with writer_for(tmp_path / "a.svs", spec) as writer:
        writer.append(tiles)
        with pytest.raises(Failed, match="level 0, row 1, column 2"):
            writer.finish(tmp_path / "a.svs", canvas, overwrite=False)
    refuses_to_open(tmp_path / "a.svs.part")


def test_an_existing_slide_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas, spec = canvas_for(300, 300), spec_for(300, 300)
    out = tmp_path / "out.svs"
    out.write_bytes(b"precious")
    writer = writer_for(out, spec)
    writer.append(tiles_for(canvas, spec))
    with pytest.raises(BadInput, match=r"out\.svs: exists"):
        writer.finish(out, canvas, overwrite=False)
    # It comes up between the first look and the rename.
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "lexists", lambda path: False)
        with pytest.raises(BadInput, match=r"out\.svs: exists"):
            writer.finish(out, canvas, overwrite=False)
        patch.setattr(os, "link", refuse(errno.EPERM))
        with pytest.raises(BadInput, match=r"out\.svs: exists"):
            writer.finish(out, canvas, overwrite=False)
    assert out.read_bytes() == b"precious"
    refuses_to_open(tmp_path / "out.svs.part")
    writer.finish(out, canvas, overwrite=True)
    agree(read_openslide(out, 0, (0, 0, 300, 300)), canvas, "jpeg420")
    assert list(tmp_path.iterdir()) == [out]


def refuse(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_disk_without_hard_links_still_gets_a_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    write_slide(tmp_path / "out.svs", canvas_for(300, 300), spec_for(300, 300))
    assert [path.name for path in tmp_path.iterdir()] == ["out.svs"]


@pytest.mark.parametrize("moment", ["append", "finish"])
def test_a_full_disk_is_one_line_and_the_work_goes_on(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas, spec = canvas_for(491, 493), spec_for(491, 493)
    whole = write_slide(tmp_path / "whole.svs", canvas, spec)
    tiles, out = tiles_for(canvas, spec), tmp_path / "out.svs"
    writer = writer_for(out, spec)
    end = writer.append(tiles if moment == "finish" else tiles[:10])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse(errno.ENOSPC))
        with pytest.raises(Failed, match="disk full") as failure:
            writer.append(tiles[10:]) if moment == "append" else writer.finish(out, canvas, overwrite=False)
    message = str(failure.value)
    assert "free space and run the same command again" in message
    assert moment == "finish" or "MB more" in message
    assert "\n" not in message
    assert writer.end == end
    writer.close()
    refuses_to_open(tmp_path / "out.svs.part")
    with writer_for(out, spec, resume_at=end) as again:
        again.append(tiles[10:])
        assert again.finish(out, levels_for(canvas, spec)[-1], overwrite=False) == whole


def test_a_failing_producer_leaves_the_writer_as_it_was(tmp_path: Path) -> None:
    canvas, spec = canvas_for(300, 300), spec_for(300, 300)
    tiles = tiles_for(canvas, spec)

    def broken() -> Any:
        yield from tiles[:5]
        raise ZeroDivisionError

    with writer_for(tmp_path / "out.svs", spec) as writer:
        with pytest.raises(ZeroDivisionError):
            writer.append(broken())
        assert writer.end == 16
        writer.append(tiles)
        writer.finish(tmp_path / "out.svs", canvas, overwrite=False)
    agree(read_openslide(tmp_path / "out.svs", 0, (0, 0, 300, 300)), canvas, "jpeg420")


def test_files_of_another_slide_are_refused(tmp_path: Path) -> None:
    out, spec = tmp_path / "out.svs", spec_for(300, 300)
    with pytest.raises(BadInput, match="missing; start again"):
        writer_for(out, spec, resume_at=16)
    with writer_for(out, spec) as writer:
        end = writer.append(tiles_for(canvas_for(300, 300), spec)[:3])
    with pytest.raises(BadInput, match="a slide with other options"):
        writer_for(out, replace(spec, quality=80), resume_at=end)
    with pytest.raises(BadInput, match="the journal lists"):
        writer_for(out, spec, resume_at=end + 10**6)
    os.link(tmp_path / "out.svs.part", out)
    with pytest.raises(BadInput, match=r"remove the \.part"):
        writer_for(out, spec, resume_at=end)
    writer_for(out, spec).close()
    assert out.stat().st_size == end


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    side = 64_000
    spec = spec_for(side, side, tile=256)
    data, uniform = encode_tile(np.full((256, 256, 3), GLASS, np.uint8), spec)
    tiles = (
        EncodedTile(level.index, row, col, data, uniform)
        for level in spec.pyramid.levels
        for row in range(level.rows)
        for col in range(level.cols)
    )
    assert sum(level.tiles for level in spec.pyramid.levels) > 83_000
    tracemalloc.start()
    try:
        with writer_for(tmp_path / "out.svs", spec) as writer:
            writer.append(tiles)
            assert writer.missing() is None
            writer.finish(tmp_path / "out.svs", np.zeros((40, 40, 3), np.uint8), overwrite=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6  # the tile tables alone would be 83,000 x 3 Python objects, about 20 MB
    assert read_openslide(tmp_path / "out.svs", 0, (63_000, 63_000, 9, 9)).shape == (9, 9, 3)
