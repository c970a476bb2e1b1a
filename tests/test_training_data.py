"""Which folders can be trained on, and what is said of those that cannot?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from cases import Outcome, run_program
from safron.io.errors import BadInput
from safron.io.masks.canvas_size import image_size
from safron.training import cli
from safron.training.config.data_sets import DataFacts
from safron.training.config.settings import LABELS, TrainConfig, override, preset, read_overrides
from safron.training.data import Pairs, draw_batch, folders, slide_tiles, split
from training_cases import image_of, labels_of, one_line, pair, write

pytest.importorskip("scipy", reason="training needs SciPy: pip install 'safron[train]'")

TINY = preset("safron-seamless", "tiny")


def slide(
    folder: Path, name: str, *, mpp: float = 0.5, mask: bool = True, dark: int = 0
) -> npt.NDArray[np.uint8]:
    """A tiled TIFF that OpenSlide opens, 400 x 600, its right half `dark` levels darker, and its mask at half the size."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels_of(200, 300)
    image = image_of(np.kron(labels, np.ones((2, 2), np.uint8)))
    image[:, 300:] -= np.uint8(dark)
    resolution = (1e4 / mpp, 1e4 / mpp)
    tifffile.imwrite(
        folder / f"{name}.tif",
        image,
        tile=(128, 128),
        photometric="rgb",
        resolution=resolution,
        resolutionunit=3,
    )
    if mask:
        zarr.save_array(str(folder / f"{name}.zarr"), labels)
    return labels


# What is read


def test_pairs_side_by_side_and_in_folders_are_the_same(tmp_path: Path) -> None:
    for index, name in enumerate(("a_1", "a_2", "b_1")):
        pair(tmp_path / "beside", name, index)
        labels = labels_of(90, 100, index)
        write(tmp_path / "apart" / "images" / f"{name}.png", image_of(labels))
        # Colours stand for labels just as well as values do.
        colors = np.array([label.color for label in LABELS], np.uint8)
        write(tmp_path / "apart" / "masks" / f"{name}.png", colors[labels])
    one, two = (folders.open_source(tmp_path / kind, TINY) for kind in ("beside", "apart"))
    assert isinstance(one, Pairs)
    assert isinstance(two, Pairs)
    assert one.slides == two.slides == ("a_1", "a_2", "b_1")
    for index in range(3):
        assert np.array_equal(one.labels[index], two.labels[index])
        assert np.array_equal(one.images[index], two.images[index])
    training, held_out = split(one, 0.5)
    assert set(training.slides).isdisjoint(held_out.slides)


def test_images_of_other_sizes_and_kinds_go_together(tmp_path: Path) -> None:
    pair(tmp_path, "a_1", size=(90, 100))
    pair(tmp_path, "b_1", size=(120, 80))
    pair(tmp_path, "c_1", size=(40, 40))  # smaller than a tile with its context: left out
    (tmp_path / "b_1.png").rename(tmp_path / "b_1.bmp")
    source = folders.open_source(tmp_path, TINY)
    assert source.slides == ("a_1", "b_1")
    batch = draw_batch(source, TINY, 0)
    assert batch.labels.shape == (2, 72, 72)
    assert batch.images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("mpp", [0.4, 1.0, 2.0])
def test_pairs_are_brought_to_the_pixel_size(tmp_path: Path, mpp: float) -> None:
    labels = labels_of(300, 320)
    write(tmp_path / "a_1.png", image_of(labels))
    write(tmp_path / "a_1.mask.png", labels)
    config = override(TINY, {"image_mpp": 1.0, "model": {"mpp": mpp}}, "test")
    source = folders.open_source(tmp_path, config)
    assert isinstance(source, Pairs)
    assert source.mpp == mpp
    assert source.size(0) == (int(300 / mpp), int(320 / mpp))
    place = (60, 40)
    sample = source.read(0, place, 80)
    # The label at a pixel's centre, and an image that goes with it but for the seams of resampling.
    centres = [((np.arange(80) + start + 0.5) * mpp).astype(int) for start in place]
    assert (sample.labels == labels[np.ix_(*centres)]).mean() > 0.97
    near = np.abs(sample.image.astype(int) - image_of(sample.labels)).max(axis=2) < 8
    assert near.mean() > 0.9


