"""The command line: what it refuses and how, what it prints, and what it leaves behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_models
import onnxruntime
import pytest
import tifffile
import zarr
from cases import Expect, ExpectFail, check_fail, contents, render_cli, run_cli
from disks import protected, read_only_folder, small_disk
from onnx_models import write_onnx
from safron import programs
from safron.engine.generator import warm_up
from safron.engine.generator.onnx_model import OnnxModel
from safron.io import progress

pytest.importorskip("onnx")

HEIGHT, WIDTH, CHUNK = 150, 130, 64
# Later options win, so a case may give its own.
CARD = onnx_models.CARD | {"mpp": 0.5}
USUAL = "--workers 1 --threads 1 --batch 1 --device cpu --model tiny.onnx --tiff-tile 64 --block 64 "


def write_mask(path: Path, labels: np.ndarray[Any, Any], **attributes: Any) -> Path:
    chunks = (*(1,) * (labels.ndim - 2), CHUNK, CHUNK)
    array = zarr.create_array(
        path, shape=labels.shape, chunks=chunks, dtype=labels.dtype, attributes={"mpp": 0.5} | attributes
    )
    if labels.size:
        array[:] = labels
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of masks, models and things in the way, named for what is wrong with them."""
    root = tmp_path_factory.mktemp("prepared")
    labels = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), np.uint8)
    write_mask(root / "mask.zarr", labels)
    write_mask(root / "three.zarr", np.stack([labels, labels]))
    write_mask(root / "float.zarr", labels.astype(np.float32))
    write_mask(root / "empty.zarr", np.zeros((0, 10), np.uint8))
    for name, kind, value in (("negative", "i2", -1), ("over", "u2", 300), ("unknown", "u1", 7)):
        wrong = labels.astype(kind)
        wrong[75, 3] = 2 if kind != "u1" else 9
        wrong[70, 100] = value
        write_mask(root / f"{name}.zarr", wrong)
    for name in ("truncated", "garbled", "codec"):
        shutil.copytree(root / "mask.zarr", root / f"{name}.zarr")
    chunk = (root / "truncated.zarr" / "c" / "1" / "0").read_bytes()
    (root / "truncated.zarr" / "c" / "1" / "0").write_bytes(chunk[: len(chunk) // 2])
    (root / "garbled.zarr" / "c" / "1" / "0").write_bytes(bytes(range(256)) * 4)
    metadata = json.loads((root / "codec.zarr" / "zarr.json").read_text())
    metadata["codecs"][-1]["name"] = "nosuch"
    (root / "codec.zarr" / "zarr.json").write_text(json.dumps(metadata))
    tifffile.imwrite(root / "mask.tif", labels, tile=(64, 64))
    cv2.imwrite(str(root / "colours.png"), np.full((40, 40, 3), 9, np.uint8))
    (root / "text.txt").write_text("no mask")
    (root / "folder.tiff").mkdir()
    (root / "dangling.tiff").symlink_to("elsewhere.tiff")
    (root / "exists.tiff").write_text("a slide that took a week")
    (root / "exists.png").write_text("a picture")
    (root / "list.csv").write_text("mask,out\nmask.tif,a.tiff\nmask.zarr,b.tiff\n")
    (root / "link").symlink_to("mask.zarr")
    shutil.copyfile(root / "mask.tif", root / "other.tif.part")
    shutil.copytree(root / "mask.zarr", root / "a.tiff.safron" / "mask.zarr")
    (root / "foreign.tiff.safron").mkdir()
    (root / "foreign.tiff.safron" / "thesis.txt").write_text("mine")
    (root / "download.tiff.part").write_text("half a download of something else")
    write_models(root)
    return root


def write_models(root: Path) -> None:
    write_onnx(root / "tiny.onnx", card=CARD)
    write_onnx(root / "nocard.onnx")
    write_onnx(root / "name.onnx", card=CARD, label_name="mask")
    write_onnx(root / "type.onnx", card=CARD, label_type="FLOAT")
    write_onnx(root / "output.onnx", card=CARD, image_name="picture")
    write_onnx(root / "side.onnx", card=CARD | {"tile": 64}, side=296)
    write_onnx(root / "count.onnx", card=CARD, count=1)
    write_onnx(root / "shape.onnx", card=CARD, crop=2)
    write_onnx(root / "crash.onnx", card=CARD, reshape_to=(1, 64, 64))
    write_onnx(root / "nan.onnx", card=CARD, nan_on=0)
    write_onnx(root / "nan2.onnx", card=CARD, nan_on=2)
    (root / "not.onnx").write_text("not ONNX")


@pytest.fixture
def here(prepared: Path, here: Path) -> Path:
    """A copy of the prepared folder, to work in."""
    shutil.copytree(prepared, here, symlinks=True, dirs_exist_ok=True)
    return here


@pytest.fixture(scope="module")
def one_copy(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for tests that must leave all of it as it was."""
    return Path(shutil.copytree(prepared, tmp_path_factory.mktemp("one") / "copy", symlinks=True))


@pytest.fixture
def untouched(one_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That copy, to work in."""
    monkeypatch.chdir(one_copy)
    return one_copy


REFUSED = [
    # The mask.
    ExpectFail(
        "missing mask", "nosuch.zarr out.tiff", ("mask nosuch.zarr: there is no such file or folder",)
    ),
    ExpectFail("no Zarr", "folder.tiff out.tiff", ("mask folder.tiff: this folder is not a Zarr",)),
    ExpectFail("no image", "text.txt out.tiff", ("mask text.txt: cannot read it as an image",)),
    ExpectFail("3-D", "three.zarr out.tiff", ("mask three.zarr: its shape is 2 x 150 x 130",)),
    ExpectFail("float labels", "float.zarr out.tiff", ("mask float.zarr: it holds float32",)),
    ExpectFail(
        "empty mask",
        "empty.zarr out.tiff",
        ("mask empty.zarr: it is empty (0 x 10 pixels); it needs a pixel at least",),
    ),
    ExpectFail("negative label", "negative.zarr out.tiff", ("value -1 at row 70, column 100", "0 to 255")),
    ExpectFail("label over 255", "over.zarr out.tiff", ("value 300 at row 70, column 100",)),
    ExpectFail(
        "unknown label",
        "unknown.zarr out.tiff",
        ("label 7 at x=100, y=70", "'tiny'", "0 background, 1 stroma, 2 gland"),
    ),
    ExpectFail("truncated chunk", "truncated.zarr out.tiff", ("cannot read chunk c/1/0",), code=1),
    ExpectFail("garbled chunk", "garbled.zarr out.tiff", ("cannot read chunk c/1/0",), code=1),
    ExpectFail("unknown codec", "codec.zarr out.tiff", ("mask codec.zarr", "nosuch")),
    # The generator.
    ExpectFail("missing model", "mask.zarr out.tiff --model no.onnx", ("--model no.onnx: no such file",)),
    ExpectFail("not ONNX", "mask.zarr out.tiff --model not.onnx", ("not.onnx: not an ONNX file",)),
    ExpectFail(
        "no card", "mask.zarr out.tiff --model nocard.onnx", ("nocard.onnx: no generator card in it",)
    ),
    ExpectFail(
        "input's name", "mask.zarr out.tiff --model name.onnx", ("input 'labels' must be tensor(uint8)",)
    ),
    ExpectFail("input's type", "mask.zarr out.tiff --model type.onnx", ("found tensor(float)",)),
    ExpectFail("no output", "mask.zarr out.tiff --model output.onnx", ("output 'image' is missing",)),
    ExpectFail("side against card", "mask.zarr out.tiff --model side.onnx", ("296 px wide", "tile 64")),
    ExpectFail(
        "wrong shape", "mask.zarr out.tiff --model shape.onnx", ("the contract wants (1, 64, 64, 3)",)
    ),
    ExpectFail("not a number", "mask.zarr out.tiff --model nan.onnx", ("returned values nan..nan",)),
    ExpectFail(
        "device", "mask.zarr out.tiff --device gpu", ("--device gpu: must be auto, cpu, cuda or cuda:N",)
    ),
    ExpectFail(
        "device of none", "mask.zarr out.tiff --model identity --device tpu", ("--device tpu: must be",)
    ),
    ExpectFail("crash", "mask.zarr out.tiff --model crash.onnx", ("'tiny' failed on (1, 72, 72)", "Reshape")),
    # Geometry.
    ExpectFail("tile", "mask.zarr out.tiff --tile 100", ("--tile 100", "multiples of 16; try --tile 64")),
    ExpectFail("tile of 0", "mask.zarr out.tiff --tile 0", ("--tile 0: must be 1 to 32768 pixels",)),
    ExpectFail("overlap", "mask.zarr out.tiff --overlap 64", ("--overlap 64: ", "smaller than --tile 64")),
    ExpectFail("negative overlap", "mask.zarr out.tiff --overlap -1", ("--overlap -1: must be at least 0",)),
    ExpectFail(
        "overlap too deep",
        "mask.zarr out.tiff --overlap 63 --taper linear",
        ("--overlap 63: ", "lower the overlap"),
    ),
    ExpectFail("block", "mask.zarr out.tiff --block 100", ("--block 100: ", "--tiff-tile 64", "try 64")),
    ExpectFail("small block", "mask.zarr out.tiff --tile 256 --block 64", ("--block 64: ", "try 256")),
    *(
        ExpectFail(
            f"TIFF tile of {side}",
            f"mask.zarr out.tiff --tiff-tile {side}",
            (f"error: --tiff-tile {side}: must be a multiple of 16, 16 to 8192",),
        )
        for side in (0, 17, 100, -16, 16384)
    ),
    ExpectFail("region", "mask.zarr out.tiff --region 0,0,131,1", ("--region 0,0,131,1: ", "130 x 150 px")),
    ExpectFail("no region", "mask.zarr out.tiff --region 5,5,0,9", ("--region 5,5,0,9: must be",)),
    ExpectFail("levels", "mask.zarr out.tiff --level-count 0", ("0",)),
    ExpectFail("too many levels", "mask.zarr out.tiff --level-count 99", ("99",)),
    # Numbers.
    ExpectFail(
        "workers", "mask.zarr out.tiff --workers 0", ("--workers 0: must be a whole number, at least 1",)
    ),
    ExpectFail(
        "threads", "mask.zarr out.tiff --threads -1", ("--threads -1: must be a whole number, at least 0",)
    ),
    ExpectFail(
        "no batch", "mask.zarr out.tiff --batch 0", ("--batch 0: must be a whole number, at least 1",)
    ),
    ExpectFail(
        "quality", "mask.zarr out.tiff --quality 101", ("--quality 101: must be a whole number, 1 to 100",)
    ),
    ExpectFail("mpp of 0", "mask.zarr out.tiff --mpp 0", ("mpp 0.0: ", "0.001 to 10000")),
    ExpectFail("mpp", "mask.zarr out.tiff --mpp nan", ("mpp nan: ", "0.001 to 10000")),
    ExpectFail("tolerance", "colours.png out.tiff --palette-tolerance 256", ("tolerance 256", "0 to 255")),
    ExpectFail("colour", "colours.png out.tiff --mpp 0.5", ("colour (9, 9, 9) at row 0, column 0",)),
    ExpectFail(
        "memory", "mask.zarr out.tiff --memory 10MB", ("projected peak memory is", "--memory allows 10 MiB")
    ),
    ExpectFail(
        "memory, before it is taken",
        "mask.zarr out.tiff --model identity --tile 32768 --block 32768 --tiff-tile 16",
        ("projected peak memory is", "--memory allows 4096 MiB"),
    ),
    # Where to write.
    ExpectFail("dangling link", "mask.zarr dangling.tiff", ("dangling.tiff: exists already",)),
    ExpectFail("exists", "mask.zarr exists.tiff", ("exists.tiff: exists already; pass --overwrite",)),
    ExpectFail(
        "no folder", "mask.zarr no/out.tiff", ("no/out.tiff: folder ", "does not exist; make it first")
    ),
    ExpectFail("a folder", "mask.zarr folder.tiff", ("folder.tiff: is a folder; give the name of a file",)),
    ExpectFail("a folder, overwrite", "mask.zarr folder.tiff --overwrite", ("folder.tiff: is a folder",)),
    ExpectFail("extension", "mask.zarr out.jpg", ("out.jpg: ", ".svs, .tif, .tiff, .ome.tif or .ome.tiff")),
    ExpectFail("no extension", "mask.zarr out", ("out: a slide's name must end in",)),
    ExpectFail("OUT is MASK", "mask.tif mask.tif --overwrite", ("mask.tif: is the mask itself",)),
    *(
        ExpectFail(
            f"{name} in MASK",
            f"mask.zarr {args} --overwrite",
            ("mask.zarr", "lies in the mask mask.zarr; choose another folder"),
        )
        for name, args in (
            ("OUT", "mask.zarr/c/out.tiff"),
            ("preview", "out.tiff --preview mask.zarr/p.png"),
            ("report", "out.tiff --report mask.zarr/zarr.json"),
            ("report by a link", "out.tiff --report link/zarr.json"),
            ("scratch", "out.tiff --scratch mask.zarr"),
        )
    ),
    ExpectFail(
        "a list's report in MASK",
        "--slides list.csv --report mask.zarr/zarr.json --overwrite",
        ("--report mask.zarr/zarr.json: lies in the mask mask.zarr; choose another folder",),
    ),
    ExpectFail(
        "part is MASK", "other.tif.part other.tif --overwrite", ("other.tif.part: is the mask itself",)
    ),
    ExpectFail("report is MASK", "mask.tif out.tiff --report mask.tif --overwrite", ("is the mask itself",)),
    ExpectFail(
        "MASK in scratch",
        "a.tiff.safron/mask.zarr a.tiff",
        ("a.tiff.safron/mask.zarr: lies in ", "the scratch of a.tiff; move it away"),
    ),
    *(
        ExpectFail(f"{over} bytes too long", f"mask.zarr {name} {more}", (f"shorten it by {over} bytes",))
        for name, more, over in (
            (f"{'n' * 239}.tiff", "", 1),
            (f"{'n' * 249}.tiff", "", 11),
            (f"{'n' * 300}.tiff", "", 62),
            (f"{'n' * 236}.tiff", "--scratch .", 2),
            ("out.tiff", f"--preview {'n' * 245}", 3),
            ("out.tiff", f"--report {'n' * 300}", 58),
        )
    ),
    ExpectFail("long path", f"mask.zarr {'x/' * 2200}out.tiff", ("File name too long; choose another path",)),
    ExpectFail(
        "preview exists", "mask.zarr out.tiff --preview exists.png", ("--preview exists.png: exists already",)
    ),
    ExpectFail(
        "preview's ending",
        "mask.zarr out.tiff --preview g.jpg",
        ("--preview g.jpg: a preview is a PNG", "use g.png"),
    ),
    ExpectFail("preview's folder", "mask.zarr out.tiff --preview no/p.png", ("--preview no/p.png: folder ",)),
    ExpectFail(
        "preview is OUT",
        "mask.zarr out.tiff --preview out.tiff",
        ("--preview out.tiff: OUT has the same name",),
    ),
    ExpectFail("report's folder", "mask.zarr out.tiff --report no/r.json", ("--report no/r.json: folder ",)),
    ExpectFail(
        "report is a folder",
        "mask.zarr out.tiff --report folder.tiff",
        ("--report folder.tiff: must end in .json",),
    ),
    ExpectFail(
        "report's ending",
        "mask.zarr out.tiff --report exists.png --overwrite",
        ("--report exists.png: must end in .json; give another name",),
    ),
    ExpectFail(
        "a huge tile",
        "mask.zarr out.tiff --model identity --tile 99999999",
        ("--tile 99999999: must be 1 to 32768 pixels",),
    ),
    ExpectFail(
        "a seed that is too long",
        f"mask.zarr out.tiff --seed {1 << 64}",
        ("--seed 18446744073709551616: must be a whole number of 64 bits",),
    ),
    ExpectFail(
        "a tolerance beyond a byte",
        "mask.zarr out.tiff --palette-tolerance 999",
        ("999: must be a whole number, 0 to 255",),
    ),
    ExpectFail(
        "report is preview",
        "mask.zarr out.tiff --preview r --report r",
        ("--report r: --preview has the same name",),
    ),
    ExpectFail("scratch", "mask.zarr out.tiff --scratch no", ("--scratch ", "no such folder; make it first")),
    ExpectFail(
        "foreign scratch",
        "mask.zarr foreign.tiff",
        ("foreign.tiff.safron: exists and is not a scratch folder of SAFRON",),
    ),
    ExpectFail(
        "foreign part",
        "mask.zarr download.tiff",
        ("download.tiff.part: exists and is not an unfinished slide",),
    ),
    # Usage.
    ExpectFail("no arguments", "", ("Missing argument 'MASK'", "--help")),
    ExpectFail("no OUT", "mask.zarr", ("Missing argument 'OUT'",)),
    ExpectFail("too many", "mask.zarr out.tiff more.tiff", ("unexpected extra argument (more.tiff)",)),
    ExpectFail("unknown option", "mask.zarr out.tiff --colour", ("No such option", "--colour")),
    ExpectFail("no number", "mask.zarr out.tiff --tile big", ("--tile", "'big' is not a valid integer")),
    ExpectFail("no choice", "mask.zarr out.tiff --taper round", ("--taper", "'flat', 'linear', 'cosine'")),
    ExpectFail(
        "region's form", "mask.zarr out.tiff --region 1,2,3", ("--region", "four whole numbers X,Y,W,H")
    ),
    ExpectFail(
        "size's form", "mask.zarr out.tiff --memory lots", ("--memory", "'lots' is not a size", "4GiB")
    ),
    ExpectFail(
        "levels' form", "mask.zarr out.tiff --level-count ²", ("--level-count", "auto or a whole number")
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_refused_in_one_line_and_nothing_changed(
    case: ExpectFail, untouched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(untouched)
    check_fail(run_cli(capfd, USUAL + case.args), case)
    assert contents(untouched) == before


PATHS = {
    "missing mask",
    "no folder",
    "exists",
    "preview exists",
    "report's folder",
    "scratch",
    "foreign scratch",
    "foreign part",
}


@pytest.mark.parametrize("case", [case for case in REFUSED if case.what in PATHS], ids=lambda case: case.what)
def test_wrong_paths_are_found_before_the_generator_loads(
    case: ExpectFail, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("a large generator takes seconds to load")

    monkeypatch.setattr("safron.engine.preparation.prepare.load_model", load)
    check_fail(run_cli(capfd, USUAL + case.args), case)


def test_all_kinds_of_paths_are_tested() -> None:
    assert {case.what for case in REFUSED} >= PATHS


def test_an_unknown_label_is_found_before_a_patch_runs(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = OnnxModel.__call__
    monkeypatch.setattr(OnnxModel, "__call__", lambda *args: calls.append(1) or run(*args))
    assert run_cli(capfd, USUAL + "unknown.zarr out.tiff").code == 2
    assert len(calls) == 2, "the warm-up, of one patch twice"


@pytest.mark.parametrize(
    "case",
    [
        ExpectFail("mask", "unknown.zarr out.tiff --workers 2", ("label 7 at x=100, y=70",)),
        ExpectFail("chunk", "truncated.zarr out.tiff --workers 2", ("cannot read chunk c/1/0",), code=1),
        ExpectFail("model", "mask.zarr out.tiff --workers 2 --model nan2.onnx", ("values nan..nan",), code=1),
    ],
    ids=lambda case: case.what,
)
def test_errors_of_worker_threads_are_one_line_too(
    case: ExpectFail, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        warm_up, "_run_twice", lambda *_: ((0.0, 0.0), None)
    )  # it would find the generator's fault
    check_fail(run_cli(capfd, USUAL + case.args), case)
    assert not Path("out.tiff").exists()


def test_what_exists_survives_a_render_that_fails(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        warm_up, "_run_twice", lambda *_: ((0.0, 0.0), None)
    )  # it would find the generator's fault
    before = contents(here)
    failing = USUAL + "mask.zarr exists.tiff --overwrite --preview exists.png --model nan2.onnx"
    check_fail(run_cli(capfd, failing), ExpectFail("", "", ("returned values nan..nan",), code=1))
    after = contents(here)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {
        "exists.tiff.part",
        "exists.tiff.safron",
    }


def test_a_read_only_folder_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with read_only_folder(here / "locked"):
        for args in ("locked/out.tiff", "out.tiff --preview locked/p.png", "out.tiff --report locked/r.json"):
            case = ExpectFail("", args, ("locked cannot be written to; choose another",))
            check_fail(run_cli(capfd, f"{USUAL} mask.zarr {args}"), case)
        scratch = ExpectFail(
            "", "out.tiff --scratch locked", ("locked: cannot be written to; choose another",)
        )
        check_fail(run_cli(capfd, f"{USUAL} mask.zarr {scratch.args}"), scratch)


def test_a_file_that_may_not_be_written_to_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("r.json", "out.tiff"):
        with protected(here / name):
            args = f"{USUAL} mask.zarr out.tiff --report r.json --overwrite --dry-run"
            check_fail(
                run_cli(capfd, args), ExpectFail("", "", (f"{name}: cannot be written to; give another",))
            )


def test_a_plan_larger_than_the_free_disk_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(here / "disk", "size=64k"):
        case = ExpectFail("", "", ("disk: about", "MiB are needed, 0 MiB are free; free space"))
        check_fail(run_cli(capfd, USUAL + "mask.zarr disk/out.tiff --compression none"), case)
        check_fail(run_cli(capfd, USUAL + "mask.zarr out.tiff --scratch disk --block 64"), case)
        assert not list((here / "disk").iterdir())


def test_a_report_that_cannot_be_written_costs_no_slide(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(here / "disk", "size=4k"):
        Path("disk/full").write_bytes(bytes(4096))
        outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff --report disk/r.json")
    assert outcome.code == 1
    assert outcome.error.startswith("safron-render: error: --report disk/r.json: No space left")
    assert run_cli(capfd, "--validate out.tiff").code == 0


def test_debug_shows_where_and_keeps_the_exit_code(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_cli(capfd, USUAL + "three.zarr out.tiff --debug")
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("safron-render: error: mask three.zarr")


def test_faults_of_ours_are_one_line_too(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("safron.engine.preparation.prepare.prepare", broken)
    case = ExpectFail("", "", ("ZeroDivisionError: first line (--debug shows the traceback)",), code=1)
    check_fail(run_cli(capfd, USUAL + "mask.zarr out.tiff"), case)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_an_extension_is_imported(
    by: signal.Signals, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*args: Any, **options: Any) -> None:
        try:
            signal.raise_signal(by)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("safron.engine.preparation.prepare.open_mask", broken_off)
    outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.error.startswith("safron-render: interrupted")
    monkeypatch.undo()
    check_fail(run_cli(capfd, "no.zarr out.tiff"), ExpectFail("", "", ("there is no such file",)))


def test_interrupted_while_planning(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "safron.engine.preparation.prepare.open_mask",
        lambda *args, **options: signal.raise_signal(signal.SIGTERM),
    )
    outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.error.startswith("safron-render: interrupted")


# What works


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    case = Expect(
        "mask.zarr out.tiff --dry-run --batch 3",
        (
            "canvas   130 x 150 px of a mask of 130 x 150 px, 0.5 um/px",
            "patches  9 of 64 px, overlap 20 flat, context 4: 9 to generate, 0 to fill as background",
            "blocks   9 (3 x 3) of 64 px, 1 at a time",
            "slide    svs, jpeg, 3 levels, tiles of 64 px, about 0.0 MB",
            "memory   at most ",
            "MiB of 4096 MiB allowed: ",
            " boundary sums + ",
            "scratch  at most ",
            f"MB in {here / 'out.tiff.safron'}",
            f"model    tiny on cpu, ONNX Runtime {onnxruntime.__version__} in float32, batch size 3",
        ),
    )
    outcome = run_cli(capfd, USUAL + case.args)
    assert (outcome.code, outcome.err) == (0, "")
    for text in case.says:
        assert text in outcome.out
    assert contents(here) == before


@pytest.mark.parametrize(
    ("more", "blocks", "scratch"),
    [
        ("--executor processes --workers 3", ", 3 at a time", ""),
        ("--cluster jobs.yaml", ", 20 at a time", ""),
        ("--scheduler tcp://127.0.0.1:9", ", as many at a time as", " MB more for each block in flight"),
    ],
)
def test_a_dry_run_says_how_many_blocks_others_work_on(
    more: str, blocks: str, scratch: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("jobs.yaml").write_text("{kind: slurm, workers: 5, cores: 2, memory: 4GB, gpus: 1}")
    usual = USUAL.replace("--workers 1", "")
    # This process may be large by now, and what workers will take is planned from it.
    outcome = run_cli(capfd, f"{usual} mask.zarr out.tiff {more} --dry-run --memory 64GiB")
    assert outcome.code == 0, outcome.err
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert blocks in lines["blocks"]
    assert scratch in lines["scratch"]


def test_a_dry_run_over_the_budget_shows_the_plan_and_fails(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(here / "disk", "size=64k"):
        outcome = run_cli(capfd, USUAL + "mask.zarr disk/out.tiff --compression none --dry-run")
    assert outcome.code == 2
    assert outcome.out.startswith("canvas ")
    assert "are needed" in outcome.error


@pytest.mark.parametrize("more", ["", "--dry-run"])
def test_quiet_prints_nothing(here: Path, capfd: pytest.CaptureFixture[str], more: str) -> None:
    outcome = run_cli(capfd, f"{USUAL} mask.zarr out.tiff --quiet {more}")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert Path("out.tiff").exists() == (not more)


def test_a_generator_of_one_patch_a_call_takes_any_batch(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    digests = {
        render_cli(capfd, f"{USUAL} mask.zarr {batch}.tiff --model count.onnx --batch {batch}")["digest"]
        for batch in (1, 2)
    }
    assert len(digests) == 1


def test_scratch_may_be_the_address_of_a_folder(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "fast").mkdir()
    digests = {
        render_cli(capfd, USUAL + f"mask.zarr {name}.tiff --scratch {scratch}")["digest"]
        for name, scratch in (("a", "fast"), ("b", f"file://{here}/fast"))
    }
    assert len(digests) == 1
    assert not list((here / "fast").iterdir())


def test_the_report_adds_up(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = render_cli(capfd, USUAL + "mask.zarr out.tiff --seed 3 --scratch .")
    assert (report["width"], report["height"], report["mpp"]) == (WIDTH, HEIGHT, 0.5)
    assert report["generated"] + report["filled"] == report["patches"] == 9
    assert (report["run"], report["painted"]) == (report["generated"], report["filled"]), "names before 0.2"
    assert (report["blocks"], report["resumed"]) == (9, 0)
    assert report["output_bytes"] == Path("out.tiff").stat().st_size
    assert report["options"]["seed"] == 3
    assert re.fullmatch("[0-9a-f]{64}", report["digest"])
    assert report["seconds"] > 0
    assert {"safron", "python", "onnxruntime"} <= report["versions"].keys()


def test_the_summary_is_what_a_person_wants_to_know(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff --report r.json")
    digest = json.loads(Path("r.json").read_text())["digest"]
    assert (outcome.code, outcome.err) == (0, "")
    for text in ("out.tiff: 130 x 150 px", "9 generated, 0 filled", "9 blocks", f"digest   {digest}"):
        assert text in outcome.out


@pytest.mark.parametrize("name", ["out.svs", "out.TIFF", "out.ome.tif"])
def test_preview_shows_the_slide(here: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    args = f"mask.zarr {name} --compression deflate --preview p.png"
    assert run_cli(capfd, USUAL + args).code == 0
    preview = cv2.imread("p.png")[:, :, ::-1]
    np.testing.assert_array_equal(preview, tifffile.imread(name, level=0))
    assert run_cli(capfd, "--validate", name).code == 0


def test_overwrite_replaces_all_three(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text("old")
    args = "mask.zarr exists.tiff --overwrite --preview exists.png --report r.json"
    assert run_cli(capfd, USUAL + args).code == 0
    assert json.loads(Path("r.json").read_text())["out"] == "exists.tiff"
    assert cv2.imread("exists.png").shape == (HEIGHT, WIDTH, 3)
    assert run_cli(capfd, "--validate exists.tiff").code == 0


def test_validate(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli(capfd, USUAL + "mask.zarr out.tiff").code == 0
    good = run_cli(capfd, "--validate out.tiff")
    assert (good.code, good.out, good.err) == (0, "out.tiff: valid\n", "")
    whole = Path("out.tiff").read_bytes()
    Path("cut.tiff").write_bytes(whole[: len(whole) // 2])
    cut = run_cli(capfd, "--validate cut.tiff")
    assert (cut.code, cut.err) == (1, "")
    assert cut.out.startswith("cut.tiff: ")
    missing = ExpectFail("", "", ("none.tiff",))
    check_fail(run_cli(capfd, "--validate none.tiff"), missing)


def test_plain_progress_lines_where_there_is_no_terminal(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff")
    lines = outcome.err.splitlines()
    assert len(lines) == 9
    for done, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"{done}/9 patches, [\d.]+ patches/s, [\d.]+ Mpx/s, \d+ s left", line)


def test_a_bar_on_a_terminal(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    outcome = run_cli(capfd, USUAL + "mask.zarr out.tiff")
    assert outcome.code == 0
    assert "/9 patches" in outcome.err
    assert "patches/s" in outcome.err


# Help


def test_help_has_examples_and_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    short, long = run_cli(capfd, "-h"), run_cli(capfd, "--help")
    assert (long.code, long.err) == (0, "")
    assert short.out == long.out
    assert "\n    safron-render mask.zarr slide.tiff --tile 256 --overlap 20\n" in long.out
    assert "0 done, 1 failed, 2 bad input or usage, 130 interrupted" in " ".join(long.out.split())


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(flag: str) -> None:
    code = (
        "import sys\n"
        "from safron.engine.cli import main\n"
        f"try: main(['{flag}'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'numpy', 'onnxruntime', 'zarr', 'dask', 'cv2', 'rich', 'pyvips'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if flag == "--version":
        assert re.fullmatch(r"safron \d+\.\d+\S*\n", done.stdout)


def test_no_program_loads_anything_heavy_for_its_help() -> None:
    modules = [entry.args[1] for entry in vars(programs).values() if isinstance(entry, partial)]
    code = (
        f"import sys; from importlib import import_module; [import_module(name) for name in {modules}]\n"
        "heavy = {'numpy', 'onnxruntime', 'zarr', 'dask', 'cv2', 'rich', 'pyvips', 'scipy', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(modules) == 8


def test_an_svs_slide_without_a_pixel_size_is_warned_of(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("plain.png", np.zeros((64, 64), np.uint8))
    (line,) = run_cli(capfd, "plain.png out.svs --model identity --dry-run").err.splitlines()
    assert line.startswith("safron-render: warning: the slide has no pixel size")
    assert line.endswith("pass --mpp")
    for args in ("out.svs --mpp 0.5", "out.ome.tiff", "out.tif --flavor generic"):
        assert run_cli(capfd, f"plain.png {args} --model identity --dry-run").err == ""


def test_a_stride_off_the_generators_alignment_is_warned_of(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_cli(capfd, "mask.zarr out.tiff --model safron-seamless --overlap 21 --dry-run")
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert line.startswith("safron-render: warning: --overlap 21: patches lie 235 px apart")
    assert line.endswith("try --overlap 24")
    assert run_cli(capfd, "mask.zarr out.tiff --model safron-seamless --dry-run").err == ""


@pytest.mark.parametrize(
    ("alignment", "tile", "advice"),
    [
        (
            96,
            {"multiple_of": 16, "default": 64},
            "no overlap of tiles of 64 helps; give a larger --tile, or correct alignment on its card",
        ),
        (10**30, 64, "no overlap of tiles of 64 helps; correct alignment on its card"),
        (50, 64, "try --overlap 14"),
        (16, 64, "try --overlap 32"),
    ],
)
def test_advice_on_the_overlap_can_be_followed(
    alignment: int, tile: Any, advice: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_onnx(here / "m.onnx", card=CARD | {"alignment": alignment, "tile": tile, "mpp": 0.5})
    args = "mask.zarr out.tiff --model m.onnx --mpp 0.5 --device cpu --dry-run"
    outcome = run_cli(capfd, args)
    (line,) = [line for line in outcome.err.splitlines() if "--overlap" in line]
    assert (outcome.code, line.partition("expect faint seams; ")[2]) == (0, advice)
    if advice.startswith("try"):
        assert "faint seams" not in run_cli(capfd, f"{args} {advice.removeprefix('try ')}").err
