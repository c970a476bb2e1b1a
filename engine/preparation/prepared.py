"""What is known of a render that passed every check?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safron.engine.execution.tasks import Job
from safron.engine.plan.render_plan import RenderPlan
from safron.io.remote import Target

from .options import RenderOptions

Where = Literal["threads", "processes", "cluster"]


@dataclass(frozen=True)
class Prepared:
    """A render that passed every check that needs no pixel.

    Attributes
    ----------
    target : the slide to make.
    options : as given.
    job : plan, mask, generator and scratch.
    projected_bytes : upper bound on resident memory, of this process and of workers on this machine.
    where : who runs the tasks: threads of this process, processes of this machine, or a cluster.
    heap_bytes : memory that this process takes before the first block; 0 where others do the work.
    at_a_time : blocks in work at a time, in all processes; None where a scheduler has not said how many workers it has.
    """

    target: Target
    options: RenderOptions
    job: Job
    projected_bytes: int
    where: Where
    heap_bytes: int = 0
    at_a_time: int | None = None

    @property
    def plan(self) -> RenderPlan:
        """The plan."""
        return self.job.plan

    @property
    def scratch_bytes(self) -> int:
        """Upper bound on the disk that scratch takes at one time; for one block in work where it is not known how many."""
        return self.plan.scratch_bytes(at_a_time=self.at_a_time or 1)

    @property
    def warnings(self) -> list[str]:
        """What is allowed and probably not meant."""
        notes = [f"mask {self.job.mask.source}: {note}" for note in self.job.mask.notes]
        if self.plan.slide.flavor == "svs" and self.plan.slide.mpp is None:
            notes.append(
                "the slide has no pixel size: viewers show no scale, and opentile refuses an svs slide without one; pass --mpp"
            )
        card, grid = self.job.model.card, self.plan.grid
        notes += self._size_notes()
        if grid.overlap and grid.rows.stride % card.alignment:
            nearest = grid.overlap + grid.rows.stride % card.alignment
            notes.append(
                f"--overlap {grid.overlap}: patches lie {grid.rows.stride} px apart, and those of generator {card.name!r} "
                f"agree only at multiples of {card.alignment}: expect faint seams; try --overlap {nearest}"
            )
        return notes

    def _size_notes(self) -> list[str]:
        """Say where tissue may not have its true size."""
        mask, card = self.job.mask, self.job.model.card
        size = mask.mpp if self.options.mpp is None else self.options.mpp
        if card.name == "identity":  # it draws labels, which have no size of their own
            return []
        if card.mpp is None:
            return [
                f"generator {card.name!r}: its card says no mpp, so structures may not have their true size"
            ]
        if size is None:
            return [
                f"mask {mask.source}: has no pixel size; {card.mpp:g} um, the generator's, is taken for it. Give its own with --mpp"
            ]
        if self.plan.scale.is_one and abs(size / card.mpp - 1) > 0.1:
            return [
                f"--scale 1: the mask has {size:g} um per pixel and generator {card.name!r} {card.mpp:g}, so structures come out "
                f"{size / card.mpp:.3g} times their true size"
            ]
        return []