def test_slides_are_cut_where_the_mask_says(tmp_path: Path) -> None:
    labels = slide(tmp_path, "case1")
    slide(tmp_path, "case2")
    config = override(TINY, {"model": {"mpp": 1.0}}, "test")
    source = folders.open_source(tmp_path, config)
    assert isinstance(source, slide_tiles.SlideTiles)
    assert set(source.slides) == {"case1", "case2"}
    training, held_out = split(source, 0.5)
    assert set(training.slides).isdisjoint(held_out.slides)
    # At 1 um a pixel, twice the slide's, the canvas is as large as the mask.
    sample = source.read(0, (50, 70), 72)
    assert np.array_equal(sample.labels, labels[50:122, 70:142])
    assert np.array_equal(sample.image, image_of(sample.labels))
    for step in range(4):
        batch = draw_batch(source, config, step)
        assert batch.images.shape == (2, 3, 32, 32)
        assert (batch.labels != 0).mean() > slide_tiles.LEAST_TISSUE_IN_WINDOW
    assert source.tiles(72, 72) == 2 * 3 * 5  # of two canvases of 200 x 300


def test_slides_give_cues_as_pairs_do(tmp_path: Path) -> None:
    slide(tmp_path, "case1", dark=40)
    config = override(TINY, {"model": {"mpp": 1.0}}, "test")
    one, two = (folders.open_source(tmp_path, config) for _ in range(2))
    sample = one.read(0, (60, 90), 120)  # column 150 of the canvas, where it gets darker, is column 60 of it
    assert sample.cues.shape == sample.trust.shape == (2, 120, 120)
    stroma = (sample.labels == 1) & (sample.trust[1] == 1)
    pale, dark = (sample.cues[1][:, side][stroma[:, side]] for side in (slice(30), slice(90, None)))
    assert pale.max() < 0 < dark.min()
    assert dark.mean() - pale.mean() > 1
    assert np.array_equal(sample.cues, two.read(0, (60, 90), 120).cues)
    # What is measured stands in the noise that the generator gets, wherever a window was cut and however it was turned.
    brightness, noise = [], []
    for batch in (draw_batch(one, config, step) for step in range(8)):
        stroma = batch.labels[:, 20:-20, 20:-20] == 1
        brightness.append(batch.images.mean(axis=1)[stroma])
        noise.append(batch.noise[:, -1, 20:-20, 20:-20][stroma])
    assert np.corrcoef(np.concatenate(brightness), np.concatenate(noise))[0, 1] < -0.5
    paper = folders.open_source(tmp_path, override(preset("safron", "tiny"), {"model": {"mpp": 1.0}}, "test"))
    assert not paper.read(0, (0, 0), 60).trust.any()


def test_what_annotations_and_masks_of_slides_lose_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide(tmp_path, "case1", mask=False)
    ring = [[100, 80], [300, 80], [300, 280], [100, 280], [100, 80]]
    near = {"type": "Polygon", "coordinates": [ring], "plane": {"z": 1}}
    records = [
        {"geometry": {"type": "Polygon", "coordinates": [ring]}, "nucleusGeometry": near},
        {"geometry": near},
        {"geometry": {"type": "Point", "coordinates": [1, 2]}},
    ]
    named = [record | {"properties": {"classification": "Gland"}} for record in records]
    (tmp_path / "case1.geojsonl").write_text("\n".join(map(json.dumps, named)))
    slide(tmp_path, "case2", mask=False)
    zarr.create_array(
        str(tmp_path / "case2.zarr"), shape=(200, 300), chunks=(64, 64), dtype="u1", fill_value=2
    )
    source = folders.open_source(tmp_path, override(TINY, {"model": {"mpp": 1.0}}, "test"))
    assert (source.read(0, (20, 30), 120).labels == 2).sum() == 100 * 100
    told = capsys.readouterr().err
    for loss in ("1 x Point left out", "objects lie in 2 planes (z 0, 1)", "1 nucleus of cells left out"):
        assert f"case1.geojsonl: {loss}" in told
    assert "case2.zarr: none of its chunks is stored" in told


