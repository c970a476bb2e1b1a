"""What does a GPU do with these generators, and how much of that does the engine bring to the slide?

    python benchmarks/gpu.py                         everything, on the first CUDA device
    python benchmarks/gpu.py --device cpu --tiny     the same on a CPU in seconds: a test of this file

One file that needs little: numpy and onnxruntime-gpu for the bare generators; torch too for one made like the
paper's, onnx too for float16; the safron package for parity and for whole slides. What is missing is said and left out.
It prints, per generator: patches a second at batch 1 to 256 in float32, TF32 and float16 through CUDA, plain, two calls side by
side as the engine makes them, with I/O binding (label windows stay on the host; outputs into memory that is kept on the device,
or on the host), and in float16 through TensorRT where it loads; memory; how far CUDA's pixels are from the CPU's; then ``safron-render`` at 8000 x 8000 and 32000 x 32000 beside
the bare rate, and beside the paper's headline: 8000 x 8000 in under 120 s on a TITAN X. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PAPER_SECONDS = 120.0
CONTEXT, TILE, STRIDE = 20, 256, 236
SIDE = TILE + 2 * CONTEXT


@dataclass(frozen=True)
class Way:
    """One way to run a generator.

    Attributes
    ----------
    file : the graph.
    provider : of ONNX Runtime: "cpu", "cuda" or "tensorrt".
    precision : "float32", "tf32" or "float16".
    bound : where I/O binding keeps memory for outputs: "device" or "host"; "" without binding.
    calls : side by side.
    """

    file: Path
    provider: str
    precision: str = "float32"
    bound: str = ""
    calls: int = 1

    def __str__(self) -> str:
        bound = f" bound to {self.bound}" if self.bound else ""
        return f"{self.provider} {self.precision}{bound}{' x 2' if self.calls == 2 else ''}"


def missing(*modules: str) -> list[str]:
    """Modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def windows(count: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Label windows of glands-like blobs: uint8 [count, SIDE, SIDE]."""
    cells = np.random.default_rng(seed).integers(0, 3, (count, 10, 10), np.uint8)
    return np.repeat(np.repeat(cells, 30, axis=1), 30, axis=2)[:, :SIDE, :SIDE].copy()


def feeds_of(session: Any, count: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs for a batch."""
    feeds: dict[str, npt.NDArray[Any]] = {"labels": windows(count)}
    for entry in session.get_inputs():
        if entry.name == "noise":
            shape = (count, entry.shape[1], SIDE, SIDE)
            feeds["noise"] = np.random.default_rng(1).standard_normal(shape, np.float32)
    return feeds


def open_session(way: Way, cache: Path) -> Any:
    """A session of ONNX Runtime that runs where asked, or nowhere.

    Raises
    ------
    RuntimeError
        It fell back to another provider.
    """
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls") and way.provider != "cpu":
        ort.preload_dlls()
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    cuda = ("CUDAExecutionProvider", {"use_tf32": int(way.precision == "tf32")})
    tensorrt = {
        "trt_fp16_enable": way.precision == "float16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
    }
    chosen: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [cuda],
        "tensorrt": [("TensorrtExecutionProvider", tensorrt), cuda],
    }
    wanted = [*chosen[way.provider], "CPUExecutionProvider"]
    session = ort.InferenceSession(str(way.file), settings, providers=wanted)
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if session.get_providers()[0] != first:
        raise RuntimeError(f"{first} did not load")
    return session


def caller(session: Any, feeds: dict[str, npt.NDArray[Any]], *, bound: str) -> Any:
    """A function that runs the batch once and gives the image on the host."""
    if not bound:
        return lambda: session.run(["image"], feeds)[0]
    binding = session.io_binding()
    half = "float16" in next(entry.type for entry in session.get_outputs() if entry.name == "image")
    kept = np.empty((len(feeds["labels"]), TILE, TILE, 3), np.float16 if half else np.float32)
    if bound == "device":
        binding.bind_output("image", "cuda")
    else:
        binding.bind_output("image", "cpu", 0, kept.dtype.type, kept.shape, kept.ctypes.data)

    def run() -> Any:
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0] if bound == "device" else kept

    return run


def rate(way: Way, batch: int, seconds: float, cache: Path, *, calls: int = 3) -> dict[str, Any]:
    """Patches a second of at least `calls` bare calls, results on the host; the error in one line where it cannot run."""
    try:
        session = open_session(way, cache)
        runs = [caller(session, feeds_of(session, batch), bound=way.bound) for _ in range(way.calls)]
        for run in runs:
            run()
        start = time.perf_counter()

        def repeat(run: Any) -> int:
            made = 0
            while made < calls or time.perf_counter() - start < seconds:
                run()
                made += 1
            return made

        with ThreadPoolExecutor(way.calls) as threads:
            made = sum(threads.map(repeat, runs))
        return {
            "patches_per_s": round(made * batch / (time.perf_counter() - start), 2),
            "device_mib": device_mib(),
        }
    except Exception as error:  # ONNX Runtime's own, of many kinds: out of memory is the usual one
        return {"error": " ".join(str(error).split())[:160]}


