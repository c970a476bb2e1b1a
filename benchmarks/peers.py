"""What does the same job cost through what people would use instead?

    python benchmarks/peers.py --install                              environments of all peers, pinned; some gigabytes
    python benchmarks/peers.py                                        the engines: a generator that costs next to nothing
    python benchmarks/peers.py --model paper.onnx --sides 2048        a generator that takes most of the time
    python benchmarks/peers.py --model paper.onnx --sides 3072 --mask slide --peers safron dask dask-glass

Every peer is a process of its own in an environment of its own (``benchmarks/peers/``): the same mask, the same ONNX file, the
same session settings, one call of the generator before the clock starts. Peers make what they make, a Zarr, a TIFF or a PNG of
full size; only SAFRON's output is a finished pyramidal slide. Memory is the peak of the process and its children over what it
held when the clock started. A peer that would take longer than --timeout, or more memory than --cap, is stopped or not begun, and
its figures are marked: ``~`` four times the area takes four times as much, ``>`` stopped there. A table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import tifffile
import zarr
from common import gland_labels, parser_of

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from job import CONTEXT, STRIDE, TILE, WINDOW, Generator, Job  # noqa: E402

GLASS = [243, 240, 243]
ROWS = 1024
DISC = 0.82  # of half the side: 40 % of the patches of 3072 x 3072 are glass, half of those of 8192 x 8192


@dataclass(frozen=True)
class Peer:
    """How one peer is run at its best.

    Attributes
    ----------
    environment : name of its requirement files, or None for this Python.
    runner : its script, less ``run_``.
    averages : whether it says that it averages overlaps.
    threads, batch : of generator calls.
    setting : what its script takes besides.
    lossless : what to set where pixels are compared, if its output is lossy otherwise.
    """

    environment: str | None
    runner: str
    averages: bool
    threads: int
    batch: int
    setting: dict[str, Any] = field(default_factory=dict)
    lossless: dict[str, Any] = field(default_factory=dict)


BEST = {
    "safron": Peer(None, "safron", True, 0, 8, {"block": 2048}, lossless={"compression": "deflate"}),
    "dask": Peer("dask", "dask", False, 1, 1, {"block": 2048, "workers": 2}),
    "dask-glass": Peer("dask", "dask", False, 1, 1, {"block": 2048, "workers": 2, "glass": GLASS}),
    "torch-em": Peer("torch_em", "torch_em", False, 0, 1, {"block": 2048, "writers": 2}),
    "tiatoolbox": Peer("tiatoolbox", "tiatoolbox", True, 0, 16, {"memory_threshold": 80}),
    "tiatoolbox-low": Peer("tiatoolbox", "tiatoolbox", True, 0, 16, {"memory_threshold": 2}),
    "deepliif": Peer("deepliif", "deepliif", False, 0, 1),
    "recipe": Peer("recipe", "recipe", True, 0, 1),
    "monai": Peer("monai", "monai", True, 0, 1, {"chunk": 256, "buffer": 0}),
}


def install(peer: Peer, envs: Path) -> Path:
    """Return the Python of a peer's environment, made if it is not there: what is pinned, then what has pins of its own.

    A file ``NAME-bare.txt`` lists packages whose own requirements contradict ours or want what is not needed to run them.
    """
    if peer.environment is None:
        return Path(sys.executable)
    folder = envs / peer.environment
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for file, options in (("", []), ("-bare", ["--no-deps"])):
            pins = PEERS / f"{peer.environment}{file}.txt"
            if pins.exists():
                pip = [python, "-m", "pip", "install", "--quiet", *options, "-r", pins]
                subprocess.run(pip, check=True)
        done.touch()
    return python


def mask_rows(side: int, kind: str) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Give the mask a row of chunks at a time: the gland mask repeated; "slide" has glass around a disc of it."""
    for y in range(0, side, ROWS):
        labels = gland_labels(min(ROWS, side - y), side, y)
        if kind == "slide":
            rows = (np.arange(y, y + len(labels)) + 0.5) * 2 / side - 1
            columns = (np.arange(side) + 0.5) * 2 / side - 1
            labels[rows[:, None] ** 2 + columns**2 > DISC**2] = 0
        yield y, labels


