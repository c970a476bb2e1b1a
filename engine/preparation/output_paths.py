"""Can slide, preview, report and scratch be put where they should?"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from safron.engine.scratch.arrays import RECORD, Scratch
from safron.engine.scratch.completion import Finished, is_damaged
from safron.engine.scratch.lock import lock_path
from safron.io.errors import BadInput
from safron.io.files import check_output_path, waiting_name
from safron.io.remote import Target, check_address, is_url
from safron.io.slides.preview import check_png_name

from .options import RenderOptions


def scratch_path(target: Target, folder: str | Path | None) -> Path:
    """Where scratch lies: beside the slide, or in a folder that slides of the same name may share."""
    out = target.local
    if folder is None or is_url(folder) or target.url is not None:
        return out.absolute().with_name(f"{out.name}.safron")
    return Path(folder).absolute() / f"{out.name}.{_place_of(out)}.safron"


def open_scratch(target: Target, folder: str | Path | None) -> Scratch:
    """Say where the parts of scratch lie; nothing is opened yet."""
    path = scratch_path(target, folder)
    if folder is None or not is_url(folder):
        return Scratch(path)
    return Scratch(path, f"{str(folder).rstrip('/')}/{target.local.name}.{_place_of(target.local)}.safron")


def _place_of(out: Path) -> str:
    """Tell slides of one name in different folders apart."""
    return sha256(str(out.parent.resolve()).encode()).hexdigest()[:8]


def choose_flavor(target: Target) -> Literal["svs", "ome", "generic"]:
    """Return the flavor that goes with a file name."""
    name = target.file_name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    if name.endswith((".svs", ".tif", ".tiff")):
        return "svs"
    raise BadInput(f"{target.name}: a slide's name must end in .svs, .tif, .tiff, .ome.tif or .ome.tiff")


def check_outputs(source: Any, target: Target, options: RenderOptions) -> None:
    """Raise `BadInput` unless the slide, its preview and its report can be put where they should."""
    scratch = open_scratch(target, options.scratch)
    _check_length(target.name, target.part, scratch.path, lock_path(target.local))
    for name, path in (("--preview ", options.preview), ("--report ", options.report)):
        if path is not None:
            _check_length(f"{name}{path}", waiting_name(path))
    if isinstance(source, str | Path) and str(source):
        check_apart(
            source,
            ("", target.url or target.local),
            ("", target.part),
            ("--preview ", options.preview),
            ("--report ", options.report),
            ("--scratch " if options.scratch else "", scratch.store or scratch.path),
        )
        if _place(scratch.path) in _place(source).parents:
            raise BadInput(
                f"mask {source}: lies in {scratch.path}, the scratch of {target.name}; move it away"
            )
    finished = Finished.of(target, scratch.path)
    # What the run that finished the slide was told to write may stand there already.
    known = {} if finished is None or options.fresh else finished.options
    if not (options.overwrite or known) and is_damaged(scratch.path) and target.exists():
        raise BadInput(
            f"{target.name}: exists already, and {scratch.path / RECORD}, the record of the run that made it, is damaged; "
            f"if safron-render --validate finds the slide whole, delete {scratch.path}, else pass --overwrite"
        )
    check_target(target, overwrite=options.overwrite or bool(known))
    given = (
        ("", None if target.url else target.local),
        ("--preview ", options.preview),
        ("--report ", options.report),
    )
    names: dict[Path, str] = {}
    for name, path in given:
        if path is None:
            continue
        if name:
            ours = str(path) == known.get(name.strip("- "))
            check_output_path(path, overwrite=options.overwrite or ours, name=name)
        if path.absolute() in names:
            raise BadInput(f"{name}{path}: is {names[path.absolute()] or 'OUT'}, too; give another name")
        names[path.absolute()] = name.strip()
    if options.preview is not None:
        check_png_name(options.preview, "--preview ")


def check_apart(source: str | Path, *given: tuple[str, str | Path | None]) -> None:
    """Refuse to write over a mask, or into the folder that it is; what is written goes by an option's name and a path."""
    mask = _place(source)
    for name, path in given:
        if path is None:
            continue
        place = _place(path)
        if place == mask or (place.is_file() and mask.is_file() and place.samefile(mask)):
            raise BadInput(f"{name}{path}: is the mask itself; give another name")
        if mask in place.parents:
            raise BadInput(f"{name}{path}: lies in the mask {source}; choose another folder")


def _place(name: str | Path) -> Path:
    """Tell where a path leads to; addresses are compared as they are."""
    text = str(name).removeprefix("file://")
    return Path(text if is_url(text) else os.path.realpath(text))


def _check_length(given: str, *paths: Path) -> None:
    """Refuse a name that leaves no room for what we add to it while the file is unfinished."""
    over = max(len(os.fsencode(path.name)) - _longest_name(path.parent) for path in paths)
    if over > 0:
        raise BadInput(f"{given}: its name is too long for the unfinished file's; shorten it by {over} bytes")


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is not there
        return 255


def check_target(target: Target, *, overwrite: bool) -> None:
    """Raise `BadInput` unless the slide can be put where it should."""
    if target.url is None:
        check_output_path(target.local, overwrite=overwrite)
    else:
        check_address(target, overwrite=overwrite)
