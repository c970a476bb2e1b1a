"""Tiles and masks lie upon each other, and no pixel of training is near one of the test."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blobs
from safron.engine import render
from safron.io.errors import BadInput
from safron.io.masks.annotations import DrawingRules, read_geojson
from safron.io.tiles.cli import main
from safron.io.tiles.plan import Tile, joined, split_tiles

pytestmark = pytest.mark.usefixtures("here")
MASK = blobs(500, 1400, seed=2)
COLOURS = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8)


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide in which every label has its own colour, and its mask."""
    folder = tmp_path_factory.mktemp("slide")
    zarr.save_array(folder / "m.zarr", MASK)
    render(
        folder / "m.zarr",
        folder / "s.tiff",
        model="identity",
        mpp=1.0,
        compression="deflate",
        workers=1,
        seed=5,
    )
    return folder


def cut(slide: Path, *args: object) -> list[dict[str, Any]]:
    """Cut tiles into the folder "t"; its list."""
    assert run(slide / "s.tiff", slide / "m.zarr", "t", "--size", 96, "--gap", 50, *args) == 0
    with Path("t/tiles.csv").open() as file:
        return [row | {axis: int(row[axis]) for axis in "xy"} for row in csv.DictReader(file)]


def labels_of(row: dict[str, Any]) -> npt.NDArray[np.uint8]:
    return MASK[row["y"] : row["y"] + 96, row["x"] : row["x"] + 96]


def png(data: bytes | Path) -> Any:
    read = data.read_bytes() if isinstance(data, Path) else data
    image = cv2.imdecode(np.frombuffer(read, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., ::-1]


def test_images_and_masks_lie_upon_each_other(slide: Path) -> None:
    rows = cut(slide, "--split", "0.7,0.15,0.15")
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        mask = png(Path("t") / row["split"] / "masks" / f"{row['name']}.png")
        image = png(Path("t") / row["split"] / "images" / f"{row['name']}.png")
        np.testing.assert_array_equal(mask, labels_of(row))
        np.testing.assert_array_equal(image, COLOURS[mask])
        assert float(row["tissue"]) == pytest.approx((mask > 0).mean(), abs=1e-4)
    expected = {
        (y, x)
        for y in range(0, 500 - 95, 96)
        for x in range(0, 1400 - 95, 96)
        if (MASK[y : y + 96, x : x + 96] > 0).mean() >= 0.1
    }
    manifest = json.loads(Path("t/manifest.json").read_text())
    assert len(rows) + manifest["tiles"]["in gaps"] == len(expected)
    assert {(row["y"], row["x"]) for row in rows} <= expected
    told = manifest["slides"][0]
    assert (told["seed"], told["generator"], told["mpp"]) == ("5", "identity", 1.0)
    assert told["sha256"] == hashlib.sha256((slide / "s.tiff").read_bytes()).hexdigest()


tiles = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 60)).map(
        lambda at: Tile(at[0], at[1] * 10, at[2] * 10, 1.0)
    ),
    min_size=3, max_size=60, unique=True,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(tiles, st.sampled_from(["slide", "region"]), st.integers(0, 60), st.booleans())
def test_splits_are_apart(chosen: list[Tile], by: Any, gap: int, tall: bool) -> None:
    size = 30
    try:
        found = split_tiles(
            chosen, shapes=[(700, 400) if tall else (400, 700)] * 3, names=["a", "b", "c"],
            layouts=["a", "b", "c"], shares=(0.6, 0.2, 0.2), by=by, size=size, gap=gap, seed=1,
        )  # fmt: skip
    except BadInput:
        return
    assert all(found.values())
    assert sum(map(len, found.values())) <= len(chosen)
    for one in found:
        for tile in found[one]:
            for other in set(found) - {one}:
                for far in found[other]:
                    away = max(abs(tile.x - far.x), abs(tile.y - far.y)) - size
                    assert tile.slide != far.slide or (by == "region" and away >= gap)


def test_slides_are_split_whole_and_by_their_shares() -> None:
    chosen = [Tile(slide, 0, x, 1.0) for slide in range(20) for x in range(0, 1000, 100)]
    names = [f"s{slide}" for slide in range(20)]
    shapes = [(100, 1000)] * 20
    found = split_tiles(
        chosen, shapes=shapes, names=names, layouts=names, shares=(0.8, 0.1, 0.1), by="slide",
        size=100, gap=0, seed=0,
    )  # fmt: skip
    assert {name: len(part) for name, part in found.items()} == {"train": 160, "val": 20, "test": 20}
    with pytest.raises(BadInput, match="2 slides with tiles cannot be divided among train, val, test"):
        split_tiles(
            chosen[:20],
            shapes=shapes,
            names=names,
            layouts=names,
            shares=(0.8, 0.1, 0.1),
            by="slide",
            size=100,
            gap=0,
            seed=0,
        )