def write_mask(path: Path, side: int, kind: str, *, as_slide: bool) -> None:
    """Write the mask as Zarr, and beside it as a tiled RGB TIFF where a peer reads nothing but slides."""
    mask = zarr.create_array(path, shape=(side, side), chunks=(ROWS, ROWS), dtype="uint8")
    for y, labels in mask_rows(side, kind):
        mask[y : y + len(labels)] = labels
    if not as_slide:
        return

    def tiles() -> Iterator[npt.NDArray[np.uint8]]:
        for _, labels in mask_rows(side, kind):
            for y in range(0, len(labels), 512):
                for x in range(0, side, 512):
                    yield np.repeat(labels[y : y + 512, x : x + 512, None], 3, axis=2)

    tifffile.imwrite(
        path.with_suffix(".tiff"), tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), bigtiff=True,
        photometric="rgb", compression="deflate", resolution=(10000, 10000), resolutionunit="CENTIMETER",
    )  # fmt: skip


def write_cheap(path: Path) -> None:
    """Write a generator of one convolution that keeps the contract, 296 in and 256 out, and knows no glass.

    Its nine taps, 20 pixels apart, reach over the whole context. A fixed texture makes the image compress like tissue, and
    every patch is shifted by its own mean label, so that patches disagree where they overlap and a mean can be told from a crop.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(7)
    taps = random.uniform(1, 6, (3, 1, 3, 3)).astype(np.float32)
    texture = random.normal(0, 8, (1, 3, TILE, TILE)).astype(np.float32)
    tensors = {
        "axis": np.array([1], np.int64),
        "plane": np.array([2, 3], np.int64),
        "taps": taps,
        "base": np.array([90, 60, 100], np.float32),
        "texture": texture,
        "shift": np.array(-9.7, np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["labels", "axis"], ["deep"]),
        helper.make_node("Cast", ["deep"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["numbers", "taps", "base"], ["flat"], dilations=[CONTEXT, CONTEXT]),
        helper.make_node("ReduceMean", ["numbers", "plane"], ["level"], keepdims=1),
        helper.make_node("Mul", ["level", "shift"], ["offset"]),
        helper.make_node("Add", ["texture", "offset"], ["shifted"]),
        helper.make_node("Add", ["flat", "shifted"], ["colored"]),
        helper.make_node("Transpose", ["colored"], ["image"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "cheap",
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", WINDOW, WINDOW])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", TILE, TILE, 3])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    colors = [[0, 0, 255], [255, 0, 0], [0, 255, 0]]
    labels = [
        {"value": value, "name": f"label {value}", "color": color} for value, color in enumerate(colors)
    ]
    card = {"name": "cheap", "tile": TILE, "context": CONTEXT, "labels": labels, "mpp": 1.0}
    helper.set_model_props(model, {"safron": json.dumps(card)})
    onnx.save(model, path)


def measure(peer: Peer, python: Path, job: Job, *, timeout: float, cap: int) -> dict[str, Any]:
    """Run a peer: seconds and bytes over base; of one that was stopped, why, and all that it held."""
    spec = job.out / "job.json"
    spec.write_text(json.dumps(asdict(job)))
    with (job.out / "errors.txt").open("w+") as errors:
        command = [python, PEERS / f"run_{peer.runner}.py", spec]
        process = psutil.Popen(command, stdout=errors, stderr=errors)
        try:
            watched = watch(process, timeout, cap)
        finally:  # a peer that outlives us would disturb the next measurement
            if process.poll() is None:
                for one in [*process.children(recursive=True), process]:
                    one.kill()
                process.wait()
        if "stopped" in watched:
            done = spec.with_suffix(".count")
            return watched | {"patches": int.from_bytes(done.read_bytes(), "little") if done.exists() else 0}
        if process.returncode:
            errors.seek(0)
            return {"stopped": "error", "error": " ".join(errors.read().strip().splitlines()[-1:])}
    made: dict[str, Any] = json.loads(spec.with_suffix(".made").read_text())
    return made | {"over_bytes": made["peak_bytes"] - made["base_bytes"] + watched["children"]}


def watch(process: psutil.Popen, timeout: float, cap: int) -> dict[str, Any]:
    """Wait for a process to end or to pass a limit; the most that its children held, or what it was stopped at."""
    start, children = time.perf_counter(), 0
    while process.poll() is None:
        time.sleep(0.1)
        held, of_children = held_bytes(process)
        children = max(children, of_children)
        seconds = time.perf_counter() - start
        if held > cap or seconds > timeout:
            why = "memory" if held > cap else "time"
            return {"stopped": why, "seconds": seconds, "over_bytes": held}
    return {"children": children}


def held_bytes(process: psutil.Process) -> tuple[int, int]:
    """Bytes held by a process and its children, and by its children alone, without what they share."""
    try:
        children = sum(child.memory_full_info().uss for child in process.children(recursive=True))
        return process.memory_info().rss + children, children
    except psutil.Error:
        return 0, 0  # it ended meanwhile


def mean_of_patches(
    labels: Any, generator: Generator, y: int, x: int, height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return part of the image as the paper defines it: float64 [height, width, 3].

    Every patch of the grid that covers a pixel counts the same; labels beyond the mask are those at its edge.
    """
    sums, counts = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for top in range(max(0, y - TILE + STRIDE) // STRIDE * STRIDE, y + height, STRIDE):
        for left in range(max(0, x - TILE + STRIDE) // STRIDE * STRIDE, x + width, STRIDE):
            rows = np.clip(np.arange(top - CONTEXT, top + TILE + CONTEXT), 0, labels.shape[0] - 1)
            columns = np.clip(np.arange(left - CONTEXT, left + TILE + CONTEXT), 0, labels.shape[1] - 1)
            window = np.asarray(labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
            window = window[np.ix_(rows - rows[0], columns - columns[0])]
            patch = generator(window[None])[0]
            y0, x0 = max(top, y), max(left, x)
            y1, x1 = min(top + TILE, y + height), min(left + TILE, x + width)
            sums[y0 - y : y1 - y, x0 - x : x1 - x] += patch[y0 - top : y1 - top, x0 - left : x1 - left]
            counts[y0 - y : y1 - y, x0 - x : x1 - x] += 1
    return sums / counts


def open_image(kind: str, path: str) -> Any:
    """Open what a peer made, as something that gives [y, x, 3] when sliced."""
    if kind == "png":
        import cv2

        return cv2.imread(path)[..., ::-1]
    if kind == "tiff":
        return tifffile.imread(path, level=0)
    image = np.asarray(zarr.open_array(path, mode="r"))
    if kind == "zarr yxc":
        return image
    return np.moveaxis(image[0] if kind == "zarr ncyx" else image, 0, -1)


def differences(made: dict[str, Any], job: Job, folder: Path) -> dict[str, float]:
    """Largest difference from the mean of patches, in grey levels, inside the image and along its border."""
    generator, labels = Generator(job.model, 0, folder / "check.count"), job.labels()
    image, size = open_image(made["kind"], made["path"]), 600
    last = job.side - size
    found = {"inside": 0.0, "border": 0.0}
    middle = (last // 2, last // 3)
    for y, x in ((0, 0), (0, last), (last, 0), (last, last), middle, (2 * last // 3, last // 2)):
        wanted = mean_of_patches(labels, generator, y, x, size, size)
        error = np.abs(np.asarray(image[y : y + size, x : x + size], np.float64) - wanted).max(axis=2)
        rows, columns = np.arange(y, y + size), np.arange(x, x + size)
        # A patch at the border sees beyond it, and hands that on to all of its own pixels.
        deep = [(axis >= TILE) & (axis < job.side - 2 * TILE) for axis in (rows, columns)]
        inside = deep[0][:, None] & deep[1]
        found["inside"] = max(found["inside"], float(error[inside].max(initial=0)))
        found["border"] = max(found["border"], float(error[~inside].max(initial=0)))
    return found


def run(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run all that was asked for; a row for each peer and side."""
    model = args.model
    if model is None:
        model = folder / "cheap.onnx"
        write_cheap(model)
    rows: list[dict[str, Any]] = []
    earlier: dict[str, list[dict[str, Any]]] = {name: [] for name in args.peers}
    for side in args.sides:
        mask = folder / f"mask-{side}.zarr"
        write_mask(mask, side, args.mask, as_slide=any(name.startswith("tia") for name in args.peers))
        made: dict[str, list[dict[str, Any]]] = {name: [] for name in args.peers}
        for _ in range(args.repeats):  # in turn, so that all see the same hours of a shared machine
            for name, runs in made.items():
                if not any("stopped" in one for one in runs):
                    runs.append(
                        beyond(earlier[name], side, args) or run_once(args, folder, BEST[name], mask, model)
                    )
        for name, runs in made.items():
            row = {"peer": name, "side": side} | summary(runs)
            earlier[name].append(row)
            rows.append(row)
            print(line(row), flush=True)
        shutil.rmtree(mask)
        mask.with_suffix(".tiff").unlink(missing_ok=True)
    return rows


def beyond(earlier: list[dict[str, Any]], side: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """Say what a peer would take where that is too much to try it; None where it can be tried.

    Parameters
    ----------
    earlier : its rows at smaller sides, smallest first. Time grows with the area; memory does where it did.
    """
    if not earlier:
        return None
    last = earlier[-1]
    if "seconds" not in last:
        return last
    area = (side / last["side"]) ** 2
    flat = len(earlier) > 1 and last["over_bytes"] < 1.5 * earlier[-2]["over_bytes"]
    seconds, held = last["seconds"] * area, last["over_bytes"] * (1 if flat else area)
    small_enough = seconds <= args.timeout and held <= args.cap * 2**30
    if "stopped" not in last and small_enough:
        return None
    return {"stopped": "beyond", "seconds": seconds, "over_bytes": held}


def run_once(args: argparse.Namespace, folder: Path, peer: Peer, mask: Path, model: Path) -> dict[str, Any]:
    """Run a peer into a folder that is gone afterwards; with --check, compare what it made."""
    known = {"threads": peer.threads, "batch": peer.batch} | peer.setting | args.set
    threads, batch = known.pop("threads"), known.pop("batch")
    side = zarr.open_array(mask, mode="r").shape[0]
    python, limits = install(peer, args.envs), {"timeout": args.timeout, "cap": args.cap * 2**30}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        job = Job(str(mask), str(model), out, side, threads, batch, known)
        made = measure(peer, python, job, **limits)
        if args.check and peer.averages and "stopped" not in made:
            again = replace(job, setting=job.setting | peer.lossless)
            image = measure(peer, python, again, **limits) if peer.lossless else made
            made |= differences(image, job, folder)
    return made


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median time, and the range of times; the last run alone where one was stopped."""
    if "stopped" in runs[-1]:
        return runs[-1]
    middle = sorted(runs, key=lambda made: made["seconds"])[len(runs) // 2]
    kept = ("seconds", "cpu_seconds", "over_bytes", "start_seconds", "patches", "inside", "border")
    seconds = [made["seconds"] for made in runs]
    return {key: middle[key] for key in kept if key in middle} | {"range": [min(seconds), max(seconds)]}


def line(row: dict[str, Any]) -> str:
    """Say a row to a person."""
    head = f"{row['side']:>6} px  {row['peer']:<15}"
    if "seconds" not in row:
        return f"{head} {row['error']}"
    mark = {"beyond": "~", "time": ">", "memory": ">"}.get(row.get("stopped", ""), "")
    speed = row["side"] ** 2 / row["seconds"] / 1e6
    text = f"{head} {mark + format(row['seconds'], '.1f'):>8} s  {speed:6.1f} Mpx/s  {mark + format(row['over_bytes'] / 1e6, '.0f'):>7} MB"
    if "cpu_seconds" in row:
        text += f"  {row['cpu_seconds']:6.1f} s of cores"
    if not BEST[row["peer"]].averages:
        text += "  overlaps cropped"
    if "inside" in row:
        text += f"  off by {row['inside']:.2f} inside, {row['border']:.2f} at the border"
    if row.get("stopped") == "time":
        text += f"  stopped after {row['patches']} patches"
    return text


def main() -> None:
    """Parse, install, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--install", action="store_true", help="make the environments and stop")
    parser.add_argument("--peers", nargs="+", choices=BEST, default=list(BEST), help="which of them")
    parser.add_argument("--model", type=Path, default=None, help="ONNX file; else one cheap convolution")
    parser.add_argument(
        "--mask", choices=["glands", "slide"], default="glands", help="slide: glass around a disc"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[4096, 8192, 16384, 32768], help="multiples of 1024"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=240, help="seconds a run")
    parser.add_argument("--cap", type=int, default=12, help="GiB a run")
    parser.add_argument("--check", action="store_true", help="compare with the mean of patches")
    parser.add_argument(
        "--set", type=json.loads, default={}, help="JSON that replaces settings, threads and batch"
    )
    parser.add_argument("--envs", type=Path, default=Path(tempfile.gettempdir()) / "safron-peers")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go while it runs")
    args = parser.parse_args()
    args.envs = args.envs.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was begun is ended
    for name in args.peers:
        install(BEST[name], args.envs)
    if args.install:
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = run(args, Path(folder).resolve())
    job = {"benchmark": "peers", "model": str(args.model or "cheap"), "mask": args.mask}
    print(json.dumps(job | {"rows": rows}))


if __name__ == "__main__":
    main()
