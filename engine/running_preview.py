"""How does ``--preview`` show a sampler's picture while it is being made?

After each pass but the last, the running picture takes the preview's place, as `safron.engine.viewing` shows it. The file says that it is
unfinished, so the same command takes it for its own. A picture that lay there before the render stays until the slide is finished.
"""

from __future__ import annotations

from collections.abc import Callable

from safron.engine.plan.window import Window
from safron.engine.preparation.prepared import Prepared
from safron.engine.scratch.arrays import disk_errors
from safron.engine.scratch.running_canvas import RunningCanvas
from safron.io.slides.preview import is_unfinished_png, write_unfinished_png

Tell = Callable[[str], None]


def running_preview(prepared: Prepared, tell: Tell | None) -> Callable[[int], None]:
    """Return what writes the preview after a pass.

    Parameters
    ----------
    prepared
        The render.
    tell
        Takes a line that says which pass the preview shows.

    Returns
    -------
    Callable[[int], None]
        Takes the number of the pass, 0 the first; raises `Failed` where the disk is full.
    """
    plan, path, passes = prepared.plan, prepared.options.preview, prepared.plan.passes

    def show(step: int) -> None:
        if path is None or passes is None or (path.exists() and not is_unfinished_png(path)):
            return
        # Half as fine as the finished one: a quarter of the time, and what is shown is mostly noise.
        levels = plan.working_pyramid.levels
        level = levels[min(plan.preview_level + 1, len(levels) - 1)]
        canvas = RunningCanvas(prepared.job.scratch, passes.content, plan.slide.height, plan.slide.width)
        found = canvas.read(Window(0, 0, level.height, level.width), level.index)
        if found is None:
            return
        what = f"pass {step + 1} of {passes.steps}"
        with disk_errors(f"--preview {path}"):
            write_unfinished_png(path, found[0], f"the running picture after {what}")
        if tell is not None:
            tell(f"the preview shows {what}")

    return show
