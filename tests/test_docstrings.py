"""Are fields described as parameters are? ``numpydoc lint`` checks parameters and returns, but not attributes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = sorted(file for top in ("engine", "io", "training") for file in (ROOT / top).rglob("*.py"))
SECTION = re.compile(r"^Attributes\n-+\n((?:.*\n?)*?)(?=^\w.*\n-{3,}$|\Z)", re.M)


def attributes(doc: str) -> list[str]:
    """Lines of the section that name attributes."""
    found = SECTION.search(doc)
    return [line for line in found[1].splitlines() if line and not line.startswith(" ")] if found else []


def test_the_section_is_found() -> None:
    doc = "Summary.\n\nAttributes\n----------\na\n    Sum.\nb : the sum\n\nRaises\n------\nValueError\n    Never.\n"
    assert attributes(doc) == ["a", "b : the sum"]


def test_attributes_stand_alone_on_their_lines() -> None:
    """Names on a line, their description below it, indented; types are in the annotations."""
    found = [
        (str(module.relative_to(ROOT)), node.name, line)
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for line in attributes(ast.get_docstring(node) or "")
    ]
    assert found
    assert [one for one in found if not re.fullmatch(r"\w+(?:, \w+)*", one[2])] == []