def test_annotations_lie_in_pixels_of_the_slide(tmp_path: Path) -> None:
    slide(tmp_path, "case1", mask=False)
    ring = [[100, 80], [300, 80], [300, 280], [100, 280], [100, 80]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Gland"}},
    }
    (tmp_path / "case1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    source = folders.open_source(tmp_path, override(TINY, {"model": {"mpp": 1.0}}, "test"))
    labels = source.read(0, (20, 30), 120).labels
    assert np.array_equal(np.unique(labels), [0, 2])
    assert labels[20, 20] == 2  # row 40, column 50 of the canvas: the ring's corner
    assert labels[19, 20] == labels[20, 19] == 0
    assert (labels == 2).sum() == 100 * 100


def scanned_part(folder: Path) -> npt.NDArray[np.uint8]:
    """A Leica slide of 1000 x 800 whose scanned part, 512 x 384, begins at (200, 150): dark but for its first 100 rows."""
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((384, 512, 3), (150, 60, 120), np.uint8)
    image[:100] = 240
    views = ((2, 100, 80, 0, 0, 500_000, 400_000, 1), (0, 512, 384, 100_000, 75_000, 256_000, 192_000, 20))
    images = "".join(
        f'<image><pixels sizeX="{w}" sizeY="{h}"><dimension sizeX="{w}" sizeY="{h}" r="0" ifd="{ifd}"/></pixels>'
        f'<view sizeX="{width}" sizeY="{height}" offsetX="{left}" offsetY="{top}"/><scanSettings><objectiveSettings>'
        f"<objective>{power}</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image>"
        for ifd, w, h, left, top, width, height, power in views
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="500000" '
        f'sizeY="400000"><barcode/>{images}</collection></scn>'
    )
    options: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (128, 128),
        "metadata": None,
        "resolutionunit": 3,
    }
    with tifffile.TiffWriter(folder / "case1.scn", bigtiff=True) as file:
        file.write(image, description=xml, resolution=(20000, 20000), **options)
        file.write(image[::4, ::4], resolution=(5000, 5000), subfiletype=1, **options)
        file.write(np.full((80, 100, 3), 240, np.uint8), resolution=(1000, 1000), **options)
    return image


@pytest.mark.parametrize("notes", ["geojson", "mask of the part", "mask of the canvas"])
def test_annotations_begin_where_qupath_shows_the_slide(tmp_path: Path, notes: str) -> None:
    image = scanned_part(tmp_path)
    height, width, size = image_size(tmp_path / "case1.scn")
    assert (height, width, size.mpp) == (384, 512, 0.5)
    labels = (image[:, :, 0] < 200).astype(np.uint8) * 2
    if notes == "geojson":
        ring = [[0, 100], [512, 100], [512, 384], [0, 384], [0, 100]]
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
        feature["properties"] = {"classification": {"name": "Gland"}}
        (tmp_path / "case1.geojson").write_text(json.dumps(feature))
    else:
        whole = np.zeros((800, 1000), np.uint8)
        whole[150:534, 200:712] = labels
        mask = labels if notes == "mask of the part" else whole
        zarr.save_array(str(tmp_path / "case1.zarr"), mask)
    source = folders.open_source(tmp_path, override(TINY, {"model": {"mpp": 0.5}}, "test"))
    y, x = (150, 200) if notes == "mask of the canvas" else (0, 0)
    sample = source.read(0, (y + 60, x + 30), 100)
    assert np.array_equal(sample.labels, labels[60:160, 30:130])
    assert np.abs(sample.image.astype(int) - image[60:160, 30:130]).max() < 3


