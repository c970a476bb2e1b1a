"""The tiled rendering engine: a mask and a patch generator in, a pyramidal slide out.

The names below are loaded on first use, so that ``safron-render --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import Card, Label
    from .model import IdentityModel, OnnxModel, PatchModel, load_model
    from .options import RenderOptions
    from .rendering import render
    from .report import RenderReport

_HOMES = {
    "Card": "card",
    "IdentityModel": "model",
    "Label": "card",
    "OnnxModel": "model",
    "PatchModel": "model",
    "RenderOptions": "options",
    "RenderReport": "report",
    "load_model": "model",
    "render": "rendering",
}

__all__ = [
    "Card",
    "IdentityModel",
    "Label",
    "OnnxModel",
    "PatchModel",
    "RenderOptions",
    "RenderReport",
    "load_model",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
