"""What do blocks share while a render is in progress, and what survives a crash?

Beside the output lies a Zarr group, ``OUT.safron``::

    zarr.json                  attributes: the inputs that this scratch belongs to
    weights/y, weights/x       total blend weight along each axis: int32 [height], [width] of the drawn region
    boundary/pixels            uint8 [R, C, n]: pixels that one boundary patch of block (R, C) writes alone; one chunk or more per block
    boundary/sums              uint16 or int32 [R, C, n]: weighted sums where they overlap; one chunk or more per block
    levels/K                   one level of the slide: uint8 [h, w, 3]; a chunk per block, above that a chunk per tile
    journal.jsonl              a line for each finished boundary and block, made from the mask as it was at the start
    index.bin                  where each TIFF tile lies in OUT.part (owned by the slide writer)
    finished.json              description of the finished slide (owned by `safron.engine.scratch.completion`)
    passes/K                   of a sampler: the scratch of pass K, as this one, with ``state``, the running picture after it, and
                               in ``levels`` one pixel of it in so many

A chunk has one writer at a time and appears whole. So nothing is locked, and a retried task overwrites its own work with
the same bytes. Boundary sums are deleted as soon as the last block that needs them is on disk. Boundary sums of a block
hold the right and the lower boundary one after the other, each as `Accumulator` lays it out, then zeros.

If ``--scratch`` is an address, boundary sums and levels lie there. The rest is read and written by the driver alone and
stays in the folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import zarr
from safron.engine.plan.passes import all_patches
from safron.engine.plan.render_plan import RenderPlan
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import is_foreign

from .boundary_store import BoundaryStore, Index, boundary_layouts
from .chunk_codec import decode_chunk, encode_chunk
from .records import Damaged, checked, read_json, with_checksum
from .shared_arrays import Layout, SharedArrays
from .state_canvas import StateCanvas, state_layouts

UInt8 = npt.NDArray[np.uint8]
FORMAT = 6
RECORD = "finished.json"
HASH = "mask content"
_DECIDE_HASH = {"--region", "--scale", "--model"}
COMPLETE = "complete.json"
# Encoded tiles are written and made durable together once they have so many bytes.
SYNC_BYTES = 8 << 20
_PARTS = {
    "zarr.json",
    "weights",
    "boundary",
    "levels",
    "journal.jsonl",
    "journal.jsonl.part",
    "index.bin",
    RECORD,
    f"{RECORD}.part",
    "passes",
    "state",
    COMPLETE,
    f"{COMPLETE}.part",
}


class Scratch:
    """The scratch of one render: a path that can be pickled, and the arrays below it.

    Parameters
    ----------
    path
        The folder ``OUT.safron``.
    store
        Address for fsspec of what workers share; None keeps it in the folder as well.
    clock
        See `BoundaryStore`.

    Attributes
    ----------
    boundaries
        Sums of boundary patches.
    state
        A sampler's running picture; in the scratch of a pass.
    """

    def __init__(
        self, path: Path, store: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.store = store
        self._arrays = SharedArrays(path, store)
        self.boundaries = BoundaryStore(self._arrays, clock=clock)
        self.state = StateCanvas(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scratch, (self.path, self.store)

    def of_pass(self, step: int) -> Scratch:
        """Return the scratch of one pass of a sampler."""
        name = f"passes/{step}"
        return Scratch(self.path / name, None if self.store is None else f"{self.store}/{name}")

    @property
    def journal(self) -> Path:
        """File of finished boundaries and blocks."""
        return self.path / "journal.jsonl"

    @property
    def index(self) -> Path:
        """File of the slide writer's tile index."""
        return self.path / "index.bin"

    def create(self, plan: RenderPlan, inputs: Mapping[str, str]) -> None:
        """Make an empty scratch for `plan`. It becomes valid with its last write, the attributes."""
        self.require_ours()
        self.remove()
        group = zarr.create_group(self.path)
        drawn = plan.drawn
        rows, columns = plan.grid.rows, plan.grid.columns
        weights = plan.blend.weights
        for name, axis, start, stop in (
            ("y", rows, drawn.y, drawn.y_stop),
            ("x", columns, drawn.x, drawn.x_stop),
        ):
            step = 1 << 16
            array = group.create_array(
                f"weights/{name}", shape=(stop - start,), chunks=(step,), dtype="int32"
            )
            for lo in range(start, stop, step):
                hi = min(lo + step, stop)
                array[lo - start : hi - start] = axis.total_weight(weights, lo, hi)
        for name, layout in _layouts(plan).items():
            self._arrays.create(name, layout)
        self.journal.touch()
        about: dict[str, Any] = {"format": FORMAT, "inputs": dict(inputs)}
        if self.store is not None:
            about["inputs"]["--scratch"] = self.store
            zarr.create_group(self.store, attributes={"safron": about})
        patches = plan.patches if "step" in inputs else all_patches(plan)
        counts = {"blocks": prod(plan.block_shape), "patches": patches}
        group.attrs["safron"] = with_checksum(about | counts | {"glimpse": glimpse_level(plan)})

    def place(self, name: str) -> str:
        """Return the path or address of an array."""
        return self._arrays.place(name)

    def identity(self) -> bytes:
        """Return what identifies the render that this scratch belongs to; every worker can read it."""
        return self._arrays.read("zarr.json")

    def require_ours(self) -> None:
        """Raise `BadInput` if the folder exists and was not made as scratch; a crash in `remove` may have left any part of one."""
        if self.path.is_dir():
            found = {item.name for item in self.path.iterdir()}
            ours = (self.path / "zarr.json").is_file() or found <= _PARTS
        else:
            ours = not self.path.exists()
        if not ours:
            raise BadInput(
                f"{self.path}: exists and is not a scratch folder of SAFRON; move it away or pass --scratch"
            )

    def remove(self) -> None:
        """Delete the scratch.

        The attributes that make it valid are deleted first, so that half of a scratch is never resumed. The record of a
        finished slide is deleted last, so that the same command cleans up until nothing is left.
        """
        self._arrays.forget()
        self.boundaries.clear()
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
        """Return the names of inputs that differ from those of this scratch; None if it holds no render.

        Raises
        ------
        BadInput
            The attributes are damaged, and the journal may have finished blocks.
        """
        try:
            found = _attributes(self.path)
        except FileNotFoundError:
            return None
        except Damaged as error:
            if not self.journal.is_file() or not self.journal.stat().st_size:
                return None  # nothing is lost
            raise BadInput(f"{self.path / 'zarr.json'}: {error}") from error
        if found.get("format") != FORMAT:
            return ["scratch format"]
        before: dict[str, Any] = found["inputs"]
        if self.store is not None:
            inputs = {**inputs, "--scratch": self.store}
        names = [name for name in sorted({*before, *inputs}) if before.get(name) != inputs.get(name)]
        # The hash is of the labels that are drawn, so another part or scale, or a generator of other labels, changes it too.
        if not _DECIDE_HASH.isdisjoint(names) and HASH in names:
            names.remove(HASH)
        return names

    def check_files(self) -> None:
        """Raise `BadInput` if something in the folder is a link, a pipe or a device: it would lead elsewhere, or hang.

        So it does for a folder that has a file's place. Names of files have a dot, those of folders have none.
        """
        folders = [self.path]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if "." in entry.name and not is_foreign(entry.name):
                                raise BadInput(f"{entry.path}: is a folder in the place of a file")
                            folders.append(Path(entry.path))
                        elif not entry.is_file(follow_symlinks=False):
                            raise BadInput(f"{entry.path}: is not a plain file")
            except OSError as error:
                raise BadInput(f"{error.filename or self.path}: {error.strerror}") from error

    def check_arrays(self, plan: RenderPlan) -> None:
        """Raise `BadInput` unless the arrays that blocks write can be used further."""
        for name, layout in _layouts(plan).items():
            place = self.place(f"{name}/zarr.json")
            try:
                found = self._arrays.open(name)
            except Exception as error:  # JSON, Zarr and stores have no common base class
                raise BadInput(f"{place}: missing or damaged ({one_line(error)})") from error
            if (found.shape, found.chunks, found.dtype) != layout:
                raise BadInput(f"{place}: was changed since it was written")

    def create_level(self, plan: RenderPlan, level: int, *, chunk: int) -> None:
        """Make the array of one level of the slide, replacing one that a crash left."""
        self._arrays.create(f"levels/{level}", _level_layout(plan, level, chunk))

    def level(self, level: int) -> zarr.Array[Any]:
        """Open one level of the slide: uint8 [h, w, 3]."""
        return self._arrays.open(f"levels/{level}")

    def write_part(self, level: int, block: Index, part: UInt8) -> None:
        """Store a block's part of a level, uint8 [h, w, 3]: a whole chunk, or less at the far edges."""
        chunk = self.level(level).chunks
        if part.shape != chunk:
            whole = np.zeros(chunk, np.uint8)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        self._arrays.write(_part_file(level, block), encode_chunk(part))

    def read_part(self, level: int, block: Index) -> UInt8:
        """Load what `write_part` stored: a whole chunk, with zeros beyond the far edges of the level.

        Raises
        ------
        OSError, ValueError, RuntimeError
            It is missing or damaged. Zarr would read a missing chunk as black.
        """
        array = self.level(level)
        chunk = self._arrays.read(_part_file(level, block))
        return decode_chunk(chunk, array.dtype).reshape(array.chunks)

    def has_part(self, level: int, block: Index) -> bool:
        """Whether a block's part of a level can be read; a power cut may have torn or lost it."""
        array = self.level(level)
        if block[0] * array.chunks[0] >= array.shape[0] or block[1] * array.chunks[1] >= array.shape[1]:
            return True  # only an odd last row or column, which the level leaves out
        try:
            self.read_part(level, block)
        except (OSError, ValueError, RuntimeError):
            return False
        return True


