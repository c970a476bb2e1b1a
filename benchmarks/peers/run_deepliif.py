"""DeepLIIF: `InferenceTiler` over regions of 20,000 pixels, stitched in memory, then `write_big_tiff_file`.

The centre of each tile is pasted, nothing is averaged. The package imports Java's Bio-Formats to read slides, so the tiler and the
writer are taken out of its source as they stand, and the loop over regions follows its `infer_results_for_wsi`, for one picture
where the real one keeps seven.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from job import CONTEXT, WINDOW, Generator, Job, main, to_uint8
from PIL import Image, ImageOps

REGION = 20000
Image.MAX_IMAGE_PIXELS = None


def taken_out(*names: str) -> dict[str, Any]:
    """Compile classes and functions of ``deepliif/util/__init__.py`` by name, without importing the package."""
    source = Path(sysconfig.get_path("purelib"), "deepliif", "util", "__init__.py").read_text()
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    space: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "tf": tifffile, "np": np}
    exec(compile(tree, "deepliif", "exec"), space)
    return space


def render(job: Job, generator: Generator) -> dict[str, str]:
    """Make a BigTIFF, uint8 RGB, deflate, three further levels in SubIFDs."""
    deepliif = taken_out("InferenceTiler", "write_big_tiff_file")
    mask = job.labels()
    result = np.zeros((*mask.shape, 3), np.uint8)
    for x in range(0, job.side, REGION):
        for y in range(0, job.side, REGION):
            region = Image.fromarray(np.asarray(mask[y : y + REGION, x : x + REGION]))
            tiler = deepliif["InferenceTiler"](region, WINDOW, CONTEXT)
            for tile in tiler:
                framed = np.zeros((WINDOW, WINDOW, 3), np.uint8)
                patch = to_uint8(generator(np.asarray(tile)[None]))[0]
                framed[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT] = patch
                tiler.stitch({"image": Image.fromarray(framed)})
            result[y : y + REGION, x : x + REGION] = np.array(tiler.results()["image"])
    path = job.out / "deepliif.ome.tiff"
    deepliif["write_big_tiff_file"](path, result, 512)
    return {"kind": "tiff", "path": str(path)}


if __name__ == "__main__":
    main(render)
