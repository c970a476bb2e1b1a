"""What do generators cost by the size of the image, in arithmetic and in memory? Computed, as section V of the SAFRON paper does.

    python benchmarks/arithmetic.py --plot arithmetic.svg

`safron` and `safron-seamless` make patches of 256 pixels at a stride of 236, so only their number grows with the image. `pix2pix,
whole image` is pix2pix with as many layers as halve the image to one pixel, which is how the paper enlarges it. `multi-scale` is
the scheme of Uzunova et al. (2019): a GAN makes the image at 256 pixels a side, and one for each doubling refines it by patches of
256 pixels; each is counted as pix2pix's U-Net. Multiply-adds are those of all convolutions. Memory to train is what the paper counts:
outputs of all layers of both networks for one step, forward and backward, and the weights, in float32. Memory to render is
the same of one forward call of the generator: an upper bound, since layers are freed on the way. `python benchmarks/training.py` measures
a training step, and `python benchmarks/scale.py canvas --model FILE` measures a render.
Needs the extra "train".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safron.engine.evaluation.seam_report import format_table
from safron.training.config.settings import PRESETS, TrainConfig
from safron.training.discriminators import make_discriminator
from safron.training.networks import make_generator
from torch import nn

SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 100_000)
FLOAT = 4
LAYERS = (nn.Conv2d, nn.ConvTranspose2d)
COLORS = ("#3b6ea5", "#d1495b", "#3f7d4e", "#c98a1b")


@dataclass(frozen=True)
class Cost:
    """What one call costs: multiply-adds, and numbers in the outputs of all layers and in the weights."""

    multiply_adds: int
    outputs: int
    weights: int


def count(network: nn.Module, *shapes: tuple[int, ...]) -> Cost:
    """Count one call; nothing is computed, so any size will do."""
    multiply_adds = outputs = 0

    def add(layer: nn.Module, _: object, made: torch.Tensor) -> None:
        nonlocal multiply_adds, outputs
        outputs += made.numel()
        if isinstance(layer, nn.Conv2d):
            multiply_adds += made.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            multiply_adds += made.numel() * layer.weight[:, 0].numel() // (layer.stride[0] * layer.stride[1])

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(add) for module in leaves]
    device = next(network.parameters()).device
    with torch.no_grad():
        network(*(torch.zeros(shape, device=device) for shape in shapes))
    for hook in hooks:
        hook.remove()
    return Cost(multiply_adds, outputs, sum(value.numel() for value in network.parameters()))


@cache
def generator_cost(name: str, side: int, patches: int = 1) -> Cost:
    """Cost of a preset's generator for patches of `side` pixels; pix2pix has the layers that this takes."""
    model = PRESETS[name].model
    if name == "pix2pix":
        model = replace(model, levels=side.bit_length() - 1, tile=side, alignment=side)
    read = side + 2 * model.context
    shapes = [(patches, len(model.labels), read, read)]
    shapes += [(patches, len(model.noise_scales), read, read)] if model.noise_scales else []
    with torch.device("meta"):
        return count(make_generator(model), *shapes)


@cache
def discriminator_cost(name: str, side: int) -> Cost:
    """Cost of a preset's discriminator for images of `side` pixels."""
    config = PRESETS[name]
    # Spectral norms need a device that computes.
    with torch.device("cpu" if config.discriminator_network == "scales" else "meta"):
        return count(
            make_discriminator(config), (1, len(config.model.labels), side, side), (1, 3, side, side)
        )


def patches(side: int, config: TrainConfig) -> int:
    """Patches that cover an image."""
    return max(1, math.ceil((side - config.model.overlap) / config.stride)) ** 2


def power(side: int) -> int:
    """Smallest power of two from `side` on: what a network that halves to one pixel takes."""
    return 1 << (side - 1).bit_length()


