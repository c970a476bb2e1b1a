"""Seams that were planted are found, with their phase; where there are none, none is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from cases import contents, run_program
from models import LABELS, RampModel, StainModel
from safron.engine import render
from safron.engine.evaluation import boundary_profiles
from safron.engine.evaluation.alignment import Alignment, check_size, measure_alignment
from safron.engine.evaluation.boundary_profiles import measure_profiles
from safron.engine.evaluation.cli import _doubt, commands, main
from safron.engine.evaluation.overlap_mismatch import measure_mismatch
from safron.engine.evaluation.seam_report import SeamReport, evaluate_seams, seam_table
from safron.engine.evaluation.seam_scores import SEAM_Z, SeamScores, score_seams
from safron.engine.evaluation.slide_grid import SlideGrid, grid_of
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask
from safron.io.masks.phantoms import Phantom
from safron.io.slides.reader import Pixels, facts_of

Image = npt.NDArray[np.uint8]
GRIDS = [SlideGrid(256, 20), SlideGrid(256, 0), SlideGrid(64, 12), SlideGrid(100, 21, y=30, x=7)]


class Held:
    """An image in memory in place of a slide; remembers the largest region read."""

    path = Path("held")
    mpp = None

    def __init__(self, image: Image, facts: dict[str, str] | None = None) -> None:
        self.image, self.shape, self.facts, self.largest = image, image.shape[:2], facts or {}, 0

    def read(self, y: int, x: int, height: int, width: int) -> Image:
        region = self.image[y : y + height, x : x + width]
        assert region.shape[:2] == (height, width), "reads beyond the image"
        self.largest = max(self.largest, height * width)
        return region


def noise(seed: int, height: int = 700, width: int = 800, *, smooth: float = 1.0, slow: float = 20) -> Any:
    """Grain with slow shading below it, float32 [y, x, 3]: tissue without patches."""
    rng = np.random.default_rng(seed)
    grain = rng.standard_normal((height, width, 3)).astype(np.float32)
    if smooth:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), smooth))
    cells = rng.standard_normal((height // 40 + 2, width // 40 + 2, 3)).astype(np.float32)
    shade = np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC))
    return 150 + 12 * grain / grain.std() + slow * shade


def as_image(values: Any, jpeg: int | None = None) -> Image:
    image = np.clip(values, 0, 255).astype(np.uint8)
    if jpeg is None:
        return image
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, jpeg])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def score(image: Image, grid: SlideGrid) -> SeamScores:
    slide: Any = Held(image)
    found = score_seams(measure_profiles(slide, grid), grid)
    assert found is not None
    return found


def with_steps(values: Any, grid: SlideGrid, size: float, *, at: int = 0, seed: int = 0) -> Any:
    """Add a colour of its own to each patch: steps of about `size` where canvas position modulo stride is `at`."""
    rng, made = np.random.default_rng(seed), values.copy()
    for axis, (first, length) in enumerate(((grid.y, values.shape[0]), (grid.x, values.shape[1]))):
        patch = (np.arange(length) + first - at) // grid.stride
        offsets = size * rng.standard_normal((patch.max() - patch.min() + 1, 3)).astype(np.float32)
        shape = (-1, 1, 3) if axis == 0 else (1, -1, 3)
        made += offsets[patch - patch.min()].reshape(shape)
    return made


PLANTED = {
    "offset, 4 levels": ("offset", 4, "step"),
    "gain, 5 %": ("gain", 5, "step"),
    "blur of 1 pixel": ("blur", 1, "blur"),
    "instance norm": ("instance", 0, "step"),
    "a patch moved by 8 pixels": ("shifted", 8, "patch"),
    "patches moved by up to 4 pixels": ("jitter", 4, "edge"),
}


@pytest.fixture
def bench(load_bench: Callable[[str], ModuleType]) -> ModuleType:
    return load_bench("planted_seams")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Generated tissue, 1000 x 1000 pixels, without JPEG."""
    out = tmp_path_factory.mktemp("tissue") / "s.tiff"
    mask = Phantom(0, "tissue", 160).paint(slice(0, 1000), slice(0, 1000))
    render(mask, out, model="safron-seamless", compression="deflate")
    with Pixels(out) as slide:
        return slide.read(0, 0, 1000, 1000)


