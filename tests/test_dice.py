"""A study of what synthetic images are worth: known answers on drawn tissue, and the same answers after a stop."""

from __future__ import annotations

import dataclasses
import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import run_program
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safron.engine import render
from safron.engine.cli import command as render_command
from safron.engine.evaluation.cli import main
from safron.engine.generator.model import load_model
from safron.engine.generator_cli import commands as generator_commands
from safron.io.errors import BadInput, SafronError
from safron.io.whole_image import read_image
from safron.training.config import ModelConfig, TrainConfig
from safron.training.config.data_sets import DataFacts
from safron.training.data.source import split
from safron.training.segmentation import synthesis
from safron.training.segmentation.options import DiceOptions
from safron.training.segmentation.plot import draw_study
from safron.training.segmentation.synthesis import lay_out, procedural_masks, synthesize
from safron.training.segmentation.tissue import divide, open_tissue
from tifffile import imwrite
from tiles import tissue
from training_cases import labels_of, pair

torch = pytest.importorskip("torch")

from safron.training.export import export  # noqa: E402
from safron.training.networks import make_generator  # noqa: E402
from safron.training.segmentation import fitting  # noqa: E402
from safron.training.segmentation.fitting import Annotated, train_segmenter  # noqa: E402
from safron.training.segmentation.study import (  # noqa: E402
    Material,
    check_folder,
    plan_arms,
    run_study,
)

PROGRAMS = {"safron.engine": render_command, "safron.engine.generator_cli": generator_commands}
SMALL = DiceOptions(model="identity", steps=12, batch=4, crop=32, seeds=1, rate=1e-2, threads=1, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for index in range(6):
        pair(folder, f"case{index // 2}-{index}", seed=index, size=(48, 64), grain=4)
    return folder


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the engine's programs here; `test_synthetic_images_lie_on_their_masks` and the next start real ones."""

    def run(module: str, *words: str) -> str:
        done = CliRunner().invoke(PROGRAMS[module], words)
        if isinstance(done.exception, SafronError):
            raise type(done.exception)(f"safron-render: {done.exception}")
        assert done.exception is None, done.exception
        return done.stdout

    monkeypatch.setattr(synthesis, "_program", run)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12),
    margin=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_masks_on_a_canvas_do_not_touch(sizes: list[tuple[int, int]], margin: int) -> None:
    mosaic = lay_out(sizes, margin)
    taken = np.zeros(mosaic.shape, int)
    for (y, x), (height, width) in zip(mosaic.places, sizes, strict=True):
        assert y >= margin
        assert x >= margin
        taken[y - margin : y + height + margin, x - margin : x + width + margin] += 1
    assert taken.max() == 1
    assert taken.sum() == sum((h + 2 * margin) * (w + 2 * margin) for h, w in sizes)


