"""What is a run: which data, which settings, and what do its checkpoints tell of it?

A run that begins is opened without PyTorch, so that what is wrong with its data is said before that is imported.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safron.io.errors import counted
from safron.io.files import check_regular
from safron.training.config import TrainConfig
from safron.training.config.data_sets import DataFacts, read_facts
from safron.training.config.exported import check_run_folder
from safron.training.data import Source, open_source, split
from safron.training.data.folders import show_mpp

if TYPE_CHECKING:
    from safron.training.checkpoint import Checkpoint
    from safron.training.distributed import Team

SLIDES_OF_01 = "(?:images/)?(?:(.+)(?=/)|([^/]+)(?=[-_][^-_]*$)|(.+))"
"""How version 0.1 found slides: by sub-folder, or else up to the last - or _; its runs go on so."""


@dataclass(frozen=True)
class Run:
    """What a run trains on, as decided before its first step.

    Attributes
    ----------
    config
        All settings; the pixel size is that of the data, the steps are those of the epochs.
    kept
        The checkpoint to continue from.
    training, held_out
        The data.
    tiles
        Of an epoch.
    about
        What checkpoints tell of the run; completed once the networks exist.
    """

    config: TrainConfig
    kept: Checkpoint | None
    training: Source
    held_out: Source
    tiles: int
    about: dict[str, Any]


def check_beginning(out: Path, *, resume: bool, start: Path | None) -> None:
    """Raise `BadInput` if a run cannot begin in this folder, or with these weights; before data are read, which takes long."""
    check_run_folder(out, resume=resume)
    if start is not None:
        check_regular(start)


def open_run(
    folder: Path,
    config: TrainConfig,
    facts: DataFacts | None,
    kept: Checkpoint | None,
    path: Path,
    cache: Path,
    team: Team | None = None,
) -> Run:
    """Open the data, and settle what the run is.

    Parameters
    ----------
    folder, config, facts
        See `safron.training.train.fit`.
    kept, path
        The checkpoint to continue from, and its file.
    cache
        See `safron.training.train.fit`.
    team
        The processes that train together; None for one.

    Raises
    ------
    BadInput
        The data cannot be used, or are not those of the checkpoint.
    """
    facts = read_facts(folder, facts or DataFacts())
    if kept is not None:  # which may be of a version that did less
        config = dataclasses.replace(kept.config, steps=config.steps, epochs=config.epochs)
        facts = _facts_of(kept, facts)
    with (
        nullcontext() if team is None else team.first_then_others()
    ):  # the first process prepares the data, the others find it in the cache
        source = open_source(folder, config, cache, facts)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, mpp=source.mpp))
    training, held_out = split(source, config.held_out)
    about: dict[str, Any] = {
        "images": len(training),
        "slides": len(set(training.slides)),
        "data": training.name,
    }
    about |= {"data_set": facts.data_set, "slide_of": facts.slide_of}
    about |= {name: said for name in ("map", "palette") if (said := getattr(facts, name))}
    if kept is not None:
        from safron.training.checkpoint import check_same_data

        check_same_data(path, kept, about)
    about |= {"generator": facts.generator, "licence": facts.licence, "trained_on": facts.trained_on}
    tiles = training.tiles(config.tile_side + 2 * config.model.context, config.epoch_stride)
    if config.epochs:
        steps = max(1, config.epochs * tiles // config.batch)
        if kept is not None and kept.config.epochs == config.epochs:
            steps = kept.config.steps
        config = dataclasses.replace(config, steps=steps)
    return Run(config, kept, training, held_out, tiles, about)


def _facts_of(kept: Checkpoint, facts: DataFacts) -> DataFacts:
    """Complete what the user says of the data by what was said when the run began."""
    if "data_set" not in kept.metadata and facts.data_set in ("", "pairs"):
        return dataclasses.replace(facts, slide_of=facts.slide_of or SLIDES_OF_01)
    texts = [name for name, value in vars(facts).items() if not value and name in kept.metadata]
    return dataclasses.replace(facts, **{name: kept.metadata[name] for name in texts})


def describe(run: Run) -> str:
    """Say on one line what is trained on, and for how long."""
    config, about, held_out, tiles = run.config, run.about, run.held_out, run.tiles
    labels = ", ".join(label.name for label in config.model.labels)
    each = (
        ", each image a slide of its own (see --slide-of)" if about["slides"] == about["images"] > 1 else ""
    )
    aside = _count(len(held_out), len(set(held_out.slides)))
    if set(held_out.slides) & set(run.training.slides):
        aside = f"nothing, so samples and measures show {aside} of the training"
    return (
        f"{about['data']} (read as {held_out.told}): {_count(about['images'], about['slides'])}{each}; held out: "
        f"{aside}; an epoch is {counted(tiles, 'tile')} of {config.tile_side} px at "
        f"{show_mpp(config.model.mpp)} (one each {config.epoch_stride} px), {config.steps} steps are "
        f"{config.steps * config.batch / tiles:.3g} epochs; labels: {labels}; {about['device']}, {about['precision']}"
    )


def _count(images: int, slides: int) -> str:
    return f"{counted(images, 'image')} of {counted(slides, 'slide')}"
