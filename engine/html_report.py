"""What does a person want to see of a finished render? One page that needs no network.

Slide and labels as pictures upon each other, the legend with shares and areas, what was planned and what it took, and the command that
makes the same slide again. Pictures are small: at most `PICTURE` pixels a side.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.prepared import Prepared
from safron.io.errors import Failed, counted, one_line
from safron.io.files import output
from safron.io.html_page import bars, head, image, table, text
from safron.io.masks.to_geojson import legend_of, own_legend
from safron.io.slides.pyramid import halve
from safron.io.slides.reader import Pixels

from .labels_out import label_slide
from .report import RenderReport
from .seam_plot import seam_plot

log = logging.getLogger("safron")

PICTURE = 1200
_LARGEST_LEVEL = 4096
_BAND = 1024
Image = npt.NDArray[np.uint8]


def write_html(prepared: Prepared, report: RenderReport) -> None:
    """Write the page of `--html`, if the user asks for one; a second time it replaces its own.

    Raises
    ------
    Failed
        It cannot be written; the slide is finished.
    """
    out = prepared.options.html
    if out is None:
        return
    try:
        page = html_page(prepared, report)
        with output(out, overwrite=True, name="--html ") as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Failed(
            f"--html {out}: {error.strerror}; the slide is finished; correct this, and the same command writes the page"
        ) from error


def html_page(prepared: Prepared, report: RenderReport) -> str:
    """Make the page."""
    plan, mask = prepared.plan, prepared.job.mask
    slide, labels = _pictures(prepared, report)
    known = own_legend(mask) or prepared.job.model.card.labels
    legend = legend_of(mask, {}) | {label.value: label for label in known}
    grid, blocks = plan.grid, plan.block_shape
    stain = plan.stain.name if plan.stain else "reference"
    facts = [
        ("slide", f"{report.out}, {report.width} x {report.height} px, {counted(report.levels, 'level')}, {report.output_bytes / 1e6:.1f} MB"),
        ("pixel size", f"{report.mpp:g} um" if report.mpp else "unknown"),
        ("mask", f"{mask.source}, {plan.canvas.width} x {plan.canvas.height} px"),
        ("generator", f"{report.model} on {report.device}, licence {prepared.job.model.card.licence}"),
        ("seed, stain", f"{plan.seed}, {stain}"),
        ("patches", f"{report.patches} of {grid.tile} px, overlap {grid.overlap}: {report.generated} generated, {report.filled} filled"),
        ("blocks", f"{report.blocks} ({blocks[1]} x {blocks[0]}) of {plan.block} px, {report.resumed} from an earlier run"),
        ("time", f"{report.seconds:.1f} s, {report.megapixels_per_second:.2f} Mpx/s"),
        ("digest", report.digest),
        ("generator SHA-256", report.model_sha256),
    ]  # fmt: skip
    memory = {
        "peak of this process": report.peak_bytes / 2**20,
        "projected at most": report.projected_bytes / 2**20,
        "allowed": prepared.options.memory / 2**20,
    }
    parts = [
        head(report.out, Path(report.out).name),
        "<p>Synthetic, made from a mask; not for diagnosis.</p>",
        *(f"<p class=warn>{text(warning)}</p>" for warning in report.warnings),
        *_looks(slide, labels, legend),
        "<h2>Labels</h2>",
        _legend_table(labels, legend, report.width * report.height, report.mpp),
        "<h2>Render</h2>",
        table(facts),
        *_seams(prepared),
        "<h2>Time by stage, in seconds, summed over workers</h2>",
        bars(report.stages, "s"),
        "<h2>Memory, in MiB</h2>",
        bars(memory, "MiB"),
        "<h2>The same slide again</h2>",
        f"<pre>{text(command_of(prepared))}</pre>",
        "<h2>Versions</h2>",
        table(report.versions.items()),
        f"<script type='application/json' id=report>{json.dumps(report.values()).replace('<', chr(92) + 'u003c')}</script></html>",
    ]
    return "\n".join(parts) + "\n"


def command_of(prepared: Prepared) -> str:
    """Return the command line that renders the same slide."""
    options, usual = prepared.options, RenderOptions()
    words = ["safron-render", prepared.job.mask.source, prepared.target.name]
    for item in fields(RenderOptions):
        value = getattr(options, item.name)
        if value == getattr(usual, item.name) or item.name in ("overwrite", "fresh", "workers"):
            continue
        words.append("--" + item.name.replace("_", "-"))
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def _pictures(prepared: Prepared, report: RenderReport) -> tuple[Image | None, Image]:
    """Small pictures: of the slide RGB [h, w, 3], None where it cannot be read here, and of its labels [h, w]."""
    pyramid = prepared.plan.pyramid
    scale = max(1, -(-max(pyramid.height, pyramid.width) // PICTURE))
    described = label_slide(prepared, report)
    rows, columns = (np.arange(scale // 2, side, scale) for side in (pyramid.height, pyramid.width))
    labels = np.empty((len(rows), len(columns)), np.uint8)
    # In pieces that hold several rows of the picture, so that no chunk of the mask is decoded for each of them.
    for y in range(0, pyramid.height, _BAND):
        for x in range(0, pyramid.width, 8 * _BAND):
            piece = slice(y, min(y + _BAND, pyramid.height)), slice(x, min(x + 8 * _BAND, pyramid.width))
            (i, i_stop), (j, j_stop) = (
                np.searchsorted(at, (part.start, part.stop))
                for at, part in zip((rows, columns), piece, strict=True)
            )
            if i < i_stop and j < j_stop:
                found = described.read(*piece)
                labels[i:i_stop, j:j_stop] = found[np.ix_(rows[i:i_stop] - y, columns[j:j_stop] - x)]
    slide = None
    if prepared.target.url is None:
        try:
            slide = _thumbnail(prepared.target.local)
        except (
            Exception
        ) as error:  # each library has exceptions of its own, and a page without a picture is a page
            log.warning("--html: the slide cannot be read back for its picture: %s", one_line(error))
    return slide, labels


def _seams(prepared: Prepared) -> Iterable[str]:
    """A curve of the steps where patches meet, where the slide can be read here."""
    if prepared.target.url is not None:
        return
    try:
        with Pixels(prepared.target.local) as slide:
            plot = seam_plot(slide, prepared.plan)
    except Exception as error:  # each library has exceptions of its own, and a page without a curve is a page
        log.warning("--html: the slide cannot be read back for the curve: %s", one_line(error))
        return
    yield "<h2>Where patches meet</h2>"
    yield plot


def _thumbnail(path: Path) -> Image | None:
    """Smallest level that is not smaller than the picture, halved until it fits; None where all levels are large."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        levels = sorted(tif.series[0].levels, key=lambda level: max(level.shape[:2]))
        level = next((one for one in levels if max(one.shape[:2]) >= PICTURE // 2), levels[-1])
        if max(level.shape[:2]) > _LARGEST_LEVEL:
            return None
        pixels: Image = np.asarray(level.asarray(), np.uint8)
    while max(pixels.shape[:2]) > PICTURE:
        pixels = halve(pixels)
    return pixels


def _looks(slide: Image | None, labels: Image, legend: Any) -> Iterable[str]:
    """Slide and labels upon each other, with a control; labels alone where there is no slide."""
    colours = np.array([legend[value].color for value in range(256)], np.uint8)
    over = image(imagecodecs.png_encode(colours[labels]), "png", "labels")
    if slide is None:
        yield f"<div class=look>{over}</div>"
        return
    yield f"<div class=look>{image(imagecodecs.jpeg8_encode(slide, 88), 'jpeg', 'slide')}{over}</div>"
    yield (
        "<p><label>slide <input type=range min=0 max=1 step=.05 value=0 aria-label='opacity of labels' "
        "oninput=\"document.querySelector('.look img+img').style.opacity=this.value\"> labels</label></p>"
    )


def _legend_table(labels: Image, legend: Any, pixels: int, mpp: float | None) -> str:
    counts = np.bincount(labels.reshape(-1), minlength=256)
    rows = []
    for value in np.flatnonzero(counts).tolist():
        share = counts[value] / labels.size
        area = f"{share * pixels * mpp**2 / 1e6:.3g} mm²" if mpp else ""
        rows.append(
            f"<tr><td><i class=c style='background:rgb{legend[value].color}'></i><td class=n>{value}<td>{text(legend[value].name)}"
            f"<td class=n>{100 * share:.1f} %<td class=n>{area}"
        )
    counted = (
        "<p>Counted on the picture above; <code>safron-mask info</code> counts every pixel of a mask.</p>"
    )
    return f"<table><tr><th><th>label<th>class<th>share<th>area{''.join(rows)}</table>{counted}"
