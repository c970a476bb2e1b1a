"""Does every benchmark still run? Each at its smallest size, untimed: the numbers must be there, not good."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from masks import blobs
from onnx_models import CARD, write_onnx
from safron.engine.stains.looks import stain_change
from safron.engine.stains.stain import DRAWN
from safron.io.errors import BadInput, Failed

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    load_bench: Callable[[str], Any],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a benchmark as its command line does, in this process; give its last line, which is JSON."""

    def run(args: str) -> dict[str, Any]:
        name, *words = args.split()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        load_bench(name).main()
        made: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return made

    return run


@pytest.fixture
def tiny(here: Path) -> Path:
    """A generator that costs next to nothing."""
    return write_onnx(here / "tiny.onnx", card=CARD)


def test_limit_of_the_engine_alone(run: Run) -> None:
    (row,) = run("limit --model identity --side 600")["rows"]
    assert row["generated"] + row["filled"] == 9
    assert row["tiles"] > 0
    assert min(row["chain_s"], row["share"], row["floor_s"]["encode"], row["floor_s"]["read"]) > 0


def test_limit_of_a_generator(run: Run, tiny: Path) -> None:
    (row,) = run(f"limit --model {tiny} --side 600 --batches 1 --bare 2")["rows"]
    assert min(row["generated"], row["share"], row["floor_s"]["model"], row["stages_s"]["model"]) > 0
    assert 0 < row["share_of_cpu"] < 1
    assert row["chain_s"] is None


def test_diffusion_in_memory(run: Run) -> None:
    made = run("diffusion memory --sides 300 600 --steps 2 --tile 128")
    assert [row["side"] for row in made["rows"]] == [300, 600]
    assert all(row["peak_mib"] > 0 and row["patches"] > 0 for row in made["rows"])


def test_seams_of_diffusion_in_three_ways(run: Run, here: Path) -> None:
    from sampler_models import write_sampler

    write_sampler(here / "m.onnx")
    zarr.create_array("mask.zarr", shape=(200, 220), chunks=(64, 64), dtype="uint8")[:] = blobs(200, 220)
    made = run("diffusion seams --model m.onnx --mask mask.zarr --steps 2")
    assert list(made["rows"]) == ["model stitched", "model averaged", "model moved"]
    assert all(row["seconds"] > 0 for row in made["rows"].values())


def test_scale_with_the_canvas(run: Run) -> None:
    made = run("scale canvas --sides 512 1024 --block 512")
    assert [row["side"] for row in made["rows"]] == [512, 1024]
    assert all(0 < row["peak_mib"] <= row["projected_mib"] for row in made["rows"])
    assert min(made["memory_last_to_16k"], made["time_per_pixel_last_to_16k"]) > 0


def test_scale_of_the_schedule(run: Run) -> None:
    made = run("scale schedule --counts 1 2 --blocks 2048 --rounds 1 --seconds 0.005")
    assert [row["workers"] for row in made["rows"]] == [1, 2]
    assert all(0 < row["efficiency"] <= 1 for row in made["rows"])


@pytest.mark.usefixtures("forked")
def test_scale_with_worker_processes(run: Run, tiny: Path) -> None:
    made = run(f"scale workers --model {tiny} --side 600 --block 512")
    assert [len(made["seconds"][workers]) for workers in ("1", "2")] == [1, 1]
    assert min(made["speed_up"], made["bare_speed_up"]) > 0


def test_use_of_a_device(run: Run) -> None:
    rows = run("device --side 1024 --rate 2000 --batch 4 --memory fresh kept")["rows"]
    assert [row["memory"] for row in rows] == ["fresh", "kept"]
    assert rows[0]["patches"] == rows[1]["patches"] > 0
    assert all(0 < row["useful"] < 1 and row["copies"] >= 0 and row["core_s"] > 0 for row in rows)


def test_timeline(run: Run, tiny: Path) -> None:
    made = run(f"timeline lines.svg --model {tiny} --size 300 400")
    assert made["stages_s"]["generator"] > 0
    assert Path("lines.svg").read_text().startswith("<svg ")


UNET = {"tile": 64, "alignment": 64, "levels": 6}


