"""Lists of slides: one that fails does not stop the others, and the same command goes on with a list."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cases import ExpectFail, check_fail, contents, render_cli, run_cli, write_mask
from safron.engine import render
from safron.engine.execution import cluster_start as cluster
from safron.engine.generator.model import IdentityModel
from safron.engine.scratch.arrays import Scratch
from safron.io.errors import BadInput
from tifffile import imwrite

OPTIONS = (
    "--model identity --tile 64 --block 128 --tiff-tile 64 --level-count 2 --mpp 0.5 --device cpu --threads 1 "
    "--workers 1 --batch 1 "
)


@pytest.fixture
def here(here: Path) -> Path:
    """A folder with two masks, to work in."""
    for seed, name in enumerate("ab"):
        write_mask(f"{name}.zarr", 150, 200, seed=seed, chunk=64)
    return here


def write_list(text: str) -> str:
    Path("list.csv").write_text(text, encoding="utf-8")
    return f"{OPTIONS} --slides list.csv "


def test_each_line_is_a_slide_with_its_own_options(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = write_list(
        'mask, out, mpp, region, preview, align\na.zarr, a.svs, 0.25, , a.png, \nb.zarr, b.ome.tif, , "0,0,99,77", , yes\n'
    )
    outcome = run_cli(capfd, args + "--report r.json")
    assert (outcome.code, outcome.err) == (0, "")
    first, second = outcome.out.splitlines()
    assert first.startswith("1/2 a.svs: done, 200 x 150 px, ")
    assert second.startswith("2/2 b.ome.tif: done, 100 x 78 px, ")
    report = json.loads(Path("r.json").read_text())
    assert (report["done"], report["exists"], report["failed"]) == (2, 0, 0)
    assert [slide["line"] for slide in report["slides"]] == [2, 3]
    made = [slide["report"] for slide in report["slides"]]
    assert [slide["mpp"] for slide in made] == [0.25, 0.5]
    alone = render_cli(capfd, f"a.zarr alone.svs {OPTIONS} --mpp 0.25")
    assert made[0]["digest"] == alone["digest"]
    assert Path("a.png").exists()


def test_a_line_that_fails_does_not_stop_the_others(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = write_list(
        "mask,out,seed\nnone.zarr,1.svs,\na.zarr,2.svs,x\na.zarr,3.svs,\nb.zarr,3.svs,\n,5.svs,\nb.zarr,6.jpg,\n"
    )
    outcome = run_cli(capfd, args + "--report r.json")
    assert outcome.code == 1
    assert outcome.out.startswith("3/6 3.svs: done")
    lines = outcome.err.splitlines()
    for line, says in zip(
        lines,
        (
            "1/6 1.svs: mask none.zarr: there is no such file or folder",
            "2/6 2.svs: Invalid value for '--seed': 'x' is not a valid integer",
            "4/6 3.svs: 3.svs: line 4 has the same OUT; give another name",
            "5/6 5.svs: mask and out must be given",
            "6/6 6.jpg: 6.jpg: a slide's name must end in",
            "--slides list.csv: 5 of 6 slides failed; the same command tries them again",
        ),
        strict=True,
    ):
        assert line.startswith(f"safron-render: error: {says}")
    states = [slide["state"] for slide in json.loads(Path("r.json").read_text())["slides"]]
    assert states == ["failed", "failed", "done", "failed", "failed", "failed"]


def test_messages_are_for_those_who_type_commands(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A caller of `render` reads them in other words."""
    Path("there.svs").touch()
    Path("p.png").write_bytes(b"mine")
    for args, says in (
        (f"{OPTIONS} a.zarr there.svs", "exists already; pass --overwrite to replace it"),
        (f"{OPTIONS} a.zarr new.svs --workers 0", "--workers 0: must be a whole number, at least 1"),
        (f"{OPTIONS} a.zarr new.svs --patch-timeout 0", "must be a finite number above 0"),
        ("mask,out,preview\na.zarr,l.svs,p.png\n", "exists already; pass --overwrite to replace it"),
        ("mask,out,batch\na.zarr,l.svs,0\n", "must be a whole number, at least 1"),
    ):
        args = write_list(args) if "," in args else args
        first = run_cli(capfd, args).err.splitlines()[0]
        assert first.endswith(says), first
    with pytest.raises(BadInput, match=r"at least 1, or None$"):
        render("a.zarr", "new.svs", workers=0)
    with pytest.raises(BadInput, match=r"pass overwrite=True to replace it$"):
        render("a.zarr", "there.svs", model="identity")


