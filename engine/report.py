"""What was made, from which inputs, and at what cost?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from safron.io import files
from safron.io.errors import counted
from safron.io.files import waiting_name

# Names before 0.2, which scripts may read.
_OLD_NAMES = {"run": "generated", "painted": "filled"}
_LINKS = Path("/dev"), Path("/dev/fd")


@dataclass(frozen=True)
class RenderReport:
    """The record of one render. `json` writes it for programs, `lines` for people.

    Attributes
    ----------
    out
        The slide.
    width, height
        Level-0 pixels.
    levels
        Number of pyramid levels.
    mpp
        Micrometres per level-0 pixel, or None.
    patches
        Number of patches.
    generated, filled
        Patches that went through the generator, and patches that were background and received the fill
        colour. They add up to `patches`, counted over all runs that made this slide.
    blocks, resumed
        Number of blocks, and how many of them an earlier, interrupted run had finished.
    digest
        SHA-256 of all encoded tiles in raster order and of all tags except DateTime. It does not depend on
        the number of threads and workers, the block size or the order.
    mask_fingerprint
        SHA-256 of all labels that were read. If the generator knows every label and none is background, of
        the names, sizes and times of the mask's files.
    model, model_sha256, device
        The generator, the hash of its file, and where it ran.
    options
        All options of the run.
    seconds
        Wall time of this run.
    output_bytes
        Size of the slide.
    peak_bytes, projected_bytes
        Peak resident memory of this process, and the plan's upper bound for all processes of this machine.
    stages
        Seconds per stage, summed over workers.
    versions
        Of this package and of the libraries that can change a pixel.
    runtime, precision
        The library that ran the generator, with its version, and the precision of its arithmetic.
    scale
        Pixels drawn by the generator per level-0 pixel along an axis; 1 if nothing was resampled.
    warnings
        Guesses, and options that are allowed but probably not intended.
    """

    out: str
    width: int
    height: int
    levels: int
    mpp: float | None
    patches: int
    generated: int
    filled: int
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
    runtime: str = ""
    precision: str = "float32"
    scale: float = 1.0
    warnings: list[str] = field(default_factory=list)

    @property
    def run(self) -> int:
        """`generated`, under its name before 0.2."""
        return self.generated

    @property
    def painted(self) -> int:
        """`filled`, under its name before 0.2."""
        return self.filled

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels per second of wall time."""
        return self.width * self.height / 1e6 / self.seconds if self.seconds else 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Restore a report from its `values`."""
        new = {_OLD_NAMES.get(name, name): value for name, value in values.items()}
        return cls(**{item.name: new[item.name] for item in fields(cls) if item.name in new})

    def values(self) -> dict[str, Any]:
        """Return the report as JSON values, with old names beside the new ones."""
        old = {name: getattr(self, name) for name in _OLD_NAMES}
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return own | old | {"megapixels_per_second": self.megapixels_per_second}

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.values(), indent=2)

    def write(self, path: str | Path) -> None:
        """Write `json` to a file. The file appears complete or not at all."""
        path = Path(path)
        text = self.json() + "\n"
        # A rename would replace a pipe, or the link /dev/stdout; /dev/shm has files as other folders have.
        if path.absolute().parent in _LINKS or (path.exists() and not path.is_file()):
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
        """Return a summary of a few lines."""
        resumed = f", {self.resumed} of them from an earlier run" if self.resumed else ""
        scale = f"{self.mpp:g} um/px" if self.mpp else "no mpp"
        slowest_first = sorted(self.stages.items(), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in slowest_first if seconds >= 0.05)
        return [
            f"slide    {self.out}: {self.width} x {self.height} px, {counted(self.levels, 'level')}, {scale}, "
            f"{self.output_bytes / 1e6:.1f} MB",
            f"patches  {self.patches}: {self.generated} generated, {self.filled} filled as background; "
            f"{counted(self.blocks, 'block')}{resumed}",
            f"model    {self.model} ({self.model_sha256[:12]}) on {self.device}"
            + (f", {self.runtime} in {self.precision}" if self.runtime else ""),
            f"time     {self.seconds:.1f} s, {self.megapixels_per_second:.2f} Mpx/s"
            + (f"; {spent}" if spent else ""),
            f"memory   {self.peak_bytes / 2**20:.0f} MiB at most ({self.projected_bytes / 2**20:.0f} MiB projected)",
            f"digest   {self.digest}",
        ]
