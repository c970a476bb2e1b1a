"""How is one segmenter trained, and what does it make of an image?

A step's crops follow from the seed and the step's number alone, so a training that was stopped continues as if it had never
been. The state with the best Dice on the validation images is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safron.io.errors import BadInput
from safron.io.files import replacing
from safron.training.data.source import Bytes
from safron.training.segmentation.metrics import Mask, compare
from safron.training.segmentation.networks import SEGMENTERS
from safron.training.segmentation.options import DiceOptions
from torch import Tensor, nn
from torch.nn import functional as F

LOOKS = 4
"""How often a training looks at the validation images."""
MOST_VALIDATION = 32
"""Validation images that each look takes, evenly over all of them."""
SAVE_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Annotated:
    """Images, uint8 [y, x, 3] each, with the masks of what is to be segmented, bool [y, x] each."""

    images: tuple[Bytes, ...]
    masks: tuple[Mask, ...]

    def __len__(self) -> int:
        return len(self.images)

    def thin(self, count: int) -> Annotated:
        """Return `count` of them at most, evenly over all."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return Annotated(tuple(self.images[i] for i in chosen), tuple(self.masks[i] for i in chosen))


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained segmenter: the network with its best weights, the step and the validation Dice that they have."""

    network: nn.Module
    step: int
    dice: float


def choose_device(name: str) -> torch.device:
    """Return the device that is called `name`, where "auto" is a GPU if there is one; raise `BadInput` if it is not there."""
    name = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {name}: this PyTorch does not have it; give cpu") from error


def train_segmenter(
    train: Annotated,
    validation: Annotated,
    options: DiceOptions,
    *,
    seed: int,
    state: Path,
    device: torch.device,
    until: float = float("inf"),
) -> Trained | None:
    """Train one segmenter, or go on with it.

    Parameters
    ----------
    seed
        Of first weights and crops.
    state
        File that holds an unfinished training.
    until
        Time of `time.monotonic` at which to stop; the training is kept, and None is returned.

    Returns
    -------
    Trained | None
        None if the time was up first.
    """
    training = _Training(options, seed=seed, device=device)
    if state.exists():
        training.load(state)
    looked = validation.thin(MOST_VALIDATION)
    weights = median_frequency_weights(train.masks) if options.class_weights else (1.0, 1.0)
    saved = time.monotonic()
    while training.done < options.steps:
        if time.monotonic() >= until:
            training.save(state)
            return None
        training.step(train, weights)
        if training.done * LOOKS // options.steps > (training.done - 1) * LOOKS // options.steps:
            training.look(looked)
        if time.monotonic() - saved > SAVE_SECONDS:
            training.save(state)
            saved = time.monotonic()
    state.unlink(missing_ok=True)
    return training.best()


class _Training:
    """A segmenter in training: steps done, and the weights with the best Dice on validation images so far."""

    def __init__(self, options: DiceOptions, *, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        narrow = {"width": options.width} if options.width else {}
        self.network = SEGMENTERS[options.segmenter](1, **narrow).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), options.rate)
        self.options, self.seed, self.device = options, seed, device
        self.done, self.best_step, self.best_dice = 0, 0, -1.0
        self.weights: dict[str, Any] = {}

    def load(self, state: Path) -> None:
        """Go on with what `save` wrote."""
        kept = torch.load(state, map_location=self.device, weights_only=True)
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.done, self.weights = kept["step"], kept["weights"]
        self.best_step, self.best_dice = kept["best_step"], kept["best_dice"]

    def save(self, state: Path) -> None:
        """Write all that the next steps depend on."""
        kept = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.done,
        }
        kept |= {"weights": self.weights, "best_step": self.best_step, "best_dice": self.best_dice}
        with replacing(state) as file:
            torch.save(kept, file)

    def step(self, train: Annotated, weights: tuple[float, float]) -> None:
        """Take a step; the learning rate falls in a straight line to a twentieth."""
        options, device = self.options, self.device
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate * (1 - 0.95 * self.done / options.steps)
        images, masks = draw_crops(train, options, seed=self.seed, step=self.done)
        loss = segmentation_loss(self.network(_to_tensor(images, device))[:, 0], masks.to(device), weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.done += 1

    def look(self, validation: Annotated) -> None:
        """Keep the weights if their Dice is the best so far."""
        found = predictions(self.network, validation, self.device)
        dice = float(np.mean([compare(mask, true).dice for mask, true in found]))
        if dice > self.best_dice:
            self.best_step, self.best_dice = self.done, dice
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}

    def best(self) -> Trained:
        """Return the network with its best weights."""
        self.network.load_state_dict(self.weights)
        return Trained(self.network, self.best_step, self.best_dice)


def segmentation_loss(logits: Tensor, masks: Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Cross-entropy, weighted by class (background, foreground), plus one minus the soft Dice; both are float32 [n, y, x]."""
    share = torch.sigmoid(logits)
    dice = (2 * (share * masks).sum() + 1) / (share.sum() + masks.sum() + 1)
    weight = weights[0] + (weights[1] - weights[0]) * masks
    return F.binary_cross_entropy_with_logits(logits, masks, weight) + 1 - dice


