"""What was made, from what, and at what cost?"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safron.io import files
from safron.io.files import waiting_name


@dataclass(frozen=True)
class RenderReport:
    """The record of one render; `json` writes it, `lines` says it to a person.

    Attributes
    ----------
    out : the slide.
    width, height : its level-0 pixels.
    levels : number of pyramid levels.
    mpp : micrometres per level-0 pixel, or None.
    scale : pixels that the generator drew for each level-0 pixel along an axis; 1 where nothing was resampled.
    warnings : what was guessed, or is probably not meant.
    patches, run, painted : patches of the grid; sent to the generator; painted as glass. The last two
        add up to the first: every patch exactly once, counted over all runs that made this slide.
    blocks, resumed : tasks, and how many of them an earlier, interrupted run had finished.
    digest : sha256 of all encoded tiles in raster order and all tags but DateTime; the same for any
        number of threads and workers, any block size and order.
    mask_fingerprint, model, model_sha256, device : what made it, and where. The first is a sha256 of all labels
        that were read; for a generator that knows every label and no glass, of the mask's files, sizes and times.
    options : every option of the run.
    seconds : wall time of this run.
    stages : seconds by stage, summed over workers.
    output_bytes, peak_bytes, projected_bytes : size of the slide; peak resident memory of this process, and what
        was projected for all processes of this machine.
    versions : of this package and the libraries that can change a pixel.
    """

    out: str
    width: int
    height: int
    levels: int
    mpp: float | None
    patches: int
    run: int
    painted: int
    blocks: int
    resumed: int
    digest: str
    mask_fingerprint: str
    model: str
    model_sha256: str
    device: str
    options: dict[str, object]
    seconds: float
    output_bytes: int
    peak_bytes: int
    projected_bytes: int
    stages: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0
    warnings: list[str] = field(default_factory=list)

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second of wall time."""
        return self.width * self.height / 1e6 / self.seconds if self.seconds else 0.0

    def values(self) -> dict[str, Any]:
        """The whole record as JSON values; it can be made again from them."""
        return asdict(self)

    def json(self) -> str:
        """The whole record as JSON."""
        return json.dumps(self.values() | {"megapixels_per_second": self.megapixels_per_second}, indent=2)

    def write(self, path: str | Path) -> None:
        """Write `json` to a file, which is there whole or not at all."""
        path = Path(path)
        text = self.json() + "\n"
        # /dev/stdout, a pipe: a rename would take their place.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
            return
        part = waiting_name(path)
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            files.publish(part, path, overwrite=True)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def lines(self) -> list[str]:
        """A few lines for a person."""
        resumed = f", {self.resumed} of them from an earlier run" if self.resumed else ""
        scale = f"{self.mpp:g} um/px" if self.mpp else "no mpp"
        busiest = sorted(self.stages.items(), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in busiest if seconds >= 0.05)
        return [
            f"slide    {self.out}: {self.width} x {self.height} px, {self.levels} levels, {scale}, "
            f"{self.output_bytes / 1e6:.1f} MB",
            f"patches  {self.patches}: {self.run} run once each, {self.painted} painted as glass; "
            f"{self.blocks} blocks{resumed}",
            f"model    {self.model} ({self.model_sha256[:12]}) on {self.device}",
            f"time     {self.seconds:.1f} s, {self.megapixels_per_second:.2f} Mpx/s"
            + (f"; {spent}" if spent else ""),
            f"memory   {self.peak_bytes / 2**20:.0f} MiB at most ({self.projected_bytes / 2**20:.0f} MiB projected)",
            f"digest   {self.digest}",
        ]
