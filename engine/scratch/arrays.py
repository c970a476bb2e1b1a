"""What do blocks share while a render is under way, and what survives a crash?

Beside the output lies a Zarr group, ``OUT.safron``::

    zarr.json                  attributes: the inputs that this scratch belongs to
    weights/y, weights/x       total blend weight along each axis: int32 [height], [width] of the region
    seams/pixels               uint8 [R, C, n]: what block (R, C)'s seam patches write alone; one chunk a block
    seams/sums                 uint16 or int32 [R, C, n]: their weighted sums where they overlap; one chunk a block
    levels/K                   one level of the slide: uint8 [h, w, 3]; a chunk a block, above that a chunk a tile
    journal.jsonl              one line for each seam and block that is finished, and made of the mask as it was
    index.bin                  where each TIFF tile lies in OUT.part (owned by the slide writer)
    finished.json              what the slide will be, once it has its name (owned by `safron.engine.scratch.completion`)

Every chunk has one writer at a time, and is written whole, so nothing is locked and a retried task overwrites its
own work with the same bytes. Seams are deleted as soon as the last block that needs them is on disk. Where all tasks
run in one process, most are never written: they stay in its memory for the second in which they are needed.
A seam's chunks hold its parts (right, below) one after the other, each as `Accumulator` lays it out, and zeros.

Where ``--scratch`` is an address, seams and levels lie there, and the rest, which the driver alone reads and writes, here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import zarr
from safron.engine.plan.fixed_point import Sums
from safron.engine.plan.render_plan import RenderPlan
from safron.io.errors import BadInput, Failed, one_line
from zarr.codecs import BloscCodec, Crc32cCodec

from .chunk_codec import decode_chunk, encode_chunk
from .seam_store import Index, Seams

UInt8 = npt.NDArray[np.uint8]

Layout = tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]
FORMAT = 3
RECORD = "finished.json"
# Seams that took longer to make are written at once: it takes a hundredth of a second.
DEAR_SECONDS = 0.5
_PARTS = {
    "zarr.json",
    "weights",
    "seams",
    "levels",
    "journal.jsonl",
    "journal.jsonl.part",
    "index.bin",
    RECORD,
    f"{RECORD}.part",
}


class Scratch:
    """The scratch group of one render; a picklable path with the few things one does there.

    Each process opens an array once, and keeps seams in memory as `keep_seams` says.

    Parameters
    ----------
    path : the folder ``OUT.safron``.
    store : address of what workers share, for fsspec; None has it in the folder as well.
    """

    def __init__(self, path: Path, store: str | None = None) -> None:
        self.path = path
        self.store = store
        self._arrays: dict[str, zarr.Array[Any]] = {}
        # Seams by block: those made here, in this order; since when some of them are nowhere else; the last one read.
        self._kept: dict[Index, Seams] = {}
        self._unstored: dict[Index, float] = {}
        self._storing: set[Index] = set()
        self._loaded: dict[Index, Seams] = {}
        self._room, self._behind = 0, False
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scratch, (self.path, self.store)

    def place(self, name: str) -> str:
        """Path or address of an array or chunk."""
        return str(self.path / name) if self.store is None else f"{self.store}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        """Store a chunk, all at once: another process may read it while it is written a second time."""
        if self.store is not None:
            fs, path = fsspec.url_to_fs(self.place(name))
            fs.pipe_file(path, data)
            return
        file = self.path / name
        part = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
        part.write_bytes(data)
        part.replace(file)

    def _read(self, name: str) -> bytes:
        """Load a chunk."""
        if self.store is None:
            return (self.path / name).read_bytes()
        fs, path = fsspec.url_to_fs(self.place(name))
        return bytes(fs.cat_file(path))

    def _delete(self, name: str) -> None:
        """Delete a chunk; nothing happens where it is gone already."""
        with suppress(OSError):
            if self.store is None:
                (self.path / name).unlink()
            else:
                fs, path = fsspec.url_to_fs(self.place(name))
                fs.rm_file(path)

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
        for name, layout in _layouts(plan).items():
            self._create(name, *layout)
        self.journal.touch()
        about: dict[str, Any] = {"format": FORMAT, "inputs": dict(inputs)}
        if self.store is not None:
            about["inputs"]["--scratch"] = self.store
            zarr.create_group(self.store, attributes={"safron": about})
        group.attrs["safron"] = about | {"blocks": prod(plan.block_shape), "patches": plan.patches}

    def identity(self) -> bytes:
        """What says which render this scratch belongs to, as every worker can read it."""
        return self._read("zarr.json")

    def _is_ours(self) -> bool:
        """Whether this folder was made as scratch; a crash in `remove` may have left any part of one."""
        if not self.path.is_dir():
            return False
        return (self.path / "zarr.json").is_file() or {item.name for item in self.path.iterdir()} <= _PARTS

    def remove(self) -> None:
        """Delete the scratch.

        What makes it valid goes first, so that a half of it is never gone on with; the record of a finished slide
        goes last, so that the same command cleans up until nothing is left.
        """
        self._arrays.clear()
        with self._guard:
            for seams in (self._kept, self._unstored, self._loaded):
                seams.clear()
        with suppress(OSError):
            (self.path / "zarr.json").unlink()
        if self.store is not None:
            fs, path = fsspec.url_to_fs(self.store)
            fs.invalidate_cache()
            with suppress(FileNotFoundError):
                fs.rm(path, recursive=True)
        with suppress(OSError):
            for item in self.path.iterdir():
                if item.is_dir():
                    shutil.rmtree(item, ignore_errors=True)
                elif item.name != RECORD:
                    item.unlink()
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
        if self.store is not None:
            inputs = {**inputs, "--scratch": self.store}
        return [name for name in sorted({*before, *inputs}) if before.get(name) != inputs.get(name)]

    def check_arrays(self, plan: RenderPlan) -> None:
        """Raise `BadInput` unless seams and the level that blocks leave here can be gone on with."""
        for name, (shape, chunks, dtype) in _layouts(plan).items():
            place = self.place(f"{name}/zarr.json")
            try:
                found = self._array(name)
            except Exception as error:  # what JSON, Zarr and stores may raise
                raise BadInput(f"{place}: missing or damaged ({one_line(error)})") from error
            if (found.shape, found.chunks, found.dtype) != (shape, chunks, dtype):
                raise BadInput(f"{place}: is not as it was written")

    def _create(
        self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Make an array, replacing what a crashed try left."""
        made = zarr.create_array(
            self.place(name), shape=shape, chunks=chunks, dtype=dtype, overwrite=True, **_stored_as(dtype)
        )
        self._arrays[name] = made

    def _array(self, name: str) -> zarr.Array[Any]:
        """Open an array once."""
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = zarr.open_array(self.place(name), mode="r")
        return found

    def keep_seams(self, nbytes: int, *, behind: bool) -> None:
        """From now on keep so many bytes of the seams that are made here.

        Parameters
        ----------
        nbytes : room in memory.
        behind : write them only where there is no room, with `store_seams`, or where they were dear; for a render
            whose tasks all run here.
        """
        self._room, self._behind = nbytes, behind

    def write_seams(self, block: Index, pixels: UInt8, sums: Sums, *, seconds: float = 0.0) -> None:
        """Store what the seam patches of a block leave (see `seam_parts`), replacing what a crashed try left.

        Parameters
        ----------
        block : the block.
        pixels, sums : of `empty_seams`.
        seconds : that it took to make them.
        """
        behind = self._behind and seconds < DEAR_SECONDS
        if not behind:
            self._store(block, pixels, sums)
        with self._guard:
            self._kept[block] = pixels, sums
            if behind:
                self._unstored[block] = time.monotonic()
        while (oldest := self._superfluous()) is not None:
            self._bring_to_disk(oldest)

    def _superfluous(self) -> Index | None:
        """Let go of the oldest seams until there is room; stop at one that is on no disk yet, and give it."""
        with self._guard:
            blocks = [block for block in self._kept if block not in self._storing]
            size = sum(part.nbytes for block in blocks for part in self._kept[block])
            for block in blocks:
                if size <= self._room:
                    break
                if block in self._unstored:
                    self._storing.add(block)
                    return block
                size -= sum(part.nbytes for part in self._kept.pop(block))
        return None

    def store_seams(self, *, seconds: float = 0.0) -> None:
        """Bring to disk what has been in memory alone for so long."""
        start = time.monotonic()
        for block, since in list(self._unstored.items()):
            with self._guard:
                if start - since < seconds or block in self._storing or block not in self._unstored:
                    continue
                self._storing.add(block)
            self._bring_to_disk(block)

    def _bring_to_disk(self, block: Index) -> None:
        try:
            seams = self._kept.get(block)
            if seams is not None:
                self._store(block, *seams)
        except BaseException:
            self.free_seams(block)  # a half of it
            raise
        finally:
            with self._guard:
                self._storing.discard(block)
        with self._guard:
            self._unstored.pop(block, None)
            forgotten = block not in self._kept
        if forgotten:  # meanwhile, by who thought that it lay nowhere else
            self.free_seams(block)

    def in_memory_alone(self) -> set[Index]:
        """Blocks whose seams a crash would lose."""
        with self._guard:
            return set(self._unstored)

    def forget_seams(self, block: Index) -> bool:
        """Let go of seams that nobody needs any more; whether they lay in memory alone."""
        with self._guard:
            self._kept.pop(block, None)
            return self._unstored.pop(block, None) is not None

    def _store(self, block: Index, pixels: UInt8, sums: Sums) -> None:
        for name, path, values in zip(
            ("pixels", "sums"), self._seam_files(block), (pixels, sums), strict=True
        ):
            array = self._array(f"seams/{name}")
            whole = np.zeros(array.chunks[-1], array.dtype)
            whole[: values.size] = values
            self._write(path, encode_chunk(whole))

    def read_seams(self, block: Index) -> Seams:
        """Give what `write_seams` took, from memory or disk; not to be changed."""
        with self._guard:
            kept = self._kept.get(block) or self._loaded.get(block)
        if kept is None:
            kept = self._load_seams(block)
            # The next block in the row needs it once more. Those made here are worth more: they stay.
            with self._guard:
                self._loaded = {block: kept}
        return kept

    def _load_seams(self, block: Index) -> Seams:
        pixels, sums = (
            decode_chunk(self._read(path), self._array(f"seams/{name}").dtype)
            for path, name in zip(self._seam_files(block), ("pixels", "sums"), strict=True)
        )
        return pixels, sums

    def seams_whole(self, block: Index) -> bool:
        """Whether the stored seams of a block can be read; a power cut may have torn them."""
        try:
            self._load_seams(block)
        except (OSError, ValueError, RuntimeError):
            return False
        return True

    def free_seams(self, block: Index) -> None:
        """Delete the seams of a block on disk; nothing happens where they are gone already."""
        for path in self._seam_files(block):
            self._delete(path)

    def stored_seams(self) -> set[Index]:
        """Blocks whose seams lie here, whole or torn."""
        fs, path = fsspec.url_to_fs(self.place("seams"))
        fs.invalidate_cache()
        names = (name.rpartition("/")[2].split(".") for name in fs.find(path))
        return {(int(name[1]), int(name[2])) for name in names if name[0] == "c" and len(name) == 4}

    def _seam_files(self, block: Index) -> list[str]:
        return [f"seams/{name}/c.{block[0]}.{block[1]}.0" for name in ("pixels", "sums")]

    def create_level(self, plan: RenderPlan, level: int, *, chunk: int) -> None:
        """Make room for one level of the slide, replacing what a crashed try left."""
        self._create(f"levels/{level}", *_level_layout(plan, level, chunk))

    def level(self, level: int) -> zarr.Array[Any]:
        """Open one level of the slide, uint8 [h, w, 3]."""
        return self._array(f"levels/{level}")

    def write_part(self, level: int, block: Index, part: UInt8) -> None:
        """Store what a block leaves of a level, uint8 [h, w, 3]: a whole chunk, or less at the far edges."""
        chunk = self._array(f"levels/{level}").chunks
        if part.shape != chunk:
            whole = np.zeros(chunk, np.uint8)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        self._write(self._part_file(level, block), encode_chunk(part))

    def _part_file(self, level: int, block: Index) -> str:
        return f"levels/{level}/c.{block[0]}.{block[1]}.0"

    def read_part(self, level: int, block: Index) -> UInt8:
        """Load what `write_part` stored: a whole chunk, zeros beyond the far edges of the level.

        Raises
        ------
        OSError, ValueError, RuntimeError
            When it is missing or damaged. Zarr would take a missing chunk for a black one.
        """
        array = self.level(level)
        return decode_chunk(self._read(self._part_file(level, block)), array.dtype).reshape(array.chunks)

    def has_part(self, level: int, block: Index) -> bool:
        """Whether what a block left of a level can be read; a power cut may have torn or lost it."""
        array = self.level(level)
        if block[0] * array.chunks[0] >= array.shape[0] or block[1] * array.chunks[1] >= array.shape[1]:
            return True  # only an odd last row or column, which the level leaves out
        try:
            self.read_part(level, block)
        except (OSError, ValueError, RuntimeError):
            return False
        return True


