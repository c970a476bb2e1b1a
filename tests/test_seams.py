"""Seams that were planted are found, with their phase; where there are none, none is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from cases import contents, run_program
from models import LABELS, RampModel, StainModel
from safron.engine import render
from safron.engine.evaluation import gradients as seams_module
from safron.engine.evaluation.alignment import measure_alignment
from safron.engine.evaluation.cli import commands, main
from safron.engine.evaluation.gradients import (
    SEAM_Z,
    GradientScores,
    SlideGrid,
    grid_of,
    measure_gradients,
    phase_scores,
    score_gradients,
)
from safron.engine.evaluation.overlap_mismatch import measure_mismatch
from safron.engine.evaluation.seam_report import evaluate_seams, seam_table
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.masks.open import open_mask
from safron.io.slides.reader import Pixels, facts_of, windows

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


def noise(seed: int, height: int = 600, width: int = 700, *, smooth: float = 1.0, slow: float = 20) -> Any:
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


def score(image: Image, grid: SlideGrid) -> GradientScores:
    slide: Any = Held(image)
    return score_gradients(measure_gradients(slide, grid), grid, image.shape[0] * image.shape[1])


def with_steps(values: Any, grid: SlideGrid, size: float, *, at: int = 0, seed: int = 0) -> Any:
    """Add a colour of its own to each patch: steps of about `size` where canvas position modulo stride is `at`."""
    rng, made = np.random.default_rng(seed), values.copy()
    for axis, (first, length) in enumerate(((grid.y, values.shape[0]), (grid.x, values.shape[1]))):
        patch = (np.arange(length) + first - at) // grid.stride
        offsets = size * rng.standard_normal((patch.max() - patch.min() + 1, 3)).astype(np.float32)
        shape = (-1, 1, 3) if axis == 0 else (1, -1, 3)
        made += offsets[patch - patch.min()].reshape(shape)
    return made


def test_noise_raises_no_alarm() -> None:
    """72 images of all kinds: fine and coarse grain, with and without JPEG, four grids."""
    worst = []
    for seed in range(72):
        values = noise(seed, smooth=(0.0, 1.0, 2.0)[seed % 3])
        image = as_image(values, jpeg=(None, 90, 70)[seed // 3 % 3])
        worst.append(abs(score(image, GRIDS[seed % 4]).z))
    assert max(worst) < SEAM_Z
    assert float(np.mean(np.array(worst) > 4)) <= 0.02


@pytest.mark.parametrize("jpeg", [None, 90])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_planted_seams_are_found_at_their_phase(grid: SlideGrid, jpeg: int | None) -> None:
    scores = score(as_image(with_steps(noise(1), grid, 8), jpeg), grid)
    assert scores.z > SEAM_Z
    for axis in (scores.rows, scores.columns):
        assert axis.z > SEAM_Z
        assert axis.phase == axis.largest_phase == grid.stride - 1
    assert scores.boundary_ratio > 1.03


def test_a_seam_elsewhere_is_named_with_its_place_but_is_not_the_grids() -> None:
    grid = SlideGrid(100, 20)
    scores = score(as_image(with_steps(noise(2), grid, 12, at=41)), grid)
    assert abs(scores.z) < SEAM_Z
    assert scores.rows.largest_phase == scores.columns.largest_phase == 40
    assert scores.rows.largest > 2 * SEAM_Z


def test_the_end_of_an_overlap_is_a_place_of_its_own() -> None:
    grid = SlideGrid(100, 20)
    scores = score(as_image(with_steps(noise(3), grid, 12, at=20)), grid)
    assert (scores.rows.phase, scores.columns.phase) == (19, 19)
    assert scores.z > SEAM_Z


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


def test_jpeg_blocks_are_no_seams() -> None:
    """Strong JPEG has edges every 8 pixels, and the grid's own phases lie on such edges."""
    grid, image = SlideGrid(256, 16), as_image(noise(6, 900, 900, smooth=3.0), jpeg=30)
    slide: Any = Held(image)
    profile = measure_gradients(slide, grid)[1]
    steps = profile.sums.sum(axis=1) / profile.counts.sum(axis=1)
    plain = steps - np.median(steps)
    assert plain[grid.own_phases[0]] > 5 * np.median(np.abs(plain)), "a plain z would call this a seam"
    assert abs(score(image, grid).z) < SEAM_Z


def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = with_steps(noise(7, 500, 610), SlideGrid(100, 20), 5)
    values[:200, 100:400] = 245  # glass
    slide: Any = Held(as_image(values))
    whole = measure_gradients(slide, SlideGrid(100, 20))
    monkeypatch.setattr(seams_module, "windows", lambda shape: windows(shape, height=64, width=112))
    small: Any = Held(as_image(values))
    parts = measure_gradients(small, SlideGrid(100, 20))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_allclose(one.sums, other.sums)
    assert small.largest <= (64 + 16) * (112 + 16)


def test_a_wide_slide_is_read_in_parts() -> None:
    slide: Any = Held(np.zeros((1100, 9000, 3), np.uint8))
    measure_gradients(slide, SlideGrid(256, 20))
    assert slide.largest < 5e6


