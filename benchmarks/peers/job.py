"""What do all peers share? One generator session, the grid of the mean, and how time and memory are taken.

A runner ``run_NAME.py`` defines ``render(job, generator)``, which makes the image and returns where it lies, and ends in
``main(render)``. It is started by ``benchmarks/peers.py`` with a JSON file that says what to do, and leaves its measurements
beside it. Its environment has only what the peer needs, so nothing of SAFRON may be imported here.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import zarr

TILE, CONTEXT, STRIDE = 256, 20, 236
WINDOW = TILE + 2 * CONTEXT


@dataclass(frozen=True)
class Job:
    """What to make of what.

    Attributes
    ----------
    mask : labels as Zarr, uint8 [height, width]; beside it lies the same as a TIFF, for readers of slides.
    model : the ONNX file.
    folder : where the output goes.
    side : pixels a side of mask and image.
    threads : of one generator call; 0 uses all cores.
    batch : patches a call.
    setting : what only this peer knows of.
    """

    mask: str
    model: str
    folder: str
    side: int
    threads: int
    batch: int
    setting: dict[str, Any]

    @property
    def out(self) -> Path:
        """Folder of the output."""
        return Path(self.folder)

    def block(self) -> int:
        """Pixels a side of a block: as set, but small enough that there are sixteen, or a core would wait."""
        return min(int(self.setting["block"]), self.side // 4)

    def labels(self) -> Any:
        """Return the mask, which reads what is sliced."""
        return zarr.open_array(self.mask, mode="r")


class Generator:
    """The generator, with the session settings that SAFRON uses, counting patches where the harness can see it.

    Parameters
    ----------
    path : the ONNX file.
    threads : of one call; 0 uses all cores.
    counter : file of 8 bytes.
    """

    def __init__(self, path: str, threads: int, counter: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        shapes = {port.name: port.shape[1:] for port in self._session.get_inputs() if port.name != "labels"}
        self._planes = {name: planes(*shape) for name, shape in shapes.items()}
        counter.write_bytes(bytes(8))
        with counter.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        self._count, self._lock = 0, threading.Lock()

    def __call__(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn windows of labels, uint8 [N, 296, 296], into RGB 0..255, float32 [N, 256, 256, 3]."""
        count = len(labels)
        others = {name: np.repeat(values, count, axis=0) for name, values in self._planes.items()}
        (image,) = self._session.run(["image"], {"labels": labels} | others)
        with self._lock:
            self._count += count
            self._shared[:] = self._count.to_bytes(8, "little")
        return np.asarray(image, np.float32)


def planes(channels: int, *_: int | str) -> npt.NDArray[np.float32]:
    """Return what every patch gets for an input beside its labels, float32 [1, channels, 296, 296]; peers have no noise of a place."""
    return np.random.default_rng(0).standard_normal((1, channels, WINDOW, WINDOW), np.float32)


def to_uint8(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Round half to even and clip, as SAFRON does."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def windows(labels: Any, stride: int = STRIDE) -> Iterator[tuple[int, int, npt.NDArray[np.uint8]]]:
    """Give every patch's origin (y, x) and label window [296, 296], row by row; beyond the mask lies its edge.

    One band of the mask is held at a time: peers that take patches need not hold the mask, nor decode a chunk per patch.
    """
    height, width = labels.shape
    for y in origins(height, stride):
        top, bottom = y - CONTEXT, y + TILE + CONTEXT
        band = np.asarray(labels[max(top, 0) : min(bottom, height)])
        columns = origins(width, stride)
        right = columns[-1] + TILE + CONTEXT - width
        above, below = max(-top, 0), max(bottom - height, 0)
        band = np.pad(band, ((above, below), (CONTEXT, max(right, 0))), mode="edge")
        for x in columns:
            yield y, x, band[:, x : x + WINDOW]


def origins(length: int, stride: int = STRIDE) -> list[int]:
    """Origins of patches along an axis: 0, s, 2s, ... until it is covered."""
    count = max(1, -(-(length - TILE) // stride) + 1)
    return [stride * index for index in range(count)]


def render_block(
    block: npt.NDArray[np.uint8], generator: Generator, batch: int, glass: list[int] | None
) -> npt.NDArray[np.uint8]:
    """Fill a block that came with a halo of 20 by patches side by side: uint8 [H + 40, W + 40] to [H, W, 3].

    Parameters
    ----------
    glass : the colour of windows that hold label 0 alone, which are then not run; None runs them too.
    """
    height, width = block.shape[0] - 2 * CONTEXT, block.shape[1] - 2 * CONTEXT
    image = np.empty((height, width, 3), np.uint8)
    places, inputs = [], []

    def flush() -> None:
        for (y, x), patch in zip(places, to_uint8(generator(np.stack(inputs))), strict=True):
            image[y : y + TILE, x : x + TILE] = patch
        places.clear()
        inputs.clear()

    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            window = block[y : y + WINDOW, x : x + WINDOW]
            if glass is not None and not window.any():
                image[y : y + TILE, x : x + TILE] = glass
                continue
            places.append((y, x))
            inputs.append(window)
            if len(places) == batch:
                flush()
    if places:
        flush()
    return image


def memory(field: str) -> int:
    """Bytes of this process: ``VmRSS`` is what it holds, ``VmHWM`` the most that it held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def age() -> float:
    """Seconds since this process was started, imports included."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def load_session(job: Job, counter: Path) -> Generator:
    """Return the generator, called once."""
    generator = Generator(job.model, job.threads, counter)
    generator(np.zeros((job.batch, WINDOW, WINDOW), np.uint8))
    return generator


def main(
    render: Callable[[Job, Any], dict[str, str]], load: Callable[[Job, Path], Any] = load_session
) -> None:
    """Load a generator that was called once, then render and write down what that took.

    Time and memory count from there: imports and the generator's weights are the base that any peer needs.
    """
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text()))
    generator = load(job, path.with_suffix(".count"))
    Path("/proc/self/clear_refs").write_text("5")  # lets VmHWM begin anew from what is held now
    base, ready, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    made = render(job, generator)
    seconds, peak = time.perf_counter() - ready, memory("VmHWM")
    measured = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - busy,
        "start_seconds": age() - seconds,
    }
    measured |= {"base_bytes": base, "peak_bytes": peak}
    path.with_suffix(".made").write_text(json.dumps(made | measured))
