"""Which options does a render have? Each is declared here once; the command line, its help and docs/cli.md are made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta
from safron.io.apart import READS
from safron.io.errors import BadInput
from safron.io.fields import (
    Byte,
    Count,
    NotNegative,
    NotNegativeNumber,
    Positive,
    attributes,
    fit,
    hints,
    setting,
)

if TYPE_CHECKING:
    from safron.engine.generator.model import PatchModel
else:

    class PatchModel:
        """Placeholder for the real one, which is slow to import."""

        words = "a generator"

        @staticmethod
        def fits(value: Any) -> bool:
            """Whether a value is a generator."""
            return callable(value) and hasattr(value, "card")


DEFAULT_MODEL = "safron-tissue"

Percent = Annotated[int, Meta(ge=1, le=100)]

_UNITS = {"": 1} | {
    prefix + more: base**power
    for power, prefix in enumerate("kmgt", 1)
    for more, base in (("", 1000), ("i", 1024))
}


def _size(text: str) -> int:
    """Read bytes from 4GiB, 500MB or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write it as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def _region(text: str) -> tuple[int, ...]:
    """Read four whole numbers."""
    if not re.fullmatch(r"\d+,\d+,\d+,\d+", text):
        raise ValueError(f"{text!r} must be four whole numbers X,Y,W,H, as 0,0,2048,1024")
    return tuple(map(int, text.split(",")))


def _level_count(text: str) -> int | str:
    """Read a number or "auto"."""
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"{text!r} must be auto or a whole number")
    return text if text == "auto" else int(text)


def _batch(text: str) -> int | Path:
    """Read a number, or the name of a list of slides."""
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    if not text.lower().endswith(".csv"):
        raise ValueError(f"{text!r} is neither a whole number nor a .csv file")
    return Path(text)