def test_glass_does_not_count() -> None:
    values = noise(8)
    values[:, 350:] = 243
    scores = score(as_image(values), SlideGrid(100, 20))
    assert scores.tissue_share == pytest.approx(0.5, abs=0.03)
    slide: Any = Held(np.full((400, 400, 3), 243, np.uint8))
    with pytest.raises(BadInput, match="no tissue where patches meet"):
        score_gradients(measure_gradients(slide, SlideGrid(100, 20)), SlideGrid(100, 20), 160_000)


def test_a_flat_profile_has_no_score() -> None:
    assert phase_scores(np.full(236, 3.0)).tolist() == [0.0] * 236
    lonely = np.full(236, np.nan)
    assert np.isnan(phase_scores(lonely)).all()


# Mismatch


def test_mismatch_is_what_neighbours_differ_by() -> None:
    """Red of `RampModel` rises by 270 down a tile: in an overlap above it the two differ by a stride's rise."""
    mask = open_mask(np.ones((400, 400), np.uint8))
    found = measure_mismatch(RampModel(noise=False), mask, tile=64, overlap=16)
    assert found is not None
    assert found.largest == pytest.approx(270 * 48 / 64, rel=1e-3)
    # Down and across, one of three channels each.
    assert found.mean == pytest.approx(found.largest / 3, rel=0.05)
    assert found.relative > 0.5
    assert 32 <= found.pairs <= 33


class Seamless(StainModel):
    """What it paints depends on label and noise alone, so that neighbours agree."""


def test_mismatch_of_a_generator_that_agrees_with_itself_is_zero() -> None:
    rng = np.random.default_rng(0)
    mask = open_mask(rng.integers(0, 3, (300, 300), np.uint8))
    found = measure_mismatch(Seamless(), mask, tile=64, overlap=12, seed=5)
    assert found is not None
    assert (found.mean, found.largest) == (0.0, 0.0)


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


def test_alignment_needs_two_labels() -> None:
    slide: Any = Held(as_image(noise(0)))
    assert measure_alignment(slide, open_mask(np.ones((600, 700), np.uint8)), SlideGrid(256, 20)) is None


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
    assert report.real_boundary_ratio == pytest.approx(1, abs=0.05)
    assert report.boundary_ratio == pytest.approx(
        report.gradients.boundary_ratio / report.real_boundary_ratio
    )


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
    assert head.split()[:4] == ["slide", "mismatch", "worst", "z"]
    assert first.startswith("whole.tiff ")
    assert first.endswith(" no")
    assert second.startswith("seams.png ")
    assert second.endswith(" yes")
    found = json.loads((tmp_path / "r.json").read_text())["seams"]
    assert [item["has_seams"] for item in found] == [False, True]
    assert contents(rendered) == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["seams"], "Missing argument 'SLIDE...'"),
        (["seams", "none.tiff"], "none.tiff: there is no such file"),
        (["seams", "text.tiff"], "text.tiff: cannot read it as a slide or image"),
        (["seams", "flat.png"], "flat.png: does not say how large its patches are"),
        (["seams", "flat.png", "--tile", "64", "--overlap", "0"], "flat.png: no tissue where patches meet"),
        (["seams", "dot.tif", "--tile", "64", "--overlap", "0"], "dot.tif: no tissue where patches meet"),
        (
            ["seams", "flat.png", "--model", "identity"],
            "--model: a generator is measured on windows of a mask",
        ),
        (["seams", "flat.png", "--model", "a", "--model", "b"], "2 generators for 1 slides"),
        (["seams", "flat.png", "--mask", "none.zarr", "--tile", "64", "--overlap", "0"], "mask none.zarr"),
        (["seams", "flat.png", "--tile", "0"], "Invalid value for '--tile'"),
        (["seams", "none.tiff", "--report", "no/r.json"], "--report no/r.json: folder "),
        (["sums"], "No such command 'sums'"),
        (["fid", "flat.png", "flat.png"], "has no tile of 256 x 256 pixels with tissue"),
        (["fid", "flat.png", "text.tiff"], "flat.png: has no tile"),
        (["fid", "grain.png", "none", "--size", "64"], "none: there is no such file or folder"),
        (["fid", "grain.png", "text.tiff", "--size", "64"], "text.tiff: cannot read it as a slide or image"),
        (["fid", "empty", "flat.png"], "this folder holds no image"),
        (["fid", "grain.png", "grain.png", "--size", "200"], "6 tiles of 200 px in the smaller set"),
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
    Path("empty").mkdir()
    cv2.imwrite("flat.png", np.full((300, 300, 3), 250, np.uint8))
    cv2.imwrite("grain.png", as_image(noise(0, 410, 610)))
    tifffile.imwrite("dot.tif", np.full((1, 1, 3), 120, np.uint8), tile=(64, 64))  # for OpenSlide
    outcome = run_program(capfd, main, *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith("safron-eval: error: ")
    assert says in outcome.error


def test_table_has_dashes_where_nothing_was_measured() -> None:
    grid = SlideGrid(256, 0)
    scores = score(as_image(noise(1)), grid)
    from safron.engine.evaluation.seam_report import SeamReport

    (head, row) = seam_table([SeamReport("a/b.tiff", grid, scores)])
    assert len(head) == len(row)
    assert row.split()[:3] == ["b.tiff", "-", "-"]


def test_every_option_is_described() -> None:
    for name, command in commands.commands.items():
        assert command.epilog is not None
        assert f"Example: safron-eval {name}" in command.epilog
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), (name, parameter.name)
