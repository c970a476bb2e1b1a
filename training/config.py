"""What fixes a training run and the generator it makes?

Two frozen dataclasses: `ModelConfig` names the network and its promises (context, alignment, noise), and
`TrainConfig` adds data, losses and schedule. Both turn into JSON, and the hash of that JSON goes on the card,
so that a generator can be traced to the settings that made it. `PRESETS` are named settings, `SIZES` their
smaller sisters, and `override` changes single settings by a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from safron.io.errors import BadInput


def _later(default: Any) -> Any:
    """A setting that the first version did not have; its default is what that version did."""
    return field(default=default, metadata={"later": True})


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
        Patch origins must be multiples of this many pixels for patches to agree.
    tile
        Patch size in pixels, or the default one where `dynamic_tile`.
    dynamic_tile
        Whether the exported graph takes patches of any multiple of `alignment`, as the seamless network does.
    noise_scales
        One entry a noise channel: 1 is white noise, s > 1 a smooth field on a lattice of s pixels.
    widths
        Seamless network: channels at full, half and quarter scale (stem, down, trunk, up at half, up at full).
    labels
        The mask's values 0, 1, 2, ... in order.
    overlap
        Pixels that neighbouring patches share in a training tile, averaged.
    mpp
        Pixel size in micrometres.
    base, levels
        Paper's network: channels of its first layer, and how often it halves the scale; 2^levels is its patch.
    skips, dropout
        Paper's network: whether decoder and encoder are joined, and the share of channels dropped in training.
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
    overlap: int = _later(20)
    mpp: float = _later(1.0)
    base: int = _later(64)
    levels: int = _later(8)
    skips: bool = _later(True)
    dropout: float = _later(0.5)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on, apart from the data itself.

    Lengths are in steps or in pixels. Images are in [-1, 1] where losses are taken of them.

    Attributes
    ----------
    model
        The generator.
    seed
        What first weights, batches, noise and changes are drawn from.
    steps, epochs
        Length of the run; where `epochs` is not 0, `steps` follows from it and the number of images.
    batch
        Training tiles in a step.
    patch, grid
        Side of a training tile: `patch` pixels for the seamless network, `grid` x `grid` stitched patches
        for the paper's.
    grid_phase
        Stitch one patch more along each side and cut the tile out at a random place, so that seams fall
        anywhere in it. The seamless network has no seams to move.
    betas, generator_rate, discriminator_rate, cooldown
        Adam; over the last `cooldown` of the run the rates fall to a twentieth.
    feature_weight, anchor_weight, pixel_weight, settle
        Weights ``(start, end)`` of `losses.FeatureLoss`, `losses.AnchorLoss` and `losses.PixelLoss`, beside the
        adversarial loss, whose weight is 1; they move linearly from start to end over the first `settle` of the run.
    anchor_cell
        Side in pixels of the squares whose means `losses.AnchorLoss` compares.
    ema
        Moving average of the generator's weights, which is what is exported; 0 exports the last weights.
    judge
        ``"scales"`` (`networks.Discriminators`), ``"pix2pix"`` (`networks.TileDiscriminator`) or ``"classes"``
        (`networks.ClassDiscriminator`).
    judged
        What the judge sees: the stitched ``"tile"``, or every ``"patch"`` by itself.
    discriminator_widths
        First channels of the two ``"scales"`` judges, at full and at half scale.
    judge_base, judge_levels
        First channels and halvings of the ``"pix2pix"`` and ``"classes"`` judges.
    adversarial
        ``"hinge"`` or ``"log"``, the form of the adversarial loss. Class logits have their own.
    freeze_norms
        Share of the run after which batch norms use their running statistics, as the exported graph does.
    diffaugment
        Which of ``"color"``, ``"translation"``, ``"cutout"`` the judge's images go through, real and generated alike.
    bfloat16, float16
        Mixed precision; float16 scales the loss and is for GPUs without bfloat16.
    held_out
        Share of the slides that is kept from training.
    image_mpp
        Pixel size of image and mask pairs in micrometres, which are brought to the model's; slides know their own.
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
    epochs: int = _later(0)
    grid: int = _later(3)
    grid_phase: bool = _later(False)
    judge: str = _later("scales")
    judged: str = _later("tile")
    judge_base: int = _later(64)
    judge_levels: int = _later(5)
    adversarial: str = _later("hinge")
    freeze_norms: float = _later(1.0)
    diffaugment: tuple[str, ...] = _later(())
    float16: bool = _later(False)
    image_mpp: float = _later(1.0)

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
    def canvas_side(self) -> int:
        """Side of what is generated to cut the tile from, in pixels."""
        return self.tile_side + (self.stride if self.grid_phase else 0)

    @property
    def sheet_tile(self) -> int:
        """Side of the patches on a sample sheet: 3 x 3 of them make a training tile, or about one."""
        model = self.model
        if model.network == "paper":
            return model.tile
        side = (self.patch + 2 * model.overlap) // 3
        return max(side, model.overlap + model.alignment) // model.alignment * model.alignment

    @property
    def least_side(self) -> int:
        """Side of the least image that holds a training tile and a window of a sample sheet, with their context."""
        sheet = 3 * self.sheet_tile - 2 * self.model.overlap
        return max(self.canvas_side, sheet) + 2 * self.model.context

    @property
    def judged_side(self) -> int:
        """Side of what the judge sees at once, in pixels."""
        return self.model.tile if self.judged == "patch" else self.tile_side

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def sha256(self) -> str:
        """Hash the settings: equal settings give equal hashes on every machine and in every version."""
        plain = self.to_json()
        _drop_later(plain, TrainConfig)
        _drop_later(plain["model"], ModelConfig)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _drop_later(plain: dict[str, Any], kind: type[TrainConfig] | type[ModelConfig]) -> None:
    """Leave out what the first version did not have, where it is as that version did it."""
    for entry in fields(kind):
        if entry.metadata.get("later") and plain[entry.name] == json.loads(json.dumps(entry.default)):
            del plain[entry.name]


def config_from_json(plain: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a `TrainConfig` from `TrainConfig.to_json`."""
    return override(TrainConfig(), plain, "settings")


