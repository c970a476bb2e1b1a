r"""How do tiles in any order become one slide, or none at all?

Tiles are appended to ``OUT.part`` as they arrive, and an index beside it holds the offset of each tile. The header of an
unfinished file points at no directory, so no reader opens it::

    append   tiles -> sync OUT.part -> their index records -> sync index
    seal     directories -> sync -> offset of the first directory into the header -> sync
    publish  rename -> sync the folder

The digest that `SlideWriter.seal` returns identifies the content, independent of the offsets of tiles. It is the
SHA-256 of

1. ``safron slide 1\n``;
2. for each directory of the chain, then for those below it, its name ("level 0", "thumbnail", "level 1", ..,
   "sub level 1", ..) and ``\n``, and for each tag by rising code: code u16, type u16, count u64, the value as
   stored. DateTime is left out, and so are tags that depend on offsets: Strip- and TileOffsets, Strip- and
   TileByteCounts, SubIFDs. Where a text names the program that wrote the slide, ``safron 0.1.0`` is counted: the
   same slide by another version has the same digest. The mask's hash is left out: so has the same mask in other files;
3. for each level, for each tile in raster order: byte count u32 and BLAKE2b-128 of the bytes; then the same
   for the thumbnail's strip, where there is one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

import numpy as np
from safron.io import files, offsets
from safron.io.errors import BadInput, Failed

from . import bigtiff, flavors
from .codecs import EncodedTile, encode_jpeg, encode_region, encode_tile
from .pyramid import Level, Pixels, halve
from .spec import Chroma, Compression, Flavor, SlideSpec
from .tile_index import Places, TileIndex, pack_record

__all__ = [
    "Chroma",
    "Compression",
    "EncodedTile",
    "Flavor",
    "SlideSpec",
    "SlideWriter",
    "encode_region",
    "encode_tile",
]

MAX_THUMBNAIL = 1024
_BATCH = 1 << 14  # tiles between two syncs: half a MB of records
_SHARED_BYTES = 32 << 20  # of uniform tiles that are remembered, so that equal ones are written once
_DIGESTED_SOFTWARE = "safron 0.1.0"
"""The program in the digest, whatever version wrote the slide: this one, so that digests of the first version still compare."""
_DIGESTED = np.dtype([("length", "<u4"), ("digest", "V16")])
_NOT_IN_DIGEST = frozenset(
    {
        flavors.DATE_TIME,
        flavors.STRIP_OFFSETS,
        flavors.STRIP_BYTE_COUNTS,
        flavors.TILE_OFFSETS,
        flavors.TILE_BYTE_COUNTS,
        flavors.SUB_IFDS,
    }
)


class SlideWriter:
    """An append-only BigTIFF: tiles in any order, directories last. One writer, used by one thread at a time.

    Parameters
    ----------
    part
        The unfinished file, in the folder of the future slide.
    index
        The file with the offset of each tile.
    spec
        What determines the slide's bytes.
    resume_at
        None starts from the beginning. Otherwise the `end` of an earlier writer on the same files: all later bytes
        are dropped, and their tiles count as missing.

    Raises
    ------
    BadInput
        If the files are missing, or belong to another slide.
    Failed
        If the disk is full or broken.
    """

    def __init__(self, part: Path, index: Path, spec: SlideSpec, *, resume_at: int | None = None) -> None:
        self.part, self.spec = part, spec
        self.end = bigtiff.HEADER_BYTES if resume_at is None else resume_at
        self._shared: dict[bytes, tuple[int, bytes]] = {}
        with _disk_errors(part):
            self._file = _open_part(part, resume_at)
            try:
                self._index = TileIndex(index, spec, valid_end=resume_at)
            except BaseException:
                os.close(self._file)
                raise
        self._open = True

    def __enter__(self) -> SlideWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, tiles: Iterable[EncodedTile]) -> int:
        """Write tiles, then their index records.

        A tile may be written again: the last bytes count. After a failure, the writer is in the state before the
        failed batch (of up to 16,384 tiles).

        Parameters
        ----------
        tiles
            Encoded tiles in any order.

        Returns
        -------
        int
            The new `end`: a writer that resumes there has all these tiles.

        Raises
        ------
        Failed
            If the disk is full or broken; both files can still be resumed from.
        """
        batch = _Batch(self.end)
        for tile in tiles:
            position = self._index.position(tile.level, tile.row, tile.col)
            batch.positions.append(position)
            batch.records += self._store(tile, batch)
            if len(batch.positions) == _BATCH:
                self._commit(batch)
                batch = _Batch(self.end)
        self._commit(batch)
        return self.end

    def missing(self) -> tuple[int, int, int] | None:
        """Return level, row and column of the first missing tile; None if all are written."""
        return self._index.first_missing()

    def missing_at(self, level: int) -> Iterator[tuple[Places, Places]]:
        """Yield rows and columns, int64 [n] each, of a level's missing tiles in raster order, in slices."""
        return self._index.missing(level)

    def seal(self, thumbnail: Pixels) -> str:
        """Write the directories: from now on `part` is a complete slide under its temporary name.

        Parameters
        ----------
        thumbnail
            uint8 [h, w, 3]: a small picture of the whole slide. It is halved until it is smaller than the
            last level (one pixel if that has one pixel), and written only with flavor svs.

        Returns
        -------
        str
            The slide's digest in hexadecimal: equal for equal tiles and tags, at whatever offsets.

        Raises
        ------
        Failed
            If a tile is missing, or the disk is full; both files can still be resumed from.
        """
        missing = self.missing()
        if missing is not None:
            level, row, col = missing
            place = f"level {level}, row {row}, column {col}"
            raise Failed(f"{self.part}: no tile yet at {place}; run the same command again")
        with self._disk_errors():
            return self._write_directories(thumbnail)

    def publish(self, out: Path, *, overwrite: bool) -> None:
        """Rename the sealed slide and close both files.

        Parameters
        ----------
        out
            The slide's name, in the folder of `part`.
        overwrite
            Whether an existing file of that name is replaced.

        Raises
        ------
        BadInput
            If `out` exists and may not be overwritten.
        Failed
            If the file system refuses; both files can still be resumed from.
        """
        with self._disk_errors():
            try:
                files.publish(self.part, out, overwrite=overwrite)
            except BadInput:  # another program took the name meanwhile: this is an unfinished slide again
                offsets.write_at(self._file, bigtiff.header(0), 0)
                raise
            self._index.path.unlink(missing_ok=True)
        self.close()

    def finish(self, out: Path, thumbnail: Pixels, *, overwrite: bool) -> str:
        """Seal and publish; return the digest. See there for parameters and errors."""
        if not overwrite and os.path.lexists(out):
            raise files.exists(out)
        digest = self.seal(thumbnail)
        self.publish(out, overwrite=overwrite)
        return digest

    def close(self) -> None:
        """Close both files and keep them for resuming."""
        if self._open:
            self._open = False
            os.close(self._file)
            self._index.close()

    def _store(self, tile: EncodedTile, batch: _Batch) -> bytes:
        """Write a tile's bytes, unless an equal uniform tile is in the file; return its record."""
        found = (batch.shared.get(tile.data) or self._shared.get(tile.data)) if tile.uniform else None
        if found is None:
            offset = batch.end + batch.end % 2  # TIFF wants even offsets
            with self._disk_errors(len(tile.data)):
                offsets.write_at(self._file, tile.data, offset)
            batch.end = offset + len(tile.data)
            found = offset, hashlib.blake2b(tile.data, digest_size=16).digest()
            if tile.uniform:
                batch.shared[tile.data] = found
        return pack_record(found[0], len(tile.data), found[1])

    def _commit(self, batch: _Batch) -> None:
        if not batch.positions:
            return
        with self._disk_errors():
            # Data first: a record must never point at bytes that a crash can lose.
            os.fsync(self._file)
            self._index.write(batch.positions, bytes(batch.records))
        self.end = batch.end
        self._shared.update(batch.shared)
        while len(self._shared) > 1 and sum(map(len, self._shared)) > _SHARED_BYTES:
            del self._shared[next(iter(self._shared))]

    def _write_directories(self, thumbnail: Pixels) -> str:
        strip, place = self._write_thumbnail(thumbnail)
        now = datetime.now().astimezone()
        chain = flavors.directories(self.spec, place, now)
        at = self.end if place is None else place.offset + place.length
        first = 0
        end = at
        for offset, data in bigtiff.write_directories(chain, at, self._read_table):
            first = first or offset
            offsets.write_at(self._file, data, offset)
            end = max(end, offset + len(data))
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        offsets.write_at(self._file, bigtiff.header(first), 0)
        os.fsync(self._file)
        counted = replace(self.spec, software=_DIGESTED_SOFTWARE, mask_content="")
        return self._digest(flavors.directories(counted, place, now), strip)

    def _write_thumbnail(self, thumbnail: Pixels) -> tuple[bytes, flavors.Thumbnail | None]:
        if self.spec.flavor != "svs":
            return b"", None
        picture = _fit_thumbnail(thumbnail, self.spec.pyramid.levels[-1])
        strip = encode_jpeg(picture, self.spec.quality, "420")
        offset = self.end + self.end % 2
        offsets.write_at(self._file, strip, offset)
        return strip, flavors.Thumbnail(picture.shape[0], picture.shape[1], offset, len(strip))

    def _read_table(self, table: bigtiff.Table) -> Iterator[bytes]:
        kind = "<u8" if table.kind == bigtiff.Kind.LONG8 else "<u4"
        for records in self._index.level_slices(table.level):
            yield records[table.column].astype(kind).tobytes()

    def _digest(self, chain: tuple[bigtiff.Directory, ...], strip: bytes) -> str:
        total = hashlib.sha256(b"safron slide 1\n")
        for directory in (*chain, *bigtiff.children(chain)):
            total.update(f"{directory.name}\n".encode())
            for tag in sorted(directory.tags, key=lambda tag: tag.code):
                if isinstance(tag, bigtiff.Tag) and tag.code not in _NOT_IN_DIGEST:
                    total.update(struct.pack("<HHQ", tag.code, tag.kind, tag.count) + tag.value)
        for level in self.spec.pyramid.levels:
            for records in self._index.level_slices(level.index):
                total.update(records[["length", "digest"]].astype(_DIGESTED).tobytes())
        if strip:
            total.update(struct.pack("<I", len(strip)) + hashlib.blake2b(strip, digest_size=16).digest())
        return total.hexdigest()

    @contextlib.contextmanager
    def _disk_errors(self, wanted: int = 0) -> Iterator[None]:
        with _disk_errors(self.part, self._still_needed, wanted):
            yield

    def _still_needed(self) -> int:
        """Estimate how many bytes are still to be written, from the mean size of the tiles so far."""
        written, total = self._index.count()
        return (total - written) * self.end // max(written, 1)


