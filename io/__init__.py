"""Slides, masks and annotations: arrays, slices and files, never patches.

The names below are loaded on first use, so that ``safron-mask --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safron.io.masks.mask import LabelMask
    from safron.io.masks.open import open_mask
    from safron.io.slides.codecs import encode_region
    from safron.io.slides.pyramid import Pyramid, halve
    from safron.io.slides.spec import SlideSpec
    from safron.io.slides.validate import validate_slide
    from safron.io.slides.writer import SlideWriter

    from .errors import BadInput, Failed, SafronError

_HOMES = {
    "BadInput": "errors",
    "Failed": "errors",
    "LabelMask": "masks.mask",
    "Pyramid": "slides.pyramid",
    "SafronError": "errors",
    "SlideSpec": "slides.spec",
    "SlideWriter": "slides.writer",
    "encode_region": "slides.codecs",
    "halve": "slides.pyramid",
    "open_mask": "masks.open",
    "validate_slide": "slides.validate",
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
