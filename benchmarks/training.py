"""What does a training step cost, and how long does a CPU take for a patch of what was trained?

    python benchmarks/training.py                    four presets, one tile a step: 728 px, or 256 of pix2pix
    python benchmarks/training.py --device cuda      the same on a GPU, compiled and in mixed precision
    python benchmarks/training.py --size tiny        a quick look at whether it runs

Each preset is trained in a process of its own on random labels and images, so that its peak memory is its own: VmHWM, which
unlike getrusage does not count the process that started it; on a GPU the most that PyTorch held there. Then an untrained
generator is exported and run: one patch in bare ONNX Runtime on all threads, and batches as safron-render calls it, a core a
patch. A table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from safron.training.config import TrainConfig

PAPER_GB = 0.35
"""What the paper says that training takes at any size, by a layer-wise estimate of Keras."""

CLAIMED = {"safron": PAPER_GB, "safron-seamless": None, "pix2pix": None, "multiscale": None}


def memory_kib(name: str) -> int:
    """Return ``VmHWM`` (peak) or ``VmRSS`` (now) of this process, in KiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def chosen_config(preset_name: str, size: str, count: int) -> TrainConfig:
    """Settings of a preset for steps of `count` tiles."""
    from safron.training.config import override, preset

    config = preset(preset_name, size)
    if config.model.network == "seamless":
        config = override(config, {"patch": 728 if size == "full" else config.patch}, "benchmark")
    return override(config, {"batch": count}, "benchmark")


def train_here(config: TrainConfig, device: str, steps: int, *, compiled: bool) -> dict[str, Any]:
    """Train for some steps in this process; seconds of each, and memory in MiB."""
    import torch
    from safron.training.data import Batch, draw_noise
    from safron.training.train import Trainer

    count = config.batch
    on_gpu = device != "cpu"
    before = memory_kib("VmRSS")
    trainer = Trainer(config, device, compiled=compiled)
    rng, side = np.random.default_rng(0), config.tile_side
    read = side + 2 * config.model.context
    batch = Batch(
        rng.integers(3, size=(count, read, read)).astype(np.uint8),
        np.repeat(draw_noise(rng, read, read, config.model.noise_scales)[None], count, axis=0),
        rng.uniform(-1, 1, (count, 3, side, side)).astype(np.float32),
        guides=np.zeros((count, 0, read, read), np.float32),
        style=np.zeros((count, 0), np.float32),
        initial=np.repeat(_initial(rng, read), count, axis=0) if config.model.coarse else None,
    )
    seconds = []
    for _ in range(steps + on_gpu * 3):
        start = time.perf_counter()
        trainer.step(batch)  # returns the losses as numbers, so a GPU has finished
        seconds.append(time.perf_counter() - start)
    return {
        "tile": side,
        "parameters": sum(p.numel() for p in trainer.generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in trainer.discriminator.parameters()),
        "precision": str(trainer.half or torch.float32).removeprefix("torch."),
        "first_step_s": round(seconds[0], 3),
        "step_s": round(median(seconds[1:]), 4),
        "tiles_per_s": round(count / median(seconds[1:]), 2),
        "before_mib": before // 1024,
        "peak_mib": torch.cuda.max_memory_allocated() >> 20 if on_gpu else memory_kib("VmHWM") // 1024,
    }


def time_patches(config: TrainConfig, threads: int, calls: int) -> dict[str, Any]:
    """Seconds a patch of an exported, untrained generator, on the CPU; least and median."""
    import onnxruntime
    from safron.engine.generator.onnx_model import OnnxModel
    from safron.training.export import export_fresh

    side = config.model.tile + 2 * config.model.context
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 3, size=(1, side, side)).astype(np.uint8)
    noise = rng.standard_normal((1, len(config.model.noise_scales), side, side)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        export_fresh(config, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {"labels": labels} | ({"noise": noise} if noise.shape[1] else {})
        further = {"initial": _initial(rng, side)} if config.model.coarse else {}
        model = OnnxModel(path, device="cpu", threads=threads)
        many = [np.repeat(array, 4 * threads, axis=0) for array in (labels, noise)]
        batch = many if noise.shape[1] else [many[0], None]
        more = {name: np.repeat(array, 4 * threads, axis=0) for name, array in further.items()}
        return {
            "tile_px": config.model.tile,
            "ort_patch_s": _times(lambda: session.run(None, feeds | further), calls),
            # The engine gives each core a patch of its own: a full batch, shared out over its patches.
            "engine_patch_s": _times(lambda: model(*batch, **more), calls, patches=4 * threads),
            "file_mb": round(path.stat().st_size / 1e6, 1),
        }


def _initial(rng: np.random.Generator, side: int) -> Any:
    """An image to refine: uint8 [1, 3, side, side]."""
    return rng.integers(256, size=(1, 3, side, side)).astype(np.uint8)


def _times(call: Any, calls: int, patches: int = 1) -> dict[str, float]:
    """Least and median seconds a patch of a call that makes `patches` of them."""
    call()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / patches)
    return {"least": round(min(seconds), 4), "median": round(median(seconds), 4)}


def apart(arguments: argparse.Namespace, preset_name: str, what: str) -> dict[str, Any]:
    """Run this file in a process of its own for one preset."""
    words = ["--preset", preset_name, "--only", what, "--size", arguments.size, "--device", arguments.device]
    words += [
        "--steps",
        str(arguments.steps),
        "--batch",
        str(arguments.batch),
        *(["--eager"] if arguments.eager else []),
        "--threads",
        str(arguments.threads),
        "--calls",
        str(arguments.calls),
    ]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure all presets, or one of them in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=sorted(CLAIMED), help="one preset; all unless given")
    parser.add_argument(
        "--only", choices=["train", "patch"], help="one half, in this process; needs --preset"
    )
    parser.add_argument("--size", default="full", help="full, small or tiny")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    parser.add_argument("--steps", type=int, default=4, help="steps to train; the first is not counted")
    parser.add_argument("--batch", type=int, default=1, help="tiles a step")
    parser.add_argument(
        "--eager", action="store_true", help="do not compile the networks for a GPU, which takes minutes"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--calls", type=int, default=9, help="patches to time")
    arguments = parser.parse_args()
    if arguments.only == "train":
        import torch

        torch.set_num_threads(arguments.threads)
        compiled = arguments.device != "cpu" and not arguments.eager
        config = chosen_config(arguments.preset, arguments.size, arguments.batch)
        made = train_here(config, arguments.device, arguments.steps, compiled=compiled)
        print(json.dumps(made))
        return
    if arguments.only == "patch":
        config = chosen_config(arguments.preset, arguments.size, arguments.batch)
        print(json.dumps(time_patches(config, arguments.threads, arguments.calls)))
        return
    presets = [arguments.preset] if arguments.preset else list(CLAIMED)
    results = {name: apart(arguments, name, "train") | apart(arguments, name, "patch") for name in presets}
    print(
        "| preset | training tile | step | peak memory | the paper's claim | patch, ONNX Runtime | patch, engine |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        claim = f"{CLAIMED[name]} GB" if CLAIMED[name] and arguments.size == "full" else "-"
        print(
            f"| {name} | {result['tile']} px | {result['step_s']} s | {result['peak_mib']} MiB "
            f"({result['before_mib']} before the networks) | {claim} | {result['ort_patch_s']['median']} s | "
            f"{result['engine_patch_s']['median']} s |"
        )
    print(
        json.dumps(
            {"device": arguments.device, "size": arguments.size, "threads": arguments.threads, **results}
        )
    )


if __name__ == "__main__":
    main()
