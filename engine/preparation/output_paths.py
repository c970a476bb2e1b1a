"""Where do slide, preview, report and scratch lie, and can they be written there?"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from safron.engine.scratch.arrays import RECORD, Scratch, recorded
from safron.engine.scratch.completion import Finished, is_damaged
from safron.engine.scratch.lock import lock_path
from safron.engine.scratch.render_state import require_unfinished
from safron.io.addresses import is_url
from safron.io.apart import check_apart, check_outputs, place_of
from safron.io.errors import BadInput
from safron.io.files import check_output_path, waiting_name
from safron.io.json_report import ENDINGS
from safron.io.remote import Target, check_folder
from safron.io.slides.preview import check_png_name, is_unfinished_png

from .options import RenderOptions

# A report takes the place of a report or page, and never of a slide; a preview has a rule of its own.
_ENDINGS = {"--report": ENDINGS, "--html": (".html", ".htm")}


def scratch_path(target: Target, folder: str | Path | None) -> Path:
    """Return the scratch folder: beside the slide, or in a folder that slides of the same name may share."""
    out = target.local
    if folder is None or is_url(folder) or target.url is not None:
        return out.absolute().with_name(f"{out.name}.safron")
    return Path(folder).absolute() / f"{out.name}.{_place_of(out)}.safron"


def open_scratch(target: Target, folder: str | Path | None) -> Scratch:
    """Return the scratch of a slide; nothing is opened yet."""
    path = scratch_path(target, folder)
    if folder is None or not is_url(folder):
        return Scratch(path)
    return Scratch(path, f"{str(folder).rstrip('/')}/{target.local.name}.{_place_of(target.local)}.safron")


def _place_of(out: Path) -> str:
    """Return a hash of the folder, which distinguishes slides of the same name."""
    return sha256(str(out.parent.resolve()).encode()).hexdigest()[:8]


def choose_flavor(target: Target) -> Literal["svs", "ome", "generic"]:
    """Return the flavor that goes with a file name."""
    name = target.file_name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    if name.endswith((".svs", ".tif", ".tiff")):
        return "svs"
    raise BadInput(f"{target.name}: a slide's name must end in .svs, .tif, .tiff, .ome.tif or .ome.tiff")


def extra_outputs(options: RenderOptions) -> list[tuple[str, Path]]:
    """List the files beside the slide that are asked for, by the name of their option."""
    named = {
        "--preview": options.preview,
        "--labels-out": options.labels_out,
        "--report": options.report,
        "--html": options.html,
    }
    return [(name, path) for name, path in named.items() if path is not None]


def check_paths(source: Any, target: Target, options: RenderOptions) -> None:
    """Refuse every path that cannot be used, before anything that takes time, such as loading the generator.

    Raises
    ------
    BadInput
        The mask is missing; or slide, preview, report or scratch cannot be written, exist already, or are the same file.
    """
    scratch = open_scratch(target, options.scratch)
    try:
        _check_lengths(target, scratch, options)
        _check_mask(source, target, scratch, options)
        _check_outputs(target, scratch, options)
        if scratch.store is not None:
            check_folder(str(options.scratch))
        working_folders(target, scratch, options)
        scratch.require_ours()
        if not (options.overwrite or recorded(scratch.path)):
            require_unfinished(target.part)
    except OSError as error:  # a path that is too long, or a folder that may not be searched
        raise BadInput(f"{error.filename}: {error.strerror}; choose another path") from error


def _check_lengths(target: Target, scratch: Scratch, options: RenderOptions) -> None:
    _check_length(target.name, target.part, scratch.path, lock_path(target.local))
    for name, path in extra_outputs(options):
        _check_length(f"{name} {path}", waiting_name(path))


def _check_mask(source: Any, target: Target, scratch: Scratch, options: RenderOptions) -> None:
    """Refuse a mask that is missing, and outputs that would replace it or what else is read, or lie inside it."""
    outputs = (
        ("", target.url or target.local),
        ("", target.part),
        *((f"{name} ", path) for name, path in extra_outputs(options)),
        ("--scratch " if options.scratch else "", scratch.store or scratch.path),
    )
    read = [(name, path) for name, path in options.inputs() if path != str(source)]
    check_outputs(
        read, [(name, path) for name, path in outputs if path is not None], replaced=options.overwrite
    )
    if not isinstance(source, str | Path) or not str(source):
        return
    if not (is_url(source) or Path(source).exists()):
        raise BadInput(f"mask {source}: there is no such file or folder; check the path")
    check_apart(source, *outputs)
    if place_of(scratch.path) in place_of(source).parents:
        raise BadInput(f"mask {source}: lies in {scratch.path}, the scratch of {target.name}; move it away")


def _check_outputs(target: Target, scratch: Scratch, options: RenderOptions) -> None:
    finished = Finished.of(target, scratch.path)
    # The run that finished the slide may have written its preview and report already.
    before = {} if finished is None or options.fresh else finished.options
    if not (options.overwrite or before) and is_damaged(scratch.path) and target.exists():
        raise BadInput(
            f"{target.name}: exists already, and {scratch.path / RECORD}, the record of the run that made it, is damaged; "
            f"if safron-render --validate finds the slide whole, delete {scratch.path}, else pass --overwrite"
        )
    target.check(overwrite=options.overwrite or bool(before))
    names: dict[Path, str] = {} if target.url else {target.local.absolute(): "OUT"}
    for option, path in extra_outputs(options):
        if path.absolute() in names:
            raise BadInput(f"{option} {path}: {names[path.absolute()]} has the same name; give another one")
        names[path.absolute()] = option
        ours = str(path) == before.get(option.strip("-").replace("-", "_"))
        ours = ours or (option == "--preview" and is_unfinished_png(path))
        overwrite, name = options.overwrite or ours, f"{option} "
        if path is options.labels_out:
            from safron.io.slides.label_pyramid import check_label_path

            check_label_path(path, overwrite=overwrite, name=name)
        else:
            check_output_path(path, overwrite=overwrite, name=name, endings=_ENDINGS.get(option, ()))
    if options.preview is not None:
        check_png_name(options.preview, "--preview ")


def working_folders(target: Target, scratch: Scratch, options: RenderOptions) -> tuple[Path, Path]:
    """Return the folders of the unfinished slide and of scratch, or above them if they are made when needed.

    Raises
    ------
    BadInput
        One of them is missing or cannot be written to.
    """
    ours = target.url is not None and (options.scratch is None or is_url(options.scratch))
    part, own = target.part.absolute().parent, scratch.path.parent
    while ours and not part.is_dir():  # the cache folder; both lie there
        part = own = part.parent
    for folder in (part, own):
        if not folder.is_dir():
            raise BadInput(f"--scratch {folder}: no such folder; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BadInput(f"--scratch {folder}: cannot be written to; choose another folder")
    return part, own


def _check_length(given: str, *paths: Path) -> None:
    """Refuse a name that leaves no room for the suffix of the unfinished file."""
    over = max(len(os.fsencode(path.name)) - _longest_name(path.parent) for path in paths)
    if over > 0:
        raise BadInput(
            f"{given}: file name too long: a temporary suffix is appended; shorten it by {over} bytes"
        )


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, or a missing folder
        return 255
