"""Which layout has the slide, and what does it say of itself?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safron.engine.generator.model import GeneratorInfo
from safron.engine.plan.scale import Scale
from safron.engine.plan.window import Window
from safron.engine.stains.stain import StainChange
from safron.engine.system.versions import version
from safron.io.slides.spec import SlideSpec, choose_pyramid

from .options import RenderOptions


def slide_spec(
    region: Window,
    mpp: float | None,
    flavor: Any,
    options: RenderOptions,
    info: GeneratorInfo,
    tile: int,
    scale: Scale,
) -> SlideSpec:
    """Decide the layout and metadata of the slide, which may not depend on blocks, workers or batches."""
    height, width = region.height, region.width
    pyramid = choose_pyramid(
        height,
        width,
        tile=options.tiff_tile,
        level_count=options.level_count,
        flavor=flavor,
        compression=options.compression,
    )
    if options.align:
        step = 1 << (pyramid.level_count - 1)
        height, width = -(-height // step) * step, -(-width // step) * step
    metadata = {
        "Generator": info.card.name,
        "Generator version": info.card.version,
        "Generator SHA-256": info.sha256,
        "Generator licence": info.card.licence,
        "Seed": options.seed,
        "Patch tile": tile,
        "Patch overlap": options.overlap,
        "Taper": options.taper,
        "Mask region XYWH": f"{region.x} {region.y} {region.width} {region.height}",
        "Synthetic": "yes, made from a mask; not for diagnosis",
    }
    if info.card.sampler is not None:
        sampler = info.card.sampler
        metadata["Sampler"] = f"{sampler.kind}, {len(sampler.times)} steps, guidance {sampler.guidance:g}"
    if info.card.style is not None and options.style is not None:
        metadata["Style"] = Path(options.style).name
    if info.card.initial is not None:
        metadata["Initial image"] = f"{Path(info.card.initial.source).name} {info.card.initial.content}"
    if not scale.is_one:
        metadata["Generator um per pixel"] = f"{info.card.mpp:g}"
        metadata["Generator pixels per pixel"] = str(scale.ratio)
    return SlideSpec(
        height=height,
        width=width,
        mpp=mpp,
        level_count=pyramid.level_count,
        flavor=flavor,
        compression=options.compression,
        quality=options.quality,
        chroma=options.chroma,
        tile=pyramid.tile,
        background=info.card.background,
        software=f"safron {version('safron')}",
        metadata=tuple((key, str(value)) for key, value in metadata.items()) + arithmetic(info),
    )


def stained(slide: SlideSpec, stain: StainChange) -> SlideSpec:
    """Record a stain, and the colour that it gives to the background."""
    facts = {"Stain": stain.name} | ({"Stain field": f"{stain.variation:g}"} if stain.variation else {})
    return replace(
        slide, background=stain.color(slide.background), metadata=(*slide.metadata, *facts.items())
    )


def arithmetic(info: GeneratorInfo) -> tuple[tuple[str, str], ...]:
    """Say in the slide's metadata what computed it, where that is not ONNX Runtime in float32."""
    if info.precision == "float32" and not info.runtime.startswith("OpenVINO"):
        return ()
    runtime = info.runtime.partition(",")[0]  # the name of a GPU stays out of the slide
    return ("Generator runtime", runtime), ("Generator precision", info.precision)