# What is refused


def unpaired_image(folder: Path) -> None:
    (folder / "a_1.mask.png").unlink()


def unpaired_mask(folder: Path) -> None:
    (folder / "a_1.png").unlink()


def other_size(folder: Path) -> None:
    write(folder / "a_1.mask.png", labels_of(91, 100))


def unreadable(folder: Path) -> None:
    (folder / "a_1.png").write_bytes(b"no image")


def cut_off(folder: Path) -> None:
    (folder / "a_1.png").unlink()
    write(folder / "a_1.jpg", image_of(labels_of(90, 100), grain=12))
    whole = (folder / "a_1.jpg").read_bytes()
    # Cameras put a small picture in front, which has an end of its own.
    small = b"\xff\xe1\x00\x0b\xff\xd8\xff\xda\x00\x02\x00\xff\xd9"
    (folder / "a_1.jpg").write_bytes(whole[:2] + small + whole[2:-200])


def fractions(folder: Path) -> None:
    apart(folder, labels_of(90, 100) * np.float32(0.9))


def no_numbers(folder: Path) -> None:
    apart(folder, np.where(labels_of(90, 100) == 1, np.float32(np.nan), np.float32(0)))


def negative(folder: Path) -> None:
    apart(folder, labels_of(90, 100).astype(np.int16) - 1)


def wide_colours(folder: Path) -> None:
    apart(folder, np.zeros((90, 100, 3), np.uint16))


def apart(folder: Path, mask: npt.NDArray[Any]) -> None:
    """Replace the pairs by one in images/ and masks/."""
    nothing(folder)
    write(folder / "images" / "a_1.png", image_of(labels_of(90, 100)))
    (folder / "masks").mkdir()
    tifffile.imwrite(folder / "masks" / "a_1.tif", mask)


def outside_of_both(folder: Path) -> None:
    for kind in ("images", "masks"):
        write(folder / kind / "c_1.png", labels_of(90, 100))


def two_images(folder: Path) -> None:
    write(folder / "a_1.jpg", image_of(labels_of(90, 100)))


def two_masks(folder: Path) -> None:
    apart(folder, labels_of(90, 100))
    write(folder / "masks" / "a_1.png", labels_of(90, 100))


def slides_beside_pairs(folder: Path) -> None:
    slide(folder, "case1")
    pair(folder, "a_1")


def slides_beside_folders(folder: Path) -> None:
    apart(folder, labels_of(90, 100))
    slide(folder, "case1")


def slides_beside_frames(folder: Path) -> None:
    slide(folder, "case1")
    write(folder / "A-1-400-001.gland.png", labels_of(90, 100))


def all_background(folder: Path) -> None:
    for path in folder.glob("*.mask.png"):
        write(path, np.zeros((90, 100), np.uint8))


def unknown_value(folder: Path) -> None:
    labels = labels_of(90, 100)
    labels[5, 7] = 9
    write(folder / "a_1.mask.png", labels)


def unknown_colour(folder: Path) -> None:
    colors = np.zeros((90, 100, 3), np.uint8)
    colors[..., 0] = 255
    colors[5, 7] = (1, 2, 3)
    write(folder / "a_1.mask.png", colors)


def too_small(folder: Path) -> None:
    for name in ("a_1", "b_1"):
        pair(folder, name, size=(60, 100))


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def slide_without_mask(folder: Path) -> None:
    slide(folder, "case1")
    (folder / "case2.svs").write_bytes(b"")


def mask_without_slide(folder: Path) -> None:
    slide(folder, "case1")
    zarr.save_array(str(folder / "case2.zarr"), np.zeros((4, 4), np.uint8))


def mask_of_other_proportions(folder: Path) -> None:
    slide(folder, "case1", mask=False)
    zarr.save_array(str(folder / "case1.zarr"), labels_of(200, 250))


