"""Which library versions can change a pixel or a byte of a tile?"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version


@lru_cache(maxsize=1)
def deciding_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide the bytes of a slide, by name."""
    import onnxruntime

    found = {name: version(name) for name in ("safron", "imagecodecs", "opencv-python-headless", "numpy")}
    return found | {"onnxruntime": onnxruntime.__version__}