def override(config: TrainConfig, changes: Mapping[str, Any], source: str) -> TrainConfig:
    """Change single settings.

    Parameters
    ----------
    config
        The settings to start from.
    changes
        Names and JSON values as in `TrainConfig.to_json`; only what is to change.
    source
        How messages call the changes, such as a file name.

    Raises
    ------
    BadInput
        No setting has such a name, or the value is of another kind.

    Examples
    --------
    >>> override(TrainConfig(), {"batch": 4, "model": {"mpp": 0.5}}, "example").model.mpp
    0.5
    """
    rest = dict(changes)
    model = rest.pop("model", {})
    if not isinstance(model, Mapping):
        raise BadInput(f"{source}: model is {model!r}; it is a table of settings, as {{'mpp': 0.5}}")
    changed: TrainConfig = _changed(config, rest, source, "")
    return check_config(replace(changed, model=_changed(config.model, model, source, "model.")))


def _changed(settings: Any, changes: Mapping[str, Any], source: str, prefix: str) -> Any:
    known = {entry.name for entry in fields(settings)} - {"model"}
    new: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise BadInput(
                f"{source}: there is no setting {prefix}{name}; known are {', '.join(sorted(known))}"
            )
        if name == "labels":
            new[name] = _labels(value, source)
        else:
            new[name] = _like(getattr(settings, name), value, f"{source}: {prefix}{name}")
    return replace(settings, **new)


def _like(old: Any, value: Any, place: str) -> Any:
    """Return `value` as the kind of setting that `old` is."""
    if isinstance(old, tuple) and isinstance(value, list | tuple):
        # Noise scales and augmentations may be none or many; all other lists have a fixed length.
        if old and len(value) != len(old) and place.rsplit(".", 1)[-1] != "noise_scales":
            raise BadInput(f"{place} has {len(value)} values; it needs {len(old)}")
        return tuple(_like(old[0], item, place) if old else item for item in value)
    whole_as_float = isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not type(old) and not whole_as_float:
        raise BadInput(f"{place} is {value!r}; it must be of the kind of {json.dumps(old)}")
    # By way of its text a whole number that no float can hold becomes infinity, which the rules refuse.
    return float(f"{value}") if whole_as_float else value


def _labels(value: Any, source: str) -> tuple[Label, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, Mapping) for entry in value):
        raise BadInput(
            f"{source}: labels must look like [{{'value': 0, 'name': 'glass', 'color': [0, 0, 255]}}]"
        )
    for index, entry in enumerate(value):
        known = [name for name, _, _ in LABEL_RULES]
        if unknown := [name for name in entry if name not in known]:
            raise BadInput(
                f"{source}: label {index} has {unknown[0]!r}, which says nothing; known are {', '.join(known)}"
            )
        for name, holds, text in LABEL_RULES:
            if not holds(entry.get(name)):
                raise BadInput(f"{source}: {name} of label {index} is {entry.get(name)!r}; give {text}")
    if not 1 <= len(value) <= 256 or [entry["value"] for entry in value] != list(range(len(value))):
        raise BadInput(f"{source}: label values must be 0, 1, 2, ... in order, up to 255; renumber the masks")
    return tuple(
        Label(
            entry["value"],
            entry["name"],
            _rgb(entry["color"]),
            None if entry.get("fill") is None else _rgb(entry["fill"]),
        )
        for entry in value
    )


