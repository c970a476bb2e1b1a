"""Which settings define a diffusion model and its training?

Defaults are those of NASDM (Shrivastava and Fletcher, 2023) and its base SDM (Wang et al., 2022) where a CPU can afford them:
T = 1000 steps of noise on a linear schedule, AdamW, a moving average, labels left out in a fifth of the crops for
classifier-free guidance. Attention is left out, and the variance is learned only where that is asked for: DDIM does not use it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta
from safron.io.errors import BadInput
from safron.io.fields import Byte, Count, Mpp, NotNegative
from safron.io.legend import Label
from safron.training.config.settings import GLASS

Share = Annotated[float, Meta(ge=0, lt=1)]

LABELS = (
    Label(0, "background", (255, 255, 255), GLASS),
    Label(1, "tissue", (255, 200, 220)),
    Label(2, "epithelial", (0, 160, 0)),
    Label(3, "inflammatory", (0, 0, 255)),
    Label(4, "spindle", (255, 0, 0)),
    Label(5, "miscellaneous", (255, 160, 0)),
)
"""Background, tissue without nuclei, and the classes of CoNSeP."""

NUCLEI = (2, 3, 4, 5)
"""Which of these labels are nuclei."""

NULL_LABEL = 255
"""Label of no condition: none of the one-hot channels."""


@dataclass(frozen=True)
class RunSettings:
    """Settings that runs of all diffusion models have, whatever they learn.

    Attributes
    ----------
    name
        On the card.
    labels
        Values 0, 1, 2, ... of the masks.
    mpp
        Pixel size in micrometres.
    prediction
        What is predicted: the noise ("epsilon", as in the paper), the picture ("x0") or "v".
    context
        Pixels that a patch reads around what it writes.
    crop
        Side of a crop in pixels.
    batch
        Crops in a step.
    steps
        Of training.
    rate
        Learning rate of AdamW; falls to a fifth over the last fifth of the steps, as 1e-4 to 2e-5 in the paper.
    ema
        Of the moving average of the weights.
    seed
        Of weights, crops and noise.
    """

    name: str = "diffusion"
    labels: tuple[Label, ...] = LABELS
    mpp: Mpp = 0.5
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    context: NotNegative = 20
    crop: Count = 128
    batch: Count = 8
    steps: Count = 20000
    rate: float = 1e-4
    ema: Share = 0.999
    seed: NotNegative = 0

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain_label))
        return plain

    def sha256(self) -> str:
        """Return a hash of the settings."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _plain_label(label: Any) -> Any:
    return {name: getattr(label, name) for name in ("value", "name", "color", "fill")}


@dataclass(frozen=True)
class DiffusionConfig(RunSettings):
    """All settings of a run that learns tissue.

    Attributes
    ----------
    widths
        Channels at half and at a quarter of the resolution.
    blocks
        Residual blocks of each level, in the encoder and in the decoder.
    norm
        "pixel" normalizes each pixel over its channels, so that patches agree; "group" takes statistics over the patch, as
        SDM does.
    dropped
        Share of crops without labels.
    held_out
        Share of slides that are not trained on.
    nuclei
        Labels of nuclei whose edges are an input, too (`safron.io.masks.edges`); none for labels alone.
    learned_variance
        Whether the network says the variance of each step, too, and learns it from L_vlb (`safron.training.diffusion.variance`). What is
        predicted is learned alike with and without; DDIM uses no variance, so an exported file has none.
    vlb
        Share of L_vlb in the loss.
    """

    name: str = "nuclei-diffusion"
    widths: tuple[Count, Count] = (32, 64)
    blocks: Count = 1
    norm: Literal["pixel", "group"] = "pixel"
    dropped: Share = 0.2
    held_out: Share = 0.17
    nuclei: tuple[Byte, ...] = ()
    learned_variance: bool = False
    vlb: Annotated[float, Meta(ge=0)] = 0.001

    @property
    def conditions(self) -> int:
        """Channels in which labels, and edges if the network takes them, go in."""
        return len(self.labels) + bool(self.nuclei)

    def __post_init__(self) -> None:
        if self.crop % 4 or self.context % 4:
            raise BadInput(
                f"crop {self.crop} and context {self.context} must be multiples of 4, by which the network reduces"
            )
        if self.context < 4:
            raise BadInput(
                f"context {self.context} must be at least 4, from which background fades into its fill"
            )
