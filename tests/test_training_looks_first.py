"""What is wrong with training data is said before PyTorch is imported: declared sizes cost neither time nor memory."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from masks import blobs
from safron.io.errors import BadInput
from safron.io.legend import Label
from safron.io.masks.write_nuclei import write_nuclei
from safron.io.whole_image import read_image
from training_cases import pair

SIDE = (1 << 31) - 1
LOOK = """
import sys
from safron.training.cli import main
try:
    main(sys.argv[1:])
finally:
    memory = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(memory, "torch" in sys.modules)
"""


def png(path: Path, side: int = SIDE) -> None:
    """Write a picture that declares more than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def masks(folder: Path) -> None:
    pair(folder, "a", 0, (160, 160), 6.0)
    png(folder / "a.mask.png")


def images(folder: Path) -> None:
    pair(folder, "a", 0, (160, 160), 6.0)
    png(folder / "a.png")


def tiles(folder: Path) -> None:
    folder.mkdir()
    png(folder / "a.png")


def nuclei(folder: Path) -> None:
    labels = blobs(96, 96, seed=0, labels=2)
    named = [Label(0, "background", (0, 0, 0)), Label(1, "neoplastic", (255, 0, 0))]
    write_nuclei(
        folder, lambda y, x: (labels[y, x], labels[y, x].astype(np.uint32)), height=96, width=96, most=9,
        labels=named,
    )  # fmt: skip
    for file in folder.rglob("zarr.json"):
        about: dict[str, Any] = json.loads(file.read_text())
        if about["node_type"] == "array":
            file.write_text(json.dumps(about | {"shape": [SIDE, SIDE]}))


CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a mask": ("fit", masks, "cannot read it as an image"),
    "an image": ("fit", images, "at most 1000000 a side are read"),
    "a mask, for a diffusion model": ("diffusion", masks, "cannot read it as an image"),
    "a tile": ("refiner", tiles, "at most 1000000 a side are read"),
    "nuclei": ("mask-model", nuclei, "and training keeps 3 bytes of each on disk"),
}


@pytest.mark.parametrize(("command", "make", "says"), CASES.values(), ids=CASES)
def test_declared_sizes_are_refused_early(
    tmp_path: Path, command: str, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path / "data")
    words = [sys.executable, "-c", LOOK, command, str(tmp_path / "data"), str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    memory, has_torch = done.stdout.split()
    assert has_torch == "False"
    assert int(memory) < 200 << 10
    assert not (tmp_path / "run").exists()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: png(path, 40_000), "has too many pixels to be read whole; cut it into smaller images"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is damaged, or breaks off before its end"),
        (flipped, "is damaged, or breaks off before its end"),
        (to_pipe, "is a pipe or a device"),
    ],
)
def test_an_image_that_is_not_read_is_told_once(
    tmp_path: Path, capfd: Any, spoil: Callable[[Path], Any], says: str
) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    assert read_image(path).shape == (60, 60, 3)
    spoil(path)
    with pytest.raises(BadInput, match=re.escape(f"{path}: {says}")):
        read_image(path)
    assert capfd.readouterr() == ("", "")
