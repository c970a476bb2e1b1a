"""What is shown together: a picture, its labels, its patches, and what was found out about them?"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from safron.engine.generator.model import load_model
from safron.engine.plan.window import Window
from safron.engine.preparation.options import RenderOptions
from safron.engine.stains.looks import LOOKS, is_named
from safron.engine.virtual.slide import VirtualSlide
from safron.io.errors import BadInput, SafronError
from safron.io.fields import convert
from safron.io.files import what_is_there
from safron.io.legend import DEFAULT_LABELS, Label
from safron.io.masks.array_plane import ArrayPlane
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.masks.write import write_labels
from safron.io.masks.write_nuclei import write_nuclei

from .edits import EditableMask, Stroke
from .label_layer import LabelLayer
from .on_screen import MaskPicture
from .pictures import Picture, open_picture
from .seams import Patches, worst_seam
from .unfinished import UnfinishedPicture, in_work, read_inputs

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MASK_ENDINGS = (".zarr", ".npy", ".zip", ".ozx")


@dataclass
class Scene:
    """What the page shows.

    Attributes
    ----------
    kind
        "mask", "slide" or "render" (in progress).
    name
        What the page calls it.
    folder
        Where edited masks are saved.
    picture
        The tissue.
    labels
        The labels, or None.
    patches
        Where patches lie, or None where it is not known.
    facts
        What else is known, as JSON values.
    options
        Of the `VirtualSlide` of a mask.
    """

    kind: str
    name: str
    folder: Path
    picture: Picture
    labels: LabelLayer | None
    patches: Patches | None
    facts: dict[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def info(self) -> dict[str, Any]:
        """Return what the page must know once, as JSON values."""
        picture = self.picture
        return {
            "kind": self.kind,
            "name": self.name,
            "width": picture.width,
            "height": picture.height,
            "mpp": picture.mpp,
            "has_labels": self.labels is not None,
            "fills": [] if self.labels is None else self.labels.fills,
            "patches": None if self.patches is None else asdict(self.patches),
        } | self.facts

    def state(self, level: int, view: Window) -> dict[str, Any]:
        """Return what changes while one looks, as JSON values; be told what is on screen."""
        with self._guard:
            if isinstance(self.picture, UnfinishedPicture) and self.picture.out.exists():
                self._finish(self.picture)
            picture = self.picture
        picture.look(level, view)
        state: dict[str, Any] = {
            "kind": self.kind, "progress": picture.progress(), "version": picture.version, "epoch": picture.epoch,
        }  # fmt: skip
        if self.labels is not None:
            state |= {"labels_version": self.labels.version, "strokes": self.labels.mask.strokes}
            state["legend"] = self.labels.facts()
        if isinstance(picture, MaskPicture):
            state["seed"] = picture.slide.plan.seed
            state["stain"] = picture.slide.options.stain
        return state

    def _finish(self, picture: UnfinishedPicture) -> None:
        """Show the slide that was in progress and has its name now."""
        made, _ = open_picture(picture.out)
        made.version, made.epoch = picture.version + 1, picture.epoch + 1
        self.kind, self.picture = "slide", made
        picture.close()

    def reseed(self, seed: int) -> None:
        """Render the mask with another seed from now on."""
        with self._guard:
            old = self.picture
            if not isinstance(old, MaskPicture):
                raise BadInput("only a mask is rendered with a seed; this is a slide")
            changes = {"seed": seed, "stain": old.slide.options.stain}
            new = MaskPicture(_virtual(old.slide.mask, {**self.options, **changes}))
            new.version, new.epoch = old.version + 1, old.epoch + 1
            self.picture = new
        old.close()

    def restain(self, stain: str) -> None:
        """Render the mask in another stain from now on: one with a name, or at random; no file is read."""
        if not is_named(stain):
            raise BadInput(f"stain {stain!r}: must be reference, {', '.join(LOOKS)}, random or random:SEED")
        with self._guard:
            if not isinstance(self.picture, MaskPicture):
                raise BadInput("only a mask is rendered in a stain; this is a slide")
            self.picture.restain(stain)

    def pause(self, paused: bool) -> None:
        """Stop rendering, or go on."""
        if isinstance(self.picture, MaskPicture):
            self.picture.pause(paused)

    def paint(self, stroke: Stroke | None) -> bool:
        """Put a stroke over the labels, or take the last one back; return whether anything changed."""
        if self.labels is None:
            raise BadInput("there is no mask to edit; open a mask, or a slide with its mask")
        window = self.labels.paint(stroke)
        if window is not None and isinstance(self.picture, MaskPicture):
            self.picture.again(window)
        return window is not None

    def save(self, name: str) -> Path:
        """Write the labels with all strokes as a new Zarr mask into `folder`.

        Raises
        ------
        BadInput
            The name is not a plain one, or exists already.
        """
        if self.labels is None:
            raise BadInput("there is no mask to save")
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"{name!r}: a name has letters, digits, dots, dashes and underscores; try edited.zarr"
            )
        out = self.folder / (name if name.endswith(".zarr") else f"{name}.zarr")
        mask, legend = self.labels.mask, self.labels.facts()["labels"]
        labels = [self.labels.label(one["value"]) for one in legend]
        common: dict[str, Any] = {
            "height": mask.shape[0],
            "width": mask.shape[1],
            "mpp": mask.mpp,
            "labels": labels,
        }
        numbers = mask.beside.get("instances")
        if numbers is None or numbers.plane.dtype.itemsize > 4:
            write_labels(out, lambda rows, columns: mask[rows, columns], **common)
        else:
            most = (1 << 8 * numbers.plane.dtype.itemsize) - 1
            write_nuclei(
                out, lambda rows, columns: (mask[rows, columns], numbers[rows, columns].astype(np.uint32)), most=most, **common
            )  # fmt: skip
        return out

    def seam(self, view: Window) -> dict[str, Any] | None:
        """Find the worst seam in the view."""
        if self.patches is None:
            raise BadInput("the patches of this slide are not known")
        return worst_seam(self.picture, self.patches, view)

    def close(self) -> None:
        """Close everything."""
        self.picture.close()


def open_scene(
    source: str, mask: str | None, *, as_mask: bool = False, scratch: str | Path | None = None, **options: Any
) -> Scene:
    """Open what a user named.

    Parameters
    ----------
    source
        A mask, a slide, or the slide of a render in progress.
    mask
        The mask of a slide, or None.
    as_mask
        `source` is a mask, whatever it looks like.
    scratch
        ``--scratch`` of the render in progress, where it was given one.
    **options
        Of `VirtualSlide`.

    Raises
    ------
    BadInput
        It cannot be opened, or slide and mask do not have the same size.
    """
    path = Path(source)
    unfinished = in_work(path, scratch)
    if mask is None and (as_mask or (not unfinished and _is_mask(path, source))):
        return _mask_scene(source, options)
    if as_mask:
        raise BadInput(f"{source}: is said to be a mask, so {mask} is not needed; leave one of them out")
    picture: Picture
    patches: Patches | None
    if unfinished:
        picture, inputs = UnfinishedPicture(path, scratch), read_inputs(path, scratch)
        kind, patches = "render", _patches_of_inputs(inputs)
    else:
        picture, facts = open_picture(path)
        kind, patches = "slide", _patches_of_facts(facts)
    labels = None
    if mask is not None:
        given = open_mask(mask, palette={label.value: label.color for label in DEFAULT_LABELS})
        _check_size(given, picture, mask)
        labels = LabelLayer(EditableMask(given), _legend(given, DEFAULT_LABELS))
    return Scene(kind, path.name, _folder(mask or source), picture, labels, patches, {})


def _is_mask(path: Path, source: str) -> bool:
    """Whether one name alone is that of a mask: a Zarr, an array, or an image of one channel."""
    if "://" in source or path.is_dir() or path.name.lower().endswith(_MASK_ENDINGS):
        return True
    if not path.is_file():
        raise BadInput(
            f"{source}: {what_is_there(path)}; give a mask, a slide, or the slide of a render in progress"
        )
    import pyvips

    try:
        return int(pyvips.Image.new_from_file(str(path), revalidate=True).bands) == 1
    except pyvips.Error:  # OpenSlide may know it
        return False


def _mask_scene(source: str, options: Mapping[str, Any]) -> Scene:
    given_options = RenderOptions(**options)
    model = load_model(
        given_options.model,
        device=given_options.device,
        threads=given_options.threads,
        precision=given_options.precision,
        runtime=given_options.runtime,
    )
    given = open_mask(
        source, palette=model.card.palette, palette_tolerance=options.get("palette_tolerance", 0)
    )
    mask = EditableMask(given)
    options = {**options, "model": model}
    slide = _virtual(mask, options)
    plan = slide.plan
    patches = Patches(plan.grid.tile, plan.grid.overlap, ratio=float(plan.scale.ratio), block=plan.block)
    layer = LabelLayer(mask, _legend(given, model.card.labels))
    facts = {"generator": model.card.name, "notes": list(given.notes)}
    return Scene(
        "mask", Path(source).name, _folder(source), MaskPicture(slide), layer, patches, facts, options
    )


def _virtual(mask: LabelMask, options: Mapping[str, Any]) -> VirtualSlide:
    return VirtualSlide.with_options(mask, RenderOptions(**options))


def _folder(source: str) -> Path:
    """Where edited masks go: beside the mask, or here if that is no folder of this machine."""
    return Path() if "://" in source else Path(source).absolute().parent


def _legend(mask: LabelMask, usual: Sequence[Label]) -> Sequence[Label]:
    """Names and colours as the mask's attributes say, or else the usual ones."""
    plane = mask.plane
    found = (
        plane.array.attrs.get("labels")
        if isinstance(plane, ArrayPlane) and hasattr(plane.array, "attrs")
        else None
    )
    if not found:
        return usual
    try:
        return convert(found, tuple[Label, ...], mask.source, loose=True)
    except SafronError:
        return usual


def _patches_of_facts(facts: Mapping[str, str]) -> Patches | None:
    """Read the patches of a slide from its description."""
    try:
        x, y, _, _ = map(int, facts.get("Mask region XYWH", "0 0 0 0").split())
        ratio = float(Fraction(facts.get("Generator pixels per pixel", "1")))
        return Patches(int(facts["Patch tile"]), int(facts["Patch overlap"]), y * ratio, x * ratio, ratio)
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _patches_of_inputs(inputs: Mapping[str, Any]) -> Patches:
    """Read the patches of a render in progress from what its scratch says."""
    x, y, *_ = inputs["--region"]
    ratio = float(Fraction(*inputs["--scale"]))
    return Patches(inputs["--tile"], inputs["--overlap"], y * ratio, x * ratio, ratio, inputs["--block"])


def _check_size(mask: LabelMask, picture: Picture, name: str) -> None:
    """Refuse a mask of another size than the slide."""
    height, width = mask.shape
    if (height, width) != (picture.height, picture.width):
        raise BadInput(
            f"{name}: the mask has {width} x {height} px and the slide {picture.width} x {picture.height}; "
            "give the mask that the slide was rendered from"
        )
