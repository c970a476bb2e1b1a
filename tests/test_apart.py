"""No output takes the place of what its command reads, in any program and by any option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from programs import PROGRAMS, commands
from safron.engine import cli as render
from safron.engine import mask_cli
from safron.engine import render as render_in_python
from safron.engine.preparation.options import RenderOptions
from safron.io.apart import NEITHER, READS, WRITES, check_outputs
from safron.io.errors import BadInput
from safron.training import cli as training

ALL = [
    pair
    for name, one in [*PROGRAMS.items(), ("safron-train", training.commands)]
    for pair in commands(one, name)
]
FILLED = {"types": "neoplastic", "size": "64,64", "table": "other.csv", "sources": "real=a", "weights": "w"}


def texts(command: click.Command) -> list[click.Parameter]:
    """Parameters whose value is text or a path."""
    plain = (
        click.Choice,
        click.IntRange,
        click.FloatRange,
        type(click.INT),
        type(click.FLOAT),
        type(click.BOOL),
    )
    return [
        one for one in command.params if one.name and one.expose_value and not isinstance(one.type, plain)
    ]


def names(command: click.Command) -> set[str]:
    return {str(param.name) for param in texts(command)} - {"help"}


def test_every_option_is_declared_as_read_or_written_or_neither() -> None:
    found = set().union(*(names(command) for _, command in ALL))
    assert found == READS | WRITES | NEITHER, "declare what is new in safron.io.apart"
    assert not READS & WRITES
    assert not (READS | WRITES) & NEITHER


def test_paths_are_read_or_written() -> None:
    paths = {param.name for _, one in ALL for param in one.params if isinstance(param.type, click.Path)}
    assert paths
    assert paths <= READS | WRITES


def arguments(command: click.Command, given: dict[str, str]) -> list[str]:
    """A command line in which some parameters have a value, and others only what they must have."""
    options, places = ["--overwrite"] * any(one.name == "overwrite" for one in command.params), []
    for param in command.params:
        text = given.get(str(param.name))
        if isinstance(param, click.Argument):
            value = text or FILLED.get(str(param.name), f"{param.name}.none")
            places.append(f"real={value}" if param.name == "sources" and text else value)
        elif text or param.required:
            options += [param.opts[0], text or FILLED[str(param.name)]]
    return [*options, *places]


PAIRS = [
    (name, command, written, read)
    for name, command in ALL
    for written in sorted(names(command) & WRITES)
    for read in sorted(names(command) & READS - {"batch", "paths"})
]


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: f"{case[0]} {case[2]} {case[3]}")
@pytest.mark.parametrize("other", ["same", "link", "hard link"])
def test_an_output_that_is_an_input_is_refused(
    case: tuple[str, click.Command, str, str], other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, command, written, read = case
    monkeypatch.chdir(tmp_path)
    Path("in.json").write_text("kept")
    if other != "same":
        (os.symlink if other == "link" else os.link)("in.json", "out.json")
    given = {written: "./in.json" if other == "same" else "out.json", read: "in.json"}
    program = PROGRAMS.get(name.split()[0], training.commands)
    done = CliRunner().invoke(program, [*name.split()[1:], *arguments(command, given)])
    assert isinstance(done.exception, BadInput), done.output
    assert "itself; give another name" in str(done.exception)
    assert Path("in.json").read_text() == "kept"


@pytest.mark.parametrize("chain", ["a::b.svs", "simplecache::file://x.svs", "simplecache::memory://x/y.svs"])
def test_an_output_is_no_chain_of_addresses(
    chain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every program, and of a slide made in Python, or by a line of a list, and of scratch."""
    monkeypatch.chdir(tmp_path)
    says = f"{chain}: has '::', which chains addresses; give a name or an address without it"
    for name, command in ALL:
        program = PROGRAMS.get(name.split()[0], training.commands)
        for written in sorted(names(command) & WRITES):
            done = CliRunner().invoke(program, [*name.split()[1:], *arguments(command, {written: chain})])
            assert isinstance(done.exception, BadInput), (name, written, done.output)
            assert (
                str(done.exception).replace("//", "/").endswith(says.replace("//", "/"))
            )  # or a pathlib.Path
    np.save("mask.npy", np.ones((64, 64), np.uint8))
    Path("list.csv").write_text(f"mask,out\nmask.npy,{chain}\n")
    for words in (["mask.npy", "x.svs", "--scratch", chain], ["--slides", "list.csv"]):
        done = CliRunner().invoke(render.command, [*words, "--model", "identity"])
        assert chain in f"{done.exception}{done.output}"
        assert "has '::'" in f"{done.exception}{done.output}"
    with pytest.raises(BadInput, match="has '::'"):
        render_in_python("mask.npy", chain, model="identity")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv", "mask.npy"]


