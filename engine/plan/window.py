"""Which pixels? Half-open rectangles on the canvas.

Coordinates are canvas (level 0) pixels, ``y`` before ``x``, as NumPy slices them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Window:
    """A half-open rectangle ``[y, y + height) x [x, x + width)`` of canvas pixels.

    It may reach beyond the canvas; `clip` cuts it. A window with no pixels has height or width 0.

    Examples
    --------
    >>> Window(0, 236, 256, 256).expand(20)
    Window(y=-20, x=216, height=296, width=296)
    >>> Window(0, 236, 256, 256).clip(Window(0, 0, 300, 300))
    Window(y=0, x=236, height=256, width=64)
    """

    y: int
    x: int
    height: int
    width: int

    def __post_init__(self) -> None:
        assert self.height >= 0, self
        assert self.width >= 0, self

    @classmethod
    def from_bounds(cls, y0: int, x0: int, y1: int, x1: int) -> Window:
        """Make a window from its corners; an inverted range gives an empty window."""
        return cls(y0, x0, max(0, y1 - y0), max(0, x1 - x0))

    @property
    def y_stop(self) -> int:
        """First row below the window."""
        return self.y + self.height

    @property
    def x_stop(self) -> int:
        """First column right of the window."""
        return self.x + self.width

    @property
    def empty(self) -> bool:
        """Whether the window holds no pixel."""
        return self.height == 0 or self.width == 0

    def expand(self, margin: int) -> Window:
        """Grow by `margin` pixels on every side."""
        return Window(self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin)

    def clip(self, other: Window) -> Window:
        """Return the part inside `other`."""
        return Window.from_bounds(
            max(self.y, other.y),
            max(self.x, other.x),
            min(self.y_stop, other.y_stop),
            min(self.x_stop, other.x_stop),
        )

    def shift(self, dy: int, dx: int) -> Window:
        """Move by (dy, dx) pixels."""
        return Window(self.y + dy, self.x + dx, self.height, self.width)

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """Return NumPy slices of this window in an array whose first pixel is the origin's corner."""
        oy, ox = (0, 0) if origin is None else (origin.y, origin.x)
        return slice(self.y - oy, self.y_stop - oy), slice(self.x - ox, self.x_stop - ox)