@pytest.mark.parametrize("jpeg", [False, True], ids=["plain", "JPEG"])
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_seams_are_found(bench: ModuleType, tissue: Image, planted: str, jpeg: bool) -> None:
    kind, size, measure = PLANTED[planted]
    grid = SlideGrid(256, 20)
    images = (
        {"tissue": tissue}
        if jpeg or kind == "instance"
        else {"tissue": tissue, "texture": as_image(noise(0))}
    )
    for name, image in images.items():
        made = bench.plant(image, kind, size, grid, "flat", np.random.default_rng(1))
        scores = score(bench.as_jpeg(made) if jpeg else made, grid)
        assert measure in scores.found, (name, scores)


def test_a_taper_turns_offsets_into_ramps(bench: ModuleType, tissue: Image) -> None:
    made = bench.plant(tissue, "offset", 8, SlideGrid(256, 20), "linear", np.random.default_rng(1))
    assert "ramp" in score(made, SlideGrid(256, 20)).found


def test_images_without_seams_raise_no_alarm(tissue: Image) -> None:
    """84 images of all kinds: generated tissue, fine and coarse grain, with and without JPEG, four grids."""
    images = [
        as_image(noise(seed, 560, 640, smooth=(0.0, 1.0, 2.0)[seed % 3]), jpeg=(None, 90, 70)[seed // 3 % 3])
        for seed in range(72)
    ]
    grids = [GRIDS[seed % 4] for seed in range(72)] + [SlideGrid(256, 20, 17 * k, 31 * k) for k in range(12)]
    worst = []
    for image, grid in zip(images + [tissue] * 12, grids, strict=True):
        scores = score(image, grid)
        assert not scores.found, (grid, scores)
        worst.append(abs(scores.z))
    assert np.mean(np.array(worst) < SEAM_Z) > 0.97


@pytest.mark.parametrize("jpeg", [None, 90])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_steps_on_every_grid_are_found(grid: SlideGrid, jpeg: int | None) -> None:
    scores = score(as_image(with_steps(noise(1), grid, 8), jpeg), grid)
    assert "step" in scores.found
    assert scores.boundary_ratio > 1.02


def test_seams_of_another_grid_are_not_this_ones() -> None:
    grid = SlideGrid(100, 20)
    assert not score(as_image(with_steps(noise(2), grid, 12, at=41)), grid).found


@pytest.mark.parametrize(("levels", "seen"), [(0.3, False), (6.0, True)])
def test_steps_that_nobody_sees_do_not_count_where_all_else_is_flat(
    tissue: Image, levels: float, seen: bool
) -> None:
    """A third of a level on every boundary in glass is the only step there, and is not visible."""
    image = tissue.copy()
    image[:, 500:] = 243
    dark = np.floor(levels) + (np.random.default_rng(0).random((1000, 1000)) < levels % 1)
    dark[:, np.arange(1000) // 80 % 2 == 0] = 0
    image[:, 500:] -= dark[:, 500:, None].astype(np.uint8)
    assert ("step" in score(image, SlideGrid(100, 20)).found) == seen


def test_a_blurred_overlap_shows_in_its_ratio() -> None:
    """Two textures that differ are averaged over the overlap: no edge anywhere, but less grain."""
    grid, values = SlideGrid(100, 20), noise(4, slow=0)
    plain = score(as_image(values), grid)
    assert plain.overlap_ratio == pytest.approx(1, abs=0.03)
    other = noise(5, slow=0)
    columns = (np.arange(values.shape[1]) % grid.stride) < 20
    values[:, columns] = (values[:, columns] + other[:, columns]) / 2
    blurred = score(as_image(values), grid)
    assert blurred.overlap_ratio is not None
    assert blurred.overlap_ratio < 0.9
    assert "blur" in blurred.found


def test_jpeg_blocks_are_not_seams() -> None:
    """Strong JPEG has edges every 8 pixels, and the grid's own phases lie on such edges."""
    grid, image = SlideGrid(256, 16), as_image(noise(6, 1100, 1100, smooth=3.0), jpeg=30)
    steps = np.abs(np.diff(image.astype(int), axis=1)).mean(axis=(0, 2))
    on_block_edges = steps[7::8].mean()
    assert on_block_edges > 1.1 * np.delete(steps, np.s_[7::8]).mean(), (
        "every boundary would look like a seam"
    )
    assert not score(image, grid).found


def test_windows_make_no_difference_to_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = SlideGrid(100, 20)
    values = with_steps(noise(7, 700, 810), grid, 5)
    values[:190, 110:390] = 245  # glass
    image = as_image(values)
    whole = score(image, grid)
    monkeypatch.setattr(boundary_profiles, "WINDOW", 200)
    parts: Any = Held(image)
    found = score_seams(measure_profiles(parts, grid), grid)
    assert found is not None
    assert found.boundary_ratio == pytest.approx(whole.boundary_ratio, rel=0.01)
    assert (found.tissue_share, found.boundaries) == (
        pytest.approx(whole.tissue_share, abs=0.02),
        whole.boundaries,
    )
    assert parts.largest <= (240 + 2 * 34) ** 2


def test_a_large_slide_is_read_in_parts_until_enough_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary_profiles, "WINDOW", 400)
    slide: Any = Held(np.zeros((3100, 9000, 3), np.uint8))
    profiles = measure_profiles(slide, SlideGrid(256, 20), most=5000)
    side = 2 * 236 + 2 * 34
    assert slide.largest <= side**2
    assert profiles.steps.shape == (2, 5, 2, side - 1, 3)


def test_glass_does_not_count() -> None:
    values, grid = noise(8), SlideGrid(100, 20)
    values[:, 400:] = 243
    scores = score(as_image(values), grid)
    assert scores.tissue_share == pytest.approx(0.5, abs=0.03)
    for image in (np.full((400, 400, 3), 243, np.uint8), np.full((90, 90, 3), 120, np.uint8)):
        slide: Any = Held(image)
        assert score_seams(measure_profiles(slide, grid), grid) is None


# Mismatch


def test_mismatch_is_what_neighbours_differ_by() -> None:
    """Red of `RampModel` rises by 270 down a tile: in an overlap above it the two differ by a stride's rise."""
    mask = open_mask(np.ones((400, 400), np.uint8))
    found = measure_mismatch(RampModel(noise=False), mask, tile=64, overlap=16)
    assert found is not None
    assert found.largest == pytest.approx(270 * 48 / 64, rel=1e-3)
    assert found.offset > 50
    assert found.visible
    # Down and across, one of three channels each.
    assert found.mean == pytest.approx(found.largest / 3, rel=0.05)
    assert found.relative > 0.5
    assert 32 <= found.pairs <= 33


class Seamless(StainModel):
    """Its output depends on label and noise alone, so that neighbours agree."""


def test_mismatch_of_a_generator_that_agrees_with_itself_is_zero() -> None:
    rng = np.random.default_rng(0)
    mask = open_mask(rng.integers(0, 3, (300, 300), np.uint8))
    found = measure_mismatch(Seamless(), mask, tile=64, overlap=12, seed=5)
    assert found is not None
    assert (found.mean, found.largest, found.offset, found.visible) == (0.0, 0.0, 0.0, False)


def test_no_overlap_no_mismatch() -> None:
    mask = open_mask(np.ones((300, 300), np.uint8))
    assert measure_mismatch(RampModel(), mask, tile=64, overlap=0) is None
    glass = open_mask(np.zeros((300, 300), np.uint8))
    assert measure_mismatch(RampModel(), glass, tile=64, overlap=12) is None


# Alignment


def blobs(height: int, width: int, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    cells = rng.random((height // 50 + 2, width // 50 + 2)).astype(np.float32)
    field = np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC))
    return np.digitize(field, [0.4, 0.6]).astype(np.uint8)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-3, 5), (20, 20), (-20, -20)], ids=str)
