"""Types of nuclei may differ from region to region: one picture for any blocks and workers, that of a whole canvas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cases import run_program
from layout_models import REGIONS, TYPES, write_model
from masks import blobs
from safron.engine import nucleus_masks
from safron.engine.generator.card import Style
from safron.engine.generator.model import load_model
from safron.engine.mask_cli import main
from safron.engine.nucleus_masks import make_nuclei
from safron.engine.nucleus_plan import plan_nuclei
from safron.engine.regional_types import RegionalTypes, read_region_types
from safron.engine.rendering import render
from safron.io.legend import Label
from safron.io.masks import write, write_nuclei
from safron.io.masks.nucleus_decode import NucleusFinder, View
from safron.io.masks.write import write_labels
from safron.io.slides.reader import Pixels
from sampler_models import MixModel
from sampler_oracle import expected

SMALL: dict[str, Any] = {"overlap": 12, "compression": "none", "tiff_tile": 64, "seed": 7, "state": "float32"}
SIZE = (150, 190)


class Styled(MixModel):
    """What it predicts depends on its style, a vector of three for each patch, and on the place in the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.card = replace(
            self.card,
            style=Style(TYPES, (1.0, 1.0, 1.0)),
            labels=(*self.card.labels, Label(3, "lumen", (9, 9, 9))),
        )
        self.asked = 0

    def __call__(self, labels: Any, noise: Any = None, *, style: Any, **planes: Any) -> Any:
        self.asked += 1
        assert style.shape == (len(labels), 3)
        made = super().__call__(labels, noise, **planes)
        return (
            made * (np.float32(1) - np.float32(0.5) * style[:, None, None, :])
            + np.float32(0.2) * style[:, :1, None, None]
        )


class ByRegion:
    """The same in plain words: asked once for each label that there is, and each pixel takes the answer of its own."""

    def __init__(self, model: Any, table: Any) -> None:
        self.model, self.table, self.card = model, table, model.card

    def __call__(self, labels: Any, noise: Any, **planes: Any) -> Any:
        c = self.card.context
        (inner,) = labels[:, c:-c, c:-c]
        made = np.zeros((1, *inner.shape, 3), np.float32)
        for label in range(256):
            if (inner == label).any():
                answer = self.model(labels, noise, style=self.table[label][None], **planes)
                made[0][inner == label] = answer[0][inner == label]
        return made


def table() -> Any:
    types = np.ones((256, 3), np.float32)
    types[2], types[3] = (1, 0, 0), (0, 0, 0)
    return types


@pytest.mark.parametrize("changes", [{"block": 128, "workers": 1}, {"block": 64, "workers": 3, "batch": 5}])
def test_the_picture_is_that_of_the_whole_canvas(tmp_path: Path, changes: Any) -> None:
    mask = 1 + blobs(*SIZE, labels=3, cell=30)
    model = Styled()
    made = render(mask, tmp_path / "s.tiff", model=RegionalTypes(model, table()), **(SMALL | changes))
    whole = expected(mask, ByRegion(Styled(), table()))
    np.testing.assert_array_equal(Pixels(tmp_path / "s.tiff").read(0, 0, *SIZE), whole)
    assert made.generated == made.patches
    assert len({*np.unique(mask)}) == 3


