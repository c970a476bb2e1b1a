"""How near to real tissue are the pictures on a sample sheet, whose slides were held out?

A sheet has a column for each window: mask, real tissue, generated tissue, and the same with the edges of patches, with white gaps (see
`safron.training.sample_sheet`). Five windows are few: these numbers show where a run goes, `safron-eval` measures a generator.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

GAP = 4
"""Pixels between the pictures of a sheet."""
ROWS = 4
OCTAVES = 4

MEANINGS = {
    "held-out colour": "distance of the mean colours of generated and real tissue in CIELAB, mean over the windows of the sample sheet: "
    "0 is the same colour, 2 is hard to see",
    "held-out texture": "how much stronger or weaker generated detail is than real detail, in four sizes of it (absolute natural logarithm "
    "of the ratio, mean): 0 is as strong, 0.7 is twice or half as strong",
}
"""What each measure means, in words; lower is better."""

Image = npt.NDArray[np.uint8]


def measure_sheets(run: Path) -> list[dict[str, float]]:
    """Measure the sample sheets of a run.

    Parameters
    ----------
    run
        Folder of the run.

    Returns
    -------
    list[dict[str, float]]
        A row for each sheet, by step: "step", and the names of `MEANINGS`. Pictures of another form, such as those of diffusion
        models, have none.
    """
    rows = []
    for path in sorted(run.glob("sheet-*.png")):
        sheet = cv2.imread(str(path), cv2.IMREAD_COLOR)
        pairs = [] if sheet is None else windows_of(np.asarray(sheet, np.uint8)[..., ::-1])
        if pairs:
            colour, texture = (
                float(np.mean([measure(real, made) for real, made in pairs]))
                for measure in (_colour, _texture)
            )
            step = float(path.stem.partition("-")[2])
            rows.append({"step": step, "held-out colour": colour, "held-out texture": texture})
    return rows


def windows_of(sheet: Image) -> list[tuple[Image, Image]]:
    """Cut a sheet, RGB uint8 [y, x, 3], into pairs of real and generated windows; none where it is no such sheet."""
    height, width = sheet.shape[:2]
    side, rest = divmod(height - (ROWS - 1) * GAP, ROWS)
    count, more = divmod(width + GAP, side + GAP) if side > 0 else (0, 1)
    if rest or more or side < 1 << OCTAVES:
        return []
    starts = [place * (side + GAP) for place in range(max(ROWS, count))]
    gaps = [sheet[start - GAP : start] for start in starts[1:ROWS]]
    if not all((gap == 255).all() for gap in gaps):
        return []
    return [
        (
            sheet[starts[1] : starts[1] + side, start : start + side],
            sheet[starts[2] : starts[2] + side, start : start + side],
        )
        for start in starts[:count]
    ]


def _lab(image: Image) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _colour(real: Image, made: Image) -> float:
    return float(np.linalg.norm(_lab(real).mean(axis=(0, 1)) - _lab(made).mean(axis=(0, 1))))


def _texture(real: Image, made: Image) -> float:
    return float(np.abs(np.log(_strengths(made) / _strengths(real))).mean())


def _strengths(image: Image) -> npt.NDArray[np.float64]:
    """Standard deviation of lightness in each octave, from the finest on: float64 [octaves], above 0."""
    light, found = _lab(image)[..., 0], []
    for _ in range(OCTAVES):
        coarse = np.asarray(cv2.GaussianBlur(light, (0, 0), 1.0), np.float32)
        found.append(float((light - coarse).std()) + 0.01)
        light = coarse[::2, ::2]
    return np.array(found)
