"""What can a render be told? Light to import: the command line reads its defaults from here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from operator import index
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from safron.io.errors import BadInput

if TYPE_CHECKING:
    from safron.engine.generator.model import PatchModel

DEFAULT_MODEL = "safron-seamless"


@dataclass(frozen=True)
class RenderOptions:
    """Everything that a render can be told. The defaults live here and nowhere else.

    A value of another type that means the same is taken (text for a path, NumPy's numbers); any other is refused.

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
    scale : "auto" draws tissue at its true size where mask and generator have a pixel size: labels are resampled to the
        generator's pixels, and what it draws to the mask's. "1" draws pixel by pixel, whatever the sizes.
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

    Raises
    ------
    BadInput
        When a value has a type, or is a word, that the option does not take.
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
    scale: Literal["auto", "1"] = "auto"
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
        for name, kinds in _kinds().items():
            object.__setattr__(self, name, _fitted(name, getattr(self, name), kinds))
        if str(self.scratch).startswith("file://"):  # a path of this machine
            object.__setattr__(self, "scratch", Path(str(self.scratch).removeprefix("file://")))

    def described(self) -> dict[str, object]:
        """Options as plain JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value if isinstance(value, int | float | None) else str(value)
            for name, value in plain.items()
        }


@cache
def _kinds() -> dict[str, tuple[Any, ...]]:
    """What each option takes, as its annotation says."""
    hints = get_type_hints(RenderOptions, localns={"PatchModel": _Generator})
    return {
        name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for name, hint in hints.items()
    }


def _fitted(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """Give a value as the first of `kinds` that it can be."""
    for kind in kinds:
        with suppress(TypeError, ValueError):
            return _fit(value, kind)
    *most, last = (word for kind in kinds for word in _words(kind))
    words = f"{', '.join(most)} or {last}" if most else last
    raise BadInput(f"--{name.replace('_', '-')} {' '.join(repr(value).split())[:80]}: must be {words}")


def _fit(value: Any, kind: Any) -> Any:
    """Give a value as one kind, or raise TypeError or ValueError."""
    if get_origin(kind) is tuple:
        return tuple(_fit(one, part) for one, part in zip(value, get_args(kind), strict=True))
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(value)]
    if kind is not bool and isinstance(value, bool):  # Python would take it for 0 or 1
        raise TypeError
    return _KINDS[kind][0](value)


def _words(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is tuple:
        return (f"{len(get_args(kind))} whole numbers",)
    return tuple(map(repr, get_args(kind))) if get_origin(kind) is Literal else (_KINDS[kind][1],)


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    # NumPy has truth values of its own.
    return bool(value if str(getattr(value, "dtype", "")) == "bool" else _is(value, bool))


class _Generator:
    """Stands for `PatchModel`, which takes long to import."""

    @staticmethod
    def check(value: Any) -> Any:
        if not (callable(value) and hasattr(value, "card")):
            raise TypeError
        return value


# What makes a value of a kind, or raises TypeError or ValueError, and how messages call the kind.
_KINDS: dict[type, tuple[Callable[[Any], Any], str]] = {
    int: (index, "a whole number"),
    float: (lambda value: float(_is(value, Real)), "a number"),
    bool: (_flag, "True or False"),
    str: (lambda value: _is(value, str), "text"),
    Path: (lambda value: Path(os.fspath(value)), "a path"),
    NoneType: (lambda value: _is(value, NoneType), "None"),
    _Generator: (_Generator.check, "a generator"),
}


WORKERS = 2


def workers_of(options: RenderOptions) -> int:
    """`RenderOptions.workers` of a prepared render, or of commands that have prepared none."""
    return WORKERS if options.workers is None else options.workers