def median_frequency_weights(masks: Sequence[Mask]) -> tuple[float, float]:
    """Weights of background and foreground: the median of the two frequencies over each one's (Eigen and Fergus, 2015).

    A class's frequency is its share of the pixels of the images that have it.

    Examples
    --------
    >>> median_frequency_weights([np.array([[True, False, False, False]])])
    (0.6666666666666666, 2.0)
    """
    shares = []
    for wanted in (False, True):
        having = [mask for mask in masks if (mask == wanted).any()]
        pixels = sum(mask.size for mask in having)
        shares.append(sum(int((mask == wanted).sum()) for mask in having) / pixels if pixels else 1.0)
    middle = sum(shares) / 2
    return middle / shares[0], middle / shares[1]


def draw_crops(
    train: Annotated, options: DiceOptions, *, seed: int, step: int
) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Draw a step's crops, turned and mirrored at random: images uint8 [n, y, x, 3], masks float32 [n, y, x]."""
    rng = np.random.default_rng([seed, step])
    images, masks = [], []
    for index in rng.integers(len(train), size=options.batch):
        image, mask = _enlarged(train.images[index], train.masks[index], options.crop)
        y, x = (int(rng.integers(length - options.crop + 1)) for length in mask.shape)
        window = np.s_[y : y + options.crop, x : x + options.crop]
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        image, mask = np.rot90(image[window], turns), np.rot90(mask[window], turns)
        images.append(image[:, ::-1] if mirror else image)
        masks.append(mask[:, ::-1] if mirror else mask)
    return np.stack(images), torch.from_numpy(np.stack(masks).astype(np.float32))


def _enlarged(image: Bytes, mask: Mask, side: int) -> tuple[Bytes, Mask]:
    """Mirror an image that is smaller than `side` at its edges."""
    more = [max(0, side - length) for length in mask.shape]
    if not any(more):
        return image, mask
    padding = (0, more[0], 0, more[1], cv2.BORDER_REFLECT)
    larger = cv2.copyMakeBorder(mask.astype(np.uint8), *padding)
    return np.asarray(cv2.copyMakeBorder(image, *padding), np.uint8), np.asarray(larger, bool)


def _to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bring uint8 [n, y, x, 3] to float32 [n, 3, y, x] in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def predict(network: nn.Module, image: Bytes, device: torch.device) -> Mask:
    """Segment a whole image of any size: bool [y, x]."""
    stride = int(network.stride)  # type: ignore[arg-type]
    bottom, right = (-length % stride for length in image.shape[:2])
    padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    with torch.inference_mode():
        logits = network(_to_tensor(np.asarray(padded, np.uint8)[None], device))[0, 0]
    return np.asarray((logits > 0).cpu().numpy()[: image.shape[0], : image.shape[1]])


def predictions(network: nn.Module, found: Annotated, device: torch.device) -> Sequence[tuple[Mask, Mask]]:
    """Segment images; return predicted and true mask of each."""
    network.eval()
    return [
        (predict(network, image, device), mask) for image, mask in zip(found.images, found.masks, strict=True)
    ]
