"""How are tiles cut from slides and masks, and what is told of them?

Masks are read once to choose the tiles, slides and masks once more to write them, tile by tile. The data set appears whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.files import check_output_path, output
from safron.io.masks.mask import LabelMask
from safron.io.masks.to_geojson import legend_of
from safron.io.slides.flavors import MASK_CONTENT
from safron.io.slides.reader import Pixels

from .formats import Format, writer_of
from .plan import SPLITS, By, Tile, joined, places, split_tiles

UInt8 = npt.NDArray[np.uint8]

MANIFEST = "manifest.json"
MOST_OFF = 0.1
"""Share of the tiles by which a split may miss its share without a warning."""
_FACTS = {
    "Generator": "generator",
    "Generator SHA-256": "generator_sha256",
    "Generator licence": "licence",
    MASK_CONTENT: "mask_content",
    "Seed": "seed",
    "Stain": "stain",
}
"""What slides of safron-render say of themselves, and how the manifest calls it."""


@dataclass(frozen=True)
class TileOptions:
    """What is cut, and how it is written.

    Attributes
    ----------
    size, stride
        Side of a tile and distance between tiles, in pixels.
    min_tissue
        Least share of pixels that are not background.
    background
        Labels that are background.
    shares
        Of train, val and test.
    by, gap, seed
        See `safron.io.tiles.plan.split_tiles`.
    kind
        The format.
    """

    size: int = 512
    stride: int = 512
    min_tissue: float = 0.1
    background: tuple[int, ...] = (0,)
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    by: By = "region"
    gap: int = 512
    seed: int = 0
    kind: Format = "folders"


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a data set may be written here; it replaces nothing but a data set."""
    check_output_path(out, overwrite=overwrite, folder=True)
    if out.exists() and not (out / MANIFEST).is_file():
        raise BadInput(
            f"{out}: exists and was not made by safron-tiles, so it is not replaced; choose another name"
        )