@dataclass
class _Batch:
    """Tiles whose bytes are in the file, but whose records are not yet in the index."""

    end: int
    positions: list[int] = field(default_factory=list)
    records: bytearray = field(default_factory=bytearray)
    shared: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)


def _open_part(part: Path, resume_at: int | None) -> int:
    """Open the unfinished file, cut at `resume_at`, with a header that points at no directory."""
    if resume_at is None:
        part.unlink(missing_ok=True)  # not truncated: another name may hold the same file
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    else:
        try:
            file = os.open(part, os.O_RDWR)
        except FileNotFoundError:
            raise BadInput(f"{part}: the unfinished slide is missing; start again") from None
        try:
            _check_part(part, os.fstat(file), resume_at)
        except BadInput:
            os.close(file)
            raise
        os.ftruncate(file, resume_at)
    offsets.write_at(file, bigtiff.header(0), 0)
    return file


def _check_part(part: Path, found: os.stat_result, resume_at: int) -> None:
    if not bigtiff.HEADER_BYTES <= resume_at <= found.st_size:
        raise BadInput(f"{part}: has {found.st_size} bytes, but the journal lists {resume_at}; start again")
    if found.st_nlink > 1:
        # The crash came after the slide got its name and before the part lost its own: both are one file.
        raise BadInput(
            f"{part}: is the same file as another name, probably the finished slide; remove the .part"
        )


def _fit_thumbnail(picture: Pixels, last: Level) -> Pixels:
    """Halve a picture, without odd last rows, until it has fewer pixels than the last level and no longer side."""
    while max(picture.shape[:2]) > 1 and not (
        picture.shape[0] <= min(last.height, MAX_THUMBNAIL)
        and picture.shape[1] <= min(last.width, MAX_THUMBNAIL)
        and picture.shape[0] * picture.shape[1] < last.height * last.width
    ):
        height, width = (side & ~1 or 1 for side in picture.shape[:2])
        picture = halve(picture[:height, :width])
    return picture


@contextlib.contextmanager
def _disk_errors(
    path: Path, still_needed: Callable[[], int] | None = None, wanted: int = 0
) -> Iterator[None]:
    """Turn an OSError into one line that says what to do; `path` is named where the error names no other file."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename or path)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Failed(
                f"{path}: {error.strerror}; repair the disk and run the same command again"
            ) from error
        size = max(wanted, still_needed() if still_needed else 0)
        need = f", about {size / 1e6:,.1f} MB more are needed" if size else ""
        raise Failed(
            f"{path}: disk full ({error.strerror}){need}; free space and run the same command again"
        ) from error