def test_the_data_set_of_tiles_holds_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    Path("set/slide.tiff").write_text("kept")
    Path("list.csv").write_text("mask,out\nmask.zarr,set/slide.tiff\n")
    for args in (["set/slide.tiff", "mask.zarr", "set"], ["set", "--slides", "list.csv"]):
        Path("set/manifest.json").write_text("{}")
        done = CliRunner().invoke(PROGRAMS["safron-tiles"], [*args, "--overwrite"])
        assert isinstance(done.exception, BadInput)
        assert Path("set/slide.tiff").read_text() == "kept"
    with pytest.raises(BadInput, match="set: would be replaced, and holds the slide set"):
        check_outputs([("slide", "set/slide.tiff")], [("", "set")], replaced=True)
    check_outputs([("slide", "set/slide.tiff")], [("", "set")], replaced=False)


def test_a_mask_is_not_replaced_by_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("mask.png", np.ones((40, 64), np.uint8))
    done = CliRunner().invoke(
        mask_cli.commands, ["to-png", "mask.png", "mask.png", "--downsample", "8", "--overwrite"]
    )
    assert str(done.exception) == "mask.png: is the mask itself; give another name"
    assert cv2.imread("mask.png").shape == (40, 64, 3)


def test_a_card_is_not_replaced_by_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("g.onnx").write_text("")
    Path("g.json").write_text("kept")
    args = ["mask.zarr", "out.tiff", "--model", "g.onnx", "--report", "g.json", "--overwrite"]
    done = CliRunner().invoke(render.command, args)
    assert str(done.exception) == "--report g.json: is the card of --model itself; give another name"


@pytest.mark.parametrize(
    "field", [item for item in sorted(READS - {"batch"}) if hasattr(RenderOptions(), item)]
)
def test_render_in_python_replaces_nothing_that_it_reads(field: str, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((64, 64), np.uint8))
    read = tmp_path / "in.tiff"
    read.write_text("kept")
    given: dict[str, Any] = {"model": "identity", field: str(read)}
    with pytest.raises(BadInput, match="itself"):
        render_in_python(tmp_path / "mask.npy", read, overwrite=True, **given)
    assert read.read_text() == "kept"


def test_a_line_of_a_list_does_not_replace_what_another_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.tiff").write_text("kept")
    Path("list.csv").write_text("mask,out,stain\nm.zarr,b.tiff,\nm.zarr,c.tiff,b.tiff\n")
    done = CliRunner().invoke(render.command, ["--slides", "list.csv", "--overwrite"])
    assert str(done.exception) == "line 2: b.tiff: is the --stain of line 3; give another name"
    assert Path("b.tiff").read_text() == "kept"
    # The same, of an option for all lines.
    Path("list.csv").write_text("mask,out\nm.zarr,c.tiff\nm.zarr,b.tiff\n")
    done = CliRunner().invoke(render.command, ["--slides", "list.csv", "--overwrite", "--stain", "b.tiff"])
    assert str(done.exception) == "line 3: b.tiff: is the --stain of all lines; give another name"
    assert Path("b.tiff").read_text() == "kept"
