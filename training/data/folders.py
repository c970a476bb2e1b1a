"""What kind of training data does a folder hold?

A data set that the user names is read as `config.data_sets` has it. Else the folder's layout decides: slides with masks or
QuPath annotations (CASE.svs + CASE.zarr or CASE.geojson) are read window by window, Images/ and Annotation/ are gland masks
as in CRAG, and all else are pairs of images and labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from safron.io.console import warn
from safron.io.errors import BadInput, counted
from safron.io.mapped import spill
from safron.io.masks.canvas_size import image_size
from safron.io.masks.pair_files import list_images
from safron.io.masks.palette import read_palette, read_png_colours
from safron.io.masks.relabel import Relabel
from safron.io.measures.style import measure_style
from safron.io.pair_names import find_masks
from safron.io.whole_image import orientation
from safron.training.config import TrainConfig
from safron.training.config.data_sets import DATA_SETS, DataFacts, read_facts
from safron.training.data import consep
from safron.training.data.cues import CUED, cue_count, measure_cues
from safron.training.data.ebhi import MPP, prepare
from safron.training.data.images import (
    BLACK_AND_WHITE,
    WHITEST_TISSUE,
    label_glands,
    list_pairs,
    mask_folders,
    name_slides,
    read_labels,
    read_pair,
)
from safron.training.data.slide_tiles import find_slides, open_slides
from safron.training.data.source import Bytes, Pairs, Source

SAME_SCALE = 0.02
"""Pixel sizes that differ by this share or less count as equal, and nothing is resized."""


def open_source(
    folder: Path, config: TrainConfig, cache: Path | None = None, facts: DataFacts | None = None
) -> Source:
    """Find out what `folder` holds, check it, and make it ready to draw batches from.

    Parameters
    ----------
    folder
        Slides or pairs; see the module's text.
    cache
        Where prepared frames are kept for the next run, and pairs for this one.
    facts
        What is known of the data; by default what their ``dataset.json`` says.

    Raises
    ------
    BadInput
        It holds none of them or two kinds, a file is unpaired or unreadable, sizes differ, a label or colour is unknown,
        all is background, or the images are smaller than a training tile.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds the images and their masks")
    facts = read_facts(folder, DataFacts()) if facts is None else facts
    # "." and ".." are folders with names, too.
    name = folder.name if folder.name.strip(".") else folder.resolve().name
    name = facts.name or DATA_SETS[facts.data_set or "pairs"].name or name
    slides = [] if facts.data_set else find_slides(folder)
    if slides:
        taken = {path for path, _ in slides}
        if others := sorted(find_masks(path for path in list_images(folder) if path not in taken)):
            raise BadInput(
                f"{folder} holds slides ({slides[0][0].name}) and pairs ({others[0].name}); training takes one kind: "
                "move the others to a folder of their own"
            )
        _check_labels(facts, palette="masks of slides hold labels, not colours")
        return open_slides(slides, config, name, facts.mpp, Relabel.parse(facts.map) if facts.map else None)
    data_set = facts.data_set or ("crag" if mask_folders(folder, "crag") else "pairs")
    if DATA_SETS[data_set].glands or data_set == "consep":
        why = f"masks of {data_set} say themselves what their numbers are"
        _check_labels(facts, palette=why, map=why)
    if DATA_SETS[data_set].glands and len(config.model.labels) <= max(CUED):
        raise BadInput(
            f"{folder} holds gland masks, from which background, stroma and gland are labelled; model.labels must be three or more"
        )
    if data_set == "consep":
        found = consep.prepare(folder, config.model, config.image_mpp or facts.mpp)
        return _fit(replace(found, name=name), config, folder, cache)
    if data_set == "ebhi":
        pairs = prepare(folder, cache, guides=config.model.guide, own=config.model.style)
        told = "frames of EBHI-Seg, resized" + " and stain-normalized" * (not config.model.style)
        return _fit(replace(pairs, name=facts.name or pairs.name, told=told, mpp=MPP), config, folder, cache)
    return _fit(_read_pairs(folder, config, data_set, facts, cache, name), config, folder, cache)


def _check_labels(facts: DataFacts, **refused: str) -> None:
    """Raise `BadInput` where something is said of labels that would not be heard; with the reason."""
    for name, why in refused.items():
        if given := getattr(facts, name):
            raise BadInput(f"--{name} {given}: {why}; leave it out")