def test_alignment_finds_the_shift(shift: tuple[int, int]) -> None:
    """(-20, -20) is the fault of the paper's own test script."""
    mask = blobs(700, 800)
    colors = np.array([[150, 90, 160], [230, 170, 200], [190, 130, 180]], np.float32)
    values = colors[np.roll(mask, shift, (0, 1))] + 25 * np.random.default_rng(1).standard_normal(
        (700, 800, 3)
    )
    slide: Any = Held(as_image(np.asarray(cv2.GaussianBlur(values, (0, 0), 1.5))))
    found = measure_alignment(slide, open_mask(mask), SlideGrid(256, 20))
    assert found is not None
    assert found.shift == shift
    assert found.explained >= found.explained_at_zero
    assert found.explained > 0.2


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Alignment((0, 0), 0.9, 0.9, 0.9, False, 20), None),
        (Alignment((3, -2), 0.9, 0.5, 0.9, False, 20), "shift 3,-2: the image does not lie on this mask"),
        (Alignment((0, -24), 0.9, 0.5, 0.9, True, 20), "shift 0,-24 lies at the edge of the search"),
        (
            Alignment((0, 0), 0.2, 0.2, 0.3, False, 20),
            "it fits its mask best as it lies, but only 30% of 20 places",
        ),
        (None, "its alignment with the mask was not measured"),
    ],
)
def test_a_doubtful_alignment_is_told(found: Alignment | None, says: str | None) -> None:
    doubt = _doubt(found)
    assert doubt is None if says is None else (doubt or "").startswith(says)