@dataclass(frozen=True)
class RenderOptions:
    """All options of a render, with their defaults.

    Values of other types with the same meaning are converted (text to paths, NumPy's numbers); all others are refused.

    Raises
    ------
    BadInput
        A value has the wrong type, or is not one of the option's words.
    """

    model: str | Path | PatchModel = setting(
        DEFAULT_MODEL,
        "Generator: the name of a shipped one, 'identity' (each label in its own colour), or an ONNX file.",
        "NAME|FILE",
    )
    tile: int | None = setting(None, "Patch size, in pixels a side.", "PX", shown="the generator's, 256")
    instances: str | Path | None = setting(
        None,
        "Numbers of nuclei, where they do not lie in the mask: a mask of the same size with whole numbers of any size.",
        "MASK",
    )
    edges: str | Path = setting(
        "mask",
        "Input of generators that take edges: mask computes them, else a mask of the same size, not 0 on edges.",
        "mask|MASK",
    )
    overlap: int = setting(20, "Overlap of neighbouring patches, in pixels; it is blended.", "PX")
    taper: Literal["flat", "linear", "cosine"] = setting(
        "flat", "Blend weights in the overlap: flat is the plain mean, linear and cosine fade each patch out."
    )
    image: str | Path | None = setting(
        None,
        "Picture to refine, of the mask's size, for a generator that takes one: a Zarr of RGB, a slide or an image.",
        "ZARR|FILE",
    )
    style: str | None = setting(
        None,
        "Style of the tissue: one that the generator's card names, an image or slide whose style is measured, or a style field.",
        "NAME|FILE|ZARR",
        shown="the generator's",
    )
    seed: int = setting(0, "Seed of the noise, a whole number.", "N")
    steps: Count | None = setting(
        None,
        "Number of steps of a sampler (a diffusion model), each one pass over the slide: as many of its card's, evenly spread.",
        "N",
        shown="the generator's",
    )
    guidance: NotNegativeNumber | None = setting(
        None,
        "Strength of a sampler's classifier-free guidance, a number of at least 0; 0 is none and takes half the time.",
        "W",
        shown="the generator's",
    )
    state: Literal["float16", "float32"] = setting(
        "float16", "Type in which scratch keeps a sampler's running picture."
    )
    block: int | None = setting(
        None, "Size of one task, in pixels a side; a multiple of --tiff-tile.", "PX", shown="2048"
    )
    batch: Count | None = setting(
        None,
        "Batch size: patches per generator call. On the command line a .csv path is treated as --slides.",
        "N|CSV",
        shown="8 on a CPU, 32 on CUDA",
        parse=_batch,
    )
    workers: Count | None = setting(
        None,
        "Number of blocks rendered at a time, or of worker processes. --scheduler and --cluster decide for themselves.",
        "N",
        shown="2; on a GPU 4 to 12, by cores; with several GPUs one process each",
    )
    executor: Literal["auto", "threads", "dask", "processes"] = setting(
        "auto",
        "Kind of worker. dask: threads of this process that Dask schedules. auto uses processes if several GPUs can share "
        "the work, dask where its cost is below 3 % of the planned CPU time, and plain threads for short renders.",
    )
    scheduler: str | None = setting(
        None,
        "Run on a Dask scheduler that is already running: its address tcp://HOST:PORT, or its file.",
        "URL|FILE",
    )
    cluster: Path | None = setting(
        None,
        "Start workers as jobs of a batch system, as this file says; docs/cluster.md describes it.",
        "YAML",
    )
    security: Path | None = setting(
        None, "Encrypt all connections with TLS; the file names the files ca, cert and key.", "YAML"
    )
    dashboard: str | None = setting(
        None,
        "Serve the Dask dashboard at HOST:PORT, such as 127.0.0.1:8787. It has no authentication.",
        "HOST:PORT",
    )
    threads: NotNegative = setting(
        0,
        "Number of patches generated side by side on a CPU, each on one core; worker processes share the cores.",
        "N",
        shown="0, all cores",
    )
    device: str = setting("auto", "Device that the generator runs on.", "auto|cpu|cuda[:N]")
    precision: Literal["float32", "bfloat16", "auto", "tf32", "float16"] = setting(
        "float32",
        "Arithmetic of the generator. bfloat16 is for CPUs and needs OpenVINO; auto takes it if machine and generator's card allow "
        "it, else float32. On CUDA, tf32 multiplies with 10 bits and float16 needs TensorRT.",
    )
    runtime: Literal["auto", "onnxruntime", "openvino"] = setting(
        "auto",
        "Library that runs the generator. auto is OpenVINO for bfloat16, and ONNX Runtime otherwise.",
    )
    compression: Literal["jpeg", "deflate", "lzw", "none"] = setting(
        "jpeg", "Compression of the slide's tiles; all but jpeg are lossless."
    )
    quality: Percent = setting(90, "JPEG quality, 1 to 100.", "N")
    chroma: Literal["420", "444"] = setting("420", "Colour resolution of JPEG: 420 is half, 444 is full.")
    tiff_tile: int = setting(512, "Size of a TIFF tile, in pixels a side; a multiple of 16.", "PX")
    flavor: Literal["svs", "ome", "generic"] | None = setting(
        None, "Layout of the TIFF: Aperio SVS, OME-TIFF, or neither.", shown="ome for .ome.tif[f], else svs"
    )
    align: bool = setting(
        False, "Pad with background to a multiple of 2^(levels-1) pixels, which OpenSlide reads faster."
    )
    stain: str = setting(
        "reference",
        "Stain of the slide: reference (as the generator draws it), a named look, random or random:SEED, or a slide or image "
        "whose stain is taken over.",
        "NAME|FILE",
    )
    stain_field: float = setting(
        0.0,
        "Share by which both stains vary slowly over the slide, 0 to 0.5.",
        "SHARE",
    )
    mpp: float | None = setting(
        None,
        "Pixel size of mask and slide, in micrometres per pixel.",
        "UM",
        shown="the mask's, else the generator's",
    )
    scale: Literal["auto", "1"] = setting(
        "auto",
        "auto draws tissue at its true size if mask and generator have a pixel size, and resamples it; 1 draws pixel by pixel.",
    )
    region: tuple[int, int, int, int] | None = setting(
        None,
        "Part of the mask to render: left, top, width and height, in pixels.",
        "X,Y,W,H",
        shown="all of the mask",
        parse=_region,
    )
    level_count: int | Literal["auto"] = setting(
        "auto",
        "Number of pyramid levels; auto halves until one tile is enough or, with ome or without JPEG, until a level would be smaller than a tile.",
        "auto|N",
        parse=_level_count,
    )
    palette_tolerance: Byte = setting(
        0,
        "Largest difference, 0 to 255 in any channel, between a colour of a colour-coded mask and its label's colour.",
        "N",
    )
    scratch: str | Path | None = setting(
        None,
        "Folder, or address such as s3://BUCKET/NAME, for temporary data.",
        "FOLDER",
        shown="beside OUT; for an address the user's cache folder",
    )
    memory: int = setting(
        4 << 30,
        "Memory that the render may use, in bytes; on the command line also as 4GiB or 500MB. A plan that needs more is "
        "refused. On a cluster this is the limit of each worker.",
        "SIZE",
        shown="4GiB",
        parse=_size,
    )
    patch_timeout: Positive | None = setting(
        None,
        "Longest time of one generator call, as a number of seconds; a longer one ends the render, and the same command continues.",
        "SECONDS",
    )
    preview: Path | None = setting(
        None,
        "Write a picture of the finished slide, at most 2048 pixels a side; until then, of a sampler's running picture after each pass.",
        "PNG",
    )
    labels_out: Path | None = setting(
        None,
        "Write the labels of the slide as a pyramid, by nearest pixel: .ome.tiff, .ome.tif or .ome.zarr.",
        "FILE",
    )
    report: Path | None = setting(None, "Write the report as JSON.", "JSON")
    html: Path | None = setting(
        None, "Write the report as a page: pictures, labels, plan, times, memory, command.", "HTML"
    )
    overwrite: bool = setting(False, "Replace OUT, preview, labels and reports, and scratch of other inputs.")
    fresh: bool = setting(
        False, "Start over instead of resuming an unfinished render of OUT; a finished OUT is not replaced."
    )

    def __post_init__(self) -> None:
        kinds = hints(RenderOptions)
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not item.default:
                made = fit(value, kinds[item.name], f"--{item.name.replace('_', '-')}")
                object.__setattr__(self, item.name, made)
        if (
            not -(1 << 63) <= self.seed < 1 << 64
        ):  # noise takes 64 bits of it, and two slides with one name would be alike
            raise BadInput(f"--seed {self.seed}: must be a whole number of 64 bits")
        if str(self.scratch).startswith("file://"):  # a path of this machine
            object.__setattr__(self, "scratch", Path(str(self.scratch).removeprefix("file://")))

    def inputs(self) -> list[tuple[str, str]]:
        """List the files that are read beside the mask, or names that may be files, by the names of their options."""
        given = {item.name: getattr(self, item.name) for item in fields(self) if item.name in READS}
        return [
            (f"--{name.replace('_', '-')}", str(value))
            for name, value in given.items()
            if isinstance(value, str | Path)
        ]

    def described(self) -> dict[str, object]:
        """Return the options as plain JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value if isinstance(value, int | float | None) else str(value)
            for name, value in plain.items()
        }


_FLAGS = {item.name for item in fields(RenderOptions) if item.default is False}
_DASHED = "|".join(item.name.replace("_", "-") for item in fields(RenderOptions))
# Messages shared with other programs name a flag both ways, as "--overwrite (overwrite=True)".
_NAMED = re.compile(rf"--({_DASHED})(?![\w-])(?: \(\w+=True\))?")


def for_python(message: str) -> str:
    """Name options in a message as a Python caller gives them.

    Examples
    --------
    >>> for_python("s.svs: exists already; pass --overwrite to replace it, or --tiff-tile 256")
    's.svs: exists already; pass overwrite=True to replace it, or tiff_tile 256'
    """

    def named(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}=True" if name in _FLAGS and found.start() else name

    return _NAMED.sub(named, message)


RenderOptions.__doc__ = f"{RenderOptions.__doc__}{attributes(RenderOptions)}"

WORKERS = 2


def workers_of(options: RenderOptions) -> int:
    """Return `RenderOptions.workers`, or the usual number if none has been chosen yet."""
    return WORKERS if options.workers is None else options.workers
