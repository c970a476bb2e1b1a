"""Which settings define a mask model and its training?

After the mask model of NASDM (Shrivastava and Fletcher, 2023): which types of nuclei are present is one vector, added to the
embedding of the time. What a crop lies in, such as tumour or stroma, is known in each pixel; in a part of the crops it is
hidden, so that a canvas without regions can be sampled, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safron.io.errors import BadInput
from safron.io.fields import Count, NotNegative
from safron.io.legend import Label
from safron.training.diffusion.settings import RunSettings, Share

EMPTY = (0, 128, 128)
"""Colour of a pixel far from nuclei; see `safron.io.masks.nucleus_code`."""

TISSUE = 1
"""Label of tissue of which nothing more is known."""


@dataclass(frozen=True)
class LayoutConfig(RunSettings):
    """All settings of a run that learns layouts; `labels` are those of regions, 0 background and 1 tissue of any kind.

    Attributes
    ----------
    types
        Of nuclei, in the order of their numbers from 1; the most frequent first, see `nucleus_code.circle`.
    widths
        Channels at a quarter and at an eighth of the size.
    blocks
        Residual blocks at an eighth of the size.
    hidden
        Share of crops whose regions are hidden: all their labels but background become `TISSUE`.
    rare
        Share of crops around a nucleus of a type drawn at random; the others lie anywhere.
    held_out
        Rows of the slide that are not trained on, from and to, as shares of its height.
    bfloat16
        Train in bfloat16 where that is exact enough and the CPU has it, which takes half the time.
    """

    name: str = "nuclei-masks"
    types: tuple[str, ...] = (
        *("neoplastic", "inflammatory", "connective"),
        *("dead", "macrophage_cell", "macrophage_nucleus"),
    )
    labels: tuple[Label, ...] = (
        Label(0, "background", (255, 255, 255), EMPTY),
        Label(TISSUE, "tissue", (255, 200, 220)),
    )
    widths: tuple[Count, Count] = (64, 96)
    blocks: Count = 2
    prediction: Literal["epsilon", "x0", "v"] = "x0"
    hidden: Share = 0.3
    rare: Share = 0.25
    context: NotNegative = 40
    crop: Count = 96
    batch: Count = 4
    steps: Count = 10000
    rate: float = 5e-4
    held_out: tuple[Share, Share] = (0.55, 0.7)
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.crop % 8 or self.context % 8:
            raise BadInput(
                f"crop {self.crop} and context {self.context} must be multiples of 8, by which the network reduces"
            )
