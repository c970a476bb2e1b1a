"""Was a slide that exists made from what is asked for now?

A slide's description names what decided its pixels (`safron.engine.preparation.slide_facts`). It is held against that of the slide that would be
written now. Compression and what computed it are not compared, nor is the content of a mask whose storage does not say when files change.
"""

from __future__ import annotations

import re
from typing import Any

import fsspec
from safron.engine.plan.render_plan import RenderPlan
from safron.io.errors import BadInput, one_line
from safron.io.files import open_input
from safron.io.remote import Target
from safron.io.slides.flavors import MASK_CONTENT, described
from safron.io.slides.reader import facts_of

_DECIDES = {
    "Generator SHA-256": "--model",
    "Seed": "--seed",
    "Mask region XYWH": "--region",
    "Patch tile": "--tile",
    "Patch overlap": "--overlap",
    "Taper": "--taper",
    "Sampler": "the sampler",
    "Style": "--style",
    "Initial image": "--image",
    "Stain": "--stain",
    "Stain field": "--stain-field",
    "Generator pixels per pixel": "a scale of",
    "MPP": "--mpp",
    "size": "size",
}
"""Keys of a slide's description, and the option that each comes from, or a word for it."""

_USUAL = {
    "Style": "the generator's",
    "Stain": "reference",
    "Stain field": "0",
    "Generator pixels per pixel": "1",
}
"""What a description means that lacks a key."""

_PIXEL_OF_OME = re.compile(r'PhysicalSizeX="([^"]+)"')

_SHA = 12
"""Characters of a digest that tell generators apart in a message."""


def require_same_slide(target: Target, plan: RenderPlan) -> None:
    """Refuse a slide that exists and was made from other inputs than those of a plan.

    Raises
    ------
    BadInput
        The slide cannot be read, is not one of safron-render, or says that it was made from other inputs.
    """
    found = _read(target)
    wanted = _facts(described(plan.slide), plan.slide.width, plan.slide.height)
    if "Generator SHA-256" not in found:
        raise BadInput(
            f"{target.name}: exists already and was not made by safron-render; give another name, or pass --overwrite to replace it"
        )
    differing = [
        f"{option} {_worded(found, key)} and not {_worded(wanted, key)}"
        for key, option in _DECIDES.items()
        if found.get(key) != wanted.get(key)
    ]
    contents = {found.get(MASK_CONTENT), wanted.get(MASK_CONTENT)} - {None}
    if not differing and len(contents) == 2:  # another generator may have other colours for labels
        differing = ["other content or colours of the mask"]
    if differing:
        raise BadInput(
            f"{target.name}: exists already, made with {', '.join(differing)}; give another name, or pass --overwrite to replace it"
        )


def _read(target: Target) -> dict[str, str]:
    """Read what a slide says of itself, and its size, here or in a store."""
    import tifffile

    try:
        here = target.url is None
        with (
            open_input(target.local) if here else fsspec.open(target.url, "rb") as file,
            tifffile.TiffFile(file, name=target.file_name) as tiff,
        ):
            page: Any = tiff.pages[0]
            return _facts(page.description, page.imagewidth, page.imagelength)
    except Exception as error:  # tifffile and stores have exceptions of their own
        raise BadInput(
            f"{target.name}: exists already and cannot be read as a slide ({one_line(error)}); give another name, or pass "
            "--overwrite to replace it"
        ) from error


def _facts(description: str, width: int, height: int) -> dict[str, str]:
    """Read a description of any flavor, and add the size."""
    pixel = _PIXEL_OF_OME.search(description)
    said = facts_of(description) | ({"MPP": pixel[1]} if pixel else {})
    return said | {"size": f"{width} x {height} px"}


def _worded(facts: dict[str, str], key: str) -> str:
    """Say what a description has for a key, as the user gave it where that can be told."""
    value = facts.get(key, _USUAL.get(key, "none"))
    if key == "Generator SHA-256":
        return f"{facts.get('Generator', 'unnamed')} ({value[:_SHA]})"
    return value.replace(" ", ",") if key == "Mask region XYWH" else value
