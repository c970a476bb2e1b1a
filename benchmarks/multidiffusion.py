"""What does a large picture cost with MultiDiffusion, the public way to sample a diffusion model over more than one patch?

    python benchmarks/multidiffusion.py --side 1024 --steps 4
    python benchmarks/multidiffusion.py --side 4096 --steps 4 --cheap

Bar-Tal et al. (MultiDiffusion, ICML 2023, algorithm 1), as StableDiffusionPanoramaPipeline of diffusers has it: the whole picture is in
memory; in each step every view takes its step, and what comes of it is summed and divided by the number of views. The same network in
ONNX Runtime, the same steps, views and threads as SAFRON, each in a process of its own. Views read around themselves what the network needs.
`--stride` is the distance of views: SAFRON's by default; diffusers uses an eighth of a view. It writes a TIFF of one level.
CPU seconds, wall seconds, peak memory, verdict of ``safron-eval seams``. A table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tifffile
import zarr
from common import parser_of, write_mask
from safron.engine.evaluation.seam_report import evaluate_seams
from safron.engine.generator.model import load_model

OVERLAP = 20


def starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of views along an axis; the last one ends at the edge, as in diffusers."""
    return sorted({*range(0, length - tile, stride), max(0, length - tile)})


def sample(mask: Path, out: Path, *, model: str, steps: int, stride: int, edges: bool) -> int:
    """Sample the whole picture, and return the number of calls."""
    card = load_model(model, device="cpu").card
    given = card.sampler
    assert given is not None
    sampler, context, tile = given.with_steps(steps, 0.0), card.context, card.tile
    session = onnxruntime.InferenceSession(_file(model), _one_thread(), providers=["CPUExecutionProvider"])
    labels = np.pad(np.asarray(zarr.open_array(mask, mode="r")[:]), context, mode="edge")
    height, width = (length - 2 * context for length in labels.shape)
    picture = np.random.default_rng(0).standard_normal((3, height, width), np.float32)
    calls, views = 0, [(y, x) for y in starts(height, tile, stride) for x in starts(width, tile, stride)]
    for number, at in enumerate(sampler.times):
        step, t = sampler.step(number), np.array([at], np.float32)
        around = np.pad(picture, ((0, 0), (context, context), (context, context)), mode="symmetric")
        value, count = np.zeros_like(picture), np.zeros((height, width), np.float32)
        for y, x in views:
            read = np.s_[y : y + tile + 2 * context, x : x + tile + 2 * context]
            feeds: dict[str, Any] = {
                "labels": labels[read][None],
                "xt": around[:, read[0], read[1]][None],
                "t": t,
            }
            if edges:
                feeds["edges"] = np.zeros_like(feeds["labels"])[:, None]
            made = np.asarray(session.run(None, feeds)[0])[0].transpose(2, 0, 1)
            write = np.s_[:, y : y + tile, x : x + tile]
            value[write] += step.advance(picture[write], made, None)
            count[write[1:]] += 1
            calls += 1
        picture = value / count
    colors = sampler.step(0).colors_of(picture.transpose(1, 2, 0))
    tifffile.imwrite(out, colors, tile=(512, 512), compression="deflate", photometric="rgb")
    return calls


def _file(model: str) -> str:
    from safron.engine.generator.shipped import MODELS

    return model if Path(model).is_file() else str(MODELS / f"{model}.onnx")


def _one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def measured(command: list[str]) -> dict[str, float]:
    """Run a process: CPU and wall seconds, and peak memory in MiB."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # A process in between, since the peak is that of the largest child so far.
    code = (
        "import json,resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024)"
    )
    made = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - start, "peak_mib": float(made.stdout)}


def main() -> None:
    """Run both, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default="nuclei-diffusion")
    parser.add_argument("--mask", type=Path, help="a Zarr array of labels; else the shipped glands")
    parser.add_argument("--stride", type=int, help="of views")
    parser.add_argument(
        "--cheap", action="store_true", help="an untrained network of 8 channels instead of --model"
    )
    parser.add_argument("--only", choices=["safron", "multidiffusion"])
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    card = load_model(chosen.model, device="cpu").card
    stride = chosen.stride or card.tile - OVERLAP
    if chosen.sample:
        calls = sample(chosen.mask, chosen.sample, model=chosen.model, steps=chosen.steps, stride=stride, edges=card.edges is not None)  # fmt: skip
        print(calls)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mask, model = chosen.mask or folder / "mask.zarr", chosen.model
        if chosen.mask is None:
            write_mask(mask, chosen.side)
        if chosen.cheap:
            from safron.training.diffusion.export import export_fresh
            from safron.training.diffusion.settings import DiffusionConfig

            model = str(folder / "cheap.onnx")
            export_fresh(DiffusionConfig(widths=(8, 8)), folder / "cheap.onnx", steps=chosen.steps)
        ours = [
            "safron-render",
            mask,
            folder / "safron.tiff",
            "--model",
            model,
            "--steps",
            chosen.steps,
            "--guidance",
            0,
        ]
        ours += ["--compression", "deflate", "--workers", 1, "--threads", 1, "--device", "cpu", "--quiet"]
        ours += ["--mpp", card.mpp or 1]
        theirs = [sys.executable, __file__, "--sample", folder / "multidiffusion.tiff", "--mask", mask]
        theirs += ["--model", model, "--steps", chosen.steps, "--stride", stride]
        rows: dict[str, Any] = {}
        for way, command in (("safron", ours), ("multidiffusion", theirs)):
            if chosen.only in (None, way):
                rows[way] = measured([str(word) for word in command])
                seams = evaluate_seams(
                    folder / f"{way}.tiff", mask=mask, tile=card.tile, overlap=card.tile - stride
                )
                rows[way]["seams"] = seams.verdict
                row = rows[way]
                print(
                    f"{way:15s} {row['cpu_s']:8.1f} s of CPU {row['wall_s']:8.1f} s {row['peak_mib']:8.0f} MiB  seams: {row['seams']}",
                    flush=True,
                )
    print(
        json.dumps(
            {
                "benchmark": "multidiffusion",
                "side": chosen.side,
                "steps": chosen.steps,
                "stride": stride,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
