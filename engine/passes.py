"""How are all passes of a sampler but the last run, one after the other?

A pass begins when the one before it is complete, since a patch reads what its neighbours became. The last pass makes the
slide and is run as any render.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from safron.engine.execution.sampling import Sampling
from safron.engine.execution.tasks import Job
from safron.engine.plan.estimates import boundary_room
from safron.engine.plan.passes import pass_plan, read_chunks
from safron.engine.plan.render_plan import Passes
from safron.engine.scratch.arrays import Scratch
from safron.engine.scratch.freeing import Freeing
from safron.engine.scratch.mask_watch import MaskWatch
from safron.engine.scratch.pass_state import PassState, completed
from safron.engine.scratch.render_state import RenderState


@dataclass
class EarlierPasses:
    """What all passes but the last have done, in all runs.

    Attributes
    ----------
    job
        The last pass.
    run, painted
        Patches that were generated, and patches that were filled as background.
    stages
        Seconds by stage, of this run.
    """

    job: Job
    run: int = 0
    painted: int = 0
    stages: dict[str, float] = field(default_factory=dict)


def run_passes(
    job: Job,
    inputs: Mapping[str, str],
    watch: MaskWatch,
    run_blocks: Callable[[Job, RenderState], None],
    progress: Callable[[int], None] | None,
    look: Callable[[int], None],
) -> EarlierPasses:
    """Run all passes but the last; return at once where the generator is no sampler.

    Parameters
    ----------
    job
        The render.
    inputs
        See `RenderPlan.inputs`.
    watch
        Of the mask.
    run_blocks
        Runs the unfinished blocks of a pass.
    progress
        Called with the number of patches that earlier runs did.
    look
        Called with the number of each pass that is complete, 0 the first.
    """
    passes = job.plan.passes
    if passes is None:
        return EarlierPasses(job)
    last = passes.steps - 1
    done = EarlierPasses(_job_of(job, passes, last))
    begin = _first_to_run(job.scratch, inputs, last, done)
    if progress is not None:
        progress(done.run + done.painted)
    for step in range(begin, last):
        this = _job_of(job, passes, step)
        with closing(PassState.of(this.plan, this.scratch, _inputs_of(inputs, step), watch)) as state:
            if progress is not None:
                progress(state.run + state.painted)
            free_as_it_goes(this, state)
            if job.pool is not None:  # all tasks run in this process
                this.scratch.boundaries.keep(boundary_room(this.plan), lazily=True)
            run_blocks(this, state)
            done.run, done.painted = state.complete((done.run, done.painted))
            for name, seconds in state.stages.items():
                done.stages[name] = done.stages.get(name, 0.0) + seconds
        _free(job.scratch, step - 1)
        look(step)
    return done


def free_as_it_goes(job: Job, state: RenderState) -> None:
    """Let a pass delete the running picture that it reads, part by part."""
    sampling = job.sampling
    if sampling is not None and sampling.before is not None:
        reads = read_chunks(job.plan, sampling.offset, whole=sampling.whole)
        state.free_with(Freeing(job.plan, sampling.before, *reads))


def _first_to_run(scratch: Scratch, inputs: Mapping[str, str], last: int, done: EarlierPasses) -> int:
    """Find the first pass that is not complete; take what all before it counted."""
    for step in reversed(range(last)):
        counts = completed(scratch.of_pass(step), _inputs_of(inputs, step))
        if counts is not None:
            done.run, done.painted = counts
            _free(scratch, step - 1)  # a crash may have come in between
            return step + 1
    return 0


def _inputs_of(inputs: Mapping[str, str], step: int) -> dict[str, str]:
    return {**inputs, "step": str(step)}


def _job_of(job: Job, passes: Passes, step: int) -> Job:
    """Return the job of one pass; its scratch is its own, but for the last."""
    moved = pass_plan(job.plan, step)
    sampler = job.model.card.sampler
    assert sampler is not None
    before = job.scratch.of_pass(step - 1) if step else None
    return replace(
        job,
        plan=moved.plan,
        scratch=job.scratch if step == passes.steps - 1 else job.scratch.of_pass(step),
        sampling=Sampling(job.plan, sampler, step, moved.offset, before),
    )


def _free(scratch: Scratch, step: int) -> None:
    """Delete the scratch of a pass that is no longer needed."""
    if step >= 0 and (scratch.path / f"passes/{step}").exists():
        scratch.of_pass(step).remove()
