"""The tiled rendering engine: a mask and a patch generator in, a pyramidal slide out.

The names below are loaded on first use, so that ``safron-render --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safron.engine.generator.card import Card, Label
    from safron.engine.generator.model import IdentityModel, PatchModel, load_model
    from safron.engine.generator.onnx_model import OnnxModel
    from safron.engine.preparation.options import RenderOptions
    from safron.engine.virtual.slide import VirtualSlide

    from .rendering import render
    from .report import RenderReport

_HOMES = {
    "Card": "generator.card",
    "IdentityModel": "generator.model",
    "Label": "generator.card",
    "OnnxModel": "generator.onnx_model",
    "PatchModel": "generator.model",
    "RenderOptions": "preparation.options",
    "RenderReport": "report",
    "VirtualSlide": "virtual.slide",
    "load_model": "generator.model",
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
    "VirtualSlide",
    "load_model",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
