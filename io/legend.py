"""What do the values of a mask mean, and which colour stands for each?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .fields import RGB, Byte, Line


@dataclass(frozen=True)
class Label:
    """One value of a mask.

    Attributes
    ----------
    value
        0..255 in the mask.
    name
        Tissue component.
    color
        RGB that stands for it in colour-coded masks.
    fill
        RGB of background: windows that hold only such labels are filled with it and never sent to the
        generator.
    """

    value: Byte
    name: Line
    color: RGB
    fill: RGB | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are given, as attributes of a mask and cards have them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


DEFAULT_LABELS = (
    Label(0, "background", (0, 0, 255)),
    Label(1, "stroma", (255, 0, 0)),
    Label(2, "gland", (0, 255, 0)),
)
"""The colours are those of the SAFRON paper's masks."""
