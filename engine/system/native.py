"""Was the C extension compiled on installation?"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def _load() -> Any:
    try:
        return import_module("safron.engine.system._native")
    except ImportError:
        return None


compiled = _load()
"""The C extension; None if there was no C compiler on installation."""
