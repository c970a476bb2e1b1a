"""Is a name that of a file, or an address of fsspec?"""

from __future__ import annotations

from pathlib import Path

from .errors import BadInput


def is_url(text: str | Path) -> bool:
    """Whether a name is an fsspec URL rather than a path."""
    return "://" in str(text)


def check_unchained(out: str | Path, name: str = "") -> None:
    """Refuse an output whose name has "::".

    fsspec, and Zarr with it, takes such a name for a chain of addresses, as in simplecache::s3://bucket/x.svs, also where it is that of a
    local file; scratch and slide would then lie in other places than those that were checked.

    Parameters
    ----------
    out
        Path or address.
    name
        How messages introduce it, such as "--report ".

    Raises
    ------
    BadInput
        It has "::".
    """
    if "::" in str(out):
        raise BadInput(f"{name}{out}: has '::', which chains addresses; give a name or an address without it")
