"""Which settings define a training run and the generator that it makes?

`ModelConfig` describes the network and what it promises (context, alignment, noise); `TrainConfig` adds losses and schedule.
Both are frozen dataclasses whose types carry their bounds; `check_config` holds the rules between settings. The hash of the
settings goes on the card, which traces a generator to them. `presets.toml` has the named settings.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta
from safron.io.console import warn
from safron.io.errors import BadInput
from safron.io.fields import HUGE, Byte, Count, Mpp, NotNegative, convert, shown
from safron.io.files import parse_text
from safron.io.json_texts import object_of, parse_json
from safron.io.legend import Label

if TYPE_CHECKING:
    from safron.io.measures.guides import Guides

Levels = Annotated[int, Meta(ge=1, le=12)]
Weight = Annotated[float, Meta(ge=0, le=HUGE, description="a finite number, 0 or more")]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
Share = Annotated[float, Meta(ge=0, le=1, description="a share of the run, 0 to 1")]

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
    """A generator: its network, its widths, and what it promises to the engine that stitches its patches."""

    # Name on the card.
    name: str = "safron-seamless"
    # `networks.SeamlessGenerator` or `networks.PaperGenerator`.
    network: Literal["seamless", "paper"] = "seamless"
    # Label pixels read on each side of a patch.
    context: NotNegative = 20
    # Patches agree where their origins are multiples of this many pixels.
    alignment: Count = 4
    # Patch size in pixels. With `dynamic_tile` it is the default, and the graph takes any multiple of `alignment`.
    tile: Annotated[int, Meta(ge=1, le=4096)] = 256
    dynamic_tile: bool = True
    # One entry per noise channel: 1 is white noise, s > 1 a smooth field on a lattice of s pixels.
    noise_scales: tuple[Annotated[int, Meta(ge=1, le=65536)], ...] = (1, 1, 8, 32, 32)
    # Seamless network: channels of stem, down, trunk, up at half scale, up at full scale.
    widths: tuple[Count, Count, Count, Count, Count] = (16, 32, 80, 48, 24)
    # The mask's values 0, 1, 2, ... in order.
    labels: tuple[Label, ...] = LABELS

    # What follows came after the first version, which did what the defaults say: see `TrainConfig.sha256`.
    # Pixels that neighbouring patches of a training tile share; they are averaged.
    overlap: NotNegative = 20
    # Pixel size in micrometres; none: the data's own, which a run fills in if it is known.
    mpp: Mpp | None = None
    # Paper's network: channels of its first layer; how often it halves the scale, a patch being 2^levels; whether encoder
    # layers are joined to the decoder; share of channels dropped in training.
    base: Count = 64
    levels: Levels = 8
    skips: bool = True
    dropout: BelowOne = 0.5
    # Seamless network: label values whose guides it reads (`safron.io.measures.guides`), and the radius in pixels at
    # which these are truncated; whether it takes a style (`safron.io.measures.style`) and is trained on stains as they are.
    guides: tuple[Annotated[int, Meta(ge=0, le=255)], ...] = ()
    guide_radius: Annotated[int, Meta(ge=8, le=128, multiple_of=4)] = 64
    style: bool = False
    # Labels of nuclei. Where there are some, the network has their edges as an input (`safron.io.masks.edges`), and the cues are
    # the darkness of nuclei and of the tissue around them.
    nuclei: tuple[Byte, ...] = ()
    # Paper's network: how many times coarser the image is that it refines, its input `initial`; 0 where it refines none.
    coarse: NotNegative = 0
    # Where their edges come from: the borders of single nuclei, or Canny's edges of the real image, as in "Synthetic
    # augmentation using edge features"; a mask alone does not have the latter.
    edges_of: Literal["instances", "image"] = "instances"

    @property
    def conditions(self) -> int:
        """Channels in which labels, and edges and a coarse image if the network takes them, go in."""
        return len(self.labels) + bool(self.nuclei) + 3 * bool(self.coarse)

    @property
    def guide(self) -> Guides | None:
        """Which guides it reads, or None."""
        from safron.io.measures.guides import Guides  # with NumPy and OpenCV, which no help needs

        return Guides(self.guides, self.guide_radius) if self.guides else None


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on, apart from the data.

    Lengths are in steps or in pixels. Losses are taken of images in [-1, 1].
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    # Seed of first weights, batches and noise.
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    steps: Count = 10_000
    # Training tiles per step, and their side for the seamless network; for the paper's it follows from `grid`.
    batch: Count = 3
    patch: Count = 160
    # Adam. Over the last `cooldown` of the run the rates fall to a twentieth.
    generator_rate: Weight = 2e-4
    discriminator_rate: Weight = 4e-4
    betas: tuple[BelowOne, BelowOne] = (0.5, 0.99)
    cooldown: Share = 0.4
    # Weights of losses move from start to end over the first `settle` of the run.
    settle: Annotated[float, Meta(gt=0, le=1, description="a share of the run, above 0 and at most 1")] = 0.3
    # Decay of the moving average of the generator's weights, which is exported; 0 exports the last weights.
    ema: BelowOne = 0.999
    # First channels of the two networks of "scales", at full and at half scale.
    discriminator_widths: tuple[Count, Count] = (48, 64)
    # Weights (start, end) of `losses.FeatureLoss`, `losses.AnchorLoss` over squares of `anchor_cell` pixels, and
    # `losses.PixelLoss`; that of the adversarial loss is 1.
    feature_weight: tuple[Weight, Weight] = (4.0, 1.5)
    anchor_weight: tuple[Weight, Weight] = (10.0, 4.0)
    anchor_cell: NotNegative = 16
    pixel_weight: tuple[Weight, Weight] = (1.0, 0.0)
    # Mixed precision where the device has bfloat16; see also `float16`.
    bfloat16: bool = True
    # Share of the slides that is kept from training.
    held_out: BelowOne = 0.1

    # What follows came after the first version, which did what the defaults say; `sha256` leaves out defaults.
    # If not 0, `steps` follows from it: an epoch is as many tiles as are cut from the data at every `epoch_stride` pixels
    # (the paper: 200 for CRAG, 512 for DigestPath).
    epochs: NotNegative = 0
    epoch_stride: Count = 200
    # The paper's training tile is `grid` x `grid` stitched patches.
    grid: Count = 3
    # `ScalesDiscriminator`, `TileDiscriminator` (whose first channels and halvings follow) or `ProjectedDiscriminator` (whose
    # first channels are the first of `discriminator_widths`) of `discriminators`.
    discriminator_network: Literal["scales", "pix2pix", "projected"] = "scales"
    # The discriminator sees the stitched tile, or each patch by itself.
    discriminator_input: Literal["tile", "patch"] = "tile"
    discriminator_base: Count = 64
    discriminator_levels: Levels = 5
    # Form of the adversarial loss: `losses.HingeLoss` or `losses.LogLoss`.
    adversarial: Literal["hinge", "log"] = "hinge"
    # Share of the run after which batch norms use their running statistics, as the exported graph does, and whether
    # dropout ends there too.
    freeze_norms: Share = 1.0
    freeze_dropout: bool = False
    # Mixed precision with a scaled loss, for GPUs without bfloat16.
    float16: bool = False
    # Pixel size of pairs in micrometres, before they are brought to the model's; none: what their files say.
    image_mpp: Mpp | None = None
    # Steps at the start in which only the discriminator learns, for a generator that begins with another's weights.
    generator_delay: NotNegative = 0

    @property
    def stride(self) -> int:
        """Pixels from patch to patch of a training tile."""
        return self.model.tile - self.model.overlap

    @property
    def tile_side(self) -> int:
        """Side of a training tile in pixels."""
        if self.model.network == "seamless":
            return self.patch
        return self.model.tile + (self.grid - 1) * self.stride

    @property
    def sheet_tile(self) -> int:
        """Side of the patches on a sample sheet, 3 x 3 of which make about a training tile."""
        model = self.model
        if model.network == "paper":
            return model.tile
        side = (self.patch + 2 * model.overlap) // 3
        return max(side, model.overlap + model.alignment) // model.alignment * model.alignment

    @property
    def least_side(self) -> int:
        """Side of the smallest image that holds a training tile and a window of a sample sheet, with their context."""
        sheet = 3 * self.sheet_tile - 2 * self.model.overlap
        return max(self.tile_side, sheet) + 2 * self.model.context

    @property
    def discriminator_side(self) -> int:
        """Side of the images that the discriminator sees, in pixels."""
        return self.model.tile if self.discriminator_input == "patch" else self.tile_side

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def sha256(self) -> str:
        """Hash the settings: equal settings give equal hashes on every machine and in every version."""
        plain, once = self.to_json(), {new: old for old, new in RENAMED.items()}
        for part, kind, first in ((plain, TrainConfig, "epochs"), (plain["model"], ModelConfig, "overlap")):
            names = [entry.name for entry in fields(kind)]
            for entry in fields(kind)[names.index(first) :]:
                value = part.pop(entry.name)
                default = [*entry.default] if isinstance(entry.default, tuple) else entry.default
                if value not in (default, AT_FIRST.get(entry.name)):
                    part[once.get(entry.name, entry.name)] = value
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


RENAMED = {
    "judge": "discriminator_network",
    "judged": "discriminator_input",
    "judge_base": "discriminator_base",
    "judge_levels": "discriminator_levels",
}
"""Names of settings in version 0.1, by which they are still read and hashed, and today's."""

