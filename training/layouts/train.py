"""How is a mask model trained, from the first step to the last?

As a model of tissue is, see `safron.training.diffusion.running`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safron.training.config.cpu import cpu_has_bfloat16
from safron.training.diffusion.network import one_hot_of
from safron.training.diffusion.process import TIMES, add_noise, target_of, to_picture
from safron.training.diffusion.running import (
    USUAL,
    Kind,
    Learner,
    Running,
    begin_run,
    take_steps,
    write_rows,
)
from safron.training.diffusion.sample import sample_pictures
from torch import Tensor, nn

from .data import Crops, Layouts, make_planes
from .network import LayoutUNet
from .settings import LayoutConfig

KIND = Kind("layouts", LayoutConfig, "a mask model; give a .pt file of safron-train mask-model")
WARM_UP = 100
MOST_WEIGHT = 5.0
SHEET_STEPS, SHEET_CROPS = 20, 6


def make_network(config: LayoutConfig) -> LayoutUNet:
    """Make the network of a run."""
    return LayoutUNet(len(config.types), len(config.labels), config.widths, config.blocks)


class Trainer(Learner[LayoutUNet]):
    """Learns layouts of nuclei; each call of `step` is one step of training.

    Parameters
    ----------
    config
        All settings.
    """

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__(config, lambda: make_network(config), WARM_UP)
        self.config = config
        self.mixed = config.bfloat16 and cpu_has_bfloat16()

    def step(self, layouts: Layouts) -> dict[str, float]:
        """Take one step, and return the loss."""
        config, rng = self.config, self.random()
        crops = layouts.draw(rng, config.batch)
        picture, times = to_picture(crops.pictures), torch.from_numpy(rng.integers(0, TIMES, config.batch))
        noise = torch.from_numpy(rng.standard_normal(picture.shape, np.float32))
        alpha = self.alphas[times]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            made = self.network(
                add_noise(picture, noise, alpha), times.float(), *conditions(crops, len(config.labels))
            )
        error = (made.float() - target_of(config.prediction, picture, noise, alpha)).square()
        return {"loss": self.learn((error * weight_of(alpha)[:, None, None, None]).mean())}


def weight_of(alpha: Tensor) -> Tensor:
    """Weight of a crop's loss by its share of the picture: signal over noise, between 1 and `MOST_WEIGHT`.

    Otherwise crops in which there is little to see decide nearly all of the loss, and outlines stay blurred.
    """
    return (alpha / (1 - alpha)).clamp(1.0, MOST_WEIGHT)


def conditions(crops: Crops, labels: int) -> tuple[Tensor, Tensor]:
    """Give types float32 [n, types] and regions float32 [n, labels, y, x], as the network takes them."""
    return torch.from_numpy(crops.types), one_hot_of(torch.from_numpy(crops.regions), labels)


def fit(
    nuclei: Path,
    regions: Path | None,
    out: Path,
    config: LayoutConfig,
    running: Running = USUAL,
) -> Path:
    """Train, and return the checkpoint.

    Parameters
    ----------
    nuclei, regions
        See `make_planes`.
    out
        Folder of the run: ``planes.npy``, ``checkpoint.pt``, ``log.jsonl``, ``sheet-NNNNNN.png``.
    config
        All settings.
    running
        How it begins and ends.

    Raises
    ------
    BadInput
        `out` holds a run that is not to be continued, or the data cannot be used.
    """
    planes = out / "planes.npy"
    trainer = begin_run(Trainer, out, config, KIND, running)
    if not planes.exists():
        make_planes(nuclei, regions, config, planes, running.tell)
    mapped = np.load(planes, mmap_mode="r")
    trained, held_out = (Layouts(mapped, config, held_out=held) for held in (False, True))
    return take_steps(
        trainer, lambda: trainer.step(trained), out, KIND, running,
        sheet=lambda path: write_sheet(path, trainer.average, held_out, config),
    )  # fmt: skip


def write_sheet(path: Path, network: nn.Module, held_out: Layouts, config: LayoutConfig) -> None:
    """Write a sample sheet: regions of held-out crops, their real pictures, and what is sampled."""
    crops = held_out.draw(np.random.default_rng([config.seed, 1]), SHEET_CROPS, turn=False)
    colors = np.array([label.color for label in config.labels], np.uint8)
    known = conditions(crops, len(config.labels))
    made = sample_pictures(
        lambda x, t: network(x, t, *known),
        crops.regions.shape,
        prediction=config.prediction,
        steps=SHEET_STEPS,
        seed=config.seed,
    )
    write_rows(path, [colors[crops.regions], crops.pictures, made])
