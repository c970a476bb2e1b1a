"""How dark is a gland or a stretch of stroma, beyond what the generator can tell from its labels?

The last noise channels of the seamless network are cues. In training they hold the measured darkness of the real image,
in rendering smooth noise of the same distribution: so the generator learns what the noise is for. Without guides there are
two, gland and stroma; with guides of glands there are three: the middle of a gland, which may be lumen or cells, the
epithelium around it, which may hold mucus, and stroma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.mapped import spill
from safron.io.measures.guides import DEEPEST, PLANES_PER_CLASS, Guides
from safron.training.data.source import Bytes, Floats, guides_at

CUE_SIGMA = 18.0
"""Blur of the cues in pixels: smooth noise of scale 32, which replaces them in rendering, correlates as far."""

CUED = (2, 1)
"""Labels whose darkness is a cue, in the order of their noise channels: gland, stroma."""

GUIDED_SIGMA = 36.0
"""Blur of the cues of a gland that guides measure: they are the same all over a crypt; noise of scale 64 correlates as far."""

MIDDLE = 0.6
"""Depth, as a guide, from which on a gland's middle begins."""

SEEN_DEPTH = 20
"""Depth in pixels up to which a generator with 20 pixels of context can tell how far inside a class a pixel is."""


@dataclass(frozen=True)
class CueScale:
    """The scale on which darkness is measured: that of a whole data set.

    Attributes
    ----------
    expected
        float32 [c, `SEEN_DEPTH` + 1]: mean optical density of each zone at each depth.
    samples
        For each zone the darkness measured all over the data set, sorted, float32; it is mapped to standard normal.
    guides
        Guides that the generator reads, or None.
    """

    expected: Floats
    samples: tuple[Floats, ...]
    guides: Guides | None = None

    def measure(self, image: Bytes, labels: Bytes) -> tuple[Floats, Floats]:
        """Measure one image [y, x, 3] under its labels [y, x]: cues and trust, float32 [c, y, x] (see `Pairs`)."""
        means, trust = _darkness(image, find_zones(labels, self.guides), self.expected)
        return self.normal(means), trust

    def normal(self, means: Floats) -> Floats:
        """Map darkness [c, y, x] to standard normal cues."""
        return np.stack([_to_normal(mean, sample) for mean, sample in zip(means, self.samples, strict=True)])


@dataclass(frozen=True)
class Zone:
    """Pixels whose darkness is one cue: which, bool [y, x]; how deep, 0..`SEEN_DEPTH`, as the generator sees it; blur in px."""

    member: npt.NDArray[np.bool_]
    depth: npt.NDArray[np.intp]
    sigma: float


def cue_count(guides: Guides | None) -> int:
    """Number of cues."""
    return 3 if guides is not None and CUED[0] in guides.classes else 2


def find_zones(labels: Bytes, guides: Guides | None) -> list[Zone]:
    """Find the zones of labels [y, x] whose darkness are the cues, in the order of their noise channels."""
    zones = [Zone(member := labels == value, _depth_inside(member), CUE_SIGMA) for value in CUED]
    if guides is None or CUED[0] not in guides.classes:
        return zones
    planes = guides_at(labels, (0, 0), (labels.shape[0], labels.shape[1]), guides)
    depth = planes[PLANES_PER_CLASS * guides.classes.index(CUED[0]) + 1]
    middle = depth >= MIDDLE
    steps = np.minimum(depth * (SEEN_DEPTH / DEEPEST), SEEN_DEPTH).astype(np.intp)
    gland = (Zone(part & zones[0].member, steps, GUIDED_SIGMA) for part in (middle, ~middle))
    return [*gland, zones[1]]