AT_FIRST = {"mpp": 1.0, "image_mpp": 1.0}
"""Values of the first version where today's default is another; settings that it wrote down do not name them."""

REMOVED: dict[str, tuple[Any, ...]] = {"grid_phase": (False,), "diffaugment": ([], ())}
"""Settings of version 0.1 that are gone, and the values that mean the same today."""


def current_settings(plain: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return settings under today's names, without those that are gone.

    Raises
    ------
    BadInput
        A setting that is gone was in use.
    """
    plain = {RENAMED.get(name, name): value for name, value in plain.items()}
    gone = [name for name, harmless in REMOVED.items() if name in plain and plain[name] not in harmless]
    if plain.get("discriminator_network") == "classes":
        gone.append("discriminator_network")
    if gone:
        raise BadInput(
            f"{source}: {gone[0]} is {shown(plain[gone[0]])}; that was removed in 0.2: leave it out, or use safron 0.1"
        )
    return {name: value for name, value in plain.items() if name not in REMOVED}


def config_from_json(plain: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a `TrainConfig` from `TrainConfig.to_json`, of this version or of an older one."""
    first = TrainConfig(image_mpp=AT_FIRST["image_mpp"], model=ModelConfig(mpp=AT_FIRST["mpp"]))
    return override(first, current_settings(plain, "settings"), "settings")


def override(config: TrainConfig, changes: Mapping[str, Any], source: str) -> TrainConfig:
    """Change single settings.

    Parameters
    ----------
    config, changes
        Settings to start from, and what changes: names and JSON values as in `TrainConfig.to_json`.
    source
        Name of the changes in messages, such as a file name.

    Raises
    ------
    BadInput
        A name is unknown, a value is of the wrong kind or out of bounds, or settings contradict each other.

    Examples
    --------
    >>> override(TrainConfig(), {"batch": 4, "model": {"mpp": 0.5}}, "example").model.mpp
    0.5
    """
    if old := [name for name in changes if name in RENAMED]:
        pairs = ", ".join(f"{name} is now {RENAMED[name]}" for name in old)
        warn("safron-train", f"{source}: old names of settings: {pairs}")
    changes = current_settings(changes, source)
    model = changes.get("model", {})
    plain = config.to_json()
    plain |= changes | {"model": plain["model"] | dict(model) if isinstance(model, Mapping) else model}
    return check_config(convert(plain, TrainConfig, source), source)


def check_config(config: TrainConfig, source: str = "settings") -> TrainConfig:
    """Return `config` if its settings agree: if it can be trained, exported and rendered.

    Raises
    ------
    BadInput
        Settings contradict each other.
    """
    c, m, values = config, config.model, [label.value for label in config.model.labels]
    cell_fits = c.anchor_cell > 0 and (c.anchor_cell <= c.tile_side or not any(c.anchor_weight))
    # The two networks of "scales" halve four times; "pix2pix" adds two convolutions and a norm, which needs two pixels.
    pix2pix = c.discriminator_network == "pix2pix"
    left = c.discriminator_side >> (c.discriminator_levels if pix2pix else 4)
    in_order = "label values must be 0, 1, 2, ... in order, up to 255; renumber the masks"
    whole = "the seamless network has no patches in training: leave it out, or choose --preset safron"
    multiple = f"give a multiple of {m.alignment}, which is model.alignment"
    power = f"the paper's network halves it to one pixel: give 2^levels; model.levels is {m.levels}"
    only = f"the paper's network takes tiles of {m.tile} px only: give false, or that model.alignment"
    halved = f"its layers halve its input of {c.discriminator_side} px to nothing: give larger tiles, or fewer levels"
    rules: list[tuple[bool, str, str]] = [
        (values == list(range(max(1, len(values)))), "model.labels", in_order),
        (m.overlap < m.tile, "model.overlap", f"give less than the tile, {m.tile} px"),
        ({*m.nuclei} <= {*values}, "model.nuclei", "give values of model.labels"),
        (cell_fits, "anchor_cell", f"give 1 to {c.tile_side}, the side of a training tile"),
        (left >= (3 if pix2pix else 1), "discriminator_network", halved),
    ]
    if m.network == "seamless":
        rules += [
            (c.discriminator_input == "tile", "discriminator_input", whole),
            (m.context == 20, "model.context", "the seamless network reads 20 px: give 20"),
            (m.alignment % 4 == 0, "model.alignment", "patches agree at multiples of 4 px: give one"),
            (m.tile % m.alignment == 0, "model.tile", multiple),
            (c.patch % m.alignment == 0, "patch", multiple),
            (m.noise_scales != (), "model.noise_scales", "this network takes noise: give one scale or more"),
            (not m.coarse, "model.coarse", "the seamless network refines no image: give 0"),
            (
                len({*m.guides}) == len(m.guides) and {*m.guides} <= {*values},
                "model.guides",
                "give label values, each once",
            ),
        ]
    else:
        rules += [
            (m.tile == 2**m.levels, "model.tile", power),
            (m.noise_scales == (), "model.noise_scales", "this network takes no noise: give an empty list"),
            (
                m.guides == () and not m.style,
                "model.guides",
                "the paper's network takes neither guides nor a style",
            ),
            (not m.dynamic_tile or m.alignment == m.tile, "model.dynamic_tile", only),
            (
                not m.coarse or (c.tile_side + 2 * m.context) % m.coarse == 0,
                "model.coarse",
                f"give a divisor of {c.tile_side + 2 * m.context} px, the side of a training tile with its context",
            ),
        ]
    for holds, name, text in rules:
        if not holds:
            raise BadInput(f"{source}: {name} is {shown(attrgetter(name)(config))}; {text}")
    return config


_PRESET_FILE = Path(__file__).with_name("presets.toml")


def _read_presets(text: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the presets; one that is `like` an earlier one has its settings but for those that it names."""
    presets = tomllib.loads(text)
    for own in presets.values():
        for size, settings in presets.get(own.pop("like", ""), {}).items():
            mine = own.get(size, {})
            own[size] = settings | mine | {"model": settings.get("model", {}) | mine.get("model", {})}
    return presets


SIZES = _read_presets(_PRESET_FILE.read_text(encoding="utf-8"))
"""By preset and size what a run changes in `TrainConfig`; smaller sizes change the full one."""

PRESETS = {name: override(TrainConfig(), sizes["full"], f"preset {name}") for name, sizes in SIZES.items()}
"""The generator that ships, the SAFRON paper's, pix2pix and a multi-scale GAN, which the paper compares with, and others."""


def preset(name: str, size: str = "full") -> TrainConfig:
    """Return the settings called `name` in one of their sizes.

    Raises
    ------
    BadInput
        There is no such preset or size.
    """
    if name not in PRESETS:
        raise BadInput(f"preset {name!r} does not exist; choose one of {', '.join(sorted(PRESETS))}")
    if size not in SIZES[name]:
        raise BadInput(f"preset {name} has no size {size!r}; choose one of {', '.join(SIZES[name])}")
    return override(PRESETS[name], SIZES[name][size], f"preset {name}")


def read_overrides(path: Path) -> dict[str, Any]:
    """Read a file of settings to change: YAML (``.yaml``, ``.yml``), TOML (``.toml``), or else JSON.

    Raises
    ------
    BadInput
        It is missing, or its content is not what its name says.
    """
    kind = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML"}.get(path.suffix.lower(), "JSON")
    read: dict[str, Callable[[str], Any]] = {"YAML": _read_yaml, "TOML": tomllib.loads, "JSON": parse_json}
    remedy = "its name must end in .yaml, .toml or .json, after its content"
    plain = parse_text(path, read[kind], kind=kind, remedy=remedy)
    if not isinstance(plain, dict):
        raise BadInput(f'{path} holds no settings; it must look like {{"batch": 4}}')
    return plain


def _read_yaml(text: str) -> Any:
    import yaml

    # PyYAML's safe loader, except that 1e-4 is a number, as in YAML 1.2, and not text, and that a name stands once.
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))

    def mapping(made: Any, node: Any) -> dict[Any, Any]:
        object_of([(name.value, name) for name, _ in node.value])
        found: dict[Any, Any] = made.construct_mapping(node, deep=True)
        return found

    loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return yaml.load(text, loader)
