"""Pictures of nuclei without a network: every window is the same whatever is drawn around it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click.testing
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safron.io.errors import BadInput
from safron.io.hashed_noise import uniform
from safron.io.masks.cli import commands
from safron.io.masks.open import open_mask
from safron.io.masks.write_pictures import write_pictures
from safron.io.synthesis import stains
from safron.io.synthesis.draw import FADE, STRIDE, Picture, Synthesizer
from safron.io.synthesis.layout import PROPOSALS, ROUNDS, Layout
from safron.io.synthesis.shrinking import shrink_picture
from safron.io.synthesis.soot import HIDES, soot
from safron.io.synthesis.textures import CELL, make_texture, make_textures
from safron.io.synthesis.tiles import read_tiles
from tiles import tissue

UInt8 = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    textures, left = make_textures([("a", tissue(180)), ("b", tissue(300, seed=1))])
    assert not left
    return Synthesizer(textures, Layout(7, 700))


@pytest.fixture(scope="module")
def whole(synthesizer: Synthesizer) -> Picture:
    return synthesizer.draw(-40, -60, 500, 640)


@settings(max_examples=12, deadline=None)
@given(y=st.integers(-40, 480), x=st.integers(-60, 620), height=st.integers(1, 90), width=st.integers(1, 300))
def test_any_window_is_a_part_of_the_plane(
    synthesizer: Synthesizer, whole: Picture, y: int, x: int, height: int, width: int
) -> None:
    y1, x1 = min(500, y + height), min(640, x + width)
    part = synthesizer.draw(y, x, y1, x1)
    inside = np.s_[y + 40 : y1 + 40, x + 60 : x1 + 60]
    for name in ("rgb", "classes", "instances"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[inside]), name


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_picture_is_made_smaller_window_by_window(synthesizer: Synthesizer, factor: int) -> None:
    whole = synthesizer.draw(0, 0, 60 * factor, 90 * factor)
    small = shrink_picture(whole, factor)
    means = whole.rgb.reshape(60, factor, 90, factor, 3).mean(axis=(1, 3))
    assert np.abs(small.rgb - means).max() <= 0.5
    half = factor // 2
    for row, column in ((0, 0), (7, 80), (59, 89)):
        at = row * factor + half, column * factor + half
        assert (small.instances[row, column], small.classes[row, column]) == (
            whole.instances[at],
            whole.classes[at],
        )
    part = shrink_picture(synthesizer.draw(10 * factor, 20 * factor, 30 * factor, 70 * factor), factor)
    for name in ("rgb", "classes", "instances"):
        assert np.array_equal(getattr(part, name), getattr(small, name)[10:30, 20:70]), name


def test_nuclei_have_one_number_each_and_do_not_run_into_each_other(whole: Picture) -> None:
    numbers, counts = np.unique(whole.instances, return_counts=True)
    assert np.array_equal(whole.classes, whole.instances > 0)
    assert 0.08 < whole.classes.mean() < 0.5
    assert len(numbers) > 100
    pieces = [
        cv2.connectedComponents((whole.instances == number).view(np.uint8))[0] - 1 for number in numbers[1:40]
    ]
    assert np.mean([count == 1 for count in pieces]) > 0.9
    assert np.median(counts[1:]) > 100


def test_pixels_of_nuclei_are_darker_than_tissue(whole: Picture) -> None:
    haematoxylin = stains.stain_densities(whole.rgb)[..., 0]
    assert haematoxylin[whole.classes > 0].mean() > haematoxylin[whole.classes == 0].mean() + 0.3


def test_many_nuclei_are_pale_inside_a_dark_rim(synthesizer: Synthesizer) -> None:
    layout = Layout(7, 700, radius=(12, 16), cellularity=1.0, pleomorphism=0.0)
    drawn = Synthesizer(synthesizer.textures, layout).draw(0, 0, 600, 700)
    density = stains.densities(drawn.rgb).mean(axis=2)
    ratios = []
    for number in np.unique(drawn.instances[40:-40, 40:-40])[1:]:
        depth = cv2.distanceTransform((drawn.instances == number).view(np.uint8), cv2.DIST_L2, 3)
        if (depth > 7).sum() > 50:
            ratios.append(density[depth > 7].mean() / density[(depth > 1) & (depth < 4)].mean())
    assert len(ratios) > 30
    assert np.mean(np.array(ratios) < 0.62) > 0.08
    assert np.quantile(ratios, 0.8) > 0.9  # others are solid


def test_seed_and_options_change_the_picture(synthesizer: Synthesizer) -> None:
    def drawn(**options: Any) -> npt.NDArray[np.uint32]:
        layout = Layout(**({"seed": 7, "width": 700} | options))
        return Synthesizer(synthesizer.textures, layout).draw(0, 0, 300, 300).instances

    few, many = drawn(cellularity=0.2), drawn(cellularity=1.0)
    assert not np.array_equal(drawn(seed=8), drawn())
    assert len(np.unique(few)) < len(np.unique(many))
    sizes = [
        np.bincount(drawn(pleomorphism=p, cellularity=1.0).reshape(-1).astype(np.int64))[1:]
        for p in (0.0, 1.0)
    ]
    spread = [np.std(counts[counts > 0]) for counts in sizes]
    assert spread[0] < spread[1]


def chosen_one_by_one(layout: Layout, rows: range, cols: range) -> set[tuple[int, int, int]]:
    """What `layout` says in words, cell by cell, over a whole plane of cells."""
    places = [(row, col, k) for row in rows for col in cols for k in range(PROPOSALS)]
    columns = tuple(np.array(places).T)
    y, x = ((columns[axis] + uniform(layout.seed, 101 - axis, *columns)) * layout.cell for axis in (0, 1))
    radius, rank = layout._radii(columns, y, x), uniform(layout.seed, 102, *columns)
    open_ = set(np.flatnonzero(layout._proposed(columns, y, x)).tolist())
    overlaps = {
        a: {b for b in open_ if a != b and np.hypot(y[a] - y[b], x[a] - x[b]) < radius[a] + radius[b]}
        for a in open_
    }
    kept: set[int] = set()
    for _ in range(ROUNDS):
        won = {a for a in open_ if all(rank[a] > rank[b] for b in overlaps[a] & open_)}
        kept |= won
        open_ -= won | {a for a in open_ if overlaps[a] & won}
    return {places[number] for number in kept}


def test_nuclei_are_chosen_as_described() -> None:
    layout = Layout(3, 500)
    everything = chosen_one_by_one(layout, range(-8, 11), range(-8, 12))
    found = layout.near(0, 0, 2 * layout.cell, 3 * layout.cell)
    got = {tuple(place) for place in found.places.tolist()}
    inside = {place for place in everything if 0 <= place[0] < 2 and 0 <= place[1] < 3}
    assert inside
    assert inside == {place for place in got if 0 <= place[0] < 2 and 0 <= place[1] < 3}


def test_an_outline_stays_within_reach() -> None:
    layout = Layout(1, 3000, cellularity=1.0, pleomorphism=1.0)
    nuclei = layout.near(0, 0, 1500, 1500)
    far = np.linalg.norm(nuclei.outlines - nuclei.centres[:, None], axis=2).max()
    assert 0.4 * layout.reach < far < layout.reach
    assert len(np.unique(nuclei.numbers)) == len(nuclei.numbers)
    assert nuclei.numbers.min() > 0


def test_conventions_of_haematoxylin() -> None:
    white, blue = np.full((1, 1, 3), 255, np.uint8), np.array([[[90, 70, 150]]], np.uint8)
    assert stains.stain_densities(white)[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert stains.skimage_haematoxylin(white)[0, 0] == pytest.approx(-1.3295, abs=1e-3)
    assert stains.stain_densities(blue)[0, 0, 0] > 1
    assert stains.skimage_haematoxylin(blue)[0, 0] > -1.3295


def test_shares_by_both_rules() -> None:
    rgb = tissue(200)
    nuclei = (stains.stain_densities(rgb)[..., 0] > 0.6).mean()
    more, less = stains.nuclear_shares(rgb, "otsu", np.ones(rgb.shape[:2], bool))
    assert less < nuclei * 1.02 < more * 1.02
    assert more == pytest.approx(less * stains.SUPER_FACTOR / stains.SUB_FACTOR)
    bounds = stains.BOUNDS
    pink = np.full((4, 4, 3), (235, 205, 225), np.uint8)
    assert stains.skimage_haematoxylin(pink).mean() < bounds[0]
    every = np.ones((4, 4), bool)
    assert stains.nuclear_shares(pink, "table", every) == (0.15, 0.10)
    dark = np.full((4, 4, 3), (60, 40, 90), np.uint8)
    assert stains.nuclear_shares(dark, "table", every) == (0.35, 0.32)


def test_what_a_tile_gives() -> None:
    rgb = tissue(200)
    texture = make_texture(rgb)
    nuclei = stains.stain_densities(rgb)[..., 0] > 0.6
    left = stains.stain_densities(texture.background[:200, :200])[..., 0][nuclei]
    assert left.mean() < 0.3  # of 1.2
    far = ~cv2.dilate(nuclei.view(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    assert np.array_equal(texture.background[:200, :200][far], rgb[far])
    haematoxylin = np.array([0.65, 0.70, 0.29])
    cosine = texture.nucleus @ haematoxylin / np.linalg.norm(texture.nucleus) / np.linalg.norm(haematoxylin)
    assert cosine > 0.9
    assert abs(texture.detail.mean()) < 2


BLACK, BROWN, BLUE = (45, 38, 42), (90, 70, 60), (20, 70, 150)


@pytest.mark.parametrize("colour", [BLACK, BROWN, BLUE, (10, 90, 60)])
def test_no_mixture_of_stains_is_black_brown_blue_or_green(colour: tuple[int, int, int]) -> None:
    assert stains.foreign(np.full((20, 20, 3), colour, np.uint8)).all()
    # As thin as a third of it.
    thin = np.rint(255 * (np.array(colour) / 255) ** (1 / 2)).astype(np.uint8)
    assert stains.foreign(np.tile(thin, (20, 20, 1))).all()


@settings(max_examples=60, deadline=None)
@given(haematoxylin=st.floats(0, 3), eosin=st.floats(0, 1.5))
def test_what_is_stained_is_not_foreign(haematoxylin: float, eosin: float) -> None:
    rows = stains.STAINS / np.linalg.norm(stains.STAINS, axis=1, keepdims=True)
    colour = np.rint(256 * np.exp(-(haematoxylin * rows[0] + eosin * rows[1])) - 1).clip(0, 255)
    assert not stains.foreign(np.tile(colour.astype(np.uint8), (20, 20, 1))).any()


def with_dirt(rgb: UInt8) -> tuple[UInt8, npt.NDArray[np.bool_]]:
    """A tile with black and blue blots, and where they are."""
    marked = np.zeros(rgb.shape[:2], np.uint8)
    for number, (x, y, radius) in enumerate([(60, 60, 40), (150, 140, 30), (30, 160, 6)], 1):
        cv2.circle(marked, (x, y), radius, number, -1)
    dirty = rgb.copy()
    dirty[marked % 2 == 1] = BLACK
    dirty[marked == 2] = BLUE
    return dirty, marked > 0


def test_dirt_is_no_nucleus_and_stays_in_the_background() -> None:
    clean, (dirty, dirt) = tissue(200), with_dirt(tissue(200))
    expected, found = make_texture(clean), make_texture(dirty)
    assert found.nucleus == pytest.approx(expected.nucleus, rel=0.05)
    assert np.array_equal(found.background[:200, :200][dirt], dirty[dirt])
    assert found.cover[:200, :200][dirt].min() > 100
    assert not expected.cover.any()
    assert not found.detail[:200, :200][dirt].any()
    assert found.detail[:200, :200][~dirt].std() == pytest.approx(expected.detail.std(), rel=0.2)
    # Nuclei are removed as if there were no dirt.
    far = ~cv2.dilate(dirt.view(np.uint8), np.ones((25, 25), np.uint8)).astype(bool)
    nuclei = far & (stains.stain_densities(clean)[..., 0] > 0.6)
    assert stains.stain_densities(found.background[:200, :200])[..., 0][nuclei].mean() < 0.3  # of 1.2


def in_grey_light(rgb: UInt8) -> UInt8:
    """A tile as a camera sees it whose white is grey, with its noise."""
    noise = np.random.default_rng(5).normal(0, 2.5, rgb.shape)
    return np.rint(rgb * (np.array([188, 190, 196]) / 255) + noise).clip(0, 255).astype(np.uint8)


def test_grey_light_is_no_dirt() -> None:
    glass = np.full((200, 200, 3), 255, np.uint8)
    clean = np.concatenate((tissue(200), glass), axis=1)
    expected, found = make_texture(clean), make_texture(in_grey_light(clean))
    assert not stains.foreign(in_grey_light(clean)).any()
    assert not found.cover.any()
    light = -np.log(np.array([189, 191, 197]) / 256)
    assert found.nucleus - light == pytest.approx(expected.nucleus, abs=0.1)
    dirty, dirt = with_dirt(clean[:, :200])
    dirty = in_grey_light(np.concatenate((dirty, glass), axis=1))
    assert stains.foreign(dirty)[:, :200][dirt].mean() > 0.99
    assert stains.foreign(dirty)[:, 204:].mean() == 0


@pytest.mark.parametrize(("rows", "blood"), [(90, (213, 20, 60)), (180, (213, 20, 60))])
def test_blood_is_not_what_all_else_is_told_from(rows: int, blood: tuple[int, int, int]) -> None:
    """Red cells have less haematoxylin than the tissue around them, which is not all nuclei for that."""
    rgb = tissue(300)
    clean, counted = make_texture(rgb), np.ones(rgb.shape[:2], bool)
    bloody = rgb.copy()
    bloody[:rows] = blood
    beyond = stains.nuclear_shares(rgb[rows:], "otsu", counted[rows:])
    found = stains.nuclear_shares(bloody, "otsu", counted)
    assert found == pytest.approx(np.multiply(beyond, 1 - rows / 300), rel=0.2)
    texture = make_texture(bloody)
    assert texture.nucleus == pytest.approx(clean.nucleus, rel=0.05)
    assert np.array_equal(texture.background[: rows - 10, :300], bloody[: rows - 10])


def test_what_is_more_than_half_is_not_nuclei() -> None:
    """Two thirds of pink tissue beside blood of nearly as much haematoxylin, and pale nuclei, as on real slides."""
    haematoxylin = np.full((200, 200), 0.25)
    haematoxylin[:70] = -0.15
    cv2.circle(haematoxylin, (100, 140), 25, 0.65, -1)
    rows = stains.STAINS / np.linalg.norm(stains.STAINS, axis=1, keepdims=True)
    density = haematoxylin[..., None] * rows[0] + 0.9 * rows[1]
    grain = np.random.default_rng(0).normal(0, 0.03, density.shape)
    rgb = np.rint(256 * np.exp(-density - grain) - 1).clip(0, 255).astype(np.uint8)
    more, less = stains.nuclear_shares(rgb, "otsu", np.ones((200, 200), bool))
    assert less < (haematoxylin > 0.5).mean() * 1.05 < more * 1.1
    assert more < 0.1


def test_dirt_hides_nuclei() -> None:
    dirty = Synthesizer([make_texture(with_dirt(tissue(300))[0])], Layout(3, 500, cellularity=1.0))
    picture = dirty.draw(0, 0, 400, 500)
    dirt = cv2.erode(stains.foreign(picture.rgb).view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert 0.02 < dirt.mean() < 0.3
    assert picture.instances[~dirt].any()
    assert not picture.instances[dirt].any()
    assert not picture.classes[dirt].any()


def test_soot_is_the_same_in_any_window_and_no_mixture_of_stains() -> None:
    whole = soot(5, -30, -40, 270, 360, amount=0.6)
    part = soot(5, 17, 60, 90, 333, amount=0.6)
    np.testing.assert_array_equal(part, whole[47:120, 100:373])
    covered = [(soot(9, 0, 0, 600, 600, amount=amount) > HIDES).mean() for amount in (0.2, 0.5, 0.9)]
    assert 0 < covered[0] < covered[1] < covered[2] < 0.6
    thick = cv2.erode((whole[..., 1] > HIDES).view(np.uint8), np.ones((5, 5), np.uint8)) > 0
    seen = np.rint(256 * np.exp(-whole) - 1).clip(0, 255).astype(np.uint8)
    assert stains.foreign(seen)[thick].mean() > 0.95


def test_soot_lies_upon_nuclei(synthesizer: Synthesizer, whole: Picture) -> None:
    sooty = dataclasses.replace(synthesizer, soot=0.7)
    picture, density = sooty.draw(-40, -60, 500, 640), soot(7, -40, -60, 500, 640, amount=0.7)[..., 1]
    part = sooty.draw(100, 120, 190, 260)
    assert np.array_equal(part.rgb, picture.rgb[140:230, 180:320])
    thick = density > HIDES
    assert 0.02 < thick.mean() < 0.6
    assert not picture.instances[thick].any()
    assert np.array_equal(picture.instances[~thick], whole.instances[~thick])
    assert np.array_equal(picture.rgb[density == 0], whole.rgb[density == 0])
    assert picture.rgb[thick].mean() < whole.rgb[thick].mean() / 1.5


def test_a_tile_of_dirt_has_no_tissue() -> None:
    rgb = tissue(120)
    rgb[:, :110] = BLACK
    with pytest.raises(BadInput, match="only 6 % of it is tissue"):
        make_texture(rgb)


def test_cells_add_up_and_keep_the_contrast(synthesizer: Synthesizer) -> None:
    line = synthesizer.draw(0, 0, STRIDE + CELL, STRIDE + CELL)
    middle, overlap = slice(FADE, STRIDE), slice(STRIDE, CELL)
    background, _, _ = synthesizer._background(0, 0, STRIDE + CELL, STRIDE + CELL)
    assert background.shape == line.rgb.shape
    detail = synthesizer._detail(0, 0, STRIDE + CELL, STRIDE + CELL)
    assert detail[overlap, overlap].std() == pytest.approx(detail[middle, middle].std(), rel=0.3)


def test_the_same_files_for_any_number_of_workers(synthesizer: Synthesizer, tmp_path: Path) -> None:
    for workers in (1, 3):
        write_pictures(
            tmp_path / f"{workers}.zarr",
            synthesizer.draw,
            height=1100,
            width=300,
            mpp=0.25,
            about={},
            workers=workers,
        )
    one, three = (zarr.open_group(tmp_path / f"{n}.zarr", mode="r") for n in (1, 3))
    drawn = synthesizer.draw(1000, 100, 1100, 300)
    for path, name in (("image/0", "rgb"), ("labels/class/0", "classes"), ("labels/instance/0", "instances")):
        assert np.array_equal(one[path][:], three[path][:])
        assert np.array_equal(one[path][1000:, 100:], getattr(drawn, name))
    mask = open_mask(tmp_path / "1.zarr")
    assert mask.shape == (1100, 300)
    assert mask.mpp == 0.25
    assert np.array_equal(mask[1000:1100, 100:300], drawn.classes)


def run(*args: Any) -> click.testing.Result:
    return click.testing.CliRunner().invoke(commands, ["synthesize-nuclei", *map(str, args)])


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    cv2.imwrite(str(tmp_path / "tiles/a.png"), tissue()[..., ::-1])
    cv2.imwrite(str(tmp_path / "tiles/b.png"), np.full((90, 90, 3), 250, np.uint8))
    out = tmp_path / "n.zarr"
    result = run(tmp_path / "tiles", out, "--size", "300,200", "--rule", "table")
    assert result.exit_code == 0, result.output
    assert "300 x 200 pixels, 0.25 um per pixel, from 1 tile" in result.output
    assert "b.png: only 0 % of it is tissue" in result.output
    assert open_mask(out).shape == (200, 300)
    small = tmp_path / "small.zarr"
    result = run(tmp_path / "tiles", small, "--size", "150,100", "--rule", "table", "--shrink", 2)
    assert "150 x 100 pixels, 0.5 um per pixel" in result.output
    fine, coarse = (zarr.open_group(path, mode="r")["labels/class/0"][:] for path in (out, small))
    assert np.array_equal(coarse, fine[1::2, 1::2])
    before = zarr.open_group(out, mode="r")["image/0"][:]
    assert run(tmp_path / "tiles", out, "--size", "300,200", "--seed", 5, "--overwrite").exit_code == 0
    assert not np.array_equal(zarr.open_group(out, mode="r")["image/0"][:], before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--radius", "9,3"), "radius 9,3: must be two numbers of pixels"),
        (("--overwrite",), "was not made by this command"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), tissue(96))
    out = tmp_path / "n.zarr"
    if "--overwrite" in options:
        out.mkdir()
    result = run(tmp_path / "a.png", out, "--size", "64,64", *options)
    assert isinstance(result.exception, BadInput)
    assert says in str(result.exception)


def test_tiles_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"a\.png cannot be read as an image; .*, or cut tiles from a slide"):
        read_tiles([tmp_path / "a.png"])
    with pytest.raises(BadInput, match="there is no such file"):
        read_tiles([tmp_path / "c.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no image"):
        read_tiles([tmp_path / "empty"])
    with pytest.raises(BadInput, match="/dev/null: is neither a file nor a folder"):
        read_tiles([Path("/dev/null")])
    with pytest.raises(BadInput, match="no tile gives a texture; the first: x: a tile of 30 x 30 px"):
        make_textures([("x", tissue(30))])


@pytest.mark.parametrize("rgb", [np.full((100, 100, 3), (150, 60, 120), np.uint8), tissue(100, nuclei=0)])
def test_a_tile_without_nuclei_gives_no_colour_of_nuclei(rgb: UInt8) -> None:
    """Else what the mask calls nuclei would look like all the rest."""
    with pytest.raises(BadInput, match="nothing in it stands out by haematoxylin"):
        make_texture(rgb)
    found, left = make_textures([("a", rgb), ("b", tissue(100))])
    assert len(found) == 1
    assert left[0].startswith("a: nothing in it stands out")


def test_an_orientation_turns_no_tile(tmp_path: Path) -> None:
    """Masks are not turned, either."""
    rgb, turned = tissue(96)[:, :70], Image.Exif()
    turned[274] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=turned)
    assert np.array_equal(read_tiles([tmp_path])[0][1], rgb)


def test_transparent_pixels_of_a_tile_are_white(tmp_path: Path) -> None:
    rgb, alpha = tissue(96), np.full((96, 96), 255, np.uint8)
    alpha[:40] = 0
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack((rgb[..., ::-1], alpha)))
    (found,) = (pixels for _, pixels in read_tiles([tmp_path]))
    assert (found[:40] == 255).all()
    assert np.array_equal(found[40:], rgb[40:])


def test_a_window_without_nuclei(synthesizer: Synthesizer) -> None:
    empty = Synthesizer(synthesizer.textures, Layout(7, 700, cellularity=0.0)).draw(0, 0, 50, 60)
    assert not empty.instances.any()
    assert empty.rgb.shape == (50, 60, 3)
