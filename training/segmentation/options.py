"""Which options does a study have? Each is declared here once; the command line, its help and docs/cli.md are made from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from safron.io.errors import BadInput
from safron.io.fields import Byte, Count, Positive, attributes, fit, hints, setting
from safron.training.config.data_sets import DATA_SETS

Segmenter = Literal["small-unet", "unet", "fcn8s", "segnet", "deeplab18", "deeplab50"]
Share = Annotated[float, Meta(gt=0, lt=1, description="a share above 0 and below 1")]


def _percents(text: str) -> tuple[int, ...]:
    """Read percents separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) <= 100 for part in parts):
        raise ValueError(f"{text!r} must be percents separated by commas, as 0,25,50,75,100")
    return tuple(sorted({int(part) for part in parts}))


def _counts(text: str) -> tuple[int, ...]:
    """Read numbers of images separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"{text!r} must be numbers of images separated by commas, as 2,4,8")
    return tuple(sorted({int(part) for part in parts}))


def _labels(text: str) -> tuple[int, ...]:
    """Read labels separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) <= 255 for part in parts):
        raise ValueError(f"{text!r} must be labels, 0 to 255, separated by commas, as 2 or 2,3,4,5")
    return tuple(sorted({int(part) for part in parts}))


@dataclass(frozen=True)
class DiceOptions:
    """All options of a study, with their defaults."""

    model: str = setting("safron-tissue", "Generator of the synthetic images.", "NAME|FILE")
    data_set: str | None = setting(
        None,
        "Layout of DATA and meaning of its masks, as safron-train fit takes it.",
        "NAME",
        shown="by the folders, or pairs",
    )
    slide_of: str | None = setting(
        None, "What in an image's name is its slide.", "REGEX", shown="each image is a slide"
    )
    label: tuple[Byte, ...] = setting(
        (2,),
        "Label to segment, 0 to 255, or several that count as one; all others are background.",
        "N,...",
        shown="2",
        parse=_labels,
    )
    segmenter: Segmenter = setting("small-unet", "Network that is trained.")
    width: Count | None = setting(
        None, "Number of channels of its first layer; the others follow.", "N", shown="64; 16 for small-unet"
    )
    held_out: Share = setting(
        0.1,
        "Share of the slides to test on, a number from 0 to 1; safron-train keeps the same ones.",
        "SHARE",
    )
    validation: Share = setting(
        0.1, "Share of the other slides that the best state of a training is chosen by, from 0 to 1.", "SHARE"
    )
    seeds: Count = setting(3, "Number of trainings of each kind.", "N")
    steps: Count = setting(700, "Number of steps of a training.", "N")
    batch: Count = setting(8, "Number of crops in a step.", "N")
    crop: Count = setting(128, "Size of a crop, in pixels a side; a multiple of 32.", "PX")
    rate: Positive = setting(1e-3, "Learning rate of Adam at the start, a number of 0 to 1.", "RATE")
    class_weights: bool = setting(
        False, "Weigh foreground and background by the median of their frequencies over each one's."
    )
    images: Count | None = setting(
        None, "Largest number of training images; each has one synthetic image.", "N", shown="all"
    )
    few: tuple[Count, ...] | None = setting(
        None,
        "Data efficiency, for each of these numbers: train on so many real images alone, with synthetic images added from the masks "
        "of all training images or from procedural masks; and on the latter alone.",
        "LIST",
        shown="none",
        parse=_counts,
    )
    styles: Count = setting(
        8,
        "Number of training images whose styles the synthetic images take in turn, from a generator that can measure them.",
        "N",
    )
    stain: str = setting(
        "reference",
        "Stain of the synthetic images, as for safron-render: reference (as they are drawn), random (another for each of --styles), a look by name, "
        "or a slide or image whose stain is taken over.",
        "STAIN",
    )
    curve: tuple[int, ...] | None = setting(
        None,
        "Shares of synthetic images, 0 to 100 percent: real images replaced by their synthetic ones, and synthetic ones added.",
        "LIST",
        shown="none",
        parse=_percents,
    )
    minutes: Positive | None = setting(
        None,
        "Stop after this number of minutes; the same command continues.",
        "MIN",
        shown="when all is done",
    )
    threads: Count | None = setting(None, "Number of CPU threads.", "N", shown="PyTorch's choice")
    device: str = setting("auto", "auto (a GPU if there is one), cpu or cuda.", "DEVICE")

    def __post_init__(self) -> None:
        for name, kind in hints(DiceOptions).items():
            object.__setattr__(self, name, fit(getattr(self, name), kind, f"--{name.replace('_', '-')}"))
        if self.crop % 32:
            raise BadInput(f"--crop {self.crop}: is not a multiple of 32; give {-(-self.crop // 32) * 32}")
        if self.data_set not in (None, *DATA_SETS):
            raise BadInput(f"--data-set {self.data_set}: is not known; give one of {', '.join(DATA_SETS)}")

    def lasting(self) -> dict[str, Any]:
        """Return the options that results depend on, as JSON values; the others may change when a study continues."""
        kept = {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}
        plain: dict[str, Any] = json.loads(json.dumps(kept))
        return plain


DiceOptions.__doc__ = f"{DiceOptions.__doc__}\n{attributes(DiceOptions)}"

CHANGEABLE = ("minutes", "threads", "device", "seeds", "few", "curve")
"""Options that may change between two runs of one study: they add trainings, or say how they run."""


def generator_file(model: str) -> str:
    """Name a generator so that another process finds it: a path becomes absolute, a shipped name stays."""
    path = Path(model)
    return str(path.absolute()) if path.is_file() else model