@pytest.mark.parametrize(
    ("preset", "model"),
    [("safron", UNET), ("safron-seamless", {"tile": 64}), ("multiscale", UNET | {"coarse": 8})],
)
def test_training(load_bench: Callable[[str], Any], preset: str, model: dict[str, int]) -> None:
    pytest.importorskip("torch")
    from safron.training.config import override

    training = load_bench("training")
    config = override(training.chosen_config(preset, "tiny", 2), {"model": model}, "test")
    trained = training.train_here(config, "cpu", 2, compiled=False)
    assert trained["parameters"] > 0
    assert min(trained["first_step_s"], trained["step_s"], trained["peak_mib"]) > 0
    made = training.time_patches(config, threads=1, calls=1)
    assert 0 < made["engine_patch_s"]["least"] <= made["engine_patch_s"]["median"] < math.inf


def test_planted_seams(run: Run) -> None:
    made = run("planted_seams --generated 1 --side 300 --tile 64 --overlap 12")
    rows = {(row["planted"], row["jpeg"]): row for row in made["results"]["generated"]}
    assert (
        rows["none", False]["found"]
        == 0
        < rows["offset 8", True]["found"]
        == rows["offset 8", True]["images"]
    )


def test_synthesis(run: Run) -> None:
    rows = run("synthesis --sides 64 --repeats 1")["rows"]
    assert [row["step"] for row in rows] == ["take a tile apart", "draw 64 x 64"]
    assert min(row["seconds"] for row in rows) > 0


def test_stains(run: Run, here: Path) -> None:
    """Where the real slides are random stains of the same picture, those cover them."""
    image = np.random.default_rng(0).integers(60, 200, (80, 80, 3), dtype=np.uint8)
    tifffile.imwrite("slide.tiff", image)
    for seed in range(8):
        changed = image.copy()
        change = stain_change(f"random:{seed}", seed=0, source=DRAWN["safron-tissue"])
        assert change is not None
        change.apply(changed, 0, 0)
        cv2.imwrite(f"a{seed}-1.png", changed[..., ::-1])
    made = run("stains cover . slide.tiff --seeds 12")
    assert (made["slides"], made["beyond the middle 80 %"]) == (8, True)
    assert made["real to nearest random, median and 80 %"][0] < 5
    assert len(run("stains real .")["REAL_MEAN"]) == 3
    assert "haematoxylin" in run("stains reference slide.tiff")["stain"]


def test_stains_of_whole_slides(load_bench: Callable[[str], Any], run: Run, here: Path) -> None:
    """A render in the stain of a slide has its colours rather than its own."""
    rng = np.random.default_rng(1)
    own = DRAWN["safron-tissue"]
    amounts = (
        rng.uniform(0, 1, (800, 800, 2)) * own.strength / (1.25, 0.825)
    )  # strength follows from the mean
    image = (np.exp(-amounts @ own.matrix[:2]) * own.white).astype(np.uint8)
    tifffile.imwrite("slide.tiff", image)
    for seed in range(12):
        cv2.imwrite(f"a{seed}-1.png", cv2.add(image[:80, :80, ::-1], (seed, 2 * seed, 0, 0)))
    colours = np.array([(247, 245, 246), (120, 70, 150), (220, 150, 190)], np.uint8)
    real = cv2.GaussianBlur(colours[rng.choice(3, (600, 800), p=(0.4, 0.3, 0.3))], (0, 0), 1.0)
    tifffile.imwrite("whole.tiff", real, tile=(256, 256), photometric="rgb")
    near = run("stains whole . slide.tiff --whole whole.tiff --seeds 12")["whole.tiff"]
    bench = load_bench("stains")
    assert near["distance"] < np.linalg.norm(np.subtract(near["slide"], bench.mean_lab(image)))
    whole = here / "whole.tiff"
    bench.picture(here, here / "slide.tiff", here / "looks.jpg", whole=[whole, whole], colours_of=[])
    looks = cv2.imread("looks.jpg")
    assert looks.shape == (5 * 200 + 2 * 12, 1200, 3)
    assert np.abs(looks[-100, :, 0].astype(int) - 255).max() > 20


