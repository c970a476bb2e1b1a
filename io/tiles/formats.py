"""In which files do tiles lie?

Each format is a class with `add`, called once for each tile, and `close`. Files are the same whenever and wherever they are written.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from safron.io.legend import Label
from safron.io.masks.open import open_mask
from safron.io.masks.to_geojson import write_geojson

Format = Literal["folders", "coco", "geojson", "webdataset"]
FORMATS: tuple[str, ...] = get_args(Format)
Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.uint16]
SHARD = 1000
"""Tiles in one archive of webdataset."""


class Writer(Protocol):
    """Writes the tiles of one split."""

    def add(
        self, name: str, image: Pixels, labels: Pixels, facts: dict[str, Any], instances: Numbers | None
    ) -> None:
        """Write a tile: uint8 [y, x, 3], labels uint8 [y, x], what else is known of it, and numbers of instances uint16 [y, x]."""

    def close(self) -> None:
        """Write what is written last."""


def writer_of(
    kind: Format, folder: Path, split: str, legend: Mapping[int, Label], background: tuple[int, ...]
) -> Writer:
    """Make the writer of a format."""
    if kind == "coco":
        return Coco(folder, split, legend, background)
    if kind == "geojson":
        return GeoJson(folder / split, legend, background)
    return WebDataset(folder, split) if kind == "webdataset" else Folders(folder / split)


def encode(pixels: Pixels | Numbers) -> bytes:
    """Compress an image or labels as PNG, without loss."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=4))


class Folders:
    """Images and masks of equal names in two folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, name: str, image: Pixels, labels: Pixels, facts: dict[str, Any], instances: Numbers | None
    ) -> None:
        """Write a tile."""
        for part, pixels in (("images", image), ("masks", labels), ("instances", instances)):
            if pixels is not None:
                (self.folder / part).mkdir(parents=True, exist_ok=True)
                (self.folder / part / f"{name}.png").write_bytes(encode(pixels))

    def close(self) -> None:
        """Do nothing more."""


class GeoJson:
    """Images, and beside each its regions as polygons in the tile's pixels, and numbers of instances if there are any."""

    def __init__(self, folder: Path, legend: Mapping[int, Label], background: tuple[int, ...]) -> None:
        self.folder, self.legend, self.background = folder, legend, background
        folder.mkdir(parents=True)

    def add(
        self, name: str, image: Pixels, labels: Pixels, facts: dict[str, Any], instances: Numbers | None
    ) -> None:
        """Write a tile; polygons are those of regions, and instances a picture of numbers beside them."""
        (self.folder / f"{name}.png").write_bytes(encode(image))
        if instances is not None:
            (self.folder / f"{name}.instances.png").write_bytes(encode(instances))
        write_geojson(
            self.folder / f"{name}.geojson", open_mask(labels), legend=self.legend, left_out=self.background
        )

    def close(self) -> None:
        """Do nothing more."""


@dataclass
class Coco:
    """Images, and one list of all regions with run lengths, as pycocotools reads them; holes stay open."""

    folder: Path
    split: str
    legend: Mapping[int, Label]
    background: tuple[int, ...]
    images: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / self.split).mkdir(parents=True)

    def add(
        self, name: str, image: Pixels, labels: Pixels, facts: dict[str, Any], instances: Numbers | None
    ) -> None:
        """Write a tile, and note its instances where it has some, else its regions."""
        file = f"{self.split}/{name}.png"
        (self.folder / file).write_bytes(encode(image))
        number = len(self.images) + 1
        height, width = labels.shape
        self.images.append({"id": number, "file_name": file, "height": height, "width": width, **facts})
        for value, held in _instances(labels, instances) if instances is not None else self._regions(labels):
            ys, xs = np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))
            self.regions.append(
                {
                    "id": len(self.regions) + 1,
                    "image_id": number,
                    "category_id": value,
                    "iscrowd": 0,
                    "area": int(held.sum()),
                    "bbox": [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)],
                    "segmentation": {"size": [height, width], "counts": run_lengths(held)},
                }
            )

    def _regions(self, labels: Pixels) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Label and pixels of each region."""
        for value in np.unique(labels).tolist():
            if value not in self.background:
                count, regions = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=4)
                yield from ((value, regions == region) for region in range(1, count))

    def close(self) -> None:
        """Write the list."""
        found = sorted({region["category_id"] for region in self.regions})
        document = {
            "images": self.images,
            "annotations": self.regions,
            "categories": [{"id": value, "name": self.legend[value].name} for value in found],
        }
        (self.folder / f"{self.split}.json").write_text(json.dumps(document), encoding="utf-8")


def _instances(labels: Pixels, instances: Numbers) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Label that most of an instance's pixels have, and its pixels, of each instance."""
    for number in np.unique(instances).tolist():
        if number:
            held = instances == number
            yield int(np.bincount(labels[held]).argmax()), held


def run_lengths(held: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of pixels outside and inside, column by column, beginning outside.

    Examples
    --------
    >>> run_lengths(np.array([[1, 0], [1, 1]], bool))
    [0, 2, 1, 1]
    """
    flat = np.concatenate([[False], held.T.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff([0, *changes.tolist(), held.size])]


class WebDataset:
    """Archives of 1000 tiles: NAME.image.png, NAME.mask.png and NAME.json."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split, self.count = folder, split, 0
        self.archive: tarfile.TarFile | None = None

    def add(
        self, name: str, image: Pixels, labels: Pixels, facts: dict[str, Any], instances: Numbers | None
    ) -> None:
        """Write a tile."""
        if self.count % SHARD == 0:
            self.close()
            path = self.folder / f"{self.split}-{self.count // SHARD:06d}.tar"
            self.archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 closed later
        self.count += 1
        text = json.dumps(facts, sort_keys=True).encode()
        files = [("image.png", encode(image)), ("mask.png", encode(labels)), ("json", text)]
        if instances is not None:
            files.insert(2, ("instances.png", encode(instances)))
        for ending, data in files:
            entry = tarfile.TarInfo(f"{name}.{ending}")
            entry.size = len(data)
            assert self.archive is not None
            self.archive.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        """Close the last archive."""
        if self.archive is not None:
            self.archive.close()
