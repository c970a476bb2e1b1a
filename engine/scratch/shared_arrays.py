"""How do processes and hosts read and write the chunks that they share?"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from .chunk_codec import shuffle_of

Layout = tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]
"""Shape, chunks and type of an array."""


class SharedArrays:
    """Zarr arrays whose chunks are written without Zarr, in a folder or an object store.

    Each process opens an array once.

    Parameters
    ----------
    path
        The folder.
    store
        Address for fsspec that takes the folder's place; None for the folder.
    """

    def __init__(self, path: Path, store: str | None = None) -> None:
        self.path = path
        self.store = store
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def place(self, name: str) -> str:
        """Return the path or address of an array or a chunk."""
        return str(self.path / name) if self.store is None else f"{self.store}/{name}"

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Store a chunk. It appears whole: another process may read it while it is written again.

        Parameters
        ----------
        name
            Of the chunk.
        data
            Its bytes.
        durable
            Whether it must be on the disk on return, so that a power cut cannot tear it.
        """
        if self.store is not None:
            fs, path = fsspec.url_to_fs(self.place(name))
            fs.pipe_file(path, data)
            return
        file = self.path / name
        part = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
        with part.open("wb") as opened:
            opened.write(data)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        part.replace(file)

    def read(self, name: str) -> bytes:
        """Load a chunk."""
        if self.store is None:
            return (self.path / name).read_bytes()
        fs, path = fsspec.url_to_fs(self.place(name))
        return bytes(fs.cat_file(path))

    def delete(self, name: str) -> None:
        """Delete a chunk; nothing happens if it does not exist."""
        with suppress(OSError):
            if self.store is None:
                (self.path / name).unlink()
            else:
                fs, path = fsspec.url_to_fs(self.place(name))
                fs.rm_file(path)

    def names(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, without the folders that they lie in."""
        fs, path = fsspec.url_to_fs(self.place(folder))
        fs.invalidate_cache()
        return [name.rpartition("/")[2] for name in fs.find(path)]

    def create(self, name: str, layout: Layout) -> None:
        """Make an array, replacing one that a crash left."""
        shape, chunks, dtype = layout
        blosc = BloscCodec(cname="lz4", clevel=1, shuffle=shuffle_of(dtype), typesize=dtype.itemsize)
        self._arrays[name] = zarr.create_array(
            self.place(name),
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            overwrite=True,
            compressors=[blosc, Crc32cCodec()],
            # All chunks lie in one folder: one for each row and column would take longer to make and delete than they do.
            chunk_key_encoding={"name": "default", "separator": "."},
        )

    def open(self, name: str) -> zarr.Array[Any]:
        """Open an array."""
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = zarr.open_array(self.place(name), mode="r")
        return found

    def forget(self) -> None:
        """Forget the arrays that were opened: they are about to be deleted."""
        self._arrays.clear()
