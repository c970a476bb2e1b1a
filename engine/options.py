"""What can a render be told? Light to import: the command line reads its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .model import PatchModel

DEFAULT_MODEL = "safron-seamless"


@dataclass(frozen=True)
class RenderOptions:
    """Everything that a render can be told. The defaults live here and nowhere else.

    Attributes
    ----------
    model : name of a shipped generator, ONNX file, or any `PatchModel`.
    tile : pixels a side that one patch writes; None takes the card's.
    overlap : pixels that neighbouring patches share, blended.
    taper : blend weights: "flat" (plain mean), "linear" or "cosine".
    seed : of the noise.
    block : pixels a side of one task, a multiple of `tiff_tile`; None is 2048.
    batch : patches a call; None takes 8 on a CPU, 32 on CUDA.
    workers : blocks in work at a time; None takes 2, 4 where they share a GPU, and a process for every GPU where there
        are several. Of no effect where `scheduler` or `cluster` say who works.
    executor : "threads" of this process or worker "processes"; "auto" is processes where several GPUs can share the
        work, else threads.
    scheduler : address or file of a Dask scheduler that is there already.
    cluster : YAML file that says how to get workers from a batch system; see docs/cluster.md.
    security : YAML file with the TLS certificates of scheduler, workers and driver.
    dashboard : address of Dask's pages, as "127.0.0.1:8787"; None shows none.
    threads : patches that run side by side on a CPU, each on one core; 0 is one for every core, shared among
        worker processes.
    device : "auto", "cpu", "cuda" or "cuda:N".
    precision : of the generator's arithmetic on CUDA: "float32", "tf32" (products of 10 bits), or "float16", which
        needs TensorRT.
    compression : "jpeg", "deflate", "lzw" or "none".
    quality : of JPEG, 1..100.
    chroma : "420" or "444".
    tiff_tile : pixels a side of a TIFF tile, a multiple of 16.
    flavor : "svs", "ome" or "generic"; None goes by the name of the output.
    align : pad with glass to a multiple of 2 ** (levels - 1), which OpenSlide reads faster.
    mpp : micrometres per pixel; None takes the mask's, else the card's.
    region : (x, y, width, height) of the mask to render; None is all of it.
    level_count : pyramid levels; "auto" halves until one tile is enough.
    palette_tolerance : largest distance (0..255 a channel) of a colour-coded mask's colour from its label's.
    scratch : folder, or address, for scratch; None is beside the output, for an output URL the user's cache folder.
    memory : bytes that the render may take, worker processes of this machine included; each worker of a cluster
        may take as much.
    preview : PNG of the finished slide, at most 2048 px a side.
    report : JSON file of the report.
    overwrite : replace an existing output, and start over where scratch belongs to other inputs.
    fresh : start over, whatever an unfinished render left.
    """

    model: str | Path | PatchModel = DEFAULT_MODEL
    tile: int | None = None
    overlap: int = 20
    taper: Literal["flat", "linear", "cosine"] = "flat"
    seed: int = 0
    block: int | None = None
    batch: int | None = None
    workers: int | None = None
    executor: Literal["auto", "threads", "processes"] = "auto"
    scheduler: str | None = None
    cluster: Path | None = None
    security: Path | None = None
    dashboard: str | None = None
    threads: int = 0
    device: str = "auto"
    precision: Literal["float32", "tf32", "float16"] = "float32"
    compression: Literal["jpeg", "deflate", "lzw", "none"] = "jpeg"
    quality: int = 90
    chroma: Literal["420", "444"] = "420"
    tiff_tile: int = 512
    flavor: Literal["svs", "ome", "generic"] | None = None
    align: bool = False
    mpp: float | None = None
    region: tuple[int, int, int, int] | None = None
    level_count: int | Literal["auto"] = "auto"
    palette_tolerance: int = 0
    scratch: str | Path | None = None
    memory: int = 4 << 30
    preview: Path | None = None
    report: Path | None = None
    overwrite: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        if str(self.scratch).startswith("file://"):  # a path of this machine
            object.__setattr__(self, "scratch", Path(str(self.scratch).removeprefix("file://")))

    def described(self) -> dict[str, object]:
        """Options as plain JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value if isinstance(value, int | float | None) else str(value)
            for name, value in plain.items()
        }