def _layouts(plan: RenderPlan) -> dict[str, Layout]:
    """Shape, chunks and type of the arrays that blocks write, by name; nothing is stored before it is written."""
    pixels, sums = plan.seam_capacity
    level = plan.thumbnail_level
    return {
        "seams/pixels": ((*plan.block_shape, pixels), (1, 1, pixels), np.dtype(np.uint8)),
        "seams/sums": ((*plan.block_shape, sums), (1, 1, sums), np.dtype(plan.blend.sum_dtype)),
        f"levels/{level}": _level_layout(plan, level, plan.block >> level),
    }


def _level_layout(plan: RenderPlan, level: int, chunk: int) -> Layout:
    size = plan.working_pyramid.level(level)
    return (size.height, size.width, 3), (chunk, chunk, 3), np.dtype(np.uint8)


def _stored_as(dtype: np.dtype[Any]) -> dict[str, Any]:
    """How our arrays are stored: chunks as `encode_chunk` makes them, all in one folder."""
    blosc = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=dtype.itemsize)
    return {
        "compressors": [blosc, Crc32cCodec()],
        # A folder for each row and column would take longer to make and delete than its chunks.
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
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


# Tiles that wait to be written and made durable together.
SYNC_BYTES = 8 << 20


def recorded(scratch: Path) -> dict[str, Any]:
    """What a scratch folder says of the render that it belongs to; nothing where it is none."""
    try:
        found = json.loads((scratch / "zarr.json").read_text(encoding="utf-8"))["attributes"]["safron"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
