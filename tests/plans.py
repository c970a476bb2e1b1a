"""Render plans of any canvas, with a slide to go with them; and the canvas that a plan should give, by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from oracle import render_whole
from safron.engine.generator.model import GeneratorInfo
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.planes import noise_spec
from safron.engine.plan.render_plan import RenderPlan, choose_bits, make_grid
from safron.engine.plan.scale import ONE
from safron.engine.plan.taper import Taper, TaperName
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


def expected(
    mask: npt.NDArray[np.uint8],
    model: Any,
    *,
    tile: int,
    overlap: int,
    taper: TaperName = "flat",
    seed: int = 0,
    planes: Callable[[Window], dict[str, Any]] = lambda read: {},
) -> npt.NDArray[np.uint8]:
    """The canvas that a render must equal, uint8 [y, x, 3]; see `oracle.render_whole`."""
    chosen = Taper(taper)
    grid = PatchGrid(*mask.shape, tile, overlap, model.card.context)
    bits = choose_bits(grid, chosen, returns_uint8=GeneratorInfo.of(model).returns_uint8)
    weights = chosen.weights(tile=tile, overlap=overlap)
    return render_whole(
        mask, model, tile=tile, overlap=overlap, weights=weights, bits=bits, seed=seed, planes=planes
    )
