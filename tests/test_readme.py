"""Does what the README and the documents say hold?

Python blocks run, commands have the options that they are shown with, and links lead somewhere.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
PROGRAMS = tuple(
    f"safron-{name}"
    for name in ["augment", "eval", "generator", "mask", "optimize", "render", "tiles", "train", "view"]
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> list[str]:
    """Bodies of the fenced blocks in one of `languages`."""
    text = page.read_text(encoding="utf-8")
    return [
        body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if kind in languages
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """Commands of the page's shell blocks, split into words."""
    for block in blocks(page, "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


@functools.cache
def help_of(*command: str) -> str:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True, check=True)
    return done.stdout


@each_page
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, in order, in one namespace, in a folder of their own."""
    found = blocks(page, "python")
    if any("import torch" in block or "import onnx\n" in block for block in found):
        pytest.importorskip("torch")
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


@each_page
def test_options_in_commands_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] not in PROGRAMS:
            continue
        command = (words[0],)
        if "\nCommands:" in help_of(words[0]) and not words[1].startswith("-"):
            command = (words[0], words[1])
        known = set(re.findall(r"--[a-z][a-z-]*", help_of(*command)))
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{shlex.join(words)}: no such option"


@each_page
def test_make_targets_and_extras_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    extras = set(importlib.metadata.metadata("safron").get_all("Provides-Extra") or ())
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, shlex.join(words)
        if words[:2] == ["pip", "install"]:
            wanted = {
                name for group in re.findall(r"\[([\w,]+)\]", shlex.join(words)) for name in group.split(",")
            }
            assert wanted <= extras, shlex.join(words)


@each_page
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "doi:")):
            assert (page.parent / target).exists(), target


@each_page
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """`engine/x.py`, and `test_x.py::test_name...`, `test_name`, where the dots stand for the rest of a name."""
    words = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    for name in words:
        if re.fullmatch(r"(?:engine|io|training|tests|benchmarks|examples|docs)/[\w/.-]+\.\w+", name):
            assert (ROOT / name).exists(), name
    module = ""
    for name in words:
        if not (named := re.fullmatch(r"(?:(test_\w+\.py)(?:::)?)?(test_\w+)?(?:\.\.\.|\[\w+\])?", name)):
            continue
        module = named[1] or module
        if module and named[2]:
            source = (ROOT / "tests" / module).read_text(encoding="utf-8")
            assert re.search(rf"^def {named[2]}{'' if name.endswith('...') else '[(]'}", source, re.M), name
        elif named[1]:
            assert (ROOT / "tests" / module).exists(), name


def subcommands() -> Iterator[tuple[str, ...]]:
    for program in PROGRAMS:
        _, group, listed = help_of(program).partition("\nCommands:\n")
        yield from (
            ((program, name) for name in re.findall(r"^  ([a-z-]+)  ", listed, re.M))
            if group
            else [(program,)]
        )


@pytest.mark.parametrize("command", list(subcommands()), ids=" ".join)
def test_every_option_is_on_the_page_of_the_command_line(command: tuple[str, ...]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = re.search(rf"^<!-- options: {' '.join(command)} -->\n(.*?)^<!-- end -->", page, re.M | re.S)
    assert table, f"docs/cli.md has no table for {' '.join(command)}"
    # An option stands at the start of its line; some are named in the texts of others.
    shown = set(re.findall(r"^  (?:-\w, )?(--[a-z][a-z-]*)", help_of(*command), re.M)) - {"--help"}
    listed = set(re.findall(r"^\| `(--[a-z][a-z-]*)", table[1], re.M))
    assert listed == shown


def test_the_drawings_are_those_of_the_script() -> None:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, draw in script.PICTURES.items():
        drawn = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
        assert drawn == draw(), (
            f"run: python docs/draw_architecture.py ({name} is older than the table of rooms)"
        )


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_commands_of_the_readme_are_there() -> None:
    shown = {words[0] for words in commands(ROOT / "README.md")}
    assert {"make", "safron-render", "safron-train"} <= shown
    assert blocks(ROOT / "README.md", "python")