def test_coco_regions_are_those_of_the_mask(slide: Path) -> None:
    rows = {row["name"]: row for row in cut(slide, "--format", "coco", "--split", "0.7,0.3")}
    document = json.loads(Path("t/train.json").read_text())
    drawn = {image["id"]: np.zeros((96, 96), np.uint8) for image in document["images"]}
    for region in document["annotations"]:
        counts = region["segmentation"]["counts"]
        held = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool).reshape(96, 96).T
        assert (held.sum(), sum(counts)) == (region["area"], 96 * 96)
        x, y, width, height = region["bbox"]
        assert held[y : y + height, x : x + width].sum() == region["area"]
        drawn[region["image_id"]][held] = region["category_id"]
    for image in document["images"]:
        np.testing.assert_array_equal(drawn[image["id"]], labels_of(rows[Path(image["file_name"]).stem]))
    assert {category["id"] for category in document["categories"]} == {1, 2}


def test_instances_travel_with_their_tiles(slide: Path) -> None:
    """Numbers beyond 16 bits become numbers of the tile, in every format that has a place for them."""
    numbers = np.zeros(MASK.shape, np.uint32)
    for number, y in enumerate(range(0, 500, 40), 70_000):
        for x in range(0, 1400, 40):
            numbers[y : y + 30, x : x + 30] = number * 100 + x
    np.save("n.npy", numbers)
    given = "--instances", "n.npy", "--split", "0.7,0.3"
    rows = cut(slide, *given)
    for row in rows[:9]:
        part = numbers[row["y"] : row["y"] + 96, row["x"] : row["x"] + 96]
        found = png(Path("t") / row["split"] / "instances" / f"{row['name']}.png")
        assert found.dtype == np.uint16
        pairs = {*zip(found.ravel().tolist(), part.ravel().tolist(), strict=True)}
        assert len(pairs) == len(np.unique(part)) == found.max() + 1
        assert int(row["instances"]) == found.max()
    cut(slide, *given, "--format", "coco", "--overwrite")
    document = json.loads(Path("t/train.json").read_text())
    by_name = {row["name"]: row for row in rows}
    image = document["images"][0]
    row = by_name[Path(image["file_name"]).stem]
    held = [region for region in document["annotations"] if region["image_id"] == image["id"]]
    assert len(held) == int(row["instances"])
    x, y, width, height = held[0]["bbox"]
    inside = labels_of(row)[y : y + height, x : x + width]
    assert held[0]["category_id"] == np.bincount(inside.ravel()).argmax()
    cut(slide, *given, "--format", "webdataset", "--overwrite")
    with tarfile.open("t/train-000000.tar") as archive:
        assert f"{rows[0]['name']}.instances.png" in archive.getnames()
    cut(slide, *given, "--format", "geojson", "--overwrite")
    assert png(Path("t") / "train" / f"{rows[0]['name']}.instances.png").max() == int(rows[0]["instances"])
    assert run(slide / "s.tiff", slide / "m.zarr", "u", "--instances", slide / "s.tiff") == 2


def test_geojson_tiles_are_drawn_back(slide: Path) -> None:
    row = next(row for row in cut(slide, "--format", "geojson") if row["split"] == "train")
    path = Path("t/train") / f"{row['name']}.geojson"
    drawing = read_geojson(path, DrawingRules(96, 96))
    np.testing.assert_array_equal(drawing.paint(slice(0, 96), slice(0, 96)), labels_of(row))


