"""``safron-augment``: make training images of nuclei from labels.

The sets are those of "Synthetic augmentation using edge features": G0, a replica of each tile, made again from its labels; G1,
made from labels that were moved (turned, mirrored, enlarged, cut) before. A set has the layout of its source, so that it is used
in the same way, and a manifest that says how each image was made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from safron.io.console import PIXEL_SIZE, SETTINGS, Program, debug_option, option, run_program, version_option
from safron.io.progress import progress

NAME = "safron-augment"
Kind = Literal["G0", "G1"]


@dataclass(frozen=True)
class Made:
    """One image of a set, and how it was made: from which tile, moved how, with which seed, of which digest."""

    name: str
    source: str
    move: dict[str, Any]
    seed: int
    digest: str


def augment(
    folder: Path,
    out: Path,
    *,
    model: str | Path,
    kind: Kind,
    copies: int = 1,
    mpp: float = 0.25,
    edges: Literal["mask", "image"] = "mask",
    leave_out: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda count: None,
) -> list[Made]:
    """Write a set of generated tiles.

    Parameters
    ----------
    folder
        Tiles, see `safron.engine.nucleus_tiles`.
    out
        Folder to create: ``images/NAME.png``, ``class/``, ``inst/``, ``manifest.json``, and ``dataset.json`` for safron-train.
    model
        See `RenderOptions`.
    kind
        "G0" or "G1".
    copies
        Images made from each tile.
    mpp
        Pixel size of the tiles in micrometres.
    edges
        "mask" from labels and numbers, "image" from the real image of each tile.
    leave_out
        Tiles that are not taken, such as those for testing.
    seed
        Of noise and moves.
    overwrite
        Replace `out` if it is such a set.
    report
        Called with the number of tiles made.

    Raises
    ------
    BadInput
        The tiles, the generator or `out` cannot be used.
    """
    from safron.engine.generator.model import load_model
    from safron.io.errors import BadInput
    from safron.io.files import output

    from .nucleus_tiles import Move, draw_move, label_values, list_tiles, read_tile

    _check_target(out, overwrite=overwrite)
    generator = load_model(model)
    values, names = label_values(generator.card), list_tiles(folder, leave_out)
    if edges == "image" and generator.card.edges is None:
        raise BadInput(f"--edges image: generator {generator.card.name!r} takes no edges; leave it out")
    made = []
    with output(out, overwrite=overwrite, folder=True) as part, tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(names):
            tile = read_tile(folder, name, image_edges=edges == "image")
            for copy in range(copies):
                key = [seed, number, copy]
                own = int(np.random.SeedSequence(key).generate_state(1)[0])
                move = Move() if kind == "G0" else draw_move(tile.classes.shape, key)
                target = f"{name}-{kind.lower()}-{copy}"
                planes = {"class": move.apply(tile.classes), "inst": move.apply(tile.numbers)}
                given = None if tile.edges is None else move.apply(tile.edges)
                image, digest = _generate(
                    values[planes["class"]], planes["inst"], given, generator, mpp, own, Path(scratch)
                )
                for place, array in {"images": image, **planes}.items():
                    _save(part / place / f"{target}.png", array)
                made.append(Made(target, name, asdict(move), own, digest))
                report(len(made))
        about = {"set": kind, "labels": folder.name, "left_out": list(leave_out), "edges": edges}
        _describe(part, generator, about | {"seed": seed, "mpp": mpp}, made)
    return made


def _check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a set may be written here; it replaces nothing but a set."""
    from safron.io.errors import BadInput
    from safron.io.files import check_output_path

    check_output_path(out, overwrite=overwrite, folder=True)
    if out.exists() and not (out / "manifest.json").is_file():
        raise BadInput(f"{out}: exists and is not a set of {NAME}; choose another name")


def _describe(part: Path, generator: Any, about: dict[str, Any], made: Sequence[Made]) -> None:
    """Write the manifest of a set, and what safron-train should know of it."""
    card = generator.card
    names = {
        "name": card.name,
        "sha256": generator.sha256,
        "licence": card.licence,
        "trained_on": card.trained_on,
    }
    whole = about | {"generator": names, "images": [asdict(one) for one in made]}
    (part / "manifest.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    said = {
        "name": f"{about['labels']} {about['set']}, generated",
        "licence": card.licence,
        "mpp": about["mpp"],
    }
    (part / "dataset.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _generate(
    labels: Any, numbers: Any, edges: Any, generator: Any, mpp: float, seed: int, scratch: Path
) -> tuple[Any, str]:
    """Render one tile: uint8 [y, x, 3], and its digest."""
    import tifffile

    from .rendering import render

    options: dict[str, Any] = {}
    if generator.card.edges is not None:
        for name, plane in (("instances", numbers), ("edges", edges)):
            if plane is not None:
                np.save(scratch / f"{name}.npy", plane)
                options[name] = scratch / f"{name}.npy"
    np.save(scratch / "labels.npy", labels)
    out = scratch / "tile.tiff"
    made = render(
        scratch / "labels.npy", out, model=generator, mpp=mpp, seed=seed, compression="none", overwrite=True, workers=1,
        **options,
    )  # fmt: skip
    return np.asarray(tifffile.imread(out, level=0)), made.digest


def _save(path: Path, array: Any) -> None:
    import cv2
    from safron.io.errors import Failed

    path.parent.mkdir(exist_ok=True)
    if not cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array):
        raise Failed(f"{path.name}: cannot be written; make room on its disk")


@click.command(
    cls=Program,
    context_settings=SETTINGS,
    epilog="\b\nExamples:\n  safron-augment consep/ replicas/ --set G0 --leave-out train_1\n"
    "  safron-augment consep/ moved/ --set G1 --copies 2 --model runs/edge-pix2pix.onnx --edges image",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@option("--set", "G0: each tile again from its labels. G1: from labels turned, mirrored, enlarged and cut.", called="kind",
        type=click.Choice(["G0", "G1"]), default="G0")  # fmt: skip
@option(
    "--model",
    "Generator of nuclei: the name of a shipped one, or an ONNX file.",
    "NAME|FILE",
    default="nuclei",
)
@option("--copies", "Number of images made from each tile.", "N", type=click.IntRange(1), default=1)
@option("--mpp", "Pixel size of the tiles, in micrometres.", "UM", type=PIXEL_SIZE, default=0.25)
@option("--edges", "Where edges come from: mask, the numbers of the nuclei; image, Canny's method on the real image.",
        type=click.Choice(["mask", "image"]), default="mask")  # fmt: skip
@option(
    "--leave-out", "Tile that is not taken, such as one for testing; repeat for each.", "NAME", multiple=True
)
@option("--seed", "Seed of noise and moves, a whole number.", "N", type=click.IntRange(0), default=0)
@option("--overwrite", "Replace OUT if it is such a set.", is_flag=True)
@debug_option
@version_option
def command(data: Path, out: Path, **options: Any) -> None:
    """Make training images of nuclei from labels.

    DATA holds class/NAME.png and inst/NAME.png, as CoNSeP does, and OUT gets the same layout, images/NAME.png and a manifest.json
    that says how each image was made.
    """
    from .nucleus_tiles import list_tiles

    count = len(list_tiles(data, options["leave_out"])) * options["copies"]
    with progress(count, "images") as advance:
        advance(0)
        made = augment(data, out, **options, report=lambda _: advance(1))
    click.echo(
        f"{out}: {len(made)} images, set {options['kind']}; how they were made: {out / 'manifest.json'}"
    )


main = partial(run_program, command, NAME)


if __name__ == "__main__":
    main()