def slide_of_glass(folder: Path) -> None:
    slide(folder, "case1", mask=False)
    zarr.save_array(str(folder / "case1.zarr"), np.zeros((200, 300), np.uint8))


def slide_with_unknown_value(folder: Path) -> None:
    slide(folder, "case1", mask=False)
    zarr.save_array(str(folder / "case1.zarr"), np.full((200, 300), 7, np.uint8))


def slide_without_scale(folder: Path) -> None:
    slide(folder, "case1")
    tifffile.imwrite(folder / "case1.tif", image_of(labels_of(256, 256)), tile=(128, 128), photometric="rgb")


def broken_slide(folder: Path) -> None:
    slide(folder, "case1")
    (folder / "case1.tif").write_bytes(b"II*\0 and nothing more")


def small_slide(folder: Path) -> None:
    slide(folder, "case1", mpp=0.05)


ON_SLIDES = {
    slide_without_mask,
    mask_without_slide,
    mask_of_other_proportions,
    slide_of_glass,
    slide_with_unknown_value,
    slide_without_scale,
    broken_slide,
    small_slide,
    slides_beside_pairs,
    slides_beside_frames,
}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unpaired_image, r"a_1\.png has no mask; put it at .*a_1\.mask\.png"),
        (unpaired_mask, r"a_1\.mask\.png has no image of its name"),
        (other_size, r"is 100 x 91 but its image is 100 x 90"),
        (unreadable, r"a_1\.png cannot be read as an image"),
        (cut_off, r"a_1\.jpg breaks off before its end"),
        (fractions, r"a_1\.tif: it holds float32; labels are whole numbers from 0 to 255"),
        (no_numbers, r"a_1\.tif: it holds float32; labels are whole numbers"),
        (negative, r"a_1\.tif: value -1 at row 0, column 0; labels are whole numbers"),
        (wide_colours, r"a_1\.tif: its colours are uint16; colour-coded masks have 8 bits"),
        (
            outside_of_both,
            r"a_1\.mask\.png is named as a mask, but not as one of .*images/ and masks/; move it out",
        ),
        (two_images, r"a_1\.jpg and .*a_1\.png have one name"),
        (two_masks, r"a_1\.png and .*a_1\.tif have one name"),
        (slides_beside_pairs, r"holds slides \(case1\.tif\) and pairs \(a_1\.mask\.png\)"),
        (slides_beside_folders, r"holds slides \(case1\.tif\) and pairs \(a_1\.tif\)"),
        (slides_beside_frames, r"holds slides \(case1\.tif\) and pairs \(A-1-400-001\.gland\.png\)"),
        (all_background, "every pixel of its masks is background"),
        (unknown_value, r"a_1\.mask\.png: value 9 at row 5, column 7 is not a label; labels are 0 to 2"),
        (unknown_colour, r"a_1\.mask\.png: colour \(1, 2, 3\) at row 5, column 7 is not in the palette"),
        (
            too_small,
            "at most 100 x 60 px at an unknown pixel size, and a training tile or .* is 72 px with its",
        ),
        (nothing, "holds no training data"),
        (no_folder, "is not a folder"),
        (slide_without_mask, r"case2\.svs has no mask; put case2\.zarr or case2\.geojson beside it"),
        (mask_without_slide, r"case2\.zarr has no slide of its name"),
        (mask_of_other_proportions, r"case1\.zarr is 250 x 200 but its slide is 600 x 400"),
        (slide_of_glass, r"case1\.zarr: 100 places of 72 px in case1\.tif hold nothing but background"),
        (slide_with_unknown_value, r"case1\.zarr: value 7 .* is not a label"),
        (slide_without_scale, r"case1\.tif does not say its pixel size"),
        (broken_slide, r"case1\.tif cannot be read as a slide"),
        (small_slide, r"case1\.tif is 30 x 20 px at 1 um per pixel"),
    ],
)
def test_bad_data_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if spoil not in ON_SLIDES:
        pair(folder, "a_1", 0)
        pair(folder, "b_1", 1)
    spoil(folder)
    with pytest.raises(BadInput, match=words) as problem:
        folders.open_source(folder, TINY)
    one_line(problem)


