"""Does ``import safron`` give the package: its version, its type marker, its parts?"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import subprocess
import sys
from types import ModuleType

import pytest
import safron
import safron.engine
import safron.io
import safron.training


def test_version_is_that_of_the_distribution() -> None:
    assert safron.__version__ == importlib.metadata.version("safron")


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
