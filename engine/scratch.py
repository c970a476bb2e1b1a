"""What do blocks share while a render is under way, and what survives a crash?

Beside the output lies a Zarr group, ``OUT.safron``::

    zarr.json                  attributes: the inputs that this scratch belongs to
    weights/y, weights/x       total blend weight along each axis: int32 [height], [width] of the region
    seams/R.C.right, .below    weighted sums of block (R, C)'s seam patches: int32 or uint16 [h, w, 3], one chunk each
    levels/K                   one level of the slide: uint8 [h, w, 3]; a chunk a block, above that a chunk a tile
    journal.jsonl              one line for each finished seam and block
    index.bin                  where each TIFF tile lies in OUT.part (owned by the slide writer)

Every chunk is written by one task only, whole, so nothing is locked and a retried task overwrites its
own work with the same bytes. Seams are deleted as soon as the last block that needs them is journaled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from safron.io.errors import BadInput, Failed
from zarr.codecs import BloscCodec, Crc32cCodec

from .accumulate import Sums
from .plan import RenderPlan
from .window import Window

FORMAT = 1
_PARTS = {"zarr.json", "weights", "seams", "levels", "journal.jsonl", "index.bin"}


@dataclass(frozen=True)
class Scratch:
    """The scratch group of one render; a picklable path with the few things one does there.

    Attributes
    ----------
    path : the folder ``OUT.safron``.
    """

    path: Path

    @property
    def journal(self) -> Path:
        """File of finished seams and blocks."""
        return self.path / "journal.jsonl"

    @property
    def index(self) -> Path:
        """File of the slide writer's tile index."""
        return self.path / "index.bin"

    def create(self, plan: RenderPlan, inputs: Mapping[str, str]) -> None:
        """Make an empty scratch for `plan`; it becomes valid with its last write, the attributes."""
        if self.path.exists() and not self._is_ours():
            raise BadInput(f"{self.path}: exists and is no scratch of ours; move it away or pass --scratch")
        self.remove()
        group = zarr.create_group(self.path)
        region = plan.region
        rows, columns = plan.grid.rows, plan.grid.columns
        weights = plan.blend.weights
        for name, axis, start, stop in (
            ("y", rows, region.y, region.y_stop),
            ("x", columns, region.x, region.x_stop),
        ):
            step = 1 << 16
            array = group.create_array(
                f"weights/{name}", shape=(stop - start,), chunks=(step,), dtype="int32"
            )
            for lo in range(start, stop, step):
                hi = min(lo + step, stop)
                array[lo - start : hi - start] = axis.total_weight(weights, lo, hi)
        self.create_level(plan, plan.thumbnail_level, chunk=plan.block >> plan.thumbnail_level)
        self.journal.touch()
        group.attrs["safron"] = {"format": FORMAT, "inputs": dict(inputs)}

    def _is_ours(self) -> bool:
        """Whether this folder was made as scratch; a crash in `remove` may have left any part of one."""
        if not self.path.is_dir():
            return False
        return (self.path / "zarr.json").is_file() or {item.name for item in self.path.iterdir()} <= _PARTS

    def remove(self) -> None:
        """Delete the scratch; what makes it valid goes first, so that a half of it is never gone on with."""
        with suppress(OSError):
            (self.path / "zarr.json").unlink()
        shutil.rmtree(self.path, ignore_errors=True)

    def differences(self, inputs: Mapping[str, str]) -> list[str] | None:
        """Names of the inputs in which this scratch differs; None where there is no usable scratch."""
        try:
            found = zarr.open_group(self.path, mode="r").attrs["safron"]
        except (OSError, KeyError, ValueError):
            return None
        if (
            not isinstance(found, dict)
            or found.get("format") != FORMAT
            or not isinstance(found.get("inputs"), dict)
        ):
            return ["scratch format"]
        before: dict[str, Any] = found["inputs"]
        return [name for name in sorted({*before, *inputs}) if before.get(name) != inputs.get(name)]

    def write_seam(self, block: tuple[int, int], name: str, sums: Sums) -> None:
        """Store the weighted sums [h, w, 3] of one seam, replacing what a crashed try left."""
        array = zarr.create_array(
            self._seam(block, name),
            shape=sums.shape,
            chunks=sums.shape,
            dtype=sums.dtype,
            # Sums of flat weights leave their top byte empty, and cheap generators' sums are smooth.
            compressors=[
                BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=sums.itemsize),
                Crc32cCodec(),
            ],
            overwrite=True,
            config={"write_empty_chunks": True},
        )
        array[:] = sums

    def read_seam(self, block: tuple[int, int], name: str, part: Window, whole: Window) -> Sums:
        """Load the sums of `part` of a seam that covers the window `whole`."""
        array = zarr.open_array(self._seam(block, name), mode="r")
        _require_chunk(array, (0, 0, 0), self._seam(block, name))
        assert array.shape[:2] == (whole.height, whole.width), (array.shape, whole)
        sums: Sums = np.asarray(array[part.slices(whole)])
        return sums

    def free_seam(self, block: tuple[int, int], name: str) -> None:
        """Delete a seam; nothing happens where it is gone already."""
        shutil.rmtree(self._seam(block, name), ignore_errors=True)

    def _seam(self, block: tuple[int, int], name: str) -> Path:
        return self.path / "seams" / f"{block[0]}.{block[1]}.{name}"

    def create_level(self, plan: RenderPlan, level: int, *, chunk: int) -> None:
        """Make room for one level of the slide, replacing what a crashed try left."""
        shape = (max(1, plan.slide.height >> level), max(1, plan.slide.width >> level), 3)
        zarr.create_array(
            self.path / "levels" / str(level),
            shape=shape,
            chunks=(chunk, chunk, 3),
            dtype="uint8",
            compressors=[BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1), Crc32cCodec()],
            overwrite=True,
        )

    def level(self, level: int) -> zarr.Array[Any]:
        """Open one level of the slide, uint8 [h, w, 3]."""
        return zarr.open_array(
            self.path / "levels" / str(level), mode="r+", config={"write_empty_chunks": True}
        )

    def has_part(self, level: int, block: tuple[int, int]) -> bool:
        """Whether what a block left of a level can be read; a power cut may have torn or lost it."""
        array = self.level(level)
        if block[0] * array.chunks[0] >= array.shape[0] or block[1] * array.chunks[1] >= array.shape[1]:
            return True  # only an odd last row or column, which the level leaves out
        try:
            _require_chunk(array, (*block, 0), self.path / "levels" / str(level))
            _ = array.blocks[block]
        except (OSError, ValueError, RuntimeError):
            return False
        return True


