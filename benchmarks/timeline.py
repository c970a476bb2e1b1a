"""Where does each millisecond of a render go?

    python benchmarks/timeline.py timeline.svg                        two blocks by the generator that ships
    python benchmarks/timeline.py timeline.svg --model fast.onnx

Renders the gland mask in this process, writes down when each stage begins and ends in which thread, and draws it: a row a
thread, first those that work on blocks, then those that help them run the generator; under it the sums. Ends in one JSON line.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import gland_labels, parser_of
from safron.engine import load_model, render
from safron.engine.scratch.task_result import Tally

COLORS = {
    "read": "#4e79a7",
    "noise": "#76b7b2",
    "model": "#e8e4de",  # of a block's thread: what it does not run itself, it waits for
    "generator": "#e15759",
    "blend": "#f28e2b",
    "downsample": "#b07aa1",
    "encode": "#59a14f",
    "scratch": "#edc948",
    "write": "#9c755f",
}
Event = tuple[str, str, float, float]
LEFT, WIDTH, ROW, GAP = 120, 1000, 26, 6


@contextmanager
def recording(model: Any, events: list[Event]) -> Iterator[None]:
    """Write down every stage of every task, and every call of the generator, as (thread, stage, from, to)."""

    def timed(stage: str, call: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*given)
        finally:
            events.append((threading.current_thread().name, stage, start, time.perf_counter()))

    stage_of, kind = Tally.stage, type(model)
    run = kind.__call__

    @contextmanager
    def stage(self: Tally, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with stage_of(self, name):
            yield
        events.append((threading.current_thread().name, name, start, time.perf_counter()))

    Tally.stage = stage  # type: ignore[assignment, method-assign]
    kind.__call__ = lambda *given: timed("generator", run, *given)
    try:
        yield
    finally:
        Tally.stage = stage_of  # type: ignore[method-assign]
        kind.__call__ = run


def draw(events: list[Event], title: str) -> str:
    """The timeline as SVG."""
    first, last = min(event[2] for event in events), max(event[3] for event in events)
    threads = sorted({event[0] for event in events}, key=lambda name: ("model" in name, name))
    scale = WIDTH / (last - first)
    top = 40
    parts = [f'<text x="{LEFT}" y="20" font-size="14">{title}</text>']
    for row, name in enumerate(threads):
        y = top + row * (ROW + GAP)
        parts.append(f'<text x="4" y="{y + 17}">{name.replace("safron-", "").replace("_", " ")}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{ROW}" fill="#fafafa" stroke="#ddd"/>'
        )
        # What began first lies under what happened in it.
        for thread, stage, start, stop in sorted(events, key=lambda event: event[2]):
            if thread == name and (stop - start) * scale >= 0.1:
                x, width = LEFT + (start - first) * scale, (stop - start) * scale
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}" fill="{COLORS[stage]}"/>'
                )
    y = top + len(threads) * (ROW + GAP)
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if (last - first) / step <= 12)
    for tick in range(int((last - first) / step) + 1):
        x = LEFT + tick * step * scale
        parts.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y}" stroke="#999" stroke-width="0.5"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{y + 12}" text-anchor="middle">{tick * step:g} s</text>')
    x = LEFT
    for stage, spent in sorted(sums(events).items(), key=lambda item: -item[1]):
        label = f"{'waits for the generator' if stage == 'model' else stage} {spent:.2f} s"
        parts.append(f'<rect x="{x}" y="{y + 24}" width="12" height="12" fill="{COLORS[stage]}"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 34}">{label}</text>')
        x += 34 + 6 * len(label)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {y + 48}" font-family="sans-serif" font-size="11">'
    back = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, back, *parts, "</svg>", ""])


def sums(events: list[Event]) -> dict[str, float]:
    """Seconds by stage, over all threads; of "model" what is waiting."""
    spent: dict[str, float] = defaultdict(float)
    waiting = {thread for thread, stage, *_ in events if stage == "model"}
    for thread, stage, start, stop in events:
        spent[stage] += stop - start
        if stage == "generator" and thread in waiting:
            spent["model"] -= stop - start
    return dict(spent)


def main() -> None:
    """Parse, run, draw."""
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="SVG file")
    parser.add_argument("--model", default="safron-seamless", help="name or ONNX file")
    parser.add_argument("--size", type=int, nargs=2, default=(2048, 4096), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    model = load_model(args.model, device="cpu")
    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder, recording(model, events):
        slide = Path(folder) / "slide.tiff"
        report = render(gland_labels(*args.size), slide, model=model, workers=args.workers)
    title = f"{report.model}, {report.width} x {report.height} px, {report.generated} patches generated, {report.seconds:.1f} s"
    args.out.write_text(draw(events, title), encoding="utf-8")
    spent = {stage: round(seconds, 3) for stage, seconds in sums(events).items()}
    print(json.dumps({"benchmark": "timeline", "seconds": round(report.seconds, 3), "stages_s": spent}))


if __name__ == "__main__":
    main()