def cut_tiles(
    pairs: Sequence[tuple[Path, LabelMask]],
    out: Path,
    options: TileOptions,
    *,
    instances: Sequence[LabelMask | None] = (),
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda tiles: None,
    warn: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Cut slides and masks into tiles.

    Parameters
    ----------
    pairs
        Slides or images, each with the labels of its pixels.
    out
        Folder to make.
    options
        What and how.
    instances
        For each slide the numbers of its instances (nuclei, glands), whole numbers of any size, 0 for none; or None.
    overwrite
        Replace a data set.
    progress
        Called with the number of tiles that were written.
    warn
        Called with what the user should know.

    Returns
    -------
    dict[str, int]
        Tiles by split, and those in gaps.

    Raises
    ------
    BadInput
        A mask has another size than its slide, no tile has enough tissue, or a split would be empty.
    """
    check_target(out, overwrite=overwrite)
    with ExitStack() as stack:
        sources = _open(pairs, instances, stack)
        plan = _plan(sources, options, warn)
        _tell_shares(plan.splits, options, warn)
        facts = [source.facts(warn) for source in sources]
        counts = plan.counts()
        with output(out, overwrite=overwrite, folder=True) as part:
            rows = _write(part, sources, plan, options, progress)
            _tell(part, options, facts, rows, counts)
    return counts


@dataclass(frozen=True)
class _Source:
    """A slide that is open, the labels of its pixels, the numbers of its instances if there are any, and its name in files."""

    slide: Pixels
    mask: LabelMask
    instances: LabelMask | None
    name: str

    def read(
        self, tile: Tile, size: int
    ) -> tuple[UInt8, UInt8, npt.NDArray[np.uint16] | None, dict[str, Any]]:
        """Return image, labels, instances numbered from 1 and facts of a tile of `size` pixels."""
        rows, cols = slice(tile.y, tile.y + size), slice(tile.x, tile.x + size)
        image = self.slide.read(tile.y, tile.x, size, size)
        facts = {"slide": self.name, "x": tile.x, "y": tile.y, "tissue": tile.tissue}
        if self.instances is None:
            return image, self.mask[rows, cols], None, facts
        part = self.instances.plane.read(rows, cols)  # the plane itself: numbers go beyond those of labels
        known = np.unique(part[part > 0])
        numbers = np.where(part > 0, np.searchsorted(known, part) + 1, 0).astype(np.uint16)
        return image, self.mask[rows, cols], numbers, facts | {"instances": len(known)}

    def facts(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """Return what the manifest says of the slide."""
        known = {ours: self.slide.facts.get(theirs) for theirs, ours in _FACTS.items()}
        if known["licence"] is None:
            warn(f"{self.slide.path}: says no licence; the manifest says null")
        with self.slide.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "name": self.name,
            "file": self.slide.path.name,
            "sha256": digest,
            "mask": Path(self.mask.source).name,
            "mask_fingerprint": self.mask.fingerprint(),
            "width": self.slide.shape[1],
            "height": self.slide.shape[0],
            "mpp": self.slide.mpp or self.mask.mpp,
            **known,
        }


@dataclass(frozen=True)
class _TilePlan:
    """The tiles of each split, and how many have enough tissue, with those in gaps."""

    splits: dict[str, list[Tile]]
    found: int

    def counts(self) -> dict[str, int]:
        """Count the tiles by split, and those in gaps."""
        counts = {split: len(chosen) for split, chosen in self.splits.items()}
        return counts | {"in gaps": self.found - sum(counts.values())}


def _open(
    pairs: Sequence[tuple[Path, LabelMask]], instances: Sequence[LabelMask | None], stack: ExitStack
) -> list[_Source]:
    """Open the slides, and hold them against their masks."""
    slides = [stack.enter_context(Pixels(path)) for path, _ in pairs]
    masks = [mask for _, mask in pairs]
    numbers = [*instances] or [None] * len(masks)
    for slide, mask in [*zip(slides, masks, strict=True), *zip(slides, numbers, strict=True)]:
        if mask is not None and slide.shape != mask.shape:
            raise BadInput(
                f"{slide.path}: has {slide.shape[1]} x {slide.shape[0]} pixels and its mask {mask.source} "
                f"{mask.shape[1]} x {mask.shape[0]}; give the mask of this slide"
            )
    return [*map(_Source, slides, masks, numbers, _names([path for path, _ in pairs]))]


def _plan(sources: Sequence[_Source], options: TileOptions, warn: Callable[[str], None]) -> _TilePlan:
    """Choose the tiles, and the split of each."""
    chosen = [_choose(number, source.mask, options) for number, source in enumerate(sources)]
    tiles = [tile for found, _ in chosen for tile in found]
    if not tiles:
        raise BadInput(
            f"no tile of {options.size} pixels has {options.min_tissue:.0%} of tissue; lower --min-tissue or --size"
        )
    digests = [digest for _, digest in chosen]
    # Slides of other regions of a mask have other labels, and say of which mask they are.
    contents = [source.slide.facts.get(MASK_CONTENT, "") for source in sources]
    layouts = joined(digests, contents)
    if options.by == "region" and len({*digests}) > len({*layouts}):
        warn(
            "--by region: some slides show other regions of one mask, which may overlap across splits; --by slide keeps them together"
        )
    splits = split_tiles(
        tiles, shapes=[source.mask.shape for source in sources], names=[source.name for source in sources],
        layouts=layouts, shares=options.shares, by=options.by, size=options.size, gap=options.gap, seed=options.seed,
    )  # fmt: skip
    return _TilePlan(splits, len(tiles))


def _write(
    folder: Path,
    sources: Sequence[_Source],
    plan: _TilePlan,
    options: TileOptions,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Write the tiles of all splits, and return the lines of their list."""
    legend = legend_of(sources[0].mask, {})
    rows = []
    for split, chosen in plan.splits.items():
        writer = writer_of(options.kind, folder, split, legend, options.background)
        for tile in sorted(chosen):
            source = sources[tile.slide]
            name = f"{source.name}_x{tile.x}_y{tile.y}"
            image, labels, numbers, facts = source.read(tile, options.size)
            writer.add(name, image, labels, facts, numbers)
            rows.append({"split": split, "name": name, **facts})
            progress(1)
        writer.close()
    return rows


def _tell_shares(splits: dict[str, list[Tile]], options: TileOptions, warn: Callable[[str], None]) -> None:
    """Warn of shares that are far from those asked for."""
    total = sum(map(len, splits.values()))
    for name, share in zip(SPLITS, options.shares, strict=False):
        got = len(splits.get(name, ())) / total
        if abs(got - share) > MOST_OFF:
            warn(
                f"{name} gets {got:.0%} of the tiles and not {share:.0%}; more slides, or a smaller --size or --gap, bring it nearer"
            )


def _choose(number: int, mask: LabelMask, options: TileOptions) -> tuple[list[Tile], str]:
    """Tiles of a slide with enough tissue, and a digest of its labels: of any file with these labels it is the same."""
    height, width = mask.shape
    digest = hashlib.blake2b(f"{height} x {width}".encode(), digest_size=16)
    background = np.isin(np.arange(256), options.background)
    found = []
    across = places(width, options.size, options.stride)
    for y in places(height, options.size, options.stride):
        if not across:
            break
        labels = mask[y : y + options.size, 0 : across[-1] + options.size]
        digest.update(labels.tobytes())
        columns = np.cumsum(np.append(0, (~background[labels]).sum(axis=0)))
        for x in across:
            tissue = float(columns[x + options.size] - columns[x]) / options.size**2
            if tissue >= options.min_tissue:
                found.append(Tile(number, y, x, round(tissue, 4)))
    return found, digest.hexdigest()


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of slides for files, each once."""
    names: list[str] = []
    for path in paths:
        name = re.sub(r"[^\w-]+", "-", path.name.split(".")[0]) or "slide"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _tell(
    folder: Path,
    options: TileOptions,
    slides: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    counts: dict[str, int],
) -> None:
    """Write the manifest, and the list of tiles."""
    manifest = {
        "made_by": f"safron {version('safron')}",
        "format": options.kind,
        "size": options.size,
        "stride": options.stride,
        "min_tissue": options.min_tissue,
        "background": list(options.background),
        "split": dict(zip(SPLITS, options.shares, strict=False)),
        "by": options.by,
        "gap": options.gap,
        "seed": options.seed,
        "tiles": counts,
        "licences": sorted({slide["licence"] or "unknown" for slide in slides}),
        "slides": slides,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    with (folder / "tiles.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