def test_alignment_needs_two_labels() -> None:
    slide: Any = Held(as_image(noise(0, 600, 700)))
    assert measure_alignment(slide, open_mask(np.ones((600, 700), np.uint8)), SlideGrid(256, 20)) is None


def painted(mask: Image) -> Image:
    """Colours by label, with grain."""
    colors = np.array([[150, 90, 160], [230, 170, 200], [190, 130, 180]], np.float32)
    grain = 25 * np.random.default_rng(1).standard_normal((*mask.shape, 3))
    return as_image(np.asarray(cv2.GaussianBlur(colors[mask] + grain, (0, 0), 1.5)))


@pytest.mark.parametrize("shape", [(800, 800), (300, 400)], ids=str)
def test_only_the_right_mask_is_sure_at_no_shift(shape: tuple[int, int]) -> None:
    mask = blobs(*shape)
    slide: Any = Held(painted(mask))
    right = measure_alignment(slide, open_mask(mask), SlideGrid(256, 20))
    assert right is not None
    assert (right.shift, right.sure) == ((0, 0), True)
    wrong = {"flipped": mask[::-1], "other": blobs(*shape, seed=9)}
    for name, other in wrong.items():
        found = measure_alignment(slide, open_mask(np.ascontiguousarray(other)), SlideGrid(256, 20))
        assert found is None or not found.sure, (name, found)


@pytest.mark.parametrize("shift", [(0, 100), (-130, 60), (0, 37)], ids=str)
def test_a_mask_moved_far_is_found_by_the_first_search(shift: tuple[int, int]) -> None:
    mask = blobs(800, 900)
    slide: Any = Held(painted(mask))
    found = measure_alignment(slide, open_mask(np.roll(mask, shift, (0, 1))), SlideGrid(256, 20))
    assert found is not None
    assert (found.shift, found.sure) == ((-shift[0], -shift[1]), True)
    assert found.explained > 2 * found.explained_at_zero


@pytest.mark.parametrize(
    ("region", "shape", "part", "says"),
    [
        ("0 0 800 700", (700, 800), False, None),
        ("0 0 800 700", (800, 700), False, "shows 800 x 700 pixels of a mask from 0,0 on, this mask is 700 x 800"),
        ("0 0 800 700", (350, 400), False, "this mask is 400 x 350; give the mask it was rendered from"),
        ("0 0 800 700", (900, 900), False, "this mask is 900 x 900; for a slide of its upper left part, give --part"),
        ("0 0 800 700", (900, 900), True, None),
        ("50 90 800 700", (900, 900), False, None),
        ("50 90 800 700", (700, 800), True, "from 50,90 on, this mask is 800 x 700"),
        ("", (700, 800), False, None),
        ("", (700, 801), False, "the slide is 800 x 700 pixels, this mask is 801 x 700"),
    ],
)  # fmt: skip
def test_a_mask_of_another_size_is_refused(
    region: str, shape: tuple[int, int], part: bool, says: str | None
) -> None:
    slide: Any = Held(np.zeros((700, 800, 3), np.uint8), {"Mask region XYWH": region} if region else {})
    mask = open_mask(np.ones(shape, np.uint8))
    if says is None:
        check_size(slide, mask, part=part)
    else:
        with pytest.raises(BadInput) as error:
            check_size(slide, mask, part=part)
        assert says in str(error.value)


