"""Slides, masks and annotations: arrays, slices and files, never patches.

The names below are loaded on first use, so that ``safron-mask --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import BadInput, Failed, SafronError
    from .labels import LabelMask, open_mask
    from .pyramid import Pyramid, halve
    from .slides import SlideSpec, SlideWriter, encode_region
    from .validate import validate_slide

_HOMES = {
    "BadInput": "errors",
    "Failed": "errors",
    "LabelMask": "labels",
    "Pyramid": "pyramid",
    "SafronError": "errors",
    "SlideSpec": "slides",
    "SlideWriter": "slides",
    "encode_region": "slides",
    "halve": "pyramid",
    "open_mask": "labels",
    "validate_slide": "validate",
}

__all__ = [
    "BadInput",
    "Failed",
    "LabelMask",
    "Pyramid",
    "SafronError",
    "SlideSpec",
    "SlideWriter",
    "encode_region",
    "halve",
    "open_mask",
    "validate_slide",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
