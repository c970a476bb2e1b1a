"""Which decisions does a render consist of?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safron.engine.execution.tasks import Job
from safron.engine.generator.card import Card
from safron.engine.generator.model import PatchModel
from safron.engine.generator.shipped import model_names
from safron.engine.plan.estimates import output_bytes, scratch_bytes
from safron.engine.plan.grid import PatchGrid, agreeing_overlap
from safron.engine.plan.render_plan import RenderPlan
from safron.io.remote import Target

from .budget import Budget, check_disk, check_memory
from .label_names import name_notes
from .options import RenderOptions
from .output_paths import working_folders

Where = Literal["threads", "processes", "cluster"]


@dataclass(frozen=True)
class Prepared:
    """A render that passed every check for which no pixel is read.

    Attributes
    ----------
    target
        The slide to make.
    options
        As given, with the number of workers chosen.
    model
        The generator.
    job
        Plan, mask, scratch and properties of the generator.
    budget
        Upper bounds on memory.
    where
        Where tasks run: in threads of this process, in processes on this machine, or on a cluster.
    reserved
        Bytes of memory that this process reserves before the first block, in the heap and outside of it; 0 if others render.
    at_a_time
        Blocks in flight in all processes; None if a scheduler has not told yet how many workers it has.
    seconds
        Planned time of the generator, as if every patch were generated and nothing else ran; None if other processes
        render.
    dask
        Whether Dask schedules the threads of this process.
    """

    target: Target
    options: RenderOptions
    model: PatchModel
    job: Job
    budget: Budget
    where: Where
    reserved: tuple[int, int] = (0, 0)
    at_a_time: int | None = None
    seconds: float | None = None
    dask: bool = False

    @property
    def plan(self) -> RenderPlan:
        """The plan."""
        return self.job.plan

    @property
    def projected_bytes(self) -> int:
        """Upper bound on resident memory: of all processes of this machine, or of one worker on another."""
        return self.budget.total

    @property
    def scratch_bytes(self) -> int:
        """Upper bound on the disk space of scratch at one time, with one block in flight if the number is unknown."""
        return scratch_bytes(self.plan, at_a_time=self.at_a_time or 1)

    def check_budget(self) -> None:
        """Refuse a plan that exceeds the memory budget or the free disk.

        Raises
        ------
        BadInput
            The message has both numbers.
        """
        check_memory(self.budget, self.plan, self.options)
        scratch, part = self.job.scratch, self.target.part
        written = part.stat().st_size if part.is_file() else 0
        needs = max(0, output_bytes(self.plan) - written), 0 if scratch.store else self.scratch_bytes
        check_disk(zip(working_folders(self.target, scratch, self.options), needs, strict=True))

    @property
    def warnings(self) -> list[str]:
        """Guesses, and options that are allowed but probably not intended."""
        mask = self.job.mask
        told = mask.notes if self.options.mpp is None else mask.label_notes
        notes = [f"mask {mask.source}: {note}" for note in told]
        if self.plan.slide.flavor == "svs" and self.plan.slide.mpp is None:
            notes.append(
                "the slide has no pixel size: viewers show no scale, and opentile refuses an svs slide without one; pass --mpp"
            )
        card, grid = self.job.model.card, self.plan.grid
        edges = self.job.model.card.edges
        if edges is not None and edges.of == "instances" and not self.job.mask.beside:
            notes.append(
                f"mask {self.job.mask.source}: it has no numbers of nuclei, so touching nuclei of one label are drawn as one; give "
                "--instances, or make the mask with safron-mask from-polygons"
            )
        if self.options.labels_out is not None and "instances" in mask.beside:
            notes.append(
                f"--labels-out: the numbers of nuclei of mask {mask.source} are not written, so nuclei of one label that touch are one there"
            )
        notes += name_notes(mask, card)
        notes += self._size_notes()
        if self.plan.stain is not None and card.name not in model_names():
            notes.append(
                f"--stain {self.plan.stain.name}: colours of generator {card.name!r} change as the shipped generator's stain would; what it "
                "draws may have another"
            )
        if card.sampler is not None and self.plan.region != self.plan.canvas:
            notes.append(
                "--region: steps of a sampler spread, so the region is sampled as a canvas of its own, and its pixels differ from "
                "those of the whole slide"
            )
        if grid.overlap and grid.rows.stride % card.alignment:
            notes.append(
                f"--overlap {grid.overlap}: patches lie {grid.rows.stride} px apart, but those of generator {card.name!r} "
                f"agree only at multiples of {card.alignment}: expect faint seams; {_to_agree(card, grid)}"
            )
        return notes

    def _size_notes(self) -> list[str]:
        """Return a note if tissue may not have its true size."""
        mask, card = self.job.mask, self.job.model.card
        size = mask.mpp if self.options.mpp is None else self.options.mpp
        if card.name == "identity":  # it shows the labels, which have the mask's size
            return []
        if card.mpp is None:
            return [
                f"generator {card.name!r}: its card has no mpp, so structures may not have their true size"
            ]
        if size is None:
            return [
                f"mask {mask.source}: has no pixel size; the generator's, {card.mpp:g} um, is used; pass the mask's with --mpp"
            ]
        if self.plan.scale.is_one and abs(size / card.mpp - 1) > 0.1:
            return [
                f"--scale 1: the mask has {size:g} um per pixel and generator {card.name!r} {card.mpp:g}, so structures come out "
                f"{size / card.mpp:.3g} times their true size"
            ]
        return []


def _to_agree(card: Card, grid: PatchGrid) -> str:
    """Say what lets patches agree where they overlap."""
    found = agreeing_overlap(grid.tile, grid.overlap, card.alignment)
    if found is not None:
        return f"try --overlap {found}"
    larger = "give a larger --tile, or " if card.tile_multiple else ""
    return f"no overlap of tiles of {grid.tile} helps; {larger}correct alignment on its card"