def scales(side: int) -> list[int]:
    """Sides of the images of the multi-scale scheme, from 256 pixels up."""
    return [min(side, 256 << level) for level in range((power(side) // 256).bit_length())]


def multiply_adds(name: str, side: int) -> int:
    """Multiply-adds of all convolutions for an image of `side` x `side` pixels."""
    if name == "pix2pix, whole image":
        return generator_cost("pix2pix", power(side)).multiply_adds
    one = generator_cost("pix2pix" if name == "multi-scale" else name, 256).multiply_adds
    if name == "multi-scale":
        return one * sum(patches(each, PRESETS["pix2pix"]) for each in scales(side))
    return one * patches(side, PRESETS[name])


def training_bytes(name: str, side: int) -> int:
    """Bytes to train for images of that size; see the module's text."""
    if name == "pix2pix, whole image":
        parts = [generator_cost("pix2pix", power(side)), discriminator_cost("pix2pix", power(side))]
    elif name == "multi-scale":
        parts = [generator_cost("pix2pix", 256), discriminator_cost("pix2pix", 256)] * len(scales(side))
    else:
        config = PRESETS[name]
        own = config.model.network == "seamless"
        tile = generator_cost(name, config.patch) if own else generator_cost(name, 256, config.grid**2)
        parts = [tile, discriminator_cost(name, config.tile_side)]
    return FLOAT * sum(2 * part.outputs + part.weights for part in parts)


def rendering_bytes(name: str, side: int) -> int:
    """Bytes of one call of the generator, for an image of that size; see the module's text."""
    whole = name == "pix2pix, whole image"
    preset = "pix2pix" if whole or name == "multi-scale" else name
    one = generator_cost(preset, power(side) if whole else 256)
    return FLOAT * (one.outputs + one.weights)


NAMES = ("safron-seamless", "safron", "multi-scale", "pix2pix, whole image")


def rows(sides: Sequence[int], measure: Callable[[str, int], int], unit: float) -> list[list[str]]:
    """Return a table of a measure, in units."""
    head = ["pixels a side", *NAMES]
    return [
        head,
        *([f"{side:,}", *(f"{measure(name, side) / unit:,.3g}" for name in NAMES)] for side in sides),
    ]


def plot(
    sides: Sequence[int], measure: Callable[[str, int], int], unit: float, title: str, top: int
) -> list[str]:
    """Draw one diagram, both axes logarithmic, as parts of an SVG."""
    values = {name: [measure(name, side) / unit for side in sides] for name in NAMES}
    low = math.floor(math.log10(min(map(min, values.values()))))
    high = math.ceil(math.log10(max(map(max, values.values()))))

    def x(side: int) -> float:
        return 70 + 420 * math.log(side / sides[0]) / math.log(sides[-1] / sides[0])

    def y(value: float) -> float:
        return top + 220 - 200 * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="20" y="{top}" font-size="13">{title}</text>']
    for exponent in range(low, high + 1):
        at = y(10.0**exponent)
        parts.append(f'<line x1="70" x2="490" y1="{at:.1f}" y2="{at:.1f}" stroke="#d7dde3"/>')
        parts.append(f'<text x="64" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    for side in sides[::3]:
        parts.append(f'<text x="{x(side):.1f}" y="{top + 238}" text-anchor="middle">{side}</text>')
    for index, (name, found) in enumerate(values.items()):
        points = " ".join(f"{x(side):.1f},{y(value):.1f}" for side, value in zip(sides, found, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[index]}" stroke-width="2"/>')
        at = top + 20 + 16 * index
        parts.append(f'<text x="84" y="{at}" fill="{COLORS[index]}">{name}</text>')
    return parts


def main(args: Sequence[str] | None = None) -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="write the diagrams to this .svg file")
    options = parser.parse_args(args)
    tables: list[tuple[str, Any, float]] = [
        ("Multiply-adds to make one image, in 10^9", multiply_adds, 1e9),
        ("Memory to train for one image, in GiB", training_bytes, 2**30),
        ("Memory to render one image, in GiB", rendering_bytes, 2**30),
    ]
    parts = []
    for index, (title, measure, unit) in enumerate(tables):
        print(title)
        print("\n".join(format_table(rows(SIDES, measure, unit))))
        parts += plot(SIDES, measure, unit, title, 24 + 270 * index)
    if options.plot:
        style = 'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#1b2733"'
        body = "\n".join(parts)
        options.plot.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="540" height="820" {style}>\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
        )


if __name__ == "__main__":
    main()
