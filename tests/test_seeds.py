"""One command renders a slide for each seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zarr
from masks import blobs
from safron.engine import render
from safron.engine.cli import main

pytestmark = pytest.mark.usefixtures("here")


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, args), "--model", "identity", "--workers", "1", "--mpp", "1"])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_slide_for_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array("m.zarr", blobs(300, 400))
    names = "m.zarr", "s-{seed}.svs", "--preview", "s-{seed}.png", "--stain", "random", "--report", "r.json"
    assert run(*names, "--seeds", "1-2,7") == 0
    assert "3/3 s-7.svs: done" in capsys.readouterr().out
    assert sorted(path.name for path in Path().glob("s-*")) == [
        f"s-{seed}.{ending}" for seed in (1, 2, 7) for ending in ("png", "svs")
    ]
    slides = json.loads(Path("r.json").read_text())["slides"]
    assert [slide["report"]["options"]["seed"] for slide in slides] == [1, 2, 7]
    alone = render("m.zarr", "x.svs", model="identity", workers=1, mpp=1.0, stain="random", seed=7)
    assert slides[2]["report"]["digest"] == alone.digest != slides[0]["report"]["digest"]
    assert run(*names, "--seeds", "1-2,7") == 0
    assert "already exists, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["m.zarr", "s.svs", "--seeds", "1-3"], "put {seed} into its name"),
        (
            ["m.zarr", "s{seed}.svs", "--preview", "p.png", "--seeds", "1-3"],
            "--preview p.png would be written",
        ),
        (["m.zarr", "s{seed}.svs", "--seeds", "3-1"], "must be whole numbers"),
        (["m.zarr", "s{seed}.svs", "--seeds", "a"], "must be whole numbers"),
        (["m.zarr", "s{seed}.svs", "--seeds", "1-999999999"], "at most 100000"),
        (["m.zarr", "s{seed}.svs", "--seeds", "1", "--dry-run"], "leave out --dry-run"),
        (["m.zarr", "s{seed}.svs", "--seeds", "1,1"], "has the same OUT"),
    ],
)
def test_what_cannot_be_is_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array("m.zarr", blobs(60, 60))
    assert run(*args) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_name_for_seeds_needs_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array("m.zarr", blobs(60, 60))
    assert run("m.zarr", "s-{seed}.svs") == 2
    assert "{seed} stands for the seeds of --seeds" in capsys.readouterr().err
