"""What does it cost to sample a diffusion model over a whole slide, and do its patches show?

    python benchmarks/diffusion.py memory --sides 1024 2048 4096 --steps 4
    python benchmarks/diffusion.py seams --model nuclei-diffusion.onnx --mask mask.zarr --steps 8 --real tissue.png

``memory`` renders canvases of several sizes with a network that costs little, and prints peak memory of the process and the most
bytes that the running picture took in scratch. ``seams`` renders one mask in three ways and measures each as ``safron-eval seams`` does:

- stitched: every patch is sampled by itself, its own edges mirrored, and blended at the end;
- averaged: predictions are averaged in each step, over a grid that stays where it is;
- moved: as the engine does, the grid moves from step to step.

Two names of a model, as ``pixel=a.onnx group=b.onnx``, make a table of both. With ``--real``, images at the mask's pixel size, each
slide's kernel distance from them is measured, too. A table, then one line of JSON.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from common import crops_of, parser_of, render_apart, write_mask
from safron.engine import render
from safron.engine.evaluation.seam_report import evaluate_seams, seam_table
from safron.engine.generator.card import Card
from safron.engine.generator.model import load_model
from safron.engine.generator.sampler import noise_seed
from safron.engine.plan.passes import mirrored
from safron.io.slides.reader import Pixels


@contextmanager
def watched(scratch: Path) -> Iterator[list[int]]:
    """Give the largest number of bytes so far that running pictures below a folder took, looked at ten times a second."""
    most, end = [0], threading.Event()

    def look() -> None:
        while not end.wait(0.1):
            total = 0
            for path in scratch.glob("passes/*/state/c.*"):
                with suppress(OSError):
                    total += path.stat().st_size
            most[0] = max(most[0], total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()


def measure_memory(folder: Path, side: int, model: Path, steps: int) -> dict[str, Any]:
    """Render a canvas of this size: peak memory, scratch and time."""
    mask = folder / f"{side}.zarr"
    write_mask(mask, side)
    with watched(folder / "slide.tiff.safron") as most:
        made = render_apart(folder, mask, model=str(model), steps=steps, device="cpu", workers=2)
    return {
        "side": side,
        "patches": made["patches"],
        "peak_mib": made["peak_bytes"] / 2**20,
        "state_bytes_per_pixel": most[0] / side**2,
        "wall_s": made["wall"],
        "stages_s": made["stages"],
    }


class Stitched:
    """A sampler whose patches are sampled each by itself."""

    returns_uint8 = False
    device = "cpu"
    batch_invariant = True
    per_call = None
    calls = 1

    def __init__(self, sampler: Any, steps: int) -> None:
        self._model, given = sampler, sampler.card
        assert given.sampler is not None
        self._sampler = given.sampler.with_steps(steps)
        self.card: Card = replace(given, sampler=None, noise_scales=(1,) * self._sampler.channels)
        self.sha256 = f"{sampler.sha256}-stitched"

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Sample patches: RGB float32 [n, T, T, 3]."""
        assert noise is not None
        context, side = self.card.context, labels.shape[1]
        around = mirrored(-context, side - context, side - 2 * context)
        inside = slice(context, side - context)
        x = noise[:, :, inside, inside]
        for number, at in enumerate(self._sampler.times):
            t = np.full(len(labels), at, np.float32)
            xt = np.ascontiguousarray(x[:, :, around][:, :, :, around])
            made = self._model(labels, None, xt=xt, t=t, **planes).transpose(0, 3, 1, 2)
            x = self._sampler.step(number).advance(x, made, None)
        step = self._sampler.step(0)
        return np.ascontiguousarray(step.colors_of(x).astype(np.float32).transpose(0, 2, 3, 1))


def distances_from(real: list[Path]) -> Callable[[Path], dict[str, float]]:
    """Return what measures the kernel distance of a slide from these images; nothing without images."""
    if not real:
        return lambda slide: {}
    from safron.engine.evaluation.encoder import load_encoder
    from safron.engine.evaluation.encoder_distance import encoder_distances

    def crops(file: Path) -> list[npt.NDArray[np.uint8]]:
        with Pixels(file) as pixels:
            return crops_of([pixels.read(0, 0, *pixels.shape)])

    encoder = load_encoder()
    expected = encoder.features([crop for file in real for crop in crops(file)])

    def measure(slide: Path) -> dict[str, float]:
        found = encoder_distances(expected, encoder.features(crops(slide)))
        return {"KD": found.kernel, "KD_error": found.error}

    return measure


def measure_seams(
    folder: Path, named: dict[str, str], mask: str, steps: int, real: list[Path]
) -> dict[str, Any]:
    """Render a mask in all ways with all models, and measure each slide."""
    reports, rows, distance = {}, {}, distances_from(real)
    for name, file in named.items():
        model: Any = load_model(file, device="cpu")
        for way in ("stitched", "averaged", "moved"):
            out, start = folder / f"{name}-{way}.tiff", time.perf_counter()
            options: dict[str, Any] = {"compression": "deflate", "workers": 2}
            if way == "stitched":
                render(mask, out, model=Stitched(model, steps), seed=noise_seed(0, -1), **options)
            else:
                still = mock.patch("safron.engine.plan.passes.offset_of", return_value=(0, 0))
                with still if way == "averaged" else nullcontext():
                    render(mask, out, model=model, steps=steps, guidance=0, **options)
            seconds = time.perf_counter() - start
            report = evaluate_seams(out, mask=mask, tile=model.card.tile, overlap=20)
            reports[f"{name} {way}"] = report
            rows[f"{name} {way}"] = report.json | {"seconds": seconds} | distance(out)
    print("\n".join(seam_table(list(reports.values()), list(reports))))
    for name, row in rows.items():
        if real:
            print(f"{name}: KD {row['KD']:.3f} +- {row['KD_error']:.3f}")
    return rows


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["memory", "seams"])
    parser.add_argument("models", nargs="*", help="NAME=FILE, for seams")
    parser.add_argument("--model", default=None, help="one ONNX file, for seams")
    parser.add_argument("--mask", default=None, help="for seams")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="images to compare with, for seams")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096], help="for memory")
    parser.add_argument("--tile", type=int, default=256, help="side of a patch, for memory")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the files go; else deleted at the end"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if args.what == "memory":
            from safron.training.diffusion.export import export_fresh
            from safron.training.diffusion.settings import DiffusionConfig

            cheap = folder / "cheap.onnx"
            export_fresh(DiffusionConfig(widths=(8, 8), context=4), cheap, steps=args.steps, tile=args.tile)
            rows: Any = []
            for side in args.sides:
                rows.append(measure_memory(folder, side, cheap, args.steps))
                print(
                    f"{side:7} px  {rows[-1]['patches']:7} patches  {rows[-1]['peak_mib']:6.0f} MiB  "
                    f"{rows[-1]['state_bytes_per_pixel']:.2f} B/px of running picture  {rows[-1]['wall_s']:.0f} s",
                    flush=True,
                )
        else:
            named = dict(pair.split("=", 1) for pair in args.models) | (
                {"model": args.model} if args.model else {}
            )
            rows = measure_seams(folder, named, args.mask, args.steps, args.real)
    print(json.dumps({"benchmark": f"diffusion {args.what}", "steps": args.steps, "rows": rows}))


if __name__ == "__main__":
    main()
