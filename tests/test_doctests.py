"""Do the examples in the docstrings say what is so?

Modules are found by import name: pytest's own ``--doctest-modules`` derives names from folders, and would take
the folder ``io`` for the standard library's module.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
import safron.engine
import safron.io
import safron.training

OPTIONAL = {"torch", "onnx", "scipy"}  # the extra "train"


def module_names() -> Iterator[str]:
    for package in (safron.engine, safron.io, safron.training):
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield module.name


@pytest.mark.parametrize("name", list(module_names()))
def test_examples_in_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"{name} needs {error.name}, which comes with the extra 'train'")
        raise
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = sum(
        len(test.examples)
        for name in module_names()
        if not name.startswith("safron.training")
        for test in finder.find(importlib.import_module(name))
    )
    assert found > 10