def test_arithmetic(load_bench: Callable[[str], Any], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's patch takes 56.25 GFLOP; what is made patch by patch takes the same memory for any image."""
    pytest.importorskip("torch")
    bench = load_bench("arithmetic")
    assert 2 * bench.multiply_adds("safron", 256) / 1e9 == pytest.approx(56.25, rel=0.01)
    assert bench.multiply_adds("safron", 1000) == 25 * bench.multiply_adds("safron", 256)
    assert bench.training_bytes("safron", 256) == bench.training_bytes("safron", 4096)
    assert bench.rendering_bytes("safron", 256) == bench.rendering_bytes("safron", 4096)
    assert bench.rendering_bytes("pix2pix, whole image", 256) == bench.rendering_bytes("multi-scale", 256)
    whole = [bench.training_bytes("pix2pix, whole image", side) for side in (1024, 2048)]
    assert 3 < whole[1] / whole[0] < 4.1
    bench.SIDES = (256, 512)
    bench.main(["--plot", str(here / "a.svg")])
    assert "pixels a side" in capsys.readouterr().out
    assert (here / "a.svg").read_text().count("<polyline") == 12


def test_runtimes(run: Run, tiny: Path) -> None:
    pytest.importorskip("openvino")
    made = run(f"runtimes {tiny} --repeats 1 --windows")
    ways = {row["way"]: row for row in made["calls"]}
    assert {"ONNX Runtime float32", "OpenVINO float32"} <= {*ways}
    for row in ways.values():
        assert row["ms"] > 0
        assert row["mean_levels"] <= 1
        assert all(found["same_bits"] for found in row["windows"].values())


def way(ms: float) -> dict[str, float]:
    return {"ms": ms, "mean_levels": 0.3, "max_levels": 6, "cpu_s": ms, "times": 2, "peak_mib": 500}


def test_the_page_about_performance(
    load_bench: Callable[[str], Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is there is not measured again, and the page has what was measured, on any machine."""
    bench = load_bench("performance")
    page, measured = here / "performance.md", list[str]()
    committed = bench.HERE.parent / "docs" / "performance.md"
    page.write_text(committed.read_text())
    memory = {how: {"peak_mib": 300, "planned_mib": 400} for how in ("auto", "dask")}
    rows = {
        "calls: nuclei": {"OpenVINO bfloat16": way(34.2)},
        "renders: nuclei": {"OpenVINO bfloat16": way(7.7)},
    }

    def wanted(folder: Path, repeats: int) -> Any:
        for name, row in (rows | {"memory: 4096": memory}).items():
            yield name, lambda name=name, row=row: measured.append(name) or row

    monkeypatch.setattr(bench, "wanted", wanted)
    monkeypatch.setattr(bench, "cpu_type", lambda: "A CPU")
    for _ in range(2):
        monkeypatch.setattr(
            sys, "argv", ["p", *f"--rows {here}/rows.json --page {page} --folder {here}".split()]
        )
        bench.main()
    assert measured == [*rows, "memory: 4096"]
    made = page.read_text()
    assert "**A CPU**, milliseconds" in made
    assert "| `nuclei` | - | - | **34.2** | mean 0.30, largest 6 |" in made
    assert "| A CPU | `nuclei` | OpenVINO bfloat16 | 7.7 | 2.00 | 500 |" in made
    assert "| 4096 x 4096 | 300 (400) | 300 (400) |" in made
    # The page that is committed is the one that its rows give.
    bench.write_page(page, json.loads((bench.HERE / "performance.json").read_text()))
    assert page.read_text() == committed.read_text()


def test_unsupervised(run: Run, here: Path) -> None:
    pytest.importorskip("torch")
    import cv2
    from tiles import tissue

    for folder in ("images", "inst"):
        (here / "data" / folder).mkdir(parents=True)
    for name, seed in (("a", 0), ("b", 1)):
        cv2.imwrite(str(here / f"data/images/{name}.png"), tissue(90, seed=seed)[..., ::-1])
        cv2.imwrite(
            str(here / f"data/inst/{name}.png"), np.arange(90 * 90, dtype=np.uint16).reshape(90, 90) // 900
        )
    command = "unsupervised data out --size tiny --seeds 1 --held-out b --readings 2"
    scores = run(command)
    assert [*scores] == [
        f"{name}, seed 0"
        for name in ("labels", "initial pictures", "whole method", "no style", "no hard examples")
    ]
    assert all(0 <= row[what] <= 1 for row in scores.values() for what in ("dice", "aji", "pq"))
    assert (here / "out/reader.html").read_text().count("data:image/png") == 6
    assert cv2.imread(str(here / "out/initial-pictures-seed-0.png")).shape == (3 * 180, 180, 3)
    assert (here / "out/labels-seed-0.pt").exists()
    assert run(command) == scores
    beside = run(f"{command} --other data")
    assert [*beside][len(scores) :] == ["labels and refined pictures, seed 0"]
    # Of a and b, in this order, a is scored and b gives pictures.
    row = beside["labels and refined pictures, seed 0"]
    assert row["other dice"] == row["other dice of a"]
    assert "other dice of b" not in row


def test_tiles_to_score_that_are_not_there(
    load_bench: Callable[[str], Any],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    for folder in ("images", "inst"):
        (here / "data" / folder).mkdir(parents=True)
        picture = np.full((90, 90, 3) if folder == "images" else (90, 90), 200, np.uint8)
        cv2.imwrite(str(here / f"data/{folder}/a.png"), picture)
    bench = load_bench("unsupervised")
    for held, says in (
        ("b", "b: there is no such tile; there are a ..."),
        ("a", ": 1 of 1 tiles; hold some out"),
    ):
        monkeypatch.setattr(sys, "argv", ["unsupervised.py", "data", "out", "--held-out", held])
        with pytest.raises(SystemExit, match="2"):
            bench.run_study(bench.main)
        line = capsys.readouterr().err
        assert line.startswith("unsupervised.py: error: --held-out")
        assert says in line


def test_paper_of_nuclei_aware_diffusion(run: Run, here: Path) -> None:
    pytest.importorskip("torch")
    from safron.engine.evaluation.encoder import is_installed
    from safron.training.diffusion.export import export_fresh
    from safron.training.diffusion.settings import NUCLEI, DiffusionConfig
    from training_cases import tile

    if not is_installed():
        pytest.skip("needs the extra eval")
    for number in range(6):
        tile(here / "data", f"train_{number}", number, 390)
    export_fresh(DiffusionConfig(widths=(8, 8), nuclei=NUCLEI), here / "m.onnx", steps=2, tile=128)
    labels, numbers = np.ones((200, 400), np.uint8), np.zeros((200, 400), np.uint16)
    labels[50:60, 50:60], numbers[50:60, 50:60] = 2, 1
    for name, plane in (("class", labels), ("instance", numbers)):
        zarr.save_array(str(here / "other.zarr"), plane, path=f"labels/{name}/0")
    command = "paper_diffusion data out --model m.onnx --gan m.onnx --masks other=other.zarr --sampling-steps 1 --guidance 0"
    command += " --steps 2 --crop 32 --width 4 --seeds 2 --readings 2"
    scores = run(command)
    assert [*scores["distance"]] == [
        "real, other tiles", "diffusion", "diffusion, 1 steps", "GAN", "guidance 0", "other masks, diffusion",
        "other masks, GAN",
    ]  # fmt: skip
    assert [*scores["dice"]] == ["all", "epithelial", "inflammatory", "spindle", "miscellaneous"]
    written = (here / "out/tables.md").read_text().splitlines()
    rows = [line.split(" | ") for line in written if "+-" in line]
    assert [row[0] for row in rows] == [
        "| 25% real", "| 25% real, 25% synthetic", "| 25% real, 50% synthetic", "| 25% real, 75% synthetic", "| real",
        "| 75% real, 25% synthetic", "| 50% real, 50% synthetic", "| 25% real, 75% synthetic", "| synthetic", "| real", "| synthetic",
    ]  # fmt: skip
    assert len(scores["curves"]) == 2 * 8
    dice = [scores["curves"][f"25% real, seed {seed}"]["dice"] for seed in (0, 1)]
    assert rows[0][1:3] == ["2", f"{np.mean(dice):.4f} +- {np.std(dice, ddof=1):.4f}"]
    assert all(
        0 <= row[kind] <= 1 for row in scores["dice"].values() for kind in ("real", "diffusion", "GAN")
    )
    assert (here / "out/experts.html").read_text().count("data:image/png") == 3 * 2 * 2
    assert run(command) == scores


def test_multidiffusion(run: Run, here: Path) -> None:
    from sampler_models import write_sampler

    write_sampler(here / "m.onnx")
    made = run("multidiffusion --side 200 --steps 2 --model m.onnx")
    assert made["stride"] == 44
    assert all(row["cpu_s"] > 0 and row["peak_mib"] > 0 for row in made["rows"].values())
    assert [*made["rows"]] == ["safron", "multidiffusion"]


def test_comparators(run: Run, here: Path) -> None:
    pytest.importorskip("torch")
    from training_cases import pair

    (here / "data").mkdir()
    for index in range(6):
        pair(here / "data", f"case{index}", seed=index, size=(96, 96), grain=10)
    (here / "data/dataset.json").write_text('{"mpp": 1.0}')
    words = (
        "comparators data out --data-set pairs --size tiny --steps 1 --images 2 --tests 4 --segmenter-steps 2"
    )
    with pytest.raises(SystemExit, match="the same command resumes"):
        run(f"{words} --minutes 1e-9")
    made = run(f"{words} --also shipped=identity")
    assert [name.removesuffix(", seed 0") for name in made][1:] == [
        *(
            "safron",
            "safron, patch discriminator",
            "safron, no skips",
            "pix2pix",
            "multi-scale",
            "ours",
            "shipped",
        )
    ]
    assert made["real"]["agreement"] == 1
    for name, row in made.items():
        assert 0 <= row["dice"] <= 1
        assert 0 <= row["agreement"] <= 1
        assert name == "real" or row["seams"]
    assert made["safron, seed 0"]["mismatch"] > 0
    assert made["pix2pix, seed 0"]["mismatch"] is None
    assert (here / "out/sheet.png").exists()
    assert run(f"{words} --also shipped=identity") == made, "nothing is made twice"


def test_virtual_slide(run: Run) -> None:
    made = run("virtual_slide --model identity --regions 2 --threads 1")
    assert len(made["rows"]) == 2
    assert min(made["ratio"], made["again_ms"], made["level_2_s"]) > 0


def test_training_sets_are_those_of_the_papers_tables(load_bench: Callable[[str], Any]) -> None:
    pytest.importorskip("torch")
    bench = load_bench("paper_diffusion")
    for count in (4, 13):
        arms = {arm.name: arm for arm in bench.paper_arms(count)}
        assert {name for names in bench.PAPER_TABLES.values() for name in names} == arms.keys()
        for name, arm in arms.items():
            assert not {*arm.real} & {*arm.synthetic}, (
                name
            )  # a synthetic tile has a mask that no real one has
            shares = [int(part.split("%")[0]) for part in name.split(", ") if "%" in part]
            assert abs(len(arm.real) + len(arm.synthetic) - count * (sum(shares) or 100) / 100) <= 1
        base = arms["25% real"].real
        assert all(arms[f"25% real, {share}% synthetic"].real == base for share in (25, 50, 75))
    with pytest.raises(BadInput, match="3 tiles are left to train on"):
        bench.paper_arms(3)
    lines = bench.curve_tables({"real, seed 0": {"dice": 0.5, "iou": 0.25}})
    assert lines.count("| real | 1 | 0.5000 | 0.2500 |") == 2
    assert lines.count("| synthetic | 0 | - | - |") == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what is done is kept, the same command continues"),
        (BadInput("x: is none"), 2, "error: x: is none"),
        (Failed("disk full"), 1, "error: disk full"),
    ],
)
def test_what_ends_a_study_is_one_line(
    load_bench: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: BaseException, code: int, line: str,
) -> None:  # fmt: skip
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["benchmarks/study.py"])
    with pytest.raises(SystemExit) as ended:
        load_bench("results").run_study(main)
    assert (ended.value.code, capsys.readouterr().err) == (code, f"study.py: {line}\n")
