"""How far is a running or interrupted render of this slide?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from safron.engine.preparation.output_paths import scratch_path
from safron.engine.scratch.arrays import Scratch, recorded
from safron.engine.scratch.completion import Finished
from safron.engine.scratch.journal import read_journal
from safron.engine.scratch.lock import holder
from safron.engine.scratch.pass_state import completed_passes, patches_so_far
from safron.io.errors import BadInput, counted
from safron.io.remote import Target


@dataclass(frozen=True)
class RenderStatus:
    """The state of one slide.

    Attributes
    ----------
    out
        The slide.
    state
        "finished", "running" or "interrupted".
    holder
        The process that is rendering it, or None.
    blocks, all_blocks
        Finished blocks, and all blocks of the slide.
    patches, all_patches
        Patches of finished tasks, and all patches of the slide.
    written_bytes
        Size of the slide so far.
    begun
        Start of the render, by the clock of the disk with the scratch: ISO 8601; None if it is finished.
    step, steps
        The pass that a sampler is at, 1 the first, and all its passes; 1 and 1 without a sampler.
    """

    out: str
    state: Literal["finished", "running", "interrupted"]
    holder: str | None
    blocks: int
    all_blocks: int
    patches: int
    all_patches: int
    written_bytes: int
    begun: str | None
    step: int = 1
    steps: int = 1

    @property
    def seen(self) -> tuple[int, int]:
        """What changes when there is more to look at: finished blocks, and patches of a sampler's earlier passes."""
        return self.blocks, self.patches if self.step < self.steps else 0

    def line(self) -> str:
        """Return the status in one line."""
        if self.state == "finished":
            return f"{self.out}: finished, {self.written_bytes / 1e6:.1f} MB"
        share = 100 * self.patches // max(1, self.all_patches)  # 100 only when all are done
        state = {
            "running": f"running, {self.holder}",
            "interrupted": "interrupted; the same command continues",
        }[self.state]
        passes = f"pass {self.step} of {self.steps}, " if self.steps > 1 else ""
        return (
            f"{self.out}: {passes}{self.blocks} of {counted(self.all_blocks, 'block')}, {self.patches} of {counted(self.all_patches, 'patch')} "
            f"({share} %), {self.written_bytes / 1e6:.1f} MB, begun {self.begun}; {state}"
        )


def render_status(out: str | Path, *, scratch: str | Path | None = None) -> RenderStatus:
    """Find out how far a render is; nothing is changed.

    Parameters
    ----------
    out
        The slide, as given to the render.
    scratch
        The scratch folder, if the render was given one.

    Raises
    ------
    BadInput
        There is no trace of a render of this slide.
    """
    target = Target.of(out, folder=scratch)
    folder = scratch_path(target, scratch)
    runs = holder(target.local)
    begun_as = recorded(folder)
    if not begun_as or Finished.of(target, folder) is not None:
        size = target.size()
        if size is None and runs is None:
            raise BadInput(
                f"--status {target.name}: there is no finished or unfinished render of it; "
                "if it was started with --scratch, pass that too"
            )
        state: Literal["finished", "running"] = "finished" if runs is None else "running"
        return RenderStatus(target.name, state, runs, 0, 0, 0, 0, size or 0, None)
    journal = Scratch(folder).journal
    entries = list(read_journal(journal)) if journal.is_file() else []
    patches = {(entry.kind, entry.index): entry.run + entry.painted for entry in entries}
    begun = datetime.fromtimestamp((folder / "zarr.json").stat().st_mtime).astimezone()
    return RenderStatus(
        out=target.name,
        state="running" if runs else "interrupted",
        holder=runs,
        blocks=sum(kind == "block" for kind, _ in patches),
        all_blocks=int(begun_as.get("blocks", 0)),
        patches=sum(patches.values()) + patches_so_far(Scratch(folder)),
        all_patches=int(begun_as.get("patches", 0)),
        written_bytes=max((entry.end for entry in entries), default=0),
        begun=begun.isoformat(timespec="seconds"),
        step=completed_passes(Scratch(folder)) + 1,
        steps=_steps(begun_as),
    )


def _steps(begun_as: dict[str, Any]) -> int:
    """Passes of a render, as its record says."""
    sampler = begun_as["inputs"].get("sampler")
    return 1 if sampler is None else len(json.loads(json.loads(sampler))["times"])
