"""Which files of a folder are masks of the images beside them?

NAME.png + NAME.mask.png      images and masks side by side; or NAME.gland.png, NAME_anno.bmp, NAME_mask.png
images/NAME.* + masks/NAME.*  images and masks in two folders; or Annotation/, annotations/, labels/, class/, inst/, instances/
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ENDINGS = (".mask", ".gland", ".instances")
"""Endings of the stem of a mask, whatever lies beside it."""
ENDINGS_OF_TWO = ("_anno", "_mask")
"""Endings that make a file a mask where the image without them lies beside it."""
MASK_FOLDERS = frozenset({"masks", "annotation", "annotations", "labels", "class", "inst", "instances"})


def find_masks(files: Iterable[Path]) -> set[Path]:
    """Tell which of some image files are masks of others, by their names and folders alone.

    Parameters
    ----------
    files
        Image files, of any number of folders.

    Examples
    --------
    >>> names = "a.png", "a.mask.png", "b_mask.png", "x/images/c.png", "x/masks/c.png"
    >>> sorted(str(path) for path in find_masks(map(Path, names)))
    ['a.mask.png', 'x/masks/c.png']
    """
    files = list(files)
    stems = {path.with_suffix("") for path in files}
    with_images = {
        folder.parent for path in files for folder in path.parents if folder.name.lower() == "images"
    }

    def is_mask(path: Path) -> bool:
        stem = path.with_suffix("")
        beside = any(
            stem.name.endswith(ending) and stem.with_name(stem.name.removesuffix(ending)) in stems
            for ending in ENDINGS_OF_TWO
        )
        apart = any(
            folder.name.lower() in MASK_FOLDERS and folder.parent in with_images for folder in path.parents
        )
        return stem.name.endswith(ENDINGS) or beside or apart

    return {path for path in files if is_mask(path)}


def holds_numbers(path: Path) -> bool:
    """Whether a mask holds numbers of instances beside one of labels, as `safron-tiles` writes them.

    Examples
    --------
    >>> [holds_numbers(Path(name)) for name in ("instances/a.png", "a.instances.png", "a.mask.png")]
    [True, True, False]
    """
    return path.stem.endswith(".instances") or path.parent.name.lower() == "instances"