def device_mib() -> int | None:
    """Memory in use on the first GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.stdout.strip().isdigit() else None


def device_name(device: str) -> str:
    """What the figures were taken on."""
    if device == "cpu" or shutil.which("nvidia-smi") is None:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def paper_like(path: Path, *, width: int) -> Path:
    """Write a network of the paper's shape with random weights: 56.4 GFLOP a patch at width 64.

    The safron package writes the same with its card; this one is for machines without it.
    """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            down = [width * factor for factor in (1, 1, 2, 4, 8, 8, 8, 8, 8)]
            up = [width * factor for factor in (8, 8, 8, 8, 4, 2, 1)]
            skips = [0, *down[7:0:-1]]
            self.stem = nn.Conv2d(3, width, 2 * CONTEXT + 1, bias=False)
            self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(down))
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(a + skip, b, 4, 2, 1)
                for a, b, skip in zip([down[-1], *up], [*up, 3], skips, strict=True)
            )

        def forward(self, labels: Any) -> Any:
            values = torch.arange(3, dtype=torch.int32, device=labels.device).view(1, 3, 1, 1)
            x = self.stem(torch.eq(labels[:, None].int(), values).float())
            kept = []
            for layer in self.down:
                x = layer(nn.functional.leaky_relu(x, 0.2))
                kept.append(x)
            kept.pop()
            for index, layer in enumerate(self.up):
                x = layer(nn.functional.relu(x if not index else torch.cat([x, kept.pop()], 1)))
            return (torch.tanh(x).permute(0, 2, 3, 1) + 1) * 127.5

    torch.manual_seed(0)
    axes = {"labels": {0: "n"}, "image": {0: "n"}}
    example = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    torch.onnx.export(
        Net().eval(), (example,), str(path), input_names=["labels"], output_names=["image"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    return path


def half(path: Path) -> Path:
    """Write a float16 copy of a graph; inputs and the output keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    out = path.with_name(f"{path.stem}-float16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(out))
    return out


def generators(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The graphs to run, by name."""
    found = {path.stem: path for path in args.models}
    package = None if missing("safron") or missing("safron.engine") else Path(_shipped_folder())
    if package is not None:
        found |= {path.stem: path for path in sorted(package.glob("*.onnx"))}
    if missing("torch", "onnx"):
        print(f"left out, a network like the paper's: {', '.join(missing('torch', 'onnx'))} not installed")
    elif not args.models:
        found["paper-like"] = paper_like(folder / "paper-like.onnx", width=1 if args.tiny else 64)
    return found


def _shipped_folder() -> str:
    from safron.engine.generator.shipped import MODELS

    return str(MODELS)


def ways(args: argparse.Namespace, file: Path) -> list[Way]:
    """Ways to run a graph on this device."""
    plain = Way(file, "cpu" if args.device == "cpu" else "cuda")
    listed = [plain, replace(plain, calls=2), replace(plain, bound="host")]
    if args.device == "cpu":
        return listed
    listed += [replace(plain, bound="device"), replace(plain, precision="tf32")]
    if not missing("onnx"):
        halves = Way(half(file), "cuda", "float16")
        listed += [halves, replace(halves, calls=2)]
    return [*listed, Way(file, "tensorrt"), Way(file, "tensorrt", "float16")]


def parity(file: Path, others: list[Way], cache: Path) -> dict[str, dict[str, float]]:
    """Largest and mean difference of pixels from the CPU's float32, in grey levels before rounding."""
    session = open_session(Way(file, "cpu"), cache)
    feeds = feeds_of(session, 4)
    expected = session.run(["image"], feeds)[0].astype(np.float64)
    found = {}
    for way in others:
        try:
            image = caller(open_session(way, cache), feeds, bound=way.bound)().astype(np.float64)
        except Exception as error:  # as in `rate`
            print(f"  {way}: no parity, {' '.join(str(error).split())[:160]}")
            continue
        difference = np.abs(image - expected)
        found[str(way)] = {"max": float(difference.max()), "mean": float(difference.mean())}
        print(
            f"  {way!s:28} differs from the CPU by {difference.max():.2e} at most, {difference.mean():.2e} on average"
        )
    return found


def bare_rates(args: argparse.Namespace, listed: list[Way], cache: Path) -> dict[str, dict[int, Any]]:
    """Rates of all ways at all batches."""
    rates: dict[str, dict[int, Any]] = {}
    for way in listed:
        for batch in args.batches:
            made = rate(way, batch, args.seconds, cache, calls=1 if args.tiny else 3)
            rates.setdefault(str(way), {})[batch] = made
            what = (
                made.get("error")
                or f"{made['patches_per_s']:10.1f} patches/s, {made['device_mib']} MiB on the device"
            )
            print(f"  {way!s:28} batch {batch:4}: {what}", flush=True)
            if "error" in made:
                break
    return rates


def write_mask(path: Path, side: int) -> int:
    """Write a Zarr mask of blobs without glass; return how many patches a render of it runs."""
    import zarr

    mask = zarr.create_array(path, shape=(side, side), chunks=(1024, 1024), dtype="uint8")
    for y in range(0, side, 1024):
        cells = np.random.default_rng(y).integers(1, 3, (16, -(-side // 64)), np.uint8)
        mask[y : y + 1024] = np.repeat(np.repeat(cells, 64, 0), 64, 1)[: min(1024, side - y), :side]
    return (-(-(side - (TILE - STRIDE)) // STRIDE)) ** 2


def whole(args: argparse.Namespace, model: str, side: int, best: float, folder: Path) -> dict[str, Any]:
    """Render a slide as a user does, and compare it with the bare rate."""
    mask, report = folder / f"{side}.zarr", folder / "report.json"
    if not mask.exists():
        write_mask(mask, side)
    command = [str(Path(sys.executable).with_name("safron-render")), str(mask), str(folder / "slide.tiff")]
    command += ["--model", model, "--device", args.device, "--overwrite", "--quiet", "--report", str(report)]
    command += ["--workers", str(args.workers)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        print(f"  {side} x {side}: failed, {done.stderr.strip().splitlines()[-1:]}")
        return {"error": done.stderr.strip()[-160:]}
    made = json.loads(report.read_text())
    floor = made["generated"] / best
    print(
        f"  {side} x {side}: {wall:.1f} s, {made['seconds']:.1f} s without start-up; {made['generated']} patches; bare {floor:.1f} s, "
        f"share {floor / wall:.2f}, {floor / made['seconds']:.2f} without start-up; peak {made['peak_bytes'] / 2**20:.0f} MiB"
    )
    stages = made["stages"]
    return {
        "wall_s": round(wall, 2), "inside_s": round(made["seconds"], 2), "patches": made["generated"],
        "share": round(floor / wall, 3), "peak_mib": made["peak_bytes"] >> 20, "stages_s": stages,
    }  # fmt: skip


def one_generator(args: argparse.Namespace, name: str, file: Path, folder: Path) -> dict[str, Any]:
    """All figures of a generator."""
    print(f"\n{name}", flush=True)
    listed = ways(args, file)
    rates = bare_rates(args, listed, folder)
    row: dict[str, Any] = {"rates": rates}
    row["parity"] = parity(file, [way for way in listed if way.calls == 1], folder)
    if missing("safron") or missing("safron.engine", "zarr", "dask"):
        print("  left out, whole slides: safron, zarr or dask not installed")
        return row
    if name == "paper-like":
        print(
            "  left out, whole slides: it has no card; pass one from safron-train export-random with --models"
        )
        return row
    row["whole"] = {}
    for precision in ("float32", "float16"):
        alike = [way for way in listed if way.precision == precision and way.provider != "tensorrt"]
        made = [made for way in alike for made in rates[str(way)].values()]
        best = max((one["patches_per_s"] for one in made if "error" not in one), default=0.0)
        if best:
            print(f"  {precision}, {best:.1f} patches/s bare at best")
            path = str(alike[0].file)
            row["whole"][precision] = {side: whole(args, path, side, best, folder) for side in args.sides}
    return row


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="ONNX files besides those that ship"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[8000, 32000], help="canvases of whole slides"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each bare measurement")
    parser.add_argument("--workers", type=int, default=4, help="of safron-render")
    parser.add_argument(
        "--tiny", action="store_true", help="seconds in all: small batches, canvas and network"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where files go while it runs")
    args = parser.parse_args()
    if args.tiny:
        args.batches, args.sides, args.seconds, args.workers = [1, 2], [600], 0.0, 2
    if missing("onnxruntime"):
        sys.exit("gpu.py: onnxruntime is not installed; run: pip install onnxruntime-gpu")
    print(f"{device_name(args.device)}; the paper: 8000 x 8000 in under {PAPER_SECONDS:.0f} s on a TITAN X")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        rows = {
            model: one_generator(args, model, file, folder)
            for model, file in generators(args, folder).items()
        }
    print(json.dumps({"benchmark": "gpu", "device": device_name(args.device), "generators": rows}))


if __name__ == "__main__":
    main()
