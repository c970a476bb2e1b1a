"""What fixes a training run and the generator it makes?

Two frozen dataclasses: `ModelConfig` names the network and its promises (context, alignment, noise), and
`TrainConfig` adds data, losses and schedule. Both turn into JSON, and the hash of that JSON goes on the card,
so that a generator can be traced to the settings that made it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from safron.io.errors import BadInput


@dataclass(frozen=True)
class Label:
    """One value of the mask: its name, its colour in masks, and the colour of glass it is painted with."""

    value: int
    name: str
    color: tuple[int, int, int]
    fill: tuple[int, int, int] | None = None


GLASS = (243, 240, 243)
"""RGB of clean glass: background in the training images is brought to this colour."""

LABELS = (
    Label(0, "background", (0, 0, 255), GLASS),
    Label(1, "stroma", (255, 0, 0)),
    Label(2, "gland", (0, 255, 0)),
)
"""Values, names and colours as in the SAFRON paper."""


@dataclass(frozen=True)
class ModelConfig:
    """A generator: which network, how wide, and what it promises to whoever stitches its patches.

    Attributes
    ----------
    name
        Name on the card.
    network
        ``"seamless"`` (`networks.SeamlessGenerator`) or ``"paper"`` (`networks.PaperGenerator`).
    context
        Label pixels read on each side of a patch, in canvas pixels.
    alignment
        Patch origins must be multiples of this many pixels.
    tile
        Default patch size, in pixels. The seamless network takes any multiple of `alignment`.
    noise_scales
        One entry a noise channel: 1 is white noise, s > 1 a smooth field on a lattice of s pixels.
    widths
        Channels at full, half and quarter scale (stem, down, trunk, up at half, up at full).
    """

    name: str = "safron-seamless"
    network: str = "seamless"
    context: int = 20
    alignment: int = 4
    tile: int = 256
    dynamic_tile: bool = True
    noise_scales: tuple[int, ...] = (1, 1, 8, 32, 32)
    widths: tuple[int, int, int, int, int] = (16, 32, 80, 48, 24)
    labels: tuple[Label, ...] = LABELS


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on, apart from the data itself.

    Lengths are in steps or in pixels; a pair ``(start, end)`` is a weight that moves linearly from start to
    end over the first `settle` of the run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    steps: int = 10_000
    batch: int = 3
    patch: int = 160
    generator_rate: float = 2e-4
    discriminator_rate: float = 4e-4
    betas: tuple[float, float] = (0.5, 0.99)
    cooldown: float = 0.4
    settle: float = 0.3
    ema: float = 0.999
    discriminator_widths: tuple[int, int] = (48, 64)
    feature_weight: tuple[float, float] = (4.0, 1.5)
    anchor_weight: tuple[float, float] = (10.0, 4.0)
    anchor_cell: int = 16
    pixel_weight: tuple[float, float] = (1.0, 0.0)
    bfloat16: bool = True
    held_out: float = 0.1

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def sha256(self) -> str:
        """Hash the settings: equal settings give equal hashes on every machine."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def config_from_json(plain: dict[str, Any]) -> TrainConfig:
    """Rebuild a `TrainConfig` from `TrainConfig.to_json`."""
    model = dict(plain["model"])
    labels = tuple(
        Label(
            entry["value"],
            entry["name"],
            _rgb(entry["color"]),
            _rgb(entry["fill"]) if entry["fill"] else None,
        )
        for entry in model.pop("labels")
    )
    model_config = ModelConfig(labels=labels, **{key: _tuples(value) for key, value in model.items()})
    rest = {key: _tuples(value) for key, value in plain.items() if key != "model"}
    return TrainConfig(model=model_config, **rest)


def _rgb(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


PRESETS: dict[str, TrainConfig] = {
    "safron-seamless": TrainConfig(),
    "safron": TrainConfig(
        model=ModelConfig(
            name="safron",
            network="paper",
            alignment=256,
            dynamic_tile=False,
            noise_scales=(),
        ),
    ),
}
"""Named settings: the generator that ships, and the network of the SAFRON paper."""


def preset(name: str) -> TrainConfig:
    """Return the settings called `name`.

    Raises
    ------
    BadInput
        There is no preset of that name.
    """
    if name not in PRESETS:
        raise BadInput(f"preset {name!r} does not exist; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
