"""How do the labels of a slide become a pyramid of their own, pixel upon pixel with the slide?

Labels are numbers of classes, so that no level may average them. A pixel of level k holds the label of one pixel of level 0, the
one right below its centre::

    level 0   . . . . . . . .      level 2 of 8 pixels: its pixels are those of level 0
    level 2   . . x . . . x .      at 2 and 6: 4 i + 2

The labels are read once, band by band. Smaller levels wait in a file that has no name, a third of a byte for each pixel.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed
from safron.io.files import check_output_path, output
from safron.io.legend import Label
from safron.io.mapped import reserve

from .pyramid import Level, Pyramid

Labels = npt.NDArray[np.uint8]
Read = Callable[[slice, slice], Labels]

TIFF_ENDINGS = (".ome.tiff", ".ome.tif")
ZARR_ENDINGS = (".ome.zarr", ".zarr")
TILE = 512
_WIDE = 8192


@dataclass(frozen=True)
class LabelSlide:
    """A pyramid of labels.

    Attributes
    ----------
    pyramid
        Its levels, those of the slide.
    read
        Labels uint8 [y, x] of a region of level 0.
    mpp
        Micrometres per pixel of level 0; None where unknown.
    origin
        Y and x of the first pixel on the whole mask, in pixels.
    legend
        Meaning of the labels.
    slide
        File name of the slide, which lies in the same folder or is given by its whole path.
    facts
        What else is told of it, as text by name: digest of the slide, generator, seed.
    """

    pyramid: Pyramid
    read: Read
    mpp: float | None
    origin: tuple[int, int]
    legend: Sequence[Label]
    slide: str
    facts: dict[str, str] = field(default_factory=dict)


def is_label_name(out: Path) -> bool:
    """Whether a file name is one of a label pyramid."""
    return out.name.lower().endswith(TIFF_ENDINGS + ZARR_ENDINGS)


def check_label_path(out: Path, *, overwrite: bool, name: str = "") -> None:
    """Raise `BadInput` unless a label pyramid may be written here; it replaces nothing of another kind."""
    if "://" in str(out) or not is_label_name(out):
        raise BadInput(f"{name}{out}: must be a local name that ends in .ome.tiff, .ome.tif or .ome.zarr")
    as_folder = _is_folder(out)
    check_output_path(out, overwrite=overwrite, name=name, folder=as_folder)
    if out.exists() and as_folder != out.is_dir():
        raise BadInput(
            f"{name}{out}: exists and is of another kind, so it is not replaced; choose another name"
        )
    if out.is_dir() and not _is_labels(out):
        raise BadInput(
            f"{name}{out}: exists and holds no labels of a slide, so it is not replaced; choose another"
        )


def _is_folder(out: Path) -> bool:
    return out.name.lower().endswith(ZARR_ENDINGS)


def _is_labels(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr with labels."""
    try:
        attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return "image-label" in attributes["ome"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def nearest(level: Level, side: int, axis: int) -> npt.NDArray[np.int64]:
    """Pixels of level 0 that a level's rows (axis 0) or columns (axis 1) show.

    Examples
    --------
    >>> [nearest(level, 9, 0).tolist() for level in Pyramid(9, 9, 4, 3).levels[1:]]
    [[1, 3, 5, 7, 8], [2, 6]]
    """
    count = (level.height, level.width)[axis]
    return np.minimum(np.arange(count) * level.downsample + level.downsample // 2, side - 1)


def write_label_slide(out: Path, labels: LabelSlide, *, overwrite: bool = False) -> None:
    """Write labels as OME-TIFF or OME-Zarr, by the ending of the name.

    Raises
    ------
    BadInput
        `out` exists, or its name has another ending.
    Failed
        The disk refused a write; nothing is left of the attempt.
    """
    check_label_path(out, overwrite=overwrite)
    folder = _is_folder(out)
    try:
        with (
            output(out, overwrite=overwrite, folder=folder) as part,
            tempfile.TemporaryFile(dir=out.absolute().parent) as file,
        ):
            (_write_zarr if folder else _write_tiff)(part, labels, _Levels(labels, file), out)
    except OSError as error:
        raise Failed(f"{out}: cannot write the labels: {error.strerror or error}") from error


class _Levels:
    """Smaller levels, which fill while level 0 is read."""

    def __init__(self, labels: LabelSlide, file: IO[bytes]) -> None:
        self.labels = labels
        levels = labels.pyramid.levels[1:]
        offset = 0
        self.arrays: list[npt.NDArray[np.uint8]] = []
        reserve(file, sum(level.height * level.width for level in levels))
        for level in levels:
            shape = (level.height, level.width)
            self.arrays.append(np.memmap(file, np.uint8, "r+", offset, shape))
            offset += level.height * level.width
        size = labels.pyramid.height, labels.pyramid.width
        self.shown = [(nearest(level, size[0], 0), nearest(level, size[1], 1)) for level in levels]

    def bands(self) -> Iterator[tuple[int, int, Labels]]:
        """Y, x and labels of level 0: bands of a row of tiles, in pieces."""
        pyramid = self.labels.pyramid
        for y in range(0, pyramid.height, TILE):
            for x in range(0, pyramid.width, _WIDE):
                rows = slice(y, min(y + TILE, pyramid.height))
                cols = slice(x, min(x + _WIDE, pyramid.width))
                piece = self.labels.read(rows, cols)
                for array, (down, across) in zip(self.arrays, self.shown, strict=True):
                    i, i_stop = np.searchsorted(down, (rows.start, rows.stop))
                    j, j_stop = np.searchsorted(across, (cols.start, cols.stop))
                    array[i:i_stop, j:j_stop] = piece[np.ix_(down[i:i_stop] - y, across[j:j_stop] - x)]
                yield y, x, piece


def _tiles(piece: Labels) -> Iterator[Labels]:
    """Cut a band into whole tiles; the last of them is padded with zeros."""
    for x in range(0, piece.shape[1], TILE):
        part = piece[:, x : x + TILE]
        if part.shape != (TILE, TILE):
            whole = np.zeros((TILE, TILE), np.uint8)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        yield np.ascontiguousarray(part)


def _write_tiff(part: Path, labels: LabelSlide, levels: _Levels, out: Path) -> None:
    import tifffile

    pyramid, mpp = labels.pyramid, labels.mpp
    facts = {
        "Slide": labels.slide,
        "Origin XY": f"{labels.origin[1]} {labels.origin[0]}",
        "Levels": "nearest",
        **{f"Label {label.value}": label.name for label in labels.legend},
        **labels.facts,
    }
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": f"{labels.slide} labels",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(facts))),
        "MapAnnotation": {"Namespace": "safron/labels"} | facts,
    }
    common: dict[str, Any] = {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"}
    if mpp is not None:
        metadata |= {f"PhysicalSize{axis}": mpp for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        y, x = (at * mpp for at in labels.origin)
        metadata["Plane"] = {"PositionX": x, "PositionY": y, "PositionXUnit": "µm", "PositionYUnit": "µm"}
    with tifffile.TiffWriter(part, bigtiff=True, ome=True) as tif:
        tif.write(
            (tile for _, _, piece in levels.bands() for tile in _tiles(piece)),
            shape=(pyramid.height, pyramid.width),
            dtype=np.uint8,
            subifds=pyramid.level_count - 1,
            metadata=metadata,
            resolution=_resolution(mpp, 1),
            resolutionunit="CENTIMETER" if mpp else None,
            **common,
        )
        for level, array in zip(pyramid.levels[1:], levels.arrays, strict=True):
            rows = (array[y : y + TILE] for y in range(0, level.height, TILE))
            tif.write(
                (tile for row in rows for tile in _tiles(row)),
                shape=array.shape,
                dtype=np.uint8,
                subfiletype=1,
                resolution=_resolution(mpp, level.downsample),
                resolutionunit="CENTIMETER" if mpp else None,
                metadata=None,
                **common,
            )


def _resolution(mpp: float | None, downsample: int) -> tuple[float, float] | None:
    return None if mpp is None else (1e4 / (mpp * downsample),) * 2


def _write_zarr(part: Path, labels: LabelSlide, levels: _Levels, out: Path) -> None:
    import zarr
    import zarr.codecs
    from zarr.storage import LocalStore

    pyramid = labels.pyramid
    attributes: dict[str, Any] = {"ome": _ome(labels, out)}
    group = zarr.create_group(LocalStore(part), attributes=attributes, overwrite=True)
    meanings: Any = [
        {"value": one.value, "name": one.name, "color": list(one.color)} for one in labels.legend
    ]
    arrays = [
        group.create_array(
            str(level.index),
            shape=(level.height, level.width),
            chunks=(TILE, TILE),
            dtype="uint8",
            fill_value=0,
            compressors=zarr.codecs.ZstdCodec(level=6),
            dimension_names=("y", "x"),
            attributes={"labels": meanings} if level.index == 0 else {},
            config={"write_empty_chunks": False},
        )
        for level in pyramid.levels
    ]
    for y, x, piece in levels.bands():
        arrays[0][y : y + piece.shape[0], x : x + piece.shape[1]] = piece
    for array, values in zip(arrays[1:], levels.arrays, strict=True):
        for y in range(0, values.shape[0], TILE):
            array[y : y + TILE] = values[y : y + TILE]


def _ome(labels: LabelSlide, out: Path) -> dict[str, Any]:
    """Metadata of OME-Zarr 0.5: a label image."""
    mpp = labels.mpp or 1.0
    unit = {"unit": "micrometer"} if labels.mpp else {}
    datasets = []
    for level in labels.pyramid.levels:
        # Of the centre of a level's first pixel, with that of the mask's first pixel as zero.
        shift = [(at + (level.downsample - 1) / 2) * mpp for at in labels.origin]
        datasets.append(
            {
                "path": str(level.index),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [level.downsample * mpp] * 2},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": out.name.split(".")[0],
                "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
                "datasets": datasets,
                "type": "nearest",
                "metadata": {"origin": list(labels.origin), **labels.facts},
            }
        ],
        "image-label": {
            "version": "0.5",
            "colors": [{"label-value": one.value, "rgba": [*one.color, 255]} for one in labels.legend],
            "properties": [{"label-value": one.value, "class": one.name} for one in labels.legend],
            "source": {"image": f"../{labels.slide}"},
        },
    }
