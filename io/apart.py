"""May an output be written there, or would it take the place of something that the command reads?

Every parameter of our programs that holds text or a path is in one of three lists below, by its name, so that one rule serves all of
them; tests/test_apart.py refuses a new one that is in none. What is in no list counts as read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .addresses import check_unchained, is_url
from .errors import BadInput

WRITES = {"out", "preview", "labels_out", "report", "html"}
"""What a command makes, or replaces with --overwrite. Of ``paths`` (safron-tiles), the last."""

READS = {
    *("batch", "before", "checkpoint", "classes", "cluster", "config", "data", "default_style", "edges", "fake", "files"),
    *("image", "instances", "key", "like", "mask", "model", "models", "nuclei", "numbers", "palette", "paths", "real"),
    *("regions", "run", "scheduler", "security", "slide", "slides", "source", "sources", "stain", "start", "status", "style"),
    *("annotations", "table", "tiles", "tissue", "weights"),
}  # fmt: skip
"""What a command reads, where it names a file or a folder; some of them may be a plain name instead."""

NEITHER = {
    *("curve", "dashboard", "data_set", "device", "few", "generator", "host", "ignore", "label", "labels", "leave_out"),
    *("level_count", "licence", "map", "mapping", "memory", "name", "radius", "region", "region_types", "scratch", "seeds"),
    *("shares", "size", "slide_of", "token", "trained_on", "types", "widths"),
}  # fmt: skip
"""Text that names no file; and scratch, a folder in which a render makes one of its own (`check_paths` looks at that)."""

_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def check_params(params: Mapping[str, Any], options: Sequence[str]) -> None:
    """Refuse a command whose output is one of its inputs.

    Parameters
    ----------
    params
        Values by the names of the parameters.
    options
        Those that are options, not arguments.

    Raises
    ------
    BadInput
        An output is an input under any name, lies in a Zarr that is read, or is a folder to be replaced that holds an input; or its
        name is refused by `check_unchained`.
    """
    writes: list[tuple[str, str | Path]] = []
    reads: list[tuple[str, str | Path]] = []
    for name, value in params.items():
        shown = f"--{name.replace('_', '-')}" if name in options else ""
        values = [one for one in _paths(name, value) if str(one)]
        if name == "paths":
            writes += [("", one) for one in values[-1:]]
            values = values[:-1]
        if name in WRITES:
            writes += [(shown and f"{shown} ", one) for one in values]
        elif name not in NEITHER:
            reads += [(shown or ("mask" if name == "mask" else name.upper()), one) for one in values]
            # A card beside a generator is read with it; where the generator is an argument, the card may be what is made.
            reads += [
                (f"card of {shown}", Path(one).with_suffix(".json"))
                for one in values
                if shown and not is_url(one) and Path(one).suffix == ".onnx"
            ]
    check_outputs(reads, writes, replaced=bool(params.get("overwrite")))


def _paths(name: str, value: Any) -> Iterator[str | Path]:
    """Paths in a parameter's value."""
    for one in value if isinstance(value, tuple | list) else (value,):
        if name == "sources" and isinstance(one, str):  # KIND=SOURCE
            yield one.partition("=")[2]
        elif isinstance(one, str | Path):
            yield one


def check_outputs(
    reads: Sequence[tuple[str, str | Path]],
    writes: Sequence[tuple[str, str | Path]],
    *,
    replaced: bool,
) -> None:
    """Refuse outputs that are inputs, or chains of addresses.

    Parameters
    ----------
    reads
        What is read: how it is called, such as "mask" or "--style", and its path. What does not exist is passed over.
    writes
        What is made: how its path is introduced, such as "" or "--report ", and the path.
    replaced
        Whether folders among the outputs would be replaced.

    Raises
    ------
    BadInput
        See `check_params`.
    """
    for name, path in writes:
        check_unchained(path, name)
    for what, read in reads:
        if is_there(read):
            check_apart(read, *writes, what=what, inside=_is_zarr(read))
            for name, path in writes if replaced else ():
                if place_of(path) in place_of(read).parents:
                    raise BadInput(
                        f"{name}{path}: would be replaced, and holds {'the ' * _plain(what)}{what} {read}; give another name"
                    )


def check_apart(
    source: str | Path, *given: tuple[str, str | Path | None], what: str = "mask", inside: bool = True
) -> None:
    """Refuse to replace a mask, or `what` else is read, or to write into its folder.

    Outputs are given as the name of an option and a path. Links, hard links and other spellings of a path are the same file. With
    `inside` false, only the folder itself is kept.
    """
    mask = place_of(source)
    the = "the " * _plain(what)
    for name, path in given:
        if path is None:
            continue
        place = place_of(path)
        if place == mask or (is_there(place) and is_there(mask) and place.samefile(mask)):
            raise BadInput(f"{name}{path}: is {the}{what} itself; give another name")
        if inside and mask in place.parents:
            raise BadInput(f"{name}{path}: lies in {the}{what} {source}; choose another folder")


def is_there(read: str | Path) -> bool:
    """Whether something of this name may be replaced: an address, or what exists."""
    return is_url(read) or os.path.exists(read)  # noqa: PTH110 # never raises, whatever the name


def _plain(what: str) -> bool:
    """Whether it is a word or an option, which have an article, and not the name of an argument."""
    return not what.isupper()


def _is_zarr(read: str | Path) -> bool:
    """Whether all files in a folder are part of what is read; a folder of pictures may hold more."""
    return is_url(read) or any((Path(read) / name).exists() for name in _ZARR)


def place_of(name: str | Path) -> Path:
    """Return a path without links; addresses are returned as they are."""
    text = str(name).removeprefix("file://")
    return Path(text if is_url(text) else os.path.realpath(text))