def test_background_is_no_reason_to_ask_again(tmp_path: Path) -> None:
    labels, model = np.ones((2, 72, 72), np.uint8), Styled()
    labels[:, :30] = 0
    regional = RegionalTypes(model, table())
    xt, t = np.zeros((2, 3, 72, 72), np.float32), np.zeros(2, np.float32)
    regional(labels, None, xt=xt, t=t)
    assert model.asked == 1
    labels[1, 50:] = 2
    made = regional(labels, None, xt=xt, t=t)
    assert model.asked == 3
    alone = model(labels, None, xt=xt, t=t, style=np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(made[0], alone[0])
    assert (made[1, 46:] != alone[1, 46:]).any()


def test_other_types_make_another_picture_and_another_hash() -> None:
    other = table()
    other[1] = (0, 1, 0)
    hashes = {RegionalTypes(Styled(), types).sha256 for types in (table(), other)} | {Styled().sha256}
    assert len(hashes) == 3
    assert RegionalTypes(Styled(), table()).sha256 in hashes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def tissue(model: Path) -> Path:
    """Two regions, and background along an edge."""
    labels = np.ones(SIZE, np.uint8)
    labels[:, 90:] = 2
    labels[:20] = 0
    path = model.parent / "tissue.zarr"
    write_labels(
        path, lambda y, x: labels[y, x], height=SIZE[0], width=SIZE[1], mpp=0.5, labels=REGIONS, workers=1
    )
    return path


def read(out: Path) -> tuple[Any, Any]:
    return tuple(
        np.asarray(zarr.open_array(out / "labels" / name / "0")[:]) for name in ("class", "instance")
    )  # type: ignore[return-value]


@pytest.mark.parametrize("elsewhere", ["connective", "none"])
def test_each_nucleus_is_of_a_type_of_its_region(
    model: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    def make(name: str, workers: int) -> tuple[Any, Any, dict[str, int]]:
        plan = plan_nuclei(
            ("neoplastic", "inflammatory"), tissue=tissue, region_types=f"Tumor={elsewhere}", model=model,
            seed=3, device="cpu", classes="types",
        )  # fmt: skip
        counts = make_nuclei(plan, tmp_path / name, workers=workers)
        return *read(tmp_path / name), counts

    labels, numbers, counts = make("whole.zarr", 1)
    for module in (write, write_nuclei, nucleus_masks):
        monkeypatch.setattr(module, "CHUNK", 48)
    again, others, more = make("blocks.zarr", 3)
    np.testing.assert_array_equal(labels, again)
    np.testing.assert_array_equal(numbers, others)
    assert counts == more
    assert sum(counts.values()) == numbers.max() > 5
    legend = {2: "neoplastic", 3: "inflammatory", 4: "connective"}
    seen: dict[int, set[str]] = {1: set(), 2: set()}
    for number in range(1, int(numbers.max()) + 1):
        y, x = np.nonzero(numbers == number)
        if (x >= 90).all() or (x < 90).all():
            seen[2 if x[0] >= 90 else 1].add(legend[int(labels[y[0], x[0]])])
    assert seen[1] <= {"neoplastic", "inflammatory"}
    assert seen[1]
    assert seen[2] == ({"connective"} if elsewhere == "connective" else set())
    about = dict(zarr.open_group(tmp_path / "whole.zarr").attrs)["safron"]
    assert about["region types"] == {"tumor": "connective" if elsewhere == "connective" else ""}  # type: ignore[index, call-overload]


def test_a_region_with_the_types_of_all_changes_nothing(model: Path, tissue: Path, tmp_path: Path) -> None:
    for name, more in (("a.zarr", {}), ("b.zarr", {"region_types": "tumor=connective"})):
        plan = plan_nuclei(("connective",), tissue=tissue, model=model, seed=3, device="cpu", **more)
        make_nuclei(plan, tmp_path / name, workers=1)
    for one, other in zip(read(tmp_path / "a.zarr"), read(tmp_path / "b.zarr"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_request_with_other_regions_is_another_one(model: Path, tissue: Path, tmp_path: Path) -> None:
    def plan(regions: str | None) -> Any:
        return plan_nuclei(("connective",), tissue=tissue, region_types=regions, model=model, device="cpu")

    assert plan("2=neoplastic,1=inflammatory+neoplastic").request()["--region-types"] == {
        "tissue": "neoplastic+inflammatory",
        "tumor": "neoplastic",
    }
    assert plan(None).request()["--region-types"] is None


def test_pieces_take_the_type_of_the_region_of_their_first_pixel() -> None:
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[2:6, 2:10] = (200, 255, 128)  # at the first point of two
    regions = np.ones((8, 12), np.uint8)
    regions[3:] = 2
    allowed = np.zeros((256, 2), bool)
    allowed[1, 1] = allowed[2, 0] = True
    for grown, kind in ((regions, 1), (regions * 0 + 2, 0), (regions * 0 + 9, None)):
        finder = NucleusFinder([(1.0, 0.0), (-1.0, 0.0)], (0, 1), 12, allowed=allowed)
        view = View((0, 0), np.s_[0:8, 0:12], picture, np.zeros((8, 12), bool), grown)
        finder.note(view)
        finder.settle()
        assert finder.counts.tolist() == [int(kind == 0), int(kind == 1)]
        assert bool(finder.paint(view)[1].any()) == (kind is not None)


FAILS = [
    ("--region-types tumor=neoplastic --size 64,64", "--region-types tumor=neoplastic: give --tissue"),
    ("--region-types tumor --tissue tissue.zarr", "'tumor' must be a region and its types, as tumor=neoplastic"),
    ("--region-types glands=neoplastic --tissue tissue.zarr", "knows no region 'glands' with tissue; it has 1 tissue, 2 tumor"),
    ("--region-types background=neoplastic --tissue tissue.zarr", "knows no region 'background' with tissue"),
    ("--region-types 9=neoplastic --tissue tissue.zarr", "knows no region '9'"),
    ("--region-types tumor=lymphocyte --tissue tissue.zarr", "knows no type 'lymphocyte'; it has neoplastic, inflammatory"),
    ("--region-types tumor= --tissue tissue.zarr", "knows no type ''"),
    ("--region-types tumor=none+connective --tissue tissue.zarr", "knows no type 'none'"),
    ("--region-types tumor=connective,2=connective --tissue tissue.zarr", "region '2' is there twice"),
    ("--region-types tumor=connective, --tissue tissue.zarr", "'' must be a region"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "says"), FAILS, ids=[says for _, says in FAILS])
def test_bad_input_is_one_line(
    model: Path, tissue: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: str,
    says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tissue.parent)
    outcome = run_program(
        capfd, main, "nuclei", tmp_path / "n.zarr", "--types", "connective", "--model", model, *args.split()
    )
    assert outcome.code == 2, outcome
    assert says in outcome.error
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert not [*tmp_path.iterdir()]


def test_regions_are_found_by_name_and_number(model: Path) -> None:
    card = load_model(model).card
    assert read_region_types(" Tumor = connective + Neoplastic , 1=none", card, TYPES) == {2: (0, 2), 1: ()}
