"""Reads a slide with the OpenSlide that the system has, in a process of its own: the tests' own process has another one.

    python openslide_3.py SLIDE FOLDER

Prints width and height of each level, and writes its pixels to FOLDER/0.raw, 1.raw, ...: BGRA uint8, alpha multiplied in.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from pathlib import Path

LIBRARY = ctypes.util.find_library("openslide")


def load() -> ctypes.CDLL:
    """Load the library, with the types of what is called."""
    library = ctypes.CDLL(LIBRARY)
    for name, result, arguments in (
        ("get_version", ctypes.c_char_p, ()),
        ("open", ctypes.c_void_p, (ctypes.c_char_p,)),
        ("get_error", ctypes.c_char_p, (ctypes.c_void_p,)),
        ("get_level_count", ctypes.c_int32, (ctypes.c_void_p,)),
        ("get_level_dimensions", None, (ctypes.c_void_p, ctypes.c_int32, *2 * (ctypes.c_void_p,))),
        ("read_region", None, (*2 * (ctypes.c_void_p,), *2 * (ctypes.c_int64,), ctypes.c_int32, *2 * (ctypes.c_int64,))),
    ):  # fmt: skip
        function = getattr(library, f"openslide_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def main(slide: str, folder: str) -> None:
    """Read all levels."""
    library = load()
    opened = library.openslide_open(slide.encode())
    for level in range(library.openslide_get_level_count(opened)):
        width, height = ctypes.c_int64(), ctypes.c_int64()
        library.openslide_get_level_dimensions(opened, level, ctypes.byref(width), ctypes.byref(height))
        pixels = ctypes.create_string_buffer(4 * width.value * height.value)
        library.openslide_read_region(opened, pixels, 0, 0, level, width, height)
        print(width.value, height.value)
        Path(folder, f"{level}.raw").write_bytes(pixels)
    if error := library.openslide_get_error(opened):
        sys.exit(error.decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
