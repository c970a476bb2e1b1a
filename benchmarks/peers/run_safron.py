"""SAFRON: `safron.engine.render`, as ``safron-render`` calls it; what comes out is the finished pyramidal slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job import Job, main
from safron.engine import load_model
from safron.engine import render as render_slide
from safron.engine.system.memory import keep_one_heap


def load(path: str, threads: int, counter: Path) -> Any:
    """Return the engine's own session of the generator, which it would make itself; it counts patches in its report."""
    return load_model(path, device="cpu", threads=threads)


def render(job: Job, generator: Any) -> dict[str, str]:
    """Make a slide."""
    path, block = job.out / "safron.tiff", max(512, job.block() // 512 * 512)
    options = {"threads": job.threads, "batch": job.batch} | job.setting | {"block": block}
    report = render_slide(job.mask, path, model=generator, overwrite=True, **options)
    return {
        "kind": "tiff",
        "path": str(path),
        "patches": f"{report.generated} generated, {report.filled} filled",
    }


if __name__ == "__main__":
    keep_one_heap()
    main(render, load)