def _part_file(level: int, block: Index) -> str:
    return f"levels/{level}/c.{block[0]}.{block[1]}.0"


def _layouts(plan: RenderPlan) -> dict[str, Layout]:
    """Layouts of the arrays that blocks write, by name; nothing is stored before it is written."""
    level = plan.thumbnail_level
    return (
        boundary_layouts(plan)
        | state_layouts(plan)
        | {f"levels/{level}": _level_layout(plan, level, plan.block >> level)}
    )


def glimpse_level(plan: RenderPlan) -> int:
    """Return the level of the running picture that a pass keeps in ``levels``; 0 for none, where reading all of it costs less."""
    return plan.thumbnail_level if plan.thumbnail_level > 1 else 0


def _level_layout(plan: RenderPlan, level: int, chunk: int) -> Layout:
    size = plan.working_pyramid.level(level)
    return (size.height, size.width, 3), (chunk, chunk, 3), np.dtype(np.uint8)


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn an error of the file system under `path` into one line that says what to do."""
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
    """Raise `BadInput` if scratch belongs to other inputs."""
    if differences:
        raise BadInput(
            f"{scratch} holds an unfinished render with other inputs ({', '.join(differences)}); "
            "run that command again to finish it, or pass --overwrite to start over"
        )


def recorded(scratch: Path) -> dict[str, Any]:
    """Return what a scratch folder says about its render; empty if it is not one, or damaged."""
    try:
        found = _attributes(scratch)
    except (FileNotFoundError, Damaged):
        return {}
    return found if found.get("format") == FORMAT else {}


def _attributes(scratch: Path) -> dict[str, Any]:
    """Return what a scratch folder says about its render; of another format only that.

    Raises
    ------
    FileNotFoundError
        It is not one, or a crash came before it was one.
    Damaged
        It says something that was not written.
    """
    found = read_json(scratch / "zarr.json")
    try:
        found = found["attributes"].get("safron")
    except (AttributeError, KeyError, TypeError) as error:
        raise Damaged("is not that of a scratch folder") from error
    if found is None:
        raise FileNotFoundError(f"{scratch}: not complete")
    if isinstance(found, dict) and type(found.get("format")) is int and found["format"] != FORMAT:
        return {"format": found["format"]}
    values = checked(found)
    counts, inputs = (values.get(name) for name in ("blocks", "patches")), values.get("inputs")
    if not isinstance(inputs, dict) or not all(type(count) is int for count in counts):
        raise Damaged("is not that of a scratch folder")
    return values
