"""Which versions can change a pixel or a byte of a tile?"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


@lru_cache(maxsize=1)
def deciding_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that decide the slide's bytes, by name."""
    found = {name: version(name) for name in ("safron", "imagecodecs", "opencv-python-headless", "numpy")}
    return found | {"onnxruntime": _onnxruntime()}


def _onnxruntime() -> str:
    """Version of ONNX Runtime, which is not imported where one package tells: that takes long, and may not be needed."""
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found.append(version(package))
    if len(found) == 1:
        return found[0]
    import onnxruntime

    return str(onnxruntime.__version__)