# Slides


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mask and two slides of it: one whole, one of a region."""
    folder = tmp_path_factory.mktemp("rendered")
    mask = blobs(700, 900)
    mask[:60] = 0
    np.save(folder / "mask.npy", mask)
    import zarr

    zarr.save_array(folder / "mask.zarr", mask)
    options: dict[str, Any] = {"model": StainModel(), "tile": 64, "overlap": 12, "seed": 3, "block": 512}
    render(mask, folder / "whole.tiff", **options)
    render(mask, folder / "part.tiff", region=(90, 50, 700, 600), **options)
    return folder


def test_a_slide_says_where_its_patches_lie(rendered: Path) -> None:
    with Pixels(rendered / "part.tiff") as slide:
        assert grid_of(slide, tile=None, overlap=None) == SlideGrid(64, 12, y=50, x=90)
        assert grid_of(slide, tile=100, overlap=0) == SlideGrid(100, 0, y=50, x=90)
        assert slide.facts["Seed"] == "3"


@pytest.mark.parametrize("flavor", ["svs", "ome", "generic"])
def test_every_flavor_says_it(tmp_path: Path, flavor: Any) -> None:
    path = tmp_path / "s.tiff"
    mask = np.ones((300, 300), np.uint8)
    render(mask, path, model="identity", flavor=flavor, overlap=16, compression="deflate")
    with Pixels(path) as slide:
        assert grid_of(slide, tile=None, overlap=None) == SlideGrid(256, 16)
        assert (slide.read(3, 5, 2, 4) == [255, 0, 0]).all()


def test_options_where_nothing_is_said() -> None:
    slide: Any = Held(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(BadInput, match="give --tile and --overlap"):
        grid_of(slide, tile=None, overlap=None)
    with pytest.raises(BadInput, match="give --tile and --overlap"):
        grid_of(slide, tile=64, overlap=None)
    card = Card("m", 128, 0, LABELS)
    assert grid_of(slide, tile=None, overlap=8, cards=[card]) == SlideGrid(128, 8)
    with pytest.raises(BadInput, match=r"--tile 64 --overlap 64: the overlap must be at least 0 and below"):
        grid_of(slide, tile=64, overlap=64)


def test_one_slide_from_end_to_end(rendered: Path) -> None:
    for name in ("whole.tiff", "part.tiff"):
        report = evaluate_seams(rendered / name, mask=rendered / "mask.zarr", model=StainModel(tile=64))
        assert not report.has_seams
        assert report.mismatch is not None
        assert report.mismatch.largest == 0
        assert report.alignment is not None
        assert report.alignment.shift == (0, 0)
        assert json.loads(json.dumps(report.json))["has_seams"] is False


def test_a_real_slide_divides_the_ratio(rendered: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "real.png"), as_image(noise(9)))
    report = evaluate_seams(rendered / "whole.tiff", real=tmp_path / "real.png")
    assert report.scores is not None
    assert report.real_boundary_ratio == pytest.approx(1, abs=0.05)
    assert report.boundary_ratio == pytest.approx(report.scores.boundary_ratio / report.real_boundary_ratio)


def test_facts_are_read_as_they_were_written() -> None:
    assert facts_of("") == {}
    assert facts_of("Pyramid written by x\nMPP = 0.5\nPatch tile = 64") == {"MPP": "0.5", "Patch tile": "64"}
    assert facts_of('<OME><M K="a &amp; b">1 &lt; 2</M></OME>') == {"a & b": "1 < 2"}


# The command


def test_several_slides_make_one_table(
    rendered: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "seams.png"), as_image(with_steps(noise(1), SlideGrid(64, 12), 15)))
    before = contents(rendered)
    outcome = run_program(
        capfd, main, "seams", rendered / "whole.tiff", tmp_path / "seams.png", "--tile", "64", "--overlap", "12",
        "--report", tmp_path / "r.json",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    head, first, second = outcome.out.splitlines()
    assert head.split()[:4] == ["slide", "mismatch", "worst", "step"]
    assert first.startswith("whole.tiff ")
    assert first.endswith(" no")
    assert second.startswith("seams.png ")
    assert " yes: " in second
    assert "step" in second
    found = json.loads((tmp_path / "r.json").read_text())["seams"]
    assert [item["has_seams"] for item in found] == [False, True]
    assert contents(rendered) == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["seams"], "Missing argument 'SLIDE...'"),
        (["seams", "none.tiff"], "none.tiff: no such file"),
        (["seams", "text.tiff"], "text.tiff: cannot read it as a slide or image"),
        (["seams", "flat.png"], "flat.png: tile and overlap of its patches are not known"),
        (
            ["seams", "flat.png", "--model", "identity"],
            "--model: the generator is run on windows of a mask",
        ),
        (["seams", "flat.png", "--model", "a", "--model", "b"], "2 generators for 1 slide:"),
        (["seams", "flat.png", "--mask", "none.zarr", "--tile", "64", "--overlap", "0"], "mask none.zarr"),
        (["seams", "flat.png", "--tile", "0"], "Invalid value for '--tile'"),
        (["seams", "none.tiff", "--report", "no/r.json"], "--report no/r.json: folder "),
        (
            ["seams", "none.tiff", "--report", "flat.png"],
            "--report flat.png: must end in .json; give another name",
        ),
        (
            ["seams", "none.tiff", "--report", "other.json"],
            "--report other.json: exists already; pass --overwrite",
        ),
        (["sums"], "No such command 'sums'"),
        (["fid", "flat.png", "flat.png"], "has no tile of 256 x 256 pixels with tissue"),
        (["fid", "flat.png", "text.tiff"], "flat.png: has no tile"),
        (["fid", "grain.png", "none", "--size", "64"], "none: there is no such file or folder"),
        (["fid", "grain.png", "text.tiff", "--size", "64"], "text.tiff: cannot read it as a slide or image"),
        (["fid", "empty", "flat.png"], "this folder holds no image"),
        (
            ["fid", "grain.png", "grains.png", "--size", "200"],
            "grain.png: gives 6 tiles of 200 px with tissue, at least 8 are needed; give more",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    here: Path,
    capfd: pytest.CaptureFixture[str],
    args: list[str],
    says: str,
) -> None:
    Path("text.tiff").write_text("no slide")
    Path("other.json").write_text('{"a": 1}')
    Path("empty").mkdir()
    cv2.imwrite("flat.png", np.full((300, 300, 3), 250, np.uint8))
    cv2.imwrite("grain.png", as_image(noise(0, 410, 610)))
    cv2.imwrite("grains.png", as_image(noise(1, 410, 610)))
    tifffile.imwrite("dot.tif", np.full((1, 1, 3), 120, np.uint8), tile=(64, 64))  # for OpenSlide
    outcome = run_program(capfd, main, *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith("safron-eval: error: ")
    assert says in outcome.error


def test_table_has_dashes_where_nothing_was_measured() -> None:
    grid = SlideGrid(256, 0)
    (head, row, empty) = seam_table(
        [SeamReport("a/b.tiff", grid, score(as_image(noise(1)), grid)), SeamReport("c.tiff", grid, None)]
    )
    assert len(head) == len(row)
    assert row.split()[:3] == ["b.tiff", "-", "-"]
    assert empty.split() == ["c.tiff", *["-"] * 10, "too", "little", "tissue"]


def test_a_slide_of_glass_says_so(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = np.full((900, 900, 3), 243, np.uint8)
    image[400:450, 400:450] = 120
    cv2.imwrite("glass.png", image)
    outcome = run_program(
        capfd, main, "seams", "glass.png", "--tile", "256", "--overlap", "20", "--report", "r.json"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[1].endswith("too little tissue")
    (found,) = json.loads(Path("r.json").read_text())["seams"]
    assert (found["has_seams"], found["boundary_ratio_over_real"], found["z"]) == (None, None, None)


@pytest.mark.parametrize(("side", "labels"), [(900, 1), (90, 2)], ids=["one label", "a small slide"])
def test_an_alignment_that_cannot_be_measured_says_so(
    here: Path, capfd: pytest.CaptureFixture[str], side: int, labels: int
) -> None:
    cv2.imwrite("a.png", as_image(noise(0, side, side)))
    mask = np.ones((side, side), np.uint8)
    mask[: side // 2] = labels
    cv2.imwrite("m.png", mask)
    command = "a.png", "--mask", "m.png", "--tile", "256", "--overlap", "20"
    outcome = run_program(capfd, main, "seams", *command)
    assert outcome.code == 0
    assert outcome.err.count("a.png: its alignment with the mask was not measured") == 1


def test_only_reports_are_replaced(rendered: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("other.json").write_text("[1]")
    args = ("seams", rendered / "whole.tiff", "--report")
    assert run_program(capfd, main, *args, "other.json").code == 2
    assert Path("other.json").read_text() == "[1]"
    for more in (("r.json",), ("r.json",), ("other.json", "--overwrite")):
        assert run_program(capfd, main, *args, *more).code == 0
        assert json.loads(Path(more[0]).read_text())["program"] == "safron-eval"
    assert run_program(capfd, main, *args, "keep.png", "--overwrite").code == 2
    assert not Path("keep.png").exists()


class InstanceNorm(StainModel):
    """Each patch is brought to mean 180 and deviation 30, as instance normalization does."""

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        made = super().__call__(labels, noise)
        mean, deviation = made.mean(axis=(1, 2), keepdims=True), made.std(axis=(1, 2), keepdims=True)
        return np.asarray((made - mean) / np.maximum(deviation, 5) * 30 + 180, np.float32)


def test_instance_norm_is_seen_by_mismatch_and_by_the_slide_alone(tmp_path: Path) -> None:
    mask = blobs(700, 900)
    render(mask, tmp_path / "s.tiff", model=InstanceNorm(), tile=64, overlap=12)
    report = evaluate_seams(tmp_path / "s.tiff", mask=mask, model=InstanceNorm())
    assert report.mismatch is not None
    assert report.mismatch.visible
    assert report.seams[0] == "mismatch"
    alone = evaluate_seams(tmp_path / "s.tiff")
    assert alone.has_seams
    assert "step" in alone.seams


@pytest.mark.parametrize(
    ("size", "mpp", "region"),
    [((900, 1100), 0.5, None), ((900, 1100), 0.499, (51, 33, 800, 620)), ((540, 660), 1.7, None)],
)
def test_patches_of_a_resampled_slide_are_found(
    tmp_path: Path, size: tuple[int, int], mpp: float, region: Any
) -> None:
    """Its grid is that of the generator's pixels, 1 um; a generator without seams has none there."""
    mask, options = blobs(*size), {"tile": 64, "overlap": 12, "mpp": mpp, "region": region}
    render(mask, tmp_path / "seams.tiff", model=InstanceNorm(), **options)
    report = evaluate_seams(tmp_path / "seams.tiff", mask=mask, model=InstanceNorm())
    assert report.scores is not None
    assert "step" in report.seams
    render(mask, tmp_path / "none.tiff", model=StainModel(), **options)
    clean = evaluate_seams(tmp_path / "none.tiff", mask=mask, model=StainModel())
    assert clean.has_seams is False
    assert clean.mismatch is not None
    assert clean.mismatch.largest == 0
    assert clean.alignment is not None
    assert clean.alignment.shift == (0, 0)


def test_every_option_is_described() -> None:
    for name, command in commands.commands.items():
        assert command.epilog is not None
        assert f"Example: safron-eval {name}" in command.epilog
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), (name, parameter.name)


def test_a_generator_that_did_not_make_the_slide_is_told_of(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    zarr.save_array("m.zarr", blobs(300, 400))
    render("m.zarr", "s.tiff", model=StainModel(), tile=64, overlap=12, mpp=1.0)
    outcome = run_program(
        capfd, main, "seams", "s.tiff", "--mask", "m.zarr", "--model", "safron-seamless", "--device", "cpu"
    )
    assert outcome.code == 0
    assert "it was rendered with 'ramp'; the mismatch is that of 'safron-seamless'" in outcome.err