def _rgb(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _is_rgb(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )


LABEL_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("value", lambda value: type(value) is int, "a whole number"),
    ("name", lambda value: isinstance(value, str), "a text"),
    ("color", _is_rgb, "red, green and blue as whole numbers, 0 to 255"),
    (
        "fill",
        lambda value: value is None or _is_rgb(value),
        "red, green and blue as whole numbers, 0 to 255, or leave it out",
    ),
)
"""What stands in a label: its name, whether a value will do, and what to give instead."""

AUGMENTATIONS = ("color", "translation", "cutout")

Check = Callable[[Any, TrainConfig], bool]
Rule = tuple[str, Check, str]
"""Settings, separated by blanks; whether the value of one will do beside the others; and what to give instead."""


def _within(low: float, high: float = sys.float_info.max) -> Check:
    """All numbers of a setting lie in a range with its ends; neither infinity nor NaN does."""
    return lambda value, _: all(low <= number <= high for number in _each(value))


def _above(low: float, high: float = sys.float_info.max) -> Check:
    """As `_within`, without the lower end."""
    return lambda value, _: all(low < number <= high for number in _each(value))


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _one_of(*choices: str) -> tuple[Check, str]:
    return lambda value, _: value in choices, f"choose one of {', '.join(choices)}"


def _below_one(value: Any, _: TrainConfig) -> bool:
    return all(0 <= number < 1 for number in _each(value))


def _judge_has_room(judge: Any, config: TrainConfig) -> bool:
    """Whether something is left of what the judge sees when its layers have halved it."""
    if judge == "scales":  # halved four times
        return config.judged_side >= 16
    # Two more convolutions follow in pix2pix, and a norm, which needs more than one pixel.
    return config.judged_side >> config.judge_levels >= (3 if judge == "pix2pix" else 1)


RULES: tuple[Rule, ...] = (
    ("model.network", *_one_of("seamless", "paper")),
    ("judge", *_one_of("scales", "pix2pix", "classes")),
    ("judged", *_one_of("tile", "patch")),
    ("adversarial", *_one_of("hinge", "log")),
    (
        "diffaugment",
        lambda kinds, _: all(kind in AUGMENTATIONS for kind in kinds),
        f"choose from {', '.join(AUGMENTATIONS)}",
    ),
    ("seed", _within(0, 2**63 - 1), "give a whole number from 0 to 2^63 - 1"),
    (
        "steps batch grid patch discriminator_widths judge_base model.widths model.base model.alignment",
        _within(1),
        "give 1 or more",
    ),
    ("judge_levels model.levels", _within(1, 12), "give 1 to 12"),
    (
        "epochs generator_rate discriminator_rate feature_weight anchor_weight pixel_weight model.context model.overlap",
        _within(0),
        "give 0 or more",
    ),
    ("betas ema held_out model.dropout", _below_one, "give 0 or more, and less than 1"),
    ("cooldown freeze_norms", _within(0, 1), "give a share of the run, 0 to 1"),
    ("settle", _above(0, 1), "give a share of the run, above 0 and at most 1"),
    ("model.mpp image_mpp", _above(0), "give micrometres, above 0"),
    ("model.noise_scales", _within(1, 65536), "give scales of 1 to 65536 px"),
    ("model.tile", _within(1, 4096), "give 1 to 4096 px"),
    (
        "model.overlap",
        lambda overlap, config: overlap < config.model.tile,
        "give less than the tile, {config.model.tile} px",
    ),
    (
        "grid_phase",
        lambda moves, config: not moves or config.judged == "tile",
        "a judge of single patches sees no seam, wherever it lies: leave it out, or judge the tile",
    ),
    (
        "anchor_cell",
        lambda cell, config: cell >= 1 and (cell <= config.tile_side or not any(config.anchor_weight)),
        "give 1 to {config.tile_side}, the side of a training tile",
    ),
    (
        "judge",
        _judge_has_room,
        "it sees {config.judged_side} px, which its layers halve to nothing: train on larger tiles, or lower judge_levels",
    ),
)
"""What is asked of every run, in an order in which later rules can rely on earlier ones."""