def _require_chunk(array: zarr.Array[Any], index: tuple[int, ...], path: Path) -> None:
    """Raise unless a chunk is there: Zarr reads a missing one as zeros, which are black."""
    chunk = path / array.metadata.encode_chunk_key(index)
    if not chunk.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(chunk))


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a seam or a block that is finished.

    Attributes
    ----------
    kind : "seam" or "block".
    index : (row, column) of the block.
    run, painted : patches sent to the generator, and patches painted as glass.
    end : bytes of OUT.part that are valid after it.
    """

    kind: str
    index: tuple[int, int]
    run: int
    painted: int
    end: int = 0

    def line(self) -> str:
        """One JSON line."""
        record = {"kind": self.kind, "index": list(self.index), "run": self.run, "painted": self.painted}
        return json.dumps(record | {"end": self.end}) + "\n"


class Journal:
    """Appends entries durably; one writer, the process that drives the render."""

    def __init__(self, path: Path) -> None:
        whole = sum(len(line) for line in _whole_lines(path))
        self._file = path.open("r+b")
        # A torn last line would glue itself to the next one.
        self._file.truncate(whole)
        self._file.seek(whole)

    def append(self, entries: list[Entry]) -> None:
        """Write entries and force them to disk."""
        try:
            self._file.write("".join(entry.line() for entry in entries).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise Failed(
                f"cannot write {self._file.name}: {error.strerror}; the same command continues"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> Iterator[Entry]:
    """Entries of a journal in the order written; a torn last line is left out."""
    for line in _whole_lines(path):
        record = json.loads(line)
        yield Entry(record["kind"], tuple(record["index"]), record["run"], record["painted"], record["end"])


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                json.loads(line)
            except ValueError:
                return
            yield line


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of the disk under `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{path}: disk full ({error.strerror}); free space and run the same command again"
        else:
            text = (
                f"{error.filename or path}: {error.strerror or error}; mend it and run the same command again"
            )
        raise Failed(text) from error


def require_same(differences: list[str], scratch: Path) -> None:
    """Raise `BadInput` where scratch belongs to other inputs."""
    if differences:
        raise BadInput(
            f"{scratch} holds an unfinished render with other inputs ({', '.join(differences)}); "
            "run that command again to finish it, or pass --overwrite to start over"
        )