def test_the_same_command_goes_on_with_a_list(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = write_list("mask,out\na.zarr,a.svs\nb.zarr,b.svs\n")
    paint, made = IdentityModel.__call__, []

    def stop(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
        made.append(1)
        if len(made) == 30:  # in the second slide
            raise KeyboardInterrupt
        return paint(self, labels, noise)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(IdentityModel, "__call__", stop)
        outcome = run_cli(capfd, args + "--report r.json")
    assert outcome.code == 130
    assert [slide["state"] for slide in json.loads(Path("r.json").read_text())["slides"]] == ["done"]
    outcome = run_cli(capfd, args + "--report s.json")
    assert outcome.code == 0
    assert outcome.out.startswith("1/2 a.svs: already exists, skipped\n2/2 b.svs: done")
    report = json.loads(Path("s.json").read_text())["slides"][1]["report"]
    assert report["resumed"] > 0
    assert report["digest"] == render_cli(capfd, f"b.zarr alone.svs {OPTIONS}")["digest"]


@pytest.mark.parametrize("ending", ["svs", "ome.tif"])
def test_a_slide_of_other_inputs_is_refused(
    ending: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a single render does: a list that was changed must not look as if it had been rendered."""
    header, name = "mask,out,seed,region,stain,overlap,model,block\n", f"a.{ending}"
    args = write_list(f'{header}a.zarr,{name},0,"0,0,90,70",,,,\n')
    assert run_cli(capfd, args).code == 0
    before = contents(Path())
    assert run_cli(capfd, args).out == f"1/1 {name}: already exists, skipped\n"
    head = f"safron-render: error: 1/1 {name}: {name}: exists already, made with "
    for line, says in (
        ('77,"0,0,90,70",,,,', "--seed 0 and not 77"),
        ('0,"8,0,90,70",,,,', "--region 0,0,90,70 and not 8,0,90,70"),
        ('0,"0,0,90,70",pink,,,', "--stain reference and not pink"),
        ('5,"0,0,90,70",,9,,', "--seed 0 and not 5, --overlap 20 and not 9"),
        ("0,,,,,", "--region 0,0,90,70 and not 0,0,200,150, size 90 x 70 px and not 200 x 150"),
        ('0,"0,0,90,70",,,safron-tissue,256', "--model identity ("),
    ):
        outcome = run_cli(capfd, write_list(f"{header}a.zarr,{name},{line}\n") + "--quiet")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(head + says)
        assert "give another name, or pass --overwrite to replace it" in outcome.err.splitlines()[0]
        write_list(f'{header}a.zarr,{name},0,"0,0,90,70",,,,\n')
    other = run_cli(capfd, args.replace("--mpp 0.5", "--mpp 0.25"))
    assert (other.code, "made with --mpp 0.5 and not 0.25; give" in other.err) == (1, True)
    assert contents(Path()) == before
    copy = write_list(f'{header}copy.zarr,{name},0,"0,0,90,70",,,,\n')
    shutil.copytree("a.zarr", "copy.zarr")
    assert run_cli(capfd, copy).out == f"1/1 {name}: already exists, skipped\n"
    labels = zarr.open_array("copy.zarr", mode="r+")
    labels[149, 199] = 1 - labels[149, 199]
    outcome = run_cli(capfd, copy + "--quiet")
    assert (
        outcome.code,
        "exists already, made with other content or colours of the mask; give" in outcome.err,
    ) == (
        1,
        True,
    )


def test_what_is_no_slide_of_ours_is_not_skipped(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.svs").write_bytes(b"")
    imwrite("b.svs", np.zeros((64, 64, 3), np.uint8))
    outcome = run_cli(capfd, write_list("mask,out\na.zarr,a.svs\nb.zarr,b.svs\n"))
    assert (outcome.code, outcome.out) == (1, "")
    first, second, _ = outcome.err.splitlines()
    assert "a.svs: exists already and cannot be read as a slide" in first
    assert "b.svs: exists already and was not made by safron-render" in second


@pytest.mark.parametrize("left", ["a.svs.safron", "a.svs.safron/boundary/pixels", "a.svs.safron.lock"])
def test_what_a_finished_slide_left_behind_does_not_make_it_unfinished(
    left: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = write_list("mask,out\na.zarr,a.svs\n")
    assert run_cli(capfd, args).code == 0
    Path(left).mkdir(parents=True)
    outcome = run_cli(capfd, args)
    assert (outcome.code, outcome.out, outcome.err) == (0, "1/1 a.svs: already exists, skipped\n", "")


def test_a_slide_whose_run_was_killed_while_it_cleaned_up_is_cleaned_up(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = write_list("mask,out\na.zarr,a.svs\n")

    def killed(self: Scratch) -> None:
        if Path("a.svs").exists():
            (self.path / "zarr.json").unlink()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Scratch, "remove", killed)
        assert run_cli(capfd, args).code == 130
    assert Path("a.svs.safron/finished.json").exists()
    outcome = run_cli(capfd, args)
    assert (outcome.code, outcome.out.split(",")[0]) == (0, "1/1 a.svs: done")
    assert not Path("a.svs.safron").exists()


@pytest.mark.usefixtures("forked")
def test_all_slides_share_one_set_of_workers(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = cluster.start_processes
    monkeypatch.setattr(
        cluster, "start_processes", lambda *args, **more: started.append(1) or start(*args, **more)
    )
    args = write_list("mask,out\na.zarr,a.svs\nnone.zarr,n.svs\nb.zarr,b.svs\n")
    outcome = run_cli(capfd, args + "--executor processes --workers 2 --report r.json")
    assert outcome.code == 1
    assert started == [1]
    slides = json.loads(Path("r.json").read_text())["slides"]
    for name, slide in (("a", slides[0]), ("b", slides[2])):
        assert slide["report"]["digest"] == render_cli(capfd, f"{name}.zarr x{name}.svs {OPTIONS}")["digest"]


def test_batch_with_a_file_is_a_list(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = write_list("mask,out\na.zarr,a.svs\n").replace("--slides", "--batch")
    assert run_cli(capfd, args).out.startswith("1/1 a.svs: done")


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_lists_of_spreadsheets_are_read(
    separator: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where numbers have a decimal comma, Excel separates cells by semicolons; pasted cells have tabs."""
    rows = ("mask", "out", "region"), ("a.zarr", "a.svs", '"0,0,99,77"')
    args = write_list("\r\n".join(separator.join(row) for row in rows))
    assert run_cli(capfd, args).out.startswith("1/1 a.svs: done, 99 x 77 px")


REFUSED = [
    ("mask,out\n", "", "--slides list.csv: lists no slide; add a line for each below the header"),
    ("mask,slide\n", "", "--slides list.csv: its first line must name the columns, mask and out among them"),
    ("", "", "--slides list.csv: its first line must name the columns"),
    (
        "mask,out,colour\n",
        "",
        "--slides list.csv: unknown column 'colour'; use the name of a safron-render option",
    ),
    ("mask,out,workers\n", "", "--slides list.csv: workers is the same for all slides; give it as --workers"),
    ("mask,out,mask\n", "", "--slides list.csv: two columns are called 'mask'"),
    ("mask,out\na.zarr\n", "", "--slides list.csv, line 2: must have as many cells"),
    ("mask,out\na.zarr,b,c\n", "", "--slides list.csv, line 2: must have as many cells"),
    ("mask,out\n", "a.zarr", "--slides: leave out MASK and OUT"),
    ("mask,out\n", "--dry-run", "--slides: --dry-run needs MASK and OUT"),
    ("mask,out\n", "--status a.svs", "--slides and --status: give only one"),
    ("mask,out\n", "--batch other.csv", "--batch and --slides: both name a list"),
    ("mask,out\n", "--slides none.csv", "--slides none.csv: No such file or directory; check the path"),
    ("mask,out\n", "--report no/r.json", "--report no/r.json: folder "),
    ("mask,out\n", "--report list.csv --overwrite", "--report list.csv: is the --slides itself"),
    ("mask,out\n", "--report theirs.json", "--report theirs.json: exists already; pass --overwrite"),
    ("mask,out\n", "--batch many", "'many' is neither a whole number nor a .csv file"),
]


@pytest.mark.parametrize(("text", "more", "says"), REFUSED, ids=[row[2] for row in REFUSED])
def test_lists_that_are_refused(
    text: str, more: str, says: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = write_list(text)
    Path("theirs.json").write_text('{"seeds": 3}')
    before = contents(here)
    check_fail(run_cli(capfd, args + more), ExpectFail("", "", (says,)))
    assert contents(here) == before
