"""What share of a render's CPU time are the generator's calls, where it reads edges, guides or a style? Aim: 0.95 and more.

    python benchmarks/inputs.py nuclei MASK
    python benchmarks/inputs.py tissue.onnx examples/glands.zarr --style dark

Renders MASK in this process, one worker and one thread, and before and after it calls the generator bare, as many times as it is
asked to, at most `--bare`, on windows of noise. CPU time, since other work on the machine lengthens the rest; what is loaded
once is left out. The last line is JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from common import parser_of, planes_of
from safron.engine import render
from safron.engine.generator.model import load_model


def bare_calls(path: Path, card: Any, count: int) -> float:
    """CPU seconds of a call of one patch, with nothing around it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    rng, side = np.random.default_rng(0), card.tile + 2 * card.context
    values = [label.value for label in card.labels if not label.fill]
    feeds: dict[str, Any] = {"labels": rng.choice(values, (1, side, side)).astype(np.uint8)}
    feeds |= planes_of(card, side, side)
    session.run(None, feeds)
    began = time.process_time()
    for _ in range(count):
        session.run(None, feeds)
    return (time.process_time() - began) / count


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("model")
    parser.add_argument("mask", type=Path)
    parser.add_argument("--style")
    parser.add_argument("--scale", choices=["auto", "1"], default="auto", help="1: nothing is resampled")
    parser.add_argument("--bare", type=int, default=20)
    chosen = parser.parse_args()
    model = load_model(chosen.model, threads=1)
    path, given = Path(model.path), {"style": chosen.style, "scale": chosen.scale}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        before = bare_calls(path, model.card, chosen.bare)
        began = time.process_time()
        made = render(
            chosen.mask, Path(folder) / "slide.tiff", model=model, workers=1, executor="threads", **options
        )
        spent = time.process_time() - began
        after = bare_calls(path, model.card, chosen.bare)
    bare = (before + after) / 2 * made.generated
    found = {"generated": made.generated, "bare_s": bare, "render_s": spent, "share": bare / spent}
    print(
        f"{model.card.name}: {made.generated} patches, bare {bare:.2f} s, render {spent:.2f} s, share {bare / spent:.3f}"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