def test_a_whole_jpeg_is_read(tmp_path: Path) -> None:
    pair(tmp_path, "a_1")
    (tmp_path / "a_1.png").unlink()
    write(tmp_path / "a_1.jpg", image_of(labels_of(90, 100)))
    with (tmp_path / "a_1.jpg").open("ab") as file:
        file.write(b"what some cameras append")
    assert draw_batch(folders.open_source(tmp_path, TINY), TINY, 0).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("slides_too", [False, True])
def test_images_that_hold_a_tile_but_no_sheet_are_refused(slides_too: bool, tmp_path: Path) -> None:
    config = override(TINY, {"patch": 16}, "test")
    if slides_too:
        slide(tmp_path, "case1")
        config = override(config, {"model": {"mpp": 3.3}}, "test")  # 60 x 90 px
    else:
        pair(tmp_path, "a_1", size=(56, 56))
    with pytest.raises(BadInput, match="window of the sample sheets is 72 px with its context") as problem:
        folders.open_source(tmp_path, config)
    one_line(problem)


def test_a_share_held_out_leaves_something_to_train_on(tmp_path: Path) -> None:
    for seed, name in enumerate(("a_1", "b_1", "c_1")):
        pair(tmp_path, name, seed)
    source = folders.open_source(tmp_path, TINY)
    assert [len(part) for part in split(source, 0.6)] == [1, 2]
    with pytest.raises(BadInput, match=r"held_out is 0\.9, which of 3 slides leaves none") as problem:
        split(source, 0.9)
    one_line(problem)


def test_frames_want_three_labels(tmp_path: Path) -> None:
    two = [{"value": value, "name": f"l{value}", "color": [value, 0, 0]} for value in range(2)]
    with pytest.raises(BadInput, match=r"model\.labels must be three or more") as problem:
        folders.open_source(
            tmp_path, override(TINY, {"model": {"labels": two}}, "test"), None, DataFacts("ebhi")
        )
    one_line(problem)


def test_the_folder_in_which_one_stands_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path / "colon", "a_1")
    monkeypatch.chdir(tmp_path / "colon")
    assert folders.open_source(Path(), TINY).name == "colon"


