"""How is a slide opened that was never rendered?

`VirtualSlide` has the interface of OpenSlide. A region is rendered when it is read, and has the pixels that the finished
lossless slide would have there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from openslide import AbstractSlide
from PIL import Image
from safron.engine.generator.model import GeneratorInfo, load_model
from safron.engine.generator.warm_up import warm_up
from safron.engine.plan.window import Window
from safron.engine.preparation.options import RenderOptions, for_python
from safron.engine.preparation.prepare import plan_render, with_chosen_inputs
from safron.engine.scratch.arrays import Scratch
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.remote import Target

from .patches import ViewJob
from .tiles import RenderedTiles

# What decides pixels, levels and memory.
_OPTIONS = (
    *(
        "model",
        "tile",
        "overlap",
        "taper",
        "seed",
        "style",
        "image",
        "stain",
        "stain_field",
        "batch",
        "threads",
        "device",
        "precision",
        "runtime",
        "compression",
    ),
    *("tiff_tile", "flavor", "align", "mpp", "scale", "region", "level_count", "palette_tolerance", "memory"),
)


class VirtualSlide(RenderedTiles, AbstractSlide):
    """A slide that is rendered where it is read, with OpenSlide's interface.

    Any number of threads may read at a time; no patch is generated twice at a time. What was read is kept within `memory`.

    Parameters
    ----------
    mask
        See `safron.engine.render`.
    **options
        Options of `RenderOptions` that decide pixels, levels and memory. `compression` is "deflate" by default, which
        decides how many levels there are; pixels are never compressed.

    Raises
    ------
    BadInput
        An argument cannot be used, or `memory` is too small.

    Examples
    --------
    >>> labels = np.zeros((300, 400), np.uint8)
    >>> with VirtualSlide(labels, model="identity", mpp=0.5) as slide:
    ...     slide.dimensions, slide.read_region((10, 10), 0, (2, 1)).getpixel((0, 0))
    ((400, 300), (0, 0, 255, 255))
    """

    def __init__(self, mask: Any, **options: Any) -> None:
        AbstractSlide.__init__(self)
        known = {item.name for item in fields(RenderOptions)} & set(_OPTIONS)
        if unknown := sorted(set(options) - known):
            raise TypeError(f"VirtualSlide() has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
        try:
            self._open(mask, RenderOptions(**({"compression": "deflate"} | options)))
        except BadInput as error:
            error.args = (for_python(str(error)),)
            raise

    @classmethod
    def with_options(cls, mask: Any, options: RenderOptions) -> Self:
        """Open a slide for a command, whose errors name options with dashes."""
        slide = cls.__new__(cls)
        AbstractSlide.__init__(slide)
        slide._open(mask, options)
        return slide

    def _open(self, source: Any, options: RenderOptions) -> None:
        model = load_model(
            options.model,
            device=options.device,
            threads=options.threads,
            precision=options.precision,
            runtime=options.runtime,
        )
        if model.card.sampler is not None:
            raise BadInput(
                f"generator {model.card.name!r} is a sampler, whose picture is made in passes over the whole slide; render it with "
                "safron-render, and open the slide"
            )
        mask: LabelMask = (
            source
            if isinstance(source, LabelMask)
            else open_mask(source, palette=model.card.palette, palette_tolerance=options.palette_tolerance)
        )
        self.options = options
        info = with_chosen_inputs(GeneratorInfo.of(model), model, mask, options)
        plan = plan_render(mask, info, Target.of(Path("virtual.svs")), options)
        job = ViewJob(plan, mask, info, Scratch(Path("virtual.safron")))
        if info.on_gpu:
            tried = warm_up(model, info, plan)
            job = replace(job, plan=replace(plan, batch=tried.batch), model=tried.info)
        RenderedTiles.__init__(self, job, model, options.memory)

    # OpenSlide's interface.

    @classmethod
    def detect_format(cls, filename: Any) -> str | None:
        """Return None: no file is a virtual slide."""
        return None

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return self.plan.slide.level_count

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        return tuple((level.width, level.height) for level in self.plan.pyramid.levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Pixels of level 0 along a pixel of each level: exactly 1, 2, 4 and so on.

        OpenSlide derives them from the sizes of the levels, which are rounded.
        """
        return tuple(float(level.downsample) for level in self.plan.pyramid.levels)

    @cached_property
    def _properties(self) -> Mapping[str, str]:
        slide = self.plan.slide
        found = {"openslide.vendor": "safron", "openslide.level-count": str(slide.level_count)}
        found["openslide.background-color"] = "{:02X}{:02X}{:02X}".format(*slide.background)
        if slide.mpp is not None:
            found |= dict.fromkeys(("openslide.mpp-x", "openslide.mpp-y"), f"{slide.mpp:g}")
        if slide.objective_power is not None:
            found["openslide.objective-power"] = f"{slide.objective_power:g}"
        for level in slide.pyramid.levels:
            at = f"openslide.level[{level.index}]"
            found |= {f"{at}.width": str(level.width), f"{at}.height": str(level.height)}
            found[f"{at}.downsample"] = str(level.downsample)
        return found | {f"safron.{key}": value for key, value in slide.metadata}

    @property
    def properties(self) -> Mapping[str, str]:
        """Metadata under OpenSlide's names, and what decides the pixels under ``safron.``."""
        return self._properties

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """Nothing: there is no label and no macro image."""
        return {}

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Return the coarsest level whose pixels are not larger than `downsample` pixels of level 0."""
        return max(
            (level for level, step in enumerate(self.level_downsamples) if step <= downsample), default=0
        )

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Render a region, or as much of it as is not kept.

        Parameters
        ----------
        location
            (x, y) of its upper left pixel, in pixels of level 0; rounded down to a pixel of the level.
        level
            The level.
        size
            (width, height) in pixels of the level.

        Returns
        -------
        Image.Image
            RGBA; transparent beyond the slide.

        Raises
        ------
        BadInput
            The generator does not know a label under the region.
        """
        if not 0 <= level < self.level_count:
            raise ValueError(f"level {level}: the slide has levels 0 to {self.level_count - 1}")
        (x, y), (width, height) = location, size
        if width < 0 or height < 0:
            raise ValueError(f"size {width}, {height}: must not be negative")
        window = Window(y >> level, x >> level, height, width)
        rgba = np.zeros((height, width, 4), np.uint8)
        inside = window.clip(self.bounds(level))
        if not inside.empty:
            part = rgba[inside.slices(window)]
            part[..., :3] = self.read(level, inside)
            part[..., 3] = 255
        return Image.fromarray(rgba, "RGBA")

    @property
    def region_origin(self) -> tuple[int, int]:
        """(x, y) of the slide's first pixel in the mask; not 0, 0 where it shows a region of it."""
        return self.plan.region.x, self.plan.region.y
