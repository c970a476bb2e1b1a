"""Does ``import safron`` give the package: its version, its type marker, its parts?"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import safron
import safron.engine
import safron.io
import safron.training


def test_version_is_that_of_the_distribution() -> None:
    assert safron.__version__ == importlib.metadata.version("safron")


def test_version_is_that_of_the_changelog() -> None:
    """A tree between two releases is not the earlier one."""
    root = Path(__file__).parents[1]
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    heading = re.search(
        r"^## (\S+)( \(unreleased\))?$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert heading is not None
    assert settings["metadata"]["version"] == heading[1] + (".dev0" if heading[2] else "")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'safron' has no attribute 'nothing'"):
        safron.nothing  # noqa: B018


@pytest.mark.parametrize("package", [safron, safron.engine, safron.io, safron.training])
def test_types_are_announced(package: ModuleType) -> None:
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_importing_does_not_look_the_version_up() -> None:
    code = "import sys; old = set(sys.modules); import safron; print('importlib.metadata' in set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


SCRIPTS = sorted(
    entry.name
    for entry in importlib.metadata.distribution("safron").entry_points
    if entry.group == "console_scripts"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_program_starts(name: str) -> None:
    """As a user starts it: most tests call its function, below what `safron.io.start` does first."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"safron {safron.__version__}\n", "")
