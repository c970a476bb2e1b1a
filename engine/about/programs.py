"""Which programs are there? The console scripts of setup.cfg begin here.

A program's module is named, and imported only when the program starts: what must be in place before that is `safron.io.start`.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

from safron.io.start import prepare


def start(program: str, module: str) -> None:
    """Import a program and run its function `main`.

    Parameters
    ----------
    program
        Its name, for the line after a signal.
    module
        Where its `main` is.
    """
    prepare(program)
    main = import_module(module).main
    import_module("safron.io.interruptions").own_process(program)
    main()


augment = partial(start, "safron-augment", "safron.engine.augment")
evaluate = partial(start, "safron-eval", "safron.engine.evaluation.cli")
generator = partial(start, "safron-generator", "safron.engine.generator_cli")
mask = partial(start, "safron-mask", "safron.engine.mask_cli")
optimize = partial(start, "safron-optimize", "safron.engine.optimization.cli")
tiles = partial(start, "safron-tiles", "safron.io.tiles.cli")
train = partial(start, "safron-train", "safron.training.cli")
view = partial(start, "safron-view", "safron.engine.viewing.cli")
