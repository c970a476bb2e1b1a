"""How is the picture of a slide written?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safron.io.files import waiting_name


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Write uint8 RGB [h, w, 3] as PNG beside `path`; the file that is returned waits to be given that name."""
    import imagecodecs

    part = waiting_name(path)
    try:
        part.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part
