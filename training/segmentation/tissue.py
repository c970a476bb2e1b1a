"""Which real images and masks does a study use, and which slides are tested on?

Images keep their own colours and their own pixel size. Those of EBHI-Seg are brought to their true proportions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safron.io.errors import BadInput, counted
from safron.training.config.data_sets import DATA_SETS, DataFacts, read_facts
from safron.training.config.settings import ModelConfig, TrainConfig
from safron.training.data import ebhi
from safron.training.data.folders import open_source
from safron.training.data.images import list_pairs
from safron.training.data.source import Bytes, Pairs, split

LEAST_SLIDES = 3
SMALLEST = 32
"""Side in pixels of the smallest image that is used."""


@dataclass(frozen=True)
class Parts:
    """Images to train on, to choose the best state by, and to test on; no slide is in two of them."""

    train: Pairs
    validation: Pairs
    test: Pairs


def open_tissue(folder: Path, given: DataFacts) -> Pairs:
    """Open the pairs in `folder`, with labels and colours as they are.

    Raises
    ------
    BadInput
        See `open_source`; or the folder holds whole slides.
    """
    facts = read_facts(folder, given)
    if facts.data_set == "ebhi":
        return _open_ebhi(folder)
    model = ModelConfig(context=0, overlap=0, noise_scales=())
    source = open_source(folder, TrainConfig(model=model, patch=SMALLEST), facts=facts)
    if not isinstance(source, Pairs):
        raise BadInput(
            f"{folder} holds whole slides; cut them into images with masks first, as NAME.png and NAME.mask.png"
        )
    return source


def _open_ebhi(folder: Path) -> Pairs:
    """Read the frames that `safron.training.data.ebhi.prepare` keeps, before their stain is normalized."""
    images, labels, slides = [], [], []
    pairs = sorted(list_pairs(folder, "ebhi"), key=lambda pair: pair[1].name)
    for _, image, mask in pairs:
        rgb, gland = ebhi.read_frame(image, mask)
        label = ebhi.label_pixels(ebhi.balance_white(rgb), gland)
        if (label != 0).mean() >= ebhi.LEAST_TISSUE_IN_FRAME:
            images.append(rgb)
            labels.append(label)
            slides.append(ebhi.slide_of(image))
    name = DATA_SETS["ebhi"].name
    return Pairs(tuple(images), tuple(labels), (), (), tuple(slides), name=name, mpp=ebhi.MPP)


def normalize(image: Bytes, labels: Bytes) -> Bytes:
    """Bring an image to the stain that `safron.training.data.ebhi` normalizes to; one without stained tissue stays."""
    balanced = ebhi.balance_white(image)
    background = labels == 0
    if not ebhi.stained(balanced, background).any():
        return image
    return ebhi.normalize_stain(balanced, background)


def divide(pairs: Pairs, *, held_out: float, validation: float, images: int | None) -> Parts:
    """Divide by slide: the slides that ``safron-train`` holds out are tested on, then a share of the others validates.

    Parameters
    ----------
    images
        Training images to keep, chosen evenly over the slides; None keeps all.

    Raises
    ------
    BadInput
        There are fewer than three slides, or nothing is left to train on.
    """
    count = len(set(pairs.slides))
    if count < LEAST_SLIDES:
        raise BadInput(
            f"{counted(count, 'slide')}, and training, validation and test need one each: give more, or say what in a name is the "
            "slide with --slide-of"
        )
    rest, test = split(pairs, held_out)
    # The owners' test slides are taken; the others are split anew by the same rule.
    train, chosen = split(replace(rest, aside=()), validation)
    if len(set(rest.slides)) < 2:
        raise BadInput(f"--held-out {held_out:g}: of {count} slides it leaves none to validate; give less")
    if images is not None and images < len(train):
        train = train.take(np.linspace(0, len(train) - 1, images).round().astype(int).tolist())
    return Parts(train, chosen, test)
