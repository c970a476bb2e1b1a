"""What is known of a render that passed every check?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safron.engine.execution.tasks import Job
from safron.engine.generator.model import PatchModel
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
    model : the generator.
    job : plan, mask and scratch, and what is known of the generator.
    projected_bytes : upper bound on resident memory, of this process and of workers on this machine.
    where : who runs the tasks: threads of this process, processes of this machine, or a cluster.
    heap_bytes : memory that this process takes before the first block; 0 where others do the work.
    at_a_time : blocks in work at a time, in all processes; None where a scheduler has not said how many workers it has.
    """

    target: Target
    options: RenderOptions
    model: PatchModel
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
        card, grid = self.job.model.card, self.plan.grid
        if grid.overlap and grid.rows.stride % card.alignment:
            nearest = grid.overlap + grid.rows.stride % card.alignment
            notes.append(
                f"--overlap {grid.overlap}: patches lie {grid.rows.stride} px apart, and those of generator {card.name!r} "
                f"agree only at multiples of {card.alignment}: expect faint seams; try --overlap {nearest}"
            )
        return notes
