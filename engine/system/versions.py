"""Which library versions can change a pixel or a byte of a tile?"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution


@lru_cache(maxsize=1)
def deciding_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide the bytes of a slide, by name."""
    found = {name: version(name) for name in ("safron", "imagecodecs", "opencv-python-headless", "numpy")}
    return found | {"onnxruntime": _onnxruntime()}


def version(package: str) -> str:
    """Return the version of an installed package, read from the head of its metadata: parsing all of it takes 5 ms.

    Raises
    ------
    PackageNotFoundError
        It is not installed.
    """
    found = distribution(package)
    line = re.search(r"^Version: (\S+)$", found.read_text("METADATA") or "", re.MULTILINE)
    return line[1] if line else found.version


def _onnxruntime() -> str:
    """Return the version of ONNX Runtime, without importing it if only one of its packages is installed."""
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found.append(version(package))
    if len(found) == 1:
        return found[0]
    import onnxruntime

    return str(onnxruntime.__version__)