def _fit(pairs: Pairs, config: TrainConfig, folder: Path, cache: Path | None) -> Pairs:
    """Bring pairs to the generator's pixel size, measure its cues, and drop pairs that are too small for a training tile."""
    own = config.image_mpp or pairs.mpp or config.model.mpp
    mpp = config.model.mpp or own
    zoom = own / mpp if own and mpp else 1.0
    zoom = 1.0 if abs(zoom - 1.0) <= SAME_SCALE else zoom
    pairs = replace(pairs, mpp=mpp)
    guides = config.model.guide
    # Guides are drawn around windows of whole images, at the generator's pixel size.
    now = zoom < 1.0 or (guides is not None and zoom != 1.0)
    pairs = _resize(pairs, zoom, cache) if now else replace(pairs, zoom=zoom)
    if len(config.model.noise_scales) < cue_count(guides):
        pairs = replace(pairs, cues=(), trust=())
    elif not pairs.cues:
        cues, trust = measure_cues(pairs.images, consep.as_glands(pairs.labels, config.model), cache, guides)
        pairs = replace(pairs, cues=cues, trust=trust)
    pairs = replace(pairs, guides=guides)
    if config.model.style:
        pairs = replace(pairs, styles=tuple(map(measure_style, pairs.images)))
    need = config.least_side
    large = [index for index in range(len(pairs)) if min(pairs.size(index)) >= need]
    if not large:
        height, width = max((pairs.size(index) for index in range(len(pairs))), key=min)
        raise BadInput(
            f"{folder}: its images are at most {width} x {height} px at {show_mpp(mpp)}, and a training tile "
            f"or a window of the sample sheets is {need} px with its context; train on smaller tiles, at a finer "
            "--mpp or on a smaller grid, or give larger images"
        )
    return pairs.take(large)


def show_mpp(mpp: float | None) -> str:
    """Say a pixel size in words."""
    return f"{mpp:g} um per pixel" if mpp else "an unknown pixel size"


def _resize(pairs: Pairs, zoom: float, cache: Path | None) -> Pairs:
    """Resize the pairs once, which takes less than doing it at each read; their cues are measured anew."""

    def resize(array: Bytes, how: int) -> Bytes:
        size = (max(1, int(array.shape[1] * zoom)), max(1, int(array.shape[0] * zoom)))
        return np.asarray(cv2.resize(array, size, interpolation=how))

    how = cv2.INTER_AREA if zoom < 1.0 else cv2.INTER_CUBIC
    images = spill((resize(image, how) for image in pairs.images), cache)
    labels = spill((resize(label, cv2.INTER_NEAREST) for label in pairs.labels), cache)
    return replace(pairs, images=images, labels=labels, cues=(), trust=())


def _read_pairs(
    folder: Path, config: TrainConfig, data_set: str, facts: DataFacts, cache: Path | None, name: str
) -> Pairs:
    """Read all pairs below `folder` at their own size; their colours stay as they are, and cues are not measured yet."""
    kind, model, found = DATA_SETS[data_set], config.model, list_pairs(folder, data_set)
    slides = name_slides((where for where, _, _ in found), facts.slide_of)
    colours = {label.value: label.color for label in model.labels}
    indexed = facts.palette == "indices"
    given = read_palette(facts.palette) if facts.palette and not indexed else colours
    palette = BLACK_AND_WHITE if kind.glands else given
    background = [label.value for label in model.labels if label.fill]
    notes, sizes, tissue = Counter[str](), dict[float, Path](), False
    relabel = Relabel.parse(facts.map) if facts.map and not kind.glands else None

    def read() -> Iterator[Bytes]:
        nonlocal tissue
        for _, path, mask_path in found:
            own = read_png_colours(mask_path) if indexed else palette
            image, mask = read_pair(
                path, mask_path, own, 127 * kind.glands, relabel, use_palette=bool(facts.palette)
            )
            labels = label_glands(image, mask) if kind.glands else read_labels(mask, len(model.labels))
            tissue = tissue or not np.isin(labels, background).all()
            with suppress(BadInput):  # bitmaps, which say nothing
                if mpp := image_size(path)[2].mpp:
                    sizes.setdefault(mpp, path)
            if orientation(path) != 1:
                notes["an orientation in EXIF, which turns neither images nor masks here"] += 1
            notes.update(() if kind.glands else mask.label_notes)
            yield from (image, labels)

    arrays = spill(read(), cache)
    for note, count in notes.most_common(3):
        warn("safron-train", f"{folder}: {counted(count, 'file')} with this: {note}")
    if not tissue:
        raise BadInput(f"{folder}: every pixel of its masks is background; check how the masks were made")
    own = config.image_mpp or facts.mpp or max(sizes, default=None)
    if own in sizes and max(sizes) > min(sizes) * (1 + SAME_SCALE):
        raise BadInput(
            f"{sizes[max(sizes)]} has {max(sizes):g} um per pixel and {sizes[min(sizes)]} {min(sizes):g}; bring them to one size"
        )
    is_test = [bool(kind.test and re.match(kind.test, where)) for where, _, _ in found]
    aside = {slide for slide, test in zip(slides, is_test, strict=True) if test and not all(is_test)}
    told = data_set if facts.data_set else f"{data_set}, by its folders"
    told += f", background where the mean of RGB is above {WHITEST_TISSUE}" if kind.glands else ""
    return Pairs(arrays[::2], arrays[1::2], (), (), slides, 1.0, name, own, tuple(aside), told)
