"""Render plans of any canvas, with a slide to go with them."""

from __future__ import annotations

from typing import Any

from safron.engine.plan.planes import noise_spec
from safron.engine.plan.render_plan import RenderPlan, make_grid
from safron.engine.plan.scale import ONE
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.io.slides.pyramid import Pyramid
from safron.io.slides.writer import SlideSpec


def plan_for(height: int, width: int, **changes: Any) -> RenderPlan:
    """Plan a whole canvas in patches of 256 and blocks of 2048 pixels, or as `changes` say."""
    tile, overlap = changes.pop("tile", 256), changes.pop("overlap", 20)
    region = changes.pop("region", Window(0, 0, height, width))
    slide_tile = changes.pop("slide_tile", 512)
    levels = Pyramid.auto(region.height, region.width, slide_tile).level_count
    slide = SlideSpec(height=region.height, width=region.width, mpp=0.5, level_count=levels, tile=slide_tile)
    options: dict[str, Any] = {"block": 2048, "batch": 1, "bits": 12, "seed": 0, "planes": noise_spec((1,))}
    scale = changes.pop("scale", ONE)
    grid = make_grid(
        height=scale.drawn(height), width=scale.drawn(width), tile=tile, overlap=overlap, context=20
    )
    plan = {"grid": grid, "taper": Taper(), "canvas": Window(0, 0, height, width), "region": region}
    return RenderPlan(**(plan | {"scale": scale, "slide": slide} | options | changes))
