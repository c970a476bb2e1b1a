"""SAFRON: `safron.engine.render`, as ``safron-render`` calls it; what comes out is the finished pyramidal slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import WINDOW, Job, main, planes
from safron.engine import load_model
from safron.engine import render as render_slide
from safron.engine.system.memory import keep_one_heap


def load(job: Job, counter: Path) -> Any:
    """Return the engine's own session of the generator, which it would make itself; it counts patches in its report."""
    generator = load_model(job.model, device="cpu", threads=job.threads)
    scales = generator.card.noise_scales
    labels = np.zeros((job.batch, WINDOW, WINDOW), np.uint8)
    generator(labels, **({"noise": np.repeat(planes(len(scales)), job.batch, axis=0)} if scales else {}))
    return generator


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