def fit_cues(images: Sequence[Bytes], labels: Sequence[Bytes], guides: Guides | None = None) -> CueScale:
    """Find the scale of a data set's cues."""
    # A rim is dark and a lumen pale in every gland, and the generator sees the depth as far as its context reaches.
    # Only what depth does not explain is left to the cue.
    cues = cue_count(guides)
    count, total = np.zeros((cues, SEEN_DEPTH + 1)), np.zeros((cues, SEEN_DEPTH + 1))
    for rgb, label in zip(images, labels, strict=True):
        density = _optical_density(rgb)
        for row, zone in enumerate(find_zones(label, guides)):
            depth = zone.depth[zone.member]
            count[row] += np.bincount(depth, minlength=SEEN_DEPTH + 1)
            total[row] += np.bincount(depth, density[zone.member], SEEN_DEPTH + 1)
    expected = (total / np.maximum(count, 1)).astype(np.float32)
    # Every 97th sure pixel of all images in a row, of one image at a time.
    kept: tuple[list[Floats], ...] = tuple([] for _ in range(cues))
    seen = [0] * cues
    for rgb, label in zip(images, labels, strict=True):
        means, trust = _darkness(rgb, find_zones(label, guides), expected)
        for row in range(cues):
            sure = means[row][trust[row] >= 1.0]
            kept[row].append(sure[-seen[row] % 97 :: 97].copy())
            seen[row] += sure.size
    return CueScale(expected, tuple(np.sort(np.concatenate(parts)) for parts in kept), guides)


def measure_cues(
    images: Sequence[Bytes],
    labels: Sequence[Bytes],
    folder: Path | None = None,
    guides: Guides | None = None,
) -> tuple[tuple[npt.NDArray[np.float16], ...], tuple[npt.NDArray[np.float16], ...]]:
    """Measure the cues of a whole data set and the trust in them, as `Pairs` holds them; see `spill` for `folder`."""
    scale = fit_cues(images, labels, guides)
    pairs = (scale.measure(rgb, label) for rgb, label in zip(images, labels, strict=True))
    arrays = spill((part.astype(np.float16) for pair in pairs for part in pair), folder)
    return arrays[::2], arrays[1::2]


def _darkness(image: Bytes, zones: Sequence[Zone], expected: Floats) -> tuple[Floats, Floats]:
    """Optical density beyond what depth explains, averaged around each pixel, and the trust in it: [c, y, x] each."""
    density, found = _optical_density(image), []
    for zone, usual in zip(zones, expected, strict=True):
        found.append(_blur_inside(density - usual[zone.depth], zone.member, zone.sigma))
    means, trusts = zip(*found, strict=True)
    return np.stack(means), np.stack(trusts)


def _optical_density(rgb: Bytes) -> Floats:
    """Mean optical density of the three channels, float32 [y, x]: 0 is white."""
    # A mean along an axis of three goes pixel by pixel, which takes ten times as long.
    red, green, blue = np.moveaxis(-np.log((rgb.astype(np.float32) + 1.0) / 256.0), -1, 0)
    return np.asarray((red + green + blue) / 3, np.float32)


def _depth_inside(member: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """How deep each pixel lies in its class, in whole pixels, at most `SEEN_DEPTH`."""
    distance = cv2.distanceTransform(member.astype(np.uint8), cv2.DIST_L2, 5)
    return np.minimum(np.asarray(distance), SEEN_DEPTH).astype(np.intp)


def _blur_inside(residual: Floats, member: npt.NDArray[np.bool_], sigma: float) -> tuple[Floats, Floats]:
    """Average a residual over one class under a Gaussian window, extended smoothly beyond it, and the trust in that (0..1)."""
    weight = member.astype(np.float32)
    total = np.asarray(cv2.GaussianBlur(residual * weight, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
    share = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
    mean = total / np.maximum(share, 1e-4)
    return mean.astype(np.float32), np.clip(share / 0.1, 0, 1).astype(np.float32)


def _to_normal(cues: Floats, sample: Floats) -> Floats:
    """Map measured values to standard normal ones by their rank in a sorted sample."""
    from scipy.special import ndtri

    if sample.size < 2:
        return np.zeros_like(cues)
    knots = np.linspace(0, sample.size - 1, 513).astype(int)
    quantile = (knots + 0.5) / sample.size
    values, first = np.unique(sample[knots], return_index=True)
    return np.asarray(np.interp(cues, values, ndtri(quantile)[first]), np.float32)
