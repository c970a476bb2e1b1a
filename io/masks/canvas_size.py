"""How large is the image that a mask should match, and how large are its pixels?"""

from __future__ import annotations

from pathlib import Path

from safron.io.errors import BadInput, one_line

from .image_planes import is_tiff, print_mpp, shown_area, slide_vendor, tiff_mpp
from .open import open_mask


def image_size(path: Path) -> tuple[int, int, float | None]:
    """Height, width and micrometres per pixel of any slide, image or mask, without reading pixels.

    Of a slide it is what QuPath shows, in whose pixels annotations are drawn: see `shown_area`.

    Raises
    ------
    BadInput
        It is missing, or no reader knows it.
    """
    if not path.exists():
        raise BadInput(f"{path}: there is no such file; check the path")
    if path.is_dir():
        mask = open_mask(path)
        return *mask.shape, mask.mpp
    try:
        if slide_vendor(path) not in (None, "generic-tiff"):
            import openslide

            with openslide.OpenSlide(path) as slide:
                mpp = slide.properties.get(openslide.PROPERTY_NAME_MPP_Y)
                _, _, height, width = shown_area(slide)
                return height, width, float(mpp) if mpp else None
        if is_tiff(path):
            import tifffile

            with tifffile.TiffFile(path) as tif:
                page = tif.pages.first
                return page.imagelength, page.imagewidth, tiff_mpp(page, tif.ome_metadata)
        import pyvips

        image = pyvips.Image.new_from_file(str(path), revalidate=True)
        return image.height, image.width, print_mpp(1000.0 / image.yres)
    except Exception as error:  # each library has exceptions of its own
        raise BadInput(f"{path}: cannot read it as a slide or image ({one_line(error)})") from error
