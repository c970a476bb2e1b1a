"""What was compiled on installation?"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def _load() -> Any:
    try:
        return import_module("safron.engine.system._native")
    except ImportError:
        return None


compiled = _load()
"""The module that `_native.c` was compiled to; None where no C compiler was at hand."""
