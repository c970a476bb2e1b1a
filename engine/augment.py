"""``safron-augment``: make training images of nuclei from labels.

The sets are those of "Synthetic augmentation using edge features": G0, a replica of each tile, made again from its labels; G1,
made from labels that were moved (turned, mirrored, enlarged, cut) before. A set has the layout of its source, so that it is used
in the same way, and a manifest that says how each image was made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from safron.io.console import PIXEL_SIZE, SETTINGS, Program, debug_option, option, run_program, version_option
from safron.io.errors import counted
from safron.io.progress import progress

if TYPE_CHECKING:
    from .nucleus_tiles import NucleusTile

NAME = "safron-augment"
USUAL_MPP = 0.25
"""Pixel size of CoNSeP, in micrometres."""

Kind = Literal["G0", "G1"]


@dataclass(frozen=True)
class Made:
    """One image of a set, and how it was made: from which tile, moved how, with which seed, of which digest."""

    name: str
    source: str
    move: dict[str, Any]
    seed: int
    digest: str


@dataclass(frozen=True)
class SetOptions:
    """How a set is made.

    Attributes
    ----------
    model
        See `RenderOptions`.
    kind
        "G0" or "G1".
    copies
        Images made from each tile.
    mpp
        Pixel size of the tiles in micrometres; None for what their ``dataset.json`` says, or else 0.25.
    edges
        "mask" from labels and numbers, "image" from the real image of each tile.
    leave_out
        Tiles that are not taken, such as those for testing.
    seed
        Of noise and moves.
    """

    model: str | Path
    kind: Kind
    copies: int = 1
    mpp: float | None = None
    edges: Literal["mask", "image"] = "mask"
    leave_out: Sequence[str] = ()
    seed: int = 0


def augment(
    folder: Path,
    out: Path,
    options: SetOptions,
    *,
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
    options
        How.
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

    from .nucleus_tiles import label_values, list_tiles, read_about, read_tile

    _check_target(out, overwrite=overwrite)
    generator = load_model(options.model)
    values, names = label_values(generator.card), list_tiles(folder, options.leave_out)
    if options.edges == "image" and generator.card.edges is None:
        raise BadInput(f"--edges image: generator {generator.card.name!r} takes no edges; leave it out")
    about = read_about(folder)
    options = replace(options, mpp=options.mpp or about.mpp or USUAL_MPP)
    made = []
    with output(out, overwrite=overwrite, folder=True) as part, tempfile.TemporaryDirectory() as scratch:
        maker = _Maker(generator, values, options, part, Path(scratch))
        for number, name in enumerate(names):
            tile = read_tile(folder, name, image_edges=options.edges == "image")
            for copy in range(options.copies):
                made.append(maker.make(tile, number, copy))
                report(len(made))
        _describe(part, generator, about.licence, folder.name, options, made)
    return made


def _check_target(out: Path, *, overwrite: bool) -> None:
    """Raise `BadInput` unless a set may be written here; it replaces nothing but a set."""
    from safron.io.errors import BadInput
    from safron.io.files import check_output_path

    check_output_path(out, overwrite=overwrite, folder=True)
    if out.exists() and not (out / "manifest.json").is_file():
        raise BadInput(f"{out}: exists and is not a set of {NAME}; choose another name")


def _describe(
    part: Path, generator: Any, licence: str, source: str, options: SetOptions, made: Sequence[Made]
) -> None:
    """Write the manifest of a set, and what safron-train should know of it."""
    about: dict[str, Any] = {
        "set": options.kind,
        "labels": source,
        "licence_of_labels": licence or None,
        "left_out": list(options.leave_out),
        "edges": options.edges,
    }
    about |= {"seed": options.seed, "mpp": options.mpp}
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
        "name": f"{source} {options.kind}, generated",
        "licence": f"images: {card.licence}; labels: {licence}" if licence else card.licence,
        "mpp": options.mpp,
    }
    (part / "dataset.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Maker:
    """Makes the images of a set: with which generator, which of its labels stands for each class, and where files go."""

    generator: Any
    values: Any
    options: SetOptions
    folder: Path
    scratch: Path

    def make(self, tile: NucleusTile, number: int, copy: int) -> Made:
        """Make and write one image of a tile, the one of this number, with its labels and numbers."""
        import numpy as np

        from .nucleus_tiles import Move, draw_move

        key = [self.options.seed, number, copy]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        move = Move() if self.options.kind == "G0" else draw_move(tile.classes.shape, key)
        name = f"{tile.name}-{self.options.kind.lower()}-{copy}"
        planes = {"class": move.apply(tile.classes), "inst": move.apply(tile.numbers)}
        edges = None if tile.edges is None else move.apply(tile.edges)
        image, digest = self._render(self.values[planes["class"]], planes["inst"], edges, seed)
        for place, array in {"images": image, **planes}.items():
            _save(self.folder / place / f"{name}.png", array)
        return Made(name, tile.name, asdict(move), seed, digest)

    def _render(self, labels: Any, numbers: Any, edges: Any, seed: int) -> tuple[Any, str]:
        """Render one tile: uint8 [y, x, 3], and its digest."""
        import numpy as np
        import tifffile

        from .rendering import render

        given: dict[str, Any] = {"labels": labels}
        if self.generator.card.edges is not None:
            given |= {"instances": numbers} | ({} if edges is None else {"edges": edges})
        files: dict[str, Any] = {name: self.scratch / f"{name}.npy" for name in given}
        for name, plane in given.items():
            np.save(files[name], plane)
        out, options = self.scratch / "tile.tiff", self.options
        made = render(
            files.pop("labels"), out, model=self.generator, mpp=options.mpp, seed=seed, compression="none", overwrite=True,
            workers=1, **files,
        )  # fmt: skip
        return np.asarray(tifffile.imread(out, level=0)), made.digest


def _save(path: Path, array: Any) -> None:
    import cv2

    path.parent.mkdir(exist_ok=True)
    # In memory first: where a disk is full, OpenCV's own writing prints a line of libpng's.
    path.write_bytes(cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes())


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
@option(
    "--mpp",
    "Pixel size of the tiles, in micrometres.",
    "UM",
    type=PIXEL_SIZE,
    shown="that of dataset.json in DATA, or else 0.25",
)
@option("--edges", "Where edges come from: mask, the numbers of the nuclei; image, Canny's method on the real image.",
        type=click.Choice(["mask", "image"]), default="mask")  # fmt: skip
@option(
    "--leave-out", "Tile that is not taken, such as one for testing; repeat for each.", "NAME", multiple=True
)
@option("--seed", "Seed of noise and moves, a whole number.", "N", type=click.IntRange(0), default=0)
@option("--overwrite", "Replace OUT if it is such a set.", is_flag=True)
@debug_option
@version_option
def command(data: Path, out: Path, *, overwrite: bool, **choices: Any) -> None:
    """Make training images of nuclei from labels.

    DATA holds class/NAME.png and inst/NAME.png, as CoNSeP does, and OUT gets the same layout, images/NAME.png and a manifest.json
    that says how each image was made.
    """
    from .nucleus_tiles import list_tiles

    options = SetOptions(**choices)
    with progress(len(list_tiles(data, options.leave_out)) * options.copies, "images") as advance:
        advance(0)
        made = augment(data, out, options, overwrite=overwrite, report=lambda _: advance(1))
    click.echo(
        f"{out}: {counted(len(made), 'image')}, set {options.kind}; how they were made: {out / 'manifest.json'}"
    )


main = partial(run_program, command, NAME)


if __name__ == "__main__":
    main()