def test_settings_come_from_yaml_toml_and_json(tmp_path: Path) -> None:
    expected = replace(
        TrainConfig(), batch=5, generator_rate=1e-4, model=replace(TrainConfig().model, mpp=0.5)
    )
    for name, text in (
        ("a.json", '{"batch": 5, "generator_rate": 1e-4, "model": {"mpp": 0.5}}'),
        ("a.toml", "batch = 5\ngenerator_rate = 1e-4\n[model]\nmpp = 0.5\n"),
        ("a.yaml", "batch: 5\ngenerator_rate: 1e-4  # text to YAML 1.1\nmodel:\n  mpp: 0.5\n"),
        ("a.YML", "{batch: 5, generator_rate: 1.0e-4, model: {mpp: 0.5}}"),
    ):
        (tmp_path / name).write_text(text)
        assert override(TrainConfig(), read_overrides(tmp_path / name), name) == expected, name
    for name, text, words in (
        ("bad.json", "{", "cannot be read as JSON"),
        ("bad.toml", "=", "cannot be read as TOML"),
        ("bad.yaml", "a: [", "cannot be read as YAML"),
        ("code.yaml", "!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("list.json", "[]", "holds no settings"),
        ("empty.yaml", "", "holds no settings"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match=words) as problem:
            read_overrides(tmp_path / name)
        one_line(problem)
    with pytest.raises(BadInput, match="No such file"):
        read_overrides(tmp_path / "none.json")


def test_old_settings_keep_their_hash() -> None:
    # The first shipped generator was trained with these; its card and checkpoint carry the hash.
    first = replace(TrainConfig(), steps=6900)
    assert first.sha256() == "2c76ea2d2186d1405729b0fd9608b4528ca8e4a01bd18bf81d1f8c8aeeb47957"
    assert replace(first, discriminator_network="pix2pix").sha256() != first.sha256()


# The command line


@dataclass(frozen=True)
class Run:
    """A training of two steps on the command line, and how it is begun."""

    data: Path
    out: Path
    settings: Path
    outcome: Outcome
    words: tuple[str | Path, ...]

    def kept(self) -> dict[str, Any]:
        """What stands beside the weights."""
        kept: dict[str, Any] = json.loads((self.out / "checkpoint.json").read_text())
        return kept


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Settings from a preset, a file and options; --steps says how long."""
    pytest.importorskip("torch")
    data, out, settings = tmp_path / "data", tmp_path / "out", tmp_path / "settings.json"
    pair(data, "a_1", 0)
    pair(data, "b_1", 1)
    settings.write_text('{"bfloat16": false, "seed": 3}')
    options = "--preset safron --size tiny --discriminator patch --no-skips --overlap 8 --config"
    words = (data, out, *options.split(), settings)
    return Run(data, out, settings, run_program(capfd, cli.main, *words, "--steps", "2"), words)


def test_command_line_trains_without_the_word_fit(run: Run) -> None:
    assert run.outcome.code == 0
    assert "export it with" in run.outcome.out
    assert "2/2 steps" in run.outcome.err
    kept = run.kept()
    assert (kept["step"], kept["config"]["seed"], kept["config"]["discriminator_input"]) == (2, 3, "patch")
    assert kept["config"]["discriminator_levels"] == 1  # two fewer than a tile's, or one
    assert (kept["config"]["model"]["skips"], kept["config"]["model"]["overlap"]) == (False, 8)
    assert len((run.out / "log.jsonl").read_text().splitlines()) == 1


def test_resumed_without_settings_it_goes_on_as_it_was(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_program(capfd, cli.main, run.data, run.out, "--resume", "--steps", "3").code == 0
    kept = run.kept()
    assert (kept["step"], kept["config"]["discriminator_input"]) == (3, "patch")


def test_settings_given_again_do_not_change_how_long_it_is(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rates and weights depend on it."""
    assert run_program(capfd, cli.main, run.data, run.out, "--resume", "--steps", "3").code == 0
    assert run_program(capfd, cli.main, *run.words, "--resume").code == 0
    kept = run.kept()
    assert (kept["step"], kept["config"]["steps"], kept["config"]["epochs"]) == (3, 3, 0)


def test_another_length_is_refused_in_the_settings_and_taken_from_the_option(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run.settings.write_text('{"bfloat16": false, "seed": 3, "epochs": 5}')
    outcome = run_program(capfd, cli.main, *run.words, "--resume")
    assert outcome.code == 2
    assert "was made for steps 2, and" in outcome.error
    assert "settings.json says epochs 5" in outcome.error
    assert run_program(capfd, cli.main, *run.words, "--resume", "--steps", "3").code == 0
    assert run.kept()["step"] == 3


def test_resumed_with_other_settings_it_is_refused(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    other = ("--resume", "--preset", "safron", "--size", "tiny")
    outcome = run_program(capfd, cli.main, run.data, run.out, *other)
    assert outcome.code == 2
    assert "other settings than those given" in outcome.error
    assert "discriminator_input" in outcome.error


def test_command_line_refuses_options_that_change_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    outcome = run_program(capfd, cli.main, tmp_path, tmp_path / "out", "--overlap", "0")
    assert (outcome.code, "choose --preset safron" in outcome.error) == (2, True)
    (tmp_path / "x.json").write_text('{"stepz": 4}')
    outcome = run_program(capfd, cli.main, tmp_path, "out", "--config", tmp_path / "x.json")
    assert (outcome.code, "unknown name 'stepz'; did you mean 'steps'?" in outcome.error) == (2, True)