def test_synthetic_images_lie_on_their_masks(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The generator that paints each label in its colour: every pixel is known."""
    masks = [labels_of(40, 52, seed) for seed in range(3)] + [labels_of(33, 20, 9)]
    common: dict[str, Any] = {"model": "identity", "seed": 0, "mpp": None, "threads": 1}
    made = synthesize(masks, tmp_path / "s", **common)
    card = load_model("identity").card
    colors = np.zeros((256, 3), np.uint8)
    for label in card.labels:
        colors[label.value] = label.color
    for image, mask in zip(made, masks, strict=True):
        np.testing.assert_array_equal(image, colors[mask])
    before = (tmp_path / "s" / "slide.tiff").stat().st_mtime_ns
    synthesize(masks, tmp_path / "s", **common)
    assert (tmp_path / "s" / "slide.tiff").stat().st_mtime_ns == before, "rendered once"
    request.getfixturevalue("_in_this_process")
    other = synthesize([np.full_like(mask, 1) for mask in masks], tmp_path / "s", **common)
    assert (other[0] == colors[1]).all(), "other masks, other images"


def write_generator(path: Path, **more: Any) -> str:
    """Export a small random generator with guides whose noise has no effect."""
    widths: Any = (4, 4, 8, 4, 4)
    model = ModelConfig(noise_scales=(1,), guides=(2,), widths=widths, tile=64, mpp=1.0, **more)
    torch.manual_seed(0)
    network = make_generator(model)
    network.stem.weight.data[:, len(model.labels)] = 0  # type: ignore[operator, union-attr, index]
    export(network, TrainConfig(model=model), path, steps=0, trained_on="nothing")
    return str(path)


@pytest.mark.usefixtures("_in_this_process")
def test_an_image_is_what_it_would_be_alone(tmp_path: Path) -> None:
    """Of a generator whose guides read 144 px beyond its 20 of context, and of a pixel size twice the masks'."""
    model = write_generator(tmp_path / "g.onnx")
    masks = [np.zeros((61, 90), np.uint8), np.full((50, 47), 2, np.uint8), labels_of(48, 60, 1)]
    masks[0][:, 30:] = 2  # ever wider glands beyond the edges
    for mpp in (1.0, 0.5):
        common: dict[str, Any] = {"model": model, "mpp": mpp, "threads": 1}
        made = synthesize(masks, tmp_path / f"{mpp}", seed=0, **common)
        for index, (image, mask) in enumerate(zip(made, masks, strict=True)):
            if mpp == 1.0 or index == 0:
                slide = tmp_path / f"{mpp}-{index}.tiff"
                render(mask, slide, **common, compression="deflate", level_count=1)
                # Sums in another order may round to the next level.
                apart = np.abs(image.astype(int) - read_image(slide))
                assert apart.max() <= 1, (mpp, index)
                assert apart.mean() < 0.01, (mpp, index)


@pytest.mark.usefixtures("_in_this_process")
def test_masks_take_styles_in_turn(tmp_path: Path) -> None:
    """Background is filled with the colour that a style has for it."""
    model = write_generator(tmp_path / "g.onnx", style=True, guide_radius=8)
    looks = [tissue(80), tissue(80)]
    for look, grey in zip(looks, (250, 235), strict=True):
        look[:, :40] = grey
    common: dict[str, Any] = {"model": model, "mpp": None, "threads": 1, "seed": 0}
    masks = [np.zeros((40, 40), np.uint8)] * 3
    made = synthesize(masks, tmp_path / "s", styles=looks, **common)
    assert [int(image[20, 20, 1]) for image in made] == [250, 235, 250]
    plain = synthesize(masks, tmp_path / "p", **common)
    assert np.ptp([image[20, 20] for image in plain], axis=0).max() == 0, "the generator's own style"


@pytest.mark.usefixtures("_in_this_process")
def test_masks_take_random_stains_in_turn(tmp_path: Path) -> None:
    """As many canvases as there are styles, also of a generator without a style; a canvas of another seed has other stains."""
    masks = [labels_of(40, 52, seed) for seed in range(3)]
    looks = [np.zeros((40, 40, 3), np.uint8)] * 2
    common: dict[str, Any] = {"model": "identity", "threads": 1}
    made = synthesize(masks, tmp_path / "s", **common, mpp=None, seed=3, styles=looks, stain="random")
    for index, stain in enumerate(("random:6", "random:7", "random:6")):
        slide = tmp_path / f"{index}.tiff"
        render(masks[index], slide, **common, stain=stain, compression="deflate", level_count=1)
        np.testing.assert_array_equal(made[index], read_image(slide))
    assert not np.array_equal(made[0][masks[0] == 1][0], made[1][masks[1] == 1][0])


@pytest.mark.usefixtures("_in_this_process")
def test_masks_take_the_stain_of_a_picture_upon_their_styles(tmp_path: Path) -> None:
    """In one stain, whatever the styles; another picture of the same name gives other images."""
    model = write_generator(tmp_path / "g.onnx", style=True, guide_radius=8)
    shown = tmp_path / "shown.tiff"
    masks, styles = [np.zeros((40, 40), np.uint8)] * 2, [tissue(80), tissue(80, seed=1)]
    styles[0][:, :40], styles[1][:, :40] = 250, 246
    common: dict[str, Any] = {"model": model, "mpp": None, "threads": 1, "seed": 0, "stain": str(shown)}
    for grey in (252, 240):
        picture = tissue(80)
        picture[:, :40] = grey
        imwrite(shown, picture)
        made = synthesize(masks, tmp_path / "s", styles=styles, **common)
        assert [int(image[20, 20, 1]) for image in made] == pytest.approx([grey] * 2, abs=2)
    with pytest.raises(BadInput, match=r"^safron-render: .*--stain nowhere.png: must be reference, "):
        synthesize(masks, tmp_path / "n", **common | {"stain": "nowhere.png"})


def test_what_the_renderer_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^safron-render: .*no-such-generator") as error:
        synthesize([labels_of(20, 20)], tmp_path, model="no-such-generator", seed=0, mpp=None, threads=1)
    assert "\n" not in str(error.value)


def test_no_slide_is_in_two_parts_and_the_generator_has_not_seen_the_test(data: Path) -> None:
    pairs = open_tissue(data, DataFacts(slide_of="case."))
    parts = divide(pairs, held_out=0.3, validation=0.3, images=None)
    slides = [set(part.slides) for part in (parts.train, parts.validation, parts.test)]
    assert all(slides)
    assert sum(map(len, slides)) == len(set().union(*slides)) == 3
    assert slides[2] == set(split(pairs, 0.3)[1].slides), "those that safron-train holds out"
    assert len(divide(pairs, held_out=0.3, validation=0.3, images=1).train) == 1
    with pytest.raises(BadInput, match="1 slide, and training, validation and test need one each"):
        divide(pairs.take([0, 1]), held_out=0.3, validation=0.3, images=None)


def test_arms_hold_what_they_are_named_for() -> None:
    arms = {arm.name: arm for arm in plan_arms(8, few=(3,), curve=(0, 25, 100))}
    assert list(arms)[:3] == ["real", "synthetic", "mixed"]
    replaced, added = arms["replaced 25%"], arms["added 25%"]
    assert len(replaced.synthetic) == len(added.synthetic) == 2
    assert set(replaced.real) | set(replaced.synthetic) == set(range(8))
    assert not set(replaced.real) & set(replaced.synthetic)
    assert added.real == tuple(range(8))
    assert arms["3 real"].real == arms["3 real + synthetic"].real == arms["3 real + procedural"].real
    assert len(arms["3 real"].real) == 3
    assert "replaced 100%" not in arms, "that is synthetic"


def test_procedural_masks_have_glands_in_tissue() -> None:
    masks = procedural_masks(3, (120, 140), seed=1)
    assert [mask.shape for mask in masks] == [(120, 140)] * 3
    assert all({1, 2} <= set(np.unique(mask)) for mask in masks)
    assert not np.array_equal(masks[0], masks[1])


def drawn(count: int, *, dark: bool = False) -> Annotated:
    """Glands that are darker than their surroundings, or with `dark` lighter."""
    masks = tuple(labels_of(40, 40, seed) == 2 for seed in range(count))
    colors = np.array([[220, 160, 190], [110, 60, 140]], np.uint8)[:: -1 if dark else 1]
    return Annotated(tuple(colors[mask.astype(int)] for mask in masks), masks)


def test_a_stopped_training_ends_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cpu")
    images = drawn(4)
    common: dict[str, Any] = {"seed": 5, "device": device}
    whole = train_segmenter(images, images, SMALL, state=tmp_path / "a.pt", **common)
    assert whole is not None
    ticks = itertools.count()
    monkeypatch.setattr(fitting.time, "monotonic", lambda: float(next(ticks)))
    state = tmp_path / "b.pt"
    assert train_segmenter(images, images, SMALL, state=state, until=9.0, **common) is None
    assert state.exists()
    monkeypatch.undo()
    again = train_segmenter(images, images, SMALL, state=state, **common)
    assert again is not None
    assert not state.exists()
    assert (again.step, again.dice) == (whole.step, whole.dice)
    for one, other in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_segmenter_learns_what_it_is_shown_and_no_other_colours(tmp_path: Path) -> None:
    device, options = torch.device("cpu"), dataclasses.replace(SMALL, steps=40)
    images = drawn(6)
    made = train_segmenter(images, images, options, seed=0, state=tmp_path / "s.pt", device=device)
    assert made is not None

    def dice(found: Annotated) -> float:
        pairs = fitting.predictions(made.network, found, device)
        return float(np.mean([fitting.compare(*pair).dice for pair in pairs]))

    assert dice(images) > 0.95
    assert dice(drawn(6, dark=True)) < 0.6


def test_rare_pixels_weigh_more() -> None:
    """A quarter of the pixels is foreground: the median of 1/4 and 3/4 is 1/2."""
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert fitting.median_frequency_weights([mask]) == (pytest.approx(2 / 3), pytest.approx(2))
    assert fitting.median_frequency_weights([mask, ~mask]) == (1, 1)
    logits, masks = torch.zeros(1, 8, 8), torch.from_numpy(mask.astype(np.float32))[None]
    plain, weighted = (
        fitting.segmentation_loss(logits, masks, weights) for weights in ((1.0, 1.0), (2 / 3, 2.0))
    )
    # Cross-entropy of 0.5 is log 2 in each pixel; weights change its mean to (48 * 2/3 + 16 * 2) / 64 of that.
    assert float(weighted - plain) == pytest.approx(0, abs=1e-6)
    missed = fitting.segmentation_loss(torch.full((1, 8, 8), -3.0), masks, (2 / 3, 2.0))
    assert float(missed) > float(fitting.segmentation_loss(torch.full((1, 8, 8), -3.0), masks))


@pytest.mark.usefixtures("_in_this_process")
def test_several_labels_count_as_one(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "identity", "--held-out", "0.3", "--validation", "0.3", "--label", "1,2"]
    options += ["--steps", "1", "--batch", "1", "--crop", "32", "--threads", "1", "--device", "cpu"]
    done = run_program(
        capfd, main, "dice", data, tmp_path / "s", *options, "--class-weights", "--minutes", "1e-5"
    )
    assert (done.code, "0 of 9 trainings done" in done.out) == (0, True)
    kept = json.loads((tmp_path / "s" / "study.json").read_text())
    assert (kept["label"], kept["class_weights"]) == ([1, 2], True)
    bad = run_program(capfd, main, "dice", data, tmp_path / "s", "--label", "gland")
    assert (bad.code, "must be labels, 0 to 255, separated by commas" in bad.error) == (2, True)


def test_an_arm_is_trained_on_its_images() -> None:
    kinds = {name: drawn(4, dark=name != "real") for name in ("real", "synthetic", "procedural")}
    material = Material(kinds, {name: found.thin(1) for name, found in kinds.items()}, {})
    arms = {arm.name: arm for arm in plan_arms(4, few=(2, 9))}
    counts = {name: tuple(map(len, material.of(arm))) for name, arm in arms.items()}
    assert counts == {
        "real": (4, 1),
        "synthetic": (4, 1),
        "mixed": (8, 2),
        "2 real": (2, 1),
        "2 real + synthetic": (6, 2),
        "2 real + procedural": (6, 1),
        "4 real": (4, 1),
        "4 real + synthetic": (8, 2),
        "4 real + procedural": (8, 1),
        "procedural": (4, 1),
    }
    assert (material.of(arms["synthetic"])[0].images[0] == kinds["synthetic"].images[0]).all()


@pytest.mark.usefixtures("_in_this_process")
def test_the_command_trains_stops_continues_and_reports(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    options = ["--model", "identity", "--slide-of", "case.", "--held-out", "0.3", "--validation", "0.3"]
    options += ["--steps", "8", "--batch", "2", "--crop", "32", "--seeds", "1", "--threads", "1"]
    options += ["--device", "cpu"]
    first = run_program(capfd, main, "dice", data, out, *options, "--minutes", "0.00001")
    assert first.code == 0
    assert "0 of 3 trainings done; the same command continues" in first.out
    second = run_program(capfd, main, "dice", data, out, *options)
    assert second.code == 0
    assert "3 of 3 trainings done; report" in second.out
    assert "+-" not in second.out, "one training of a kind has no deviation"
    assert "smaller" not in second.err
    report = json.loads((out / "report.json").read_text())
    assert report["arms"]["real"]["tests"]["real"]["dice"]["sd"] is None
    assert report["images"] == {"train": 2, "validation": 2, "test": 2}
    assert set(report["arms"]) == {"real", "synthetic", "mixed"}
    for arm in report["arms"].values():
        assert set(arm["tests"]) == {"real", "synthetic", "real, one stain"}
        assert 0 <= arm["tests"]["real"]["dice"]["mean"] <= 1
        assert 0 <= arm["tests"]["real"]["background_recall"]["mean"] <= 1
        assert 0 <= arm["agreement"]["mean"] <= 1
    ET.fromstring((out / "dice.svg").read_text())
    kept = {file.name: file.read_bytes() for file in out.glob("*-0.json")}
    third = run_program(capfd, main, "dice", data, out, *options)
    assert third.code == 0
    assert {file.name: file.read_bytes() for file in out.glob("*-0.json")} == kept, "nothing is trained twice"
    other = run_program(capfd, main, "dice", data, out, *[*options, "--steps", "9"])
    assert other.code == 2
    assert "this study has steps 8, not 9; give the same, or a new folder" in other.error


@pytest.mark.usefixtures("_in_this_process")
def test_a_crop_larger_than_the_images_is_told(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "identity", "--slide-of", "case.", "--held-out", "0.3", "--validation", "0.3"]
    options += ["--crop", "64", "--threads", "1", "--device", "cpu", "--minutes", "0.00001"]
    done = run_program(capfd, main, "dice", data, tmp_path / "study", *options)
    assert done.code == 0, done.err
    assert "--crop 64: 2 of 2 training images are smaller, one of 64 x 48 pixels" in done.err


@pytest.mark.usefixtures("_in_this_process")
def test_what_cannot_be_studied_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, slide_of="case.", held_out=0.3, validation=0.3, label=(7,))
    with pytest.raises(BadInput, match=r"--label 7: no mask of the training images has it, only 0, 1, 2"):
        run_study(data, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="safron-render: --model nope"):
        run_study(data, tmp_path / "out", dataclasses.replace(options, label=(2,), model="nope"))
    done = run_study(data, tmp_path / "out", dataclasses.replace(options, label=(2,), minutes=1e-6))
    assert done["done"] == 0, "another model may be given"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists and holds no study"):
        check_folder(tmp_path, tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"crop": 40}, "--crop 40: is not a multiple of 32; give 64"),
        ({"data_set": "mnist"}, "--data-set mnist: is not known; give one of pairs"),
        ({"held_out": 1.5}, "--held-out 1.5: must be a share above 0 and below 1"),
        ({"segmenter": "vit"}, "--segmenter 'vit': must be"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        DiceOptions(**options)


def test_without_pytorch_the_command_says_what_to_install(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else known(name, *rest)
    )
    outcome = run_program(capfd, main, "dice", tmp_path, tmp_path / "out")
    assert outcome.code == 2
    assert "dice: needs torch, which is not installed; run: pip install 'safron[train]'" in outcome.error


def test_a_study_is_drawn_with_a_bar_for_each_arm_and_test() -> None:
    dice = {"dice": {"mean": 0.9, "sd": 0.02}}
    tests = {"real": dice, "synthetic": dice}
    drawing = ET.fromstring(draw_study({"arms": {"real": {"tests": tests}, "a < b": {"tests": tests}}}))
    bars = [
        item for item in drawing.iter("{http://www.w3.org/2000/svg}rect") if item.get("fill") != "#ffffff"
    ]
    assert len(bars) == 2 + 4, "two of the legend, four of the study"
    heights = {item.get("height") for item in bars[2:]}
    assert len(heights) == 1
    assert ET.fromstring(draw_study({"arms": {}})) is not None


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        run_study(tmp_path / "none", tmp_path / "out", SMALL)