def test_archives_are_the_same_each_time(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safron.io.tiles.formats.SHARD", 7)
    rows = cut(slide, "--format", "webdataset")
    first = {path.name: path.read_bytes() for path in Path("t").iterdir()}
    assert "train-000001.tar" in first
    cut(slide, "--format", "webdataset", "--overwrite")
    assert first == {path.name: path.read_bytes() for path in Path("t").iterdir()}
    with tarfile.open("t/train-000000.tar") as archive:
        names = archive.getnames()
        assert len(names) == 21
        row = next(row for row in rows if row["name"] == names[0].split(".")[0])
        read = {name: archive.extractfile(name).read() for name in names[:3]}  # type: ignore[union-attr]
    np.testing.assert_array_equal(png(read[f"{row['name']}.mask.png"]), labels_of(row))
    assert json.loads(read[f"{row['name']}.json"])["x"] == row["x"]


def many(slide: Path, count: int) -> list[str]:
    """Slides in this folder, each of a mask of its own; the lines of their list."""
    picture, lines = COLOURS[MASK], []
    for number in range(count):
        across = MASK if number == 0 else np.roll(MASK, 100 * number, axis=1)
        zarr.save_array(f"m{number}.zarr", across)
        cv2.imwrite(f"s{number}.png", np.roll(picture, 100 * number, axis=1))
        lines.append(f"m{number}.zarr,s{number}.png")
    return lines


def splits_of(folder: str) -> dict[str, str]:
    with Path(folder, "tiles.csv").open() as file:
        pairs = {(row["slide"], row["split"]) for row in csv.DictReader(file)}
    assert len(dict(pairs)) == len(pairs), "a slide is in two splits"
    return dict(pairs)


def test_a_list_of_slides_is_split_by_slide(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("l.csv").write_text("mask,out\n" + "\n".join(many(slide, 4)))
    assert run("t", "--slides", "l.csv", "--size", 96) == 0
    assert "safron-tiles: warning: train gets 50% of the tiles and not 80%" in capsys.readouterr().err
    split_of = splits_of("t")
    assert len(split_of) == 4
    assert set(split_of.values()) == {"train", "val", "test"}


def test_slides_of_one_mask_are_in_one_split(slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever file the mask is: here a Zarr, the same by another name, an image of its labels."""
    lines = many(slide, 3)
    cv2.imwrite("copy.png", MASK)
    Path("link.zarr").symlink_to("m0.zarr")
    for name, mask in (("x", "copy.png"), ("y", "link.zarr"), ("z", "m0.zarr")):
        Path(f"{name}.png").symlink_to("s0.png")
        lines.append(f"{mask},{name}.png")
    for seed in range(4):
        Path("l.csv").write_text("mask,out\n" + "\n".join(lines))
        assert run("t", "--slides", "l.csv", "--size", 96, "--seed", seed, "--overwrite") == 0
        split_of = splits_of("t")
        assert len({split_of[name] for name in ("s0", "x", "y", "z")}) == 1
        assert set(split_of.values()) == {"train", "val", "test"}
    capsys.readouterr()
    Path("l.csv").write_text("mask,out\n" + "\n".join([lines[0], *lines[3:]]))
    assert run("u", "--slides", "l.csv", "--size", 96) == 2
    assert (
        "--by slide: 4 slides with tiles of 1 mask cannot be divided among train, val, test; slides of one mask have "
        "the same layout and stay together; give slides of more masks, or --by region"
    ) in capsys.readouterr().err
    assert not Path("u").exists()
    assert run("u", "--slides", "l.csv", "--size", 96, "--by", "region") == 0


def test_slides_of_other_regions_of_a_mask_are_in_one_split(
    slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their labels differ, and their descriptions say that they are of one mask; a copy of it has the same content."""
    shutil.copytree(slide / "m.zarr", "copy.zarr")
    lines = many(slide, 3)[1:]
    for name, mask, x in (("a", slide / "m.zarr", 0), ("b", "copy.zarr", 512), ("c", slide / "m.zarr", 256)):
        out = f"{name}.{'ome.tiff' if name == 'b' else 'tiff'}"
        render(mask, out, model="identity", mpp=1.0, workers=1, region=(x, 0, 512, 480))
        np.save(f"{name}.npy", MASK[:480, x : x + 512])
        lines.append(f"{name}.npy,{out}")
    Path("l.csv").write_text("mask,out\n" + "\n".join(lines))
    for seed in range(4):
        assert run("t", "--slides", "l.csv", "--size", 96, "--seed", seed, "--overwrite") == 0
        split_of = splits_of("t")
        assert split_of["a"] == split_of["b"] == split_of["c"]
        assert set(split_of.values()) == {"train", "val", "test"}
    contents = [one["mask_content"] for one in json.loads(Path("t/manifest.json").read_text())["slides"]]
    assert contents[:2] == [None, None]
    assert len({*contents[2:]}) == 1
    assert len(contents[2]) > 8
    capsys.readouterr()
    assert run("u", "--slides", "l.csv", "--size", 96, "--by", "region") == 0
    assert "--by region: some slides show other regions of one mask" in capsys.readouterr().err


@given(
    st.lists(st.tuples(st.sampled_from(["", *"abcd"]), st.sampled_from(["", *"xyz"])), min_size=1, max_size=9)
)
def test_slides_that_share_a_name_are_joined(named: list[tuple[str, str]]) -> None:
    """As a walk over shared names finds them."""
    found = joined(*zip(*named, strict=True))
    for start in range(len(named)):
        reached = {start}
        for _ in named:
            reached |= {
                other
                for other, names in enumerate(named)
                for one in reached
                if any(a and a == b for a, b in zip(names, named[one], strict=True))
            }
        assert {other for other, name in enumerate(found) if name == found[start]} == reached


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["s.tiff", "small.npy", "t"], "has 1400 x 500 pixels and its mask"),
        (["s.tiff", "m.zarr"], "give SLIDE, MASK and OUT"),
        (["s.tiff", "m.zarr", "t", "--split", "0.5,0.4"], "must be shares of train, val and test"),
        (["s.tiff", "m.zarr", "t", "--min-tissue", "1"], "no tile of 512 pixels has 100% of tissue"),
        (["s.tiff", "m.zarr", "t", "--size", "96", "--gap", "900"], "no tile is left for"),
        (["s.tiff", "m.zarr", "mine"], "was not made by safron-tiles"),
        (["none.tiff", "m.zarr", "t"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused(
    slide: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("small.npy", MASK[:400])
    Path("mine").mkdir()
    given = [str(slide / arg) if arg in ("s.tiff", "m.zarr") else arg for arg in args]
    assert run(*given, "--overwrite") == 2
    assert message in capsys.readouterr().err
    assert not Path("t").exists()
