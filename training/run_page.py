"""How did a training run go? One page that needs no network: held-out measures, losses, sample sheets over time, settings.

It is made from what a run leaves behind (`log.jsonl`, `checkpoint.json`, sheets), so that a run of any age has one; with another run beside
it the page says for each loss whether it ended lower or higher.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from safron.io.errors import BadInput
from safron.io.files import output, parse_text
from safron.io.html_page import curves, head, image, table, text

from . import held_out

MEANINGS = {
    **held_out.MEANINGS,
    "discriminator": "how well the discriminator tells drawn tissue from real tissue: near 0 it always does, and the generator learns little",
    "adversarial": "how far the generator is from deceiving the discriminator: lower is better, and it need not fall",
    "feature": "difference of drawn and real tissue in the discriminator's features: lower is more alike",
    "anchor": "difference of drawn and real tissue after blurring: whether each place has the right colour",
    "pixel": "difference of drawn and real pixels: falls while colours are learned, matters little later",
    "loss": "difference of predicted and true values",
}
"""What each measure and each loss means, in words."""

SHEETS = 6
LAST = 0.1
"""Share of a run's lines at its end whose mean is compared."""
MOST_BYTES = 1 << 28


def read_log(run: Path) -> list[dict[str, float]]:
    """Read the lines of a run's log.

    Raises
    ------
    BadInput
        There is none, or it is damaged.
    """
    path = run / "log.jsonl"
    if not path.is_file():
        raise BadInput(f"{run}: holds no log.jsonl; give the folder of a training run")
    rows = parse_text(
        path,
        lambda log: [
            {str(name): float(value) for name, value in json.loads(line).items()}
            for line in log.splitlines()
            if line.strip()
        ],
        kind="lines of JSON",
        remedy="give the folder of another run",
        max_bytes=MOST_BYTES,
    )
    if not rows or "step" not in rows[0]:
        raise BadInput(f"{path}: has no line with a step yet; wait until the run has logged some")
    return rows


def write_run_page(run: Path, out: Path, *, before: Path | None = None, overwrite: bool = False) -> None:
    """Write the page of a run.

    Parameters
    ----------
    run
        Folder of the run.
    out
        Ends in .html.
    before
        Folder of a run to compare with.
    overwrite
        Replace a page.

    Raises
    ------
    BadInput
        A folder holds no run, or the page cannot be written there.
    """
    page = run_page(run, before)
    with output(out, overwrite=overwrite, endings=(".html",)) as part:
        part.write_text(page, encoding="utf-8")


def run_page(run: Path, before: Path | None = None) -> str:
    """Make the page."""
    rows, others = read_log(run), read_log(before) if before else []
    measured, theirs = held_out.measure_sheets(run), held_out.measure_sheets(before) if before else []
    parts = [
        head(f"training {run.name}", f"Training {run.resolve().name}"),
        table(
            [
                ("steps", f"{rows[-1]['step']:.0f}"),
                ("minutes since it was last started", f"{rows[-1].get('minutes', 0):.1f}"),
                *([("compared with", before)] if before else []),
            ]
        ),
    ]
    if measured:
        parts.append("<h2>On slides that were held out</h2><p>Lower is better.</p>")
        parts += _curves(measured, theirs, ("better", "worse"))
    parts.append("<h2>Losses</h2>")
    parts += _curves(rows, others)
    sheets = sorted(run.glob("sheet-*.png"))
    if sheets:
        parts.append(
            "<h2>Samples over time</h2><p>From above: masks, real tissue, what the generator makes of the masks, and the same with the edges of patches. These slides were held out.</p>"
        )
    for sheet in _some(sheets):
        parts.append(
            f"<p>step {int(sheet.stem.partition('-')[2])}</p>{image(sheet.read_bytes(), 'png', sheet.stem)}"
        )
    settings = run / "checkpoint.json"
    if settings.is_file():
        kept = parse_text(settings, json.loads, kind="JSON", remedy="give the folder of another run")
        shown = json.dumps(kept, indent=1)
        parts.append(
            f"<h2>Settings</h2><details><summary>of the last checkpoint</summary><pre>{text(shown)}</pre></details>"
        )
    return "\n".join(parts) + "</html>\n"


def _curves(
    rows: Sequence[dict[str, float]],
    others: Sequence[dict[str, float]],
    words: tuple[str, str] = ("lower", "higher"),
) -> Iterator[str]:
    """Draw each column as a curve with its meaning, and say how it compares with another run."""
    for name in rows[-1]:
        if name in ("step", "minutes"):
            continue
        lines = {"this run": _points(rows, name)}
        if any(name in row for row in others):
            lines["the run before"] = _points(others, name)
        yield f"<h3>{text(name)}</h3><p>{text(MEANINGS.get(name, ''))}</p>{curves(lines, 'steps')}"
        if len(lines) > 1:
            yield f"<p><b>{text(verdict(rows, others, name, words))}</b></p>"


def verdict(
    rows: Sequence[dict[str, float]],
    others: Sequence[dict[str, float]],
    name: str,
    words: tuple[str, str] = ("lower", "higher"),
) -> str:
    """Say whether a loss ends lower or higher than that of another run, at the last step that both have; in `words`.

    Examples
    --------
    >>> verdict([{"step": 1, "pixel": 0.2}], [{"step": 1, "pixel": 0.4}], "pixel")
    'at step 1: 0.2, 50 % lower than 0.4 before'
    """
    last = min(rows[-1]["step"], others[-1]["step"])
    mine, theirs = (_level(part, name, last) for part in (rows, others))
    if mine is None or theirs is None or not theirs:
        return f"at step {last:.0f}: nothing to compare"
    change = 100 * (mine / theirs - 1)
    how = "as high as" if abs(change) < 1 else f"{abs(change):.0f} % {words[change > 0]} than"
    return f"at step {last:.0f}: {mine:.4g}, {how} {theirs:.4g} before"


def _level(rows: Sequence[dict[str, float]], name: str, last: float) -> float | None:
    """Mean of a loss over the last lines up to a step."""
    values = [row[name] for row in rows if row["step"] <= last and name in row]
    return mean(values[-max(1, round(LAST * len(values))) :]) if values else None


def _points(rows: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _some(sheets: Sequence[Path]) -> list[Any]:
    """First, last, and some between."""
    if len(sheets) <= SHEETS:
        return [*sheets]
    step = (len(sheets) - 1) / (SHEETS - 1)
    return [sheets[round(number * step)] for number in range(SHEETS)]
