"""What is there already of a slide that another process renders, or that was interrupted?

Its encoded tiles lie in OUT.part, and the index in scratch says where. Both are read and never changed. Where a diffusion model
is sampled, its running picture is shown where no block is finished. Levels that blocks do
not hold are made from the finest that they do.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safron.engine.preparation.output_paths import scratch_path
from safron.engine.scratch.arrays import Scratch, recorded
from safron.engine.scratch.running_canvas import RunningCanvas
from safron.engine.status import RenderStatus, render_status
from safron.io.errors import BadInput, SafronError
from safron.io.remote import Target
from safron.io.slides.codecs import decode_tile
from safron.io.slides.spec import SlideSpec
from safron.io.slides.tile_index import IndexReader

from .pictures import Shown, TileTree, bounds

LOOK_SECONDS = 1.0
"""The journal is read again after so long."""
MOST_CHUNKS = 1024
"""Chunks of a sampler's running picture that a tile may be made of; a coarser one, of a huge canvas, is left out."""
# Fields of the slide that `RenderPlan.inputs` has under the names of options.
_NAMES = {
    "--tiff-tile": "tile",
    "--level-count": "level_count",
    "--mpp": "mpp",
    "--flavor": "flavor",
    "--compression": "compression",
    "--quality": "quality",
    "--chroma": "chroma",
}


def in_work(out: Path, scratch: str | Path | None = None) -> bool:
    """Whether there is an unfinished render of this slide, with this ``--scratch``, and no finished one."""
    return not out.exists() and bool(recorded(scratch_path(Target.of(out), scratch)))


def read_inputs(out: Path, scratch: str | Path | None = None) -> dict[str, Any]:
    """Return what decides the slide, as values by the names of options."""
    found = recorded(scratch_path(Target.of(out), scratch))
    if not found:
        raise BadInput(f"{out}: there is no unfinished render of it")
    return {name: _value(text) for name, text in found["inputs"].items()}


def _value(text: Any) -> Any:
    """Read JSON; other texts, such as hashes, stay as they are."""
    with suppress(ValueError, TypeError):
        return json.loads(text)
    return text


def _spec(inputs: dict[str, Any]) -> SlideSpec:
    fields = {_NAMES.get(name, name.removeprefix("slide ")): value for name, value in inputs.items()}
    known = {name: fields[name] for name in SlideSpec.__dataclass_fields__ if name in fields}
    known["background"] = tuple(known["background"])
    return SlideSpec(**known)


class UnfinishedPicture(TileTree):
    """The finished tiles of a slide in progress.

    Parameters
    ----------
    out
        The slide, as given to the render.
    scratch
        The render's ``--scratch``, where it was given one.
    """

    def __init__(self, out: Path, scratch: str | Path | None = None) -> None:
        self.out, self.scratch = out, scratch
        inputs = read_inputs(out, scratch)
        self.spec, self._block = _spec(inputs), int(inputs["--block"])
        super().__init__(self.spec.height, self.spec.width, self.spec.mpp)
        target = Target.of(out)
        self._index = IndexReader(Scratch(scratch_path(target, scratch)).index, self.spec.pyramid)
        self._part = os.open(target.part, os.O_RDONLY)
        self._running = None
        if "sampler" in inputs:
            folder = Scratch(scratch_path(target, scratch))
            self._running = RunningCanvas(folder, inputs["sampler"], self.height, self.width)
        self._status: RenderStatus | None = None
        self._looked = 0.0

    @property
    def stored(self) -> int:
        """The last level whose tiles come from blocks: later ones are written at the end."""
        level = 0
        while level + 1 < self.spec.level_count and self._block % (self.spec.tile << (level + 1)) == 0:
            level += 1
        return level

    def read(self, level: int, row: int, column: int) -> Shown | None:
        """Read a tile of a stored level, as far as its slide tiles are written."""
        size, side = self.spec.pyramid.level(level), self.spec.tile
        window = bounds(self.height, self.width, level, row, column)
        rgb = np.zeros((window.height, window.width, 3), np.uint8)
        there = np.zeros((window.height, window.width), np.uint8)
        for down in range(window.y // side, min(size.rows, -(-window.y_stop // side))):
            for right in range(window.x // side, min(size.cols, -(-window.x_stop // side))):
                place = self._index.place(level, down, right)
                if place is None:
                    continue
                try:
                    tile = decode_tile(os.pread(self._part, place[1], place[0]), self.spec)
                except (ValueError, RuntimeError):  # written at this moment, or torn
                    continue
                y, x = down * side - window.y, right * side - window.x
                rows = slice(max(0, y), min(window.height, y + side))
                columns = slice(max(0, x), min(window.width, x + side))
                rgb[rows, columns] = tile[
                    rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
                ]
                there[rows, columns] = 255
        if not there.any():
            return None
        return Shown(rgb, None if there.all() else there)

    def tile(self, level: int, row: int, column: int) -> Shown | None:
        """See `Picture`; where no block is finished, a sampler's running picture is shown."""
        shown = self.finished(level, row, column)
        if self._running is None or (shown is not None and shown.there is None):
            return shown
        window = bounds(self.height, self.width, level, row, column)
        drawn = self._running.read(window, level, most=MOST_CHUNKS)
        if drawn is None or shown is None:
            return shown if drawn is None else Shown(*drawn)
        running = Shown(*drawn)
        assert shown.there is not None
        assert running.there is not None
        done = shown.there == 255
        return Shown(
            np.where(done[..., None], shown.rgb, running.rgb), np.maximum(shown.there, running.there)
        )

    def progress(self) -> dict[str, Any]:
        """Say how far the render is."""
        now = time.monotonic()
        if self._status is None or now - self._looked > LOOK_SECONDS:
            self._looked = now
            with suppress(SafronError, OSError):  # it is being finished at this moment
                status = render_status(self.out, scratch=self.scratch)
                if self._status is not None and status.seen != self._status.seen:
                    self.version += 1
                self._status = status
        found = {} if self._status is None else asdict(self._status) | {"line": self._status.line()}
        return found | {"finished": self.out.exists()}

    def close(self) -> None:
        """Close the files."""
        super().close()
        self._index.close()
        os.close(self._part)
