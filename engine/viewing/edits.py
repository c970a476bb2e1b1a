"""Which pixels does a stroke of the brush paint, and how does a mask look with all of them?

A stroke is drawn once, as bits of its bounding box, and from then on only cut and put over the labels that are read. So a
pixel has one label, whatever the region in which it is read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, counted
from safron.io.masks.drawing import edges_of, inside
from safron.io.masks.mask import Beside, LabelMask

UInt8 = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]

MOST_PIXELS = 1 << 26
"""Of the bounding box of a stroke: 8192 x 8192."""
MOST_BYTES = 256 << 20
"""Of all strokes, as bits."""
MOST_POINTS = 5_000
MOST_WORK = 1 << 29
"""Of the boxes of all pieces of a line."""


class Stroke(Struct, forbid_unknown_fields=True, frozen=True):
    """What a user painted.

    Attributes
    ----------
    tool
        "brush" paints along a line, "polygon" inside one; "eraser" brings back the given labels along a line. Pixels are painted
        whose centre is inside, or within half the width.
    label
        0..255; of no meaning for the eraser.
    width
        Of the line, in pixels of the mask.
    points
        (x, y) in pixels of the mask; pixel 0 reaches from 0 to 1.
    """

    tool: str
    label: int
    width: float
    points: list[tuple[float, float]]

    def __post_init__(self) -> None:
        if self.tool not in ("brush", "polygon", "eraser"):
            raise ValueError(f"tool {self.tool!r} must be brush, polygon or eraser")
        if not 0 <= self.label <= 255:
            raise ValueError(f"label {self.label} must be 0 to 255")
        if not 1 <= self.width <= 4096:
            raise ValueError(f"width {self.width:g} must be 1 to 4096 pixels")
        least = 3 if self.tool == "polygon" else 1
        if not least <= len(self.points) <= MOST_POINTS:
            raise ValueError(
                f"{counted(len(self.points), 'point')}: a {self.tool} has {least} to {MOST_POINTS}"
            )
        if not all(abs(value) < 1 << 31 for point in self.points for value in point):
            raise ValueError("points must lie near the mask")


@dataclass(frozen=True)
class _Drawn:
    """A stroke as bits.

    Attributes
    ----------
    window
        Pixels that it may paint.
    bits
        uint8 [window.height, ceil(window.width / 8)], see `numpy.packbits`.
    label
        None brings back what was given.
    """

    window: Window
    bits: UInt8
    label: int | None


def _draw(stroke: Stroke, canvas: Window) -> _Drawn:
    """Draw a stroke.

    Raises
    ------
    BadInput
        It lies beside the mask, or is too large.
    """
    points = np.array(stroke.points)
    reach = 1 if stroke.tool == "polygon" else int(stroke.width / 2) + 2
    (x0, y0), (x1, y1) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    box = Window.from_bounds(int(y0), int(x0), int(y1), int(x1)).expand(reach)
    window = box.clip(canvas)
    if window.empty:
        raise BadInput("the stroke lies beside the mask")
    if box.height * box.width > MOST_PIXELS:
        raise BadInput(
            f"the stroke covers {box.width} x {box.height} px; at most {MOST_PIXELS >> 20} megapixels can be changed at once: zoom in"
        )
    if stroke.tool == "polygon":
        edges = edges_of([points])
        image = (
            inside(edges, box.y, box.y_stop, box.x, box.x_stop)
            if len(edges)
            else np.zeros((box.height, box.width), bool)
        )
    else:
        image = _along(points, stroke.width / 2, box)
    label = None if stroke.tool == "eraser" else stroke.label
    return _Drawn(window, np.packbits(image[window.slices(box)], axis=1), label)


def _along(points: npt.NDArray[np.float64], radius: float, box: Window) -> npt.NDArray[np.bool_]:
    """Find the pixels of a window whose centre is within a radius of a line: bool [h, w].

    Parameters
    ----------
    points
        float64 [n, 2], x and y.
    """
    image = np.zeros((box.height, box.width), bool)
    work = 0
    for start, end in zip(
        points[: max(1, len(points) - 1)], points[1:] if len(points) > 1 else points, strict=True
    ):
        (x0, y0), (x1, y1) = np.minimum(start, end) - radius, np.maximum(start, end) + radius
        near = Window.from_bounds(int(y0), int(x0), int(y1) + 1, int(x1) + 1).clip(box)
        work += near.height * near.width
        if work > MOST_WORK:
            raise BadInput("the stroke is too long for its width: lift the brush now and then")
        if near.empty:
            continue
        x = np.arange(near.x, near.x_stop)[None, :] + 0.5 - start[0]
        y = np.arange(near.y, near.y_stop)[:, None] + 0.5 - start[1]
        dx, dy = end - start
        share = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        image[near.slices(box)] |= (x - share * dx) ** 2 + (y - share * dy) ** 2 <= radius * radius
    return image


class EditableMask(LabelMask):
    """A mask with strokes over its labels; the mask itself is never changed.

    Parameters
    ----------
    mask
        The mask.
    """

    def __init__(self, mask: LabelMask) -> None:
        super().__init__(mask.plane, mask.source, beside=mask.planes_beside)
        self.given = mask
        if (numbers := self.beside.get("instances")) is not None:
            self.beside["instances"] = _UneditedNumbers(self, numbers)
        self._strokes: list[_Drawn] = []
        self._guard = threading.Lock()

    def __getitem__(self, region: tuple[slice, slice]) -> UInt8:
        """Labels of a region with all strokes: uint8 [y, x]; see `LabelMask`."""
        labels = super().__getitem__(region)
        strokes = self._strokes
        if not strokes or not labels.size:
            return labels
        (top, left), given = (part.start or 0 for part in region), labels
        area = Window(top, left, *labels.shape)
        for stroke in strokes:
            part = stroke.window.clip(area)
            if part.empty:
                continue
            if labels is given:
                labels = given.copy()
            rows, columns = part.slices(stroke.window)
            bits = np.unpackbits(stroke.bits[rows], axis=1)[:, columns].view(np.bool_)
            here = part.slices(area)
            labels[here][bits] = given[here][bits] if stroke.label is None else stroke.label
        return labels

    @property
    def strokes(self) -> int:
        """Number of strokes."""
        return len(self._strokes)

    def paint(self, stroke: Stroke | None) -> tuple[Window, Counts] | None:
        """Put a stroke over the labels, or take the last one back.

        Parameters
        ----------
        stroke
            None takes back.

        Returns
        -------
        tuple[Window, Counts] | None
            The pixels that may have changed, and how many more pixels each label has, int64 [256]; None where there was nothing
            to take back.

        Raises
        ------
        BadInput
            The stroke lies beside the mask, or is too large, or there are too many.
        """
        with self._guard:
            if stroke is None:
                if not self._strokes:
                    return None
                window, strokes = self._strokes[-1].window, self._strokes[:-1]
            else:
                drawn = _draw(stroke, Window(0, 0, *self.shape))
                if sum(one.bits.nbytes for one in self._strokes) + drawn.bits.nbytes > MOST_BYTES:
                    raise BadInput("there is no room for more strokes: save the mask, and open the saved one")
                window, strokes = drawn.window, [*self._strokes, drawn]
            before = self._counted(window)
            self._strokes = strokes
            return window, self._counted(window) - before

    def _counted(self, window: Window) -> Counts:
        return np.bincount(self[window.slices()].reshape(-1), minlength=256)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a mask that is being edited belongs to this process")


class _UneditedNumbers(Beside):
    """Numbers of nuclei where strokes left the label as it was, else 0: what was painted over is no longer that nucleus."""

    def __init__(self, mask: EditableMask, numbers: Beside) -> None:
        super().__init__(numbers.plane, "instances", mask.source, mask.shape)
        self._mask = mask

    def __getitem__(self, region: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Numbers of a region: [y, x]; see `LabelMask`."""
        numbers = super().__getitem__(region)
        if not self._mask.strokes:
            return numbers
        return np.where(self._mask[region] == self._mask.given[region], numbers, numbers.dtype.type(0))
