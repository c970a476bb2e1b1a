"""Where may a generator be exported to, and how is it written? All exports of safron-train share these rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safron.io.console import option
from safron.io.errors import BadInput
from safron.io.files import check_output_path, output

if TYPE_CHECKING:
    import onnx

ENDINGS = (".onnx",)
SHIPPED = ("safron-tissue", "safron-seamless", "nuclei", "nuclei-diffusion", "nuclei-masks")
"""Names of the generators that come with the package, which settings of a training have as well."""
OVERWRITE = option("--overwrite", "Replace OUT.", is_flag=True)


def own_name(name: str, folder: str) -> str:
    """Name a generator whose user gave it no name, so that it is not taken for one that comes with the package.

    Parameters
    ----------
    name
        As its settings call it; kept unless it is one of `SHIPPED`.
    folder
        Name of its run's folder.

    Examples
    --------
    >>> own_name("safron-seamless", "first"), own_name("safron", "first"), own_name("nuclei", "nuclei")
    ('first', 'safron', 'own-nuclei')
    """
    if name not in SHIPPED:
        return name
    return f"own-{folder or name}" if folder in ("", *SHIPPED) else folder


def check_export(out: Path, *, overwrite: bool) -> None:
    """Make the folder of an export, and refuse what cannot be written there; before anything is computed.

    Raises
    ------
    BadInput
        The name does not end in .onnx, it exists and may not be overwritten, or a card lies where that of `out` would be looked for.
    """
    if out.name.lower().endswith(ENDINGS):
        out.parent.mkdir(parents=True, exist_ok=True)
    check_output_path(out, overwrite=overwrite, endings=ENDINGS)
    if (beside := out.with_suffix(".json")).exists():
        raise BadInput(
            f"{out} would be read with {beside.name}, which lies beside it, as its card; choose another name, or remove {beside}"
        )


def write_export(
    graph: onnx.ModelProto,
    out: Path,
    *,
    card: dict[str, Any],
    overwrite: bool,
    beside: Mapping[Path, onnx.ModelProto] | None = None,
) -> None:
    """Write a graph with its card, and others that it needs `beside` it, by their names; all of them appear whole, or none."""
    import onnx

    onnx.helper.set_model_props(graph, {"safron": json.dumps(card)})
    with ExitStack() as stack:
        for name, content in {out: graph, **(beside or {})}.items():
            part = stack.enter_context(output(name, overwrite=overwrite, endings=ENDINGS))
            part.write_bytes(content.SerializeToString())


def check_run_folder(out: Path, *, resume: bool, checkpoint: str = "checkpoint.pt") -> None:
    """Raise `BadInput` if a training cannot write into this folder, or holds a run there that is not to be continued."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: is a file, and a training writes several; give the name of a folder")
    if out.is_symlink() and not out.exists():
        raise BadInput(f"{out}: is a link that leads nowhere; give the name of a folder")
    if (kept := out / checkpoint).exists() and not resume:
        raise BadInput(f"{kept} exists; add --resume to continue from it, or choose another folder")
