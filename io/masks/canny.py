"""Where are the edges of a picture? Canny's method, the same for a picture as a whole and in parts.

A pixel is a candidate where the gradient of the smoothed picture is largest along its direction; that looks at a few pixels
around it. Candidates above `high` are edges, and so are those above `low` that hang together with one: that may lead across
the whole picture. So parts are looked at by themselves, and what touches between them is joined afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Canny:
    """Settings; the paper gives none.

    Attributes
    ----------
    sigma
        Of the Gaussian that smooths, in pixels.
    low, high
        Thresholds of the gradient: of an edge between greys a and b, |a - b| / (sigma * 2.5) or so.
    """

    sigma: float = 1.4
    low: float = 6.0
    high: float = 14.0

    @property
    def margin(self) -> int:
        """Pixels around a window on which candidates depend."""
        return self.smooth_radius + 2

    @property
    def smooth_radius(self) -> int:
        """Pixels on which the smoothed picture depends."""
        return int(np.ceil(4 * self.sigma))


def canny(image: UInt8, settings: Canny) -> UInt8:
    """Find the edges of an RGB picture [y, x, 3]: uint8 [y, x], 1 on edges."""
    padded = np.pad(image, ((settings.margin,) * 2, (settings.margin,) * 2, (0, 0)), mode="edge")
    strength = candidates(padded, settings)
    count, parts = cv2.connectedComponents((strength > 0).astype(np.uint8), connectivity=8)
    strong = np.zeros(count, bool)
    strong[np.unique(parts[strength == 2])] = True
    strong[0] = False
    return np.asarray(strong[parts], bool).view(np.uint8)


def candidates(image: UInt8, settings: Canny) -> UInt8:
    """Find the candidates of a window.

    Parameters
    ----------
    image
        uint8 [y + 2m, x + 2m, 3], RGB: the window and `Canny.margin` pixels around it.
    settings
        Thresholds and smoothing.

    Returns
    -------
    UInt8
        uint8 [y, x]: 2 above the high threshold, 1 above the low one, 0 elsewhere.
    """
    margin, radius = settings.margin, settings.smooth_radius
    # Whole numbers of 1/16 grey level: sums of floats would depend on where the window begins.
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).astype(np.int64)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / settings.sigma) ** 2)
    taps = np.rint(kernel / kernel.sum() * 256).astype(np.int64)
    taps[radius] += 256 - taps.sum()
    smooth = _filter(_filter(grey, taps).T, taps).T
    dy, dx = (smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2])
    size = dy * dy + dx * dx  # of (2 * 65536 * gradient) squared
    here, y, x = size[1:-1, 1:-1], np.abs(dy[1:-1, 1:-1]), np.abs(dx[1:-1, 1:-1])
    same = (dy[1:-1, 1:-1] >= 0) == (dx[1:-1, 1:-1] >= 0)
    # The direction is the nearest of four; 0.4142 is the tangent of 22.5 degrees.
    flat, steep = 10000 * y <= 4142 * x, 10000 * x <= 4142 * y
    pairs = (
        (flat, (0, 1)),
        (steep & ~flat, (1, 0)),
        (~flat & ~steep & same, (1, 1)),
        (~flat & ~steep & ~same, (1, -1)),
    )
    peak = np.zeros(here.shape, bool)
    height, width = here.shape
    for chosen, (down, right) in pairs:
        before = size[1 - down : 1 - down + height, 1 - right : 1 - right + width]
        after = size[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        # One of two equal neighbours is the peak, always the same.
        peak |= chosen & (here > before) & (here >= after)
    assert here.shape == (image.shape[0] - 2 * margin, image.shape[1] - 2 * margin)
    low, high = ((2 * 65536 * threshold) ** 2 for threshold in (settings.low, settings.high))
    return (peak & (here > low)).astype(np.uint8) + (peak & (here > high))


def _filter(rows: npt.NDArray[np.int64], taps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Weighted sums along axis 0, where all taps have values."""
    length = rows.shape[0] - len(taps) + 1
    total = np.zeros((length, rows.shape[1]), np.int64)
    for place, tap in enumerate(taps.tolist()):
        if tap:
            total += tap * rows[place : place + length]
    return total
