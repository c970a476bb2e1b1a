"""How large is the image that a mask should match, and how large are its pixels?"""

from __future__ import annotations

from pathlib import Path

from safron.io.errors import BadInput, one_line
from safron.io.files import check_regular

from .image_kinds import is_tiff, shown_area, slide_vendor, tiff_size
from .open import open_mask
from .pixel_size import PixelSize, from_slide, from_vips


def image_size(path: Path) -> tuple[int, int, PixelSize]:
    """Height, width and pixel size of any slide, image or mask, without reading pixels.

    Of a slide it is the area that QuPath shows, in whose pixels annotations are drawn: see `shown_area`.

    Raises
    ------
    BadInput
        It is missing, or no reader knows it.
    """
    if not path.exists():
        raise BadInput(f"{path}: there is no such file; check the path")
    if path.is_dir():
        mask = open_mask(path)
        return *mask.shape, PixelSize(mask.mpp, mask.notes)
    check_regular(path)
    try:
        if slide_vendor(path) not in (None, "generic-tiff"):
            import openslide

            with openslide.OpenSlide(path) as slide:
                _, _, height, width = shown_area(slide)
                return height, width, from_slide(slide)
        if is_tiff(path):
            return tiff_size(path)
        import pyvips

        image = pyvips.Image.new_from_file(str(path), revalidate=True)
        return image.height, image.width, from_vips(image)
    except Exception as error:  # each library has exceptions of its own
        raise BadInput(f"{path}: cannot read it as a slide or image ({one_line(error)})") from error
