"""Which files of a folder are images, and which mask belongs to which image?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from safron.io.errors import BadInput
from safron.io.files import is_foreign

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def list_images(folder: Path, endings: Collection[str] = IMAGES) -> list[Path]:
    """List the image files below `folder`, masks among them, sorted; what systems and editors leave there is passed over."""
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings)
    return [path for path in paths if not any(map(is_foreign, path.relative_to(folder).parts))]


def match_files(
    images: Iterable[Path], masks: Iterable[Path], roots: tuple[Path, Path], stems: tuple[str, ...] = ()
) -> list[tuple[str, Path, Path]]:
    """Pair images with masks: those whose paths below their roots differ only in the file's type and in `stems`.

    Parameters
    ----------
    images, masks
        Files below the first and the second of `roots`.
    stems
        What may follow an image's name in the name of its mask.

    Returns
    -------
    list[tuple[str, Path, Path]]
        Name below the root, image and mask, in the order of the images.

    Raises
    ------
    BadInput
        A file has no counterpart, or two.
    """
    named: list[dict[str, Path]] = [{}, {}]
    for files, root, found in zip((images, masks), roots, named, strict=True):
        for path in files:
            name = path.relative_to(root).with_suffix("").as_posix()
            name = name.removesuffix(next(filter(name.endswith, stems), ""))
            if (other := found.setdefault(name, path)) != path:
                raise BadInput(
                    f"{other} and {path} have one name, but a pair is one image and one mask; rename one of them"
                )
    image_of, mask_of = named
    for name, path in image_of.items():
        if name not in mask_of:
            ending = stems[0] if roots[0] == roots[1] and stems else ""
            raise BadInput(
                f"{path} has no mask; put it at {roots[1] / name}{ending}.png, or remove the image"
            )
    for name, path in mask_of.items():
        if name not in image_of:
            raise BadInput(f"{path} has no image of its name; add the image or remove the mask")
    return [(name, image_of[name], mask_of[name]) for name in image_of]