WHOLE = (
    "safron-seamless has no patches to judge or shift in training, as a tile rendered whole equals its stitched patches: "
    "leave it out, or choose --preset safron"
)
NETWORK_RULES: dict[str, tuple[Rule, ...]] = {
    "seamless": (
        ("judged", lambda judged, _: judged == "tile", WHOLE),
        ("grid_phase", lambda moves, _: not moves, WHOLE),
        ("model.context", _within(20, 20), "the seamless network reads 20 px: give 20"),
        (
            "model.alignment",
            lambda pixels, _: pixels % 4 == 0,
            "the seamless network's patches agree at multiples of 4 px: give one",
        ),
        (
            "model.tile patch",
            lambda pixels, config: pixels % config.model.alignment == 0,
            "give a multiple of {config.model.alignment}, which is model.alignment",
        ),
        (
            "model.noise_scales",
            lambda scales, _: len(scales) > 0,
            "the seamless network takes noise: give one scale or more",
        ),
    ),
    "paper": (
        (
            "model.tile",
            lambda pixels, config: pixels == 2**config.model.levels,
            "the paper's network halves it to one pixel: give 2^levels; model.levels is {config.model.levels}",
        ),
        (
            "model.noise_scales",
            lambda scales, _: not scales,
            "the paper's network takes no noise: give an empty list",
        ),
        (
            "model.dynamic_tile",
            lambda dynamic, config: not dynamic or config.model.alignment == config.model.tile,
            "the paper's network takes tiles of {config.model.tile} px: give false, or that model.alignment",
        ),
    ),
}
"""What is asked of a network's runs beyond `RULES`, once these hold."""


def check_config(config: TrainConfig) -> TrainConfig:
    """Return `config` if its settings can be trained, exported and rendered.

    Raises
    ------
    BadInput
        They break a rule.
    """
    for rules in (RULES, NETWORK_RULES.get(config.model.network, ())):
        for names, holds, text in rules:
            for name, value in ((name, attrgetter(name)(config)) for name in names.split()):
                if not holds(value, config):
                    shown = json.dumps(value, default=str)
                    raise BadInput(f"{name} is {shown}; {text.format(config=config)}")
    return config


PRESETS: dict[str, TrainConfig] = {
    "safron-seamless": TrainConfig(),
    "safron": TrainConfig(
        model=ModelConfig(
            name="safron",
            network="paper",
            alignment=256,
            dynamic_tile=False,
            noise_scales=(),
            mpp=0.29,
        ),
        steps=97_500,
        epochs=100,
        batch=1,
        generator_rate=1e-4,
        discriminator_rate=1e-4,
        betas=(0.5, 0.999),
        cooldown=0.0,
        ema=0.0,
        judge="pix2pix",
        adversarial="log",
        freeze_norms=0.7,
        feature_weight=(0.0, 0.0),
        anchor_weight=(0.0, 0.0),
        pixel_weight=(100.0, 100.0),
    ),
}
"""Named settings: the generator that ships, and the SAFRON paper's.

The paper's text gives the weights of its losses as 1 for L1 and 100 for the adversarial one. They are swapped there:
the authors' code, and pix2pix before it, have L1 at 100 and the adversarial loss at 1, as here.
"""

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "safron-seamless": {
        "full": {},
        "small": {
            "model": {"widths": [12, 24, 48, 32, 16]},
            "discriminator_widths": [24, 32],
            "judge_base": 24,
            "judge_levels": 3,
            "patch": 128,
        },
        "tiny": {
            "model": {"widths": [4, 4, 8, 4, 4]},
            "discriminator_widths": [4, 4],
            "judge_base": 4,
            "judge_levels": 2,
            "patch": 32,
            "batch": 2,
            "anchor_cell": 8,
        },
    },
    "safron": {
        "full": {},
        "small": {
            # 0.95 um: 3 x 3 patches without overlap, 232 px with their context, still fit into a frame of 224 um.
            "model": {"base": 16, "levels": 6, "tile": 64, "alignment": 64, "mpp": 0.95},
            "judge_base": 32,
            "judge_levels": 3,
        },
        "tiny": {
            "model": {
                "base": 4,
                "levels": 4,
                "tile": 16,
                "alignment": 16,
                "context": 4,
                "overlap": 4,
                "mpp": 1.0,
            },
            "judge_base": 4,
            "judge_levels": 2,
        },
    },
}
"""What each size changes in its preset. Small ones fit a CPU, tiny ones a test."""


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
        It is missing, or not what its name says.
    """
    kind = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML"}.get(path.suffix.lower(), "JSON")
    try:
        text = path.read_text(encoding="utf-8")
        plain = READERS[kind](text)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; pass a YAML, TOML or JSON file of settings") from error
    except ValueError as error:
        from safron.io.errors import one_line  # loads Zarr, which --help does without

        raise BadInput(
            f"{path} is not {kind} ({one_line(error)}); its name must end in .yaml, .toml or .json, after what it holds"
        ) from error
    if not isinstance(plain, dict):
        raise BadInput(f'{path} holds no settings; it must look like {{"batch": 4}}')
    return plain


def _read_yaml(text: str) -> Any:
    import yaml

    # PyYAML's own safe loader, but for 1e-4, which is a number, as in YAML 1.2, and not text.
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


READERS: dict[str, Callable[[str], Any]] = {"YAML": _read_yaml, "TOML": tomllib.loads, "JSON": json.loads}
"""How a file of settings is read; what cannot be read raises ValueError."""
