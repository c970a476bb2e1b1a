"""How is a diffusion model trained, from the first step to the last?

Each step draws crops, adds as much noise as a random time says, and lets the network predict. Everything random in a step
follows from the seed and its number, so a run that continues does what it would have done.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safron.training.config.data_sets import DataFacts
from safron.training.data import Source, split
from torch import Tensor, nn

from .data import open_data
from .network import CHANNELS, SemanticUNet, condition_of
from .process import TIMES, add_noise, target_of, to_picture
from .running import USUAL, Kind, Learner, Running, begin_run, take_steps, write_rows
from .sample import sample
from .settings import NULL_LABEL, DiffusionConfig
from .variance import variance_bound

KIND = Kind("diffusion", DiffusionConfig, "a diffusion model; give a .pt file of safron-train diffusion")
WARM_UP = 50
SHEET_STEPS = 20


def make_network(config: DiffusionConfig) -> SemanticUNet:
    """Make the network of a run."""
    return SemanticUNet(
        config.conditions,
        config.widths,
        config.blocks,
        config.norm,
        learned_variance=config.learned_variance,
    )


class Trainer(Learner[SemanticUNet]):
    """Learns pictures of tissue; each call of `step` is one step of training.

    Parameters
    ----------
    config
        All settings.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config, lambda: make_network(config), WARM_UP)
        self.config = config

    def step(self, source: Source) -> dict[str, float]:
        """Take one step, and return the loss and, where the variance is learned, its two parts."""
        simple, bound = self.losses(source, self.random())
        if bound is None:
            return {"loss": self.learn(simple)}
        parts = {"simple": float(simple.detach()), "vlb": float(bound.detach())}
        return {"loss": self.learn(simple + self.config.vlb * bound)} | parts

    def losses(self, source: Source, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """Let the network predict noisy crops: L_simple, and L_vlb where the variance is learned."""
        config = self.config
        images, labels, edges = draw_crops(source, config, rng)
        picture, times = to_picture(images), torch.from_numpy(rng.integers(0, TIMES, config.batch))
        noise = torch.from_numpy(rng.standard_normal(picture.shape, np.float32))
        alpha = self.alphas[times]
        noisy = add_noise(picture, noise, alpha)
        condition = condition_of(torch.from_numpy(labels), edges, len(config.labels))
        made, *v = self.network(noisy, times.float(), condition).split(CHANNELS, dim=1)
        simple = (made - target_of(config.prediction, picture, noise, alpha)).square().mean()
        if not v:
            return simple, None
        terms = variance_bound(v[0], made, noisy, picture, times, prediction=config.prediction)
        return simple, TIMES * terms.mean()  # the sum over all times, of which these are some


def draw_crops(
    source: Source, config: DiffusionConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Tensor | None]:
    """Draw crops, turned and mirrored: RGB uint8 [n, y, x, 3], labels uint8 [n, y, x], some of them `NULL_LABEL`, and edges."""
    images, labels, edges = [], [], []
    for _ in range(config.batch):
        index = int(rng.integers(len(source)))
        crop = source.read(index, source.place(rng, index, config.crop), config.crop)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        drawn = np.zeros_like(crop.labels) if crop.edges is None else crop.edges
        image, label, edge = (
            np.rot90(part, turns)[:, :: -1 if mirror else 1] for part in (crop.image, crop.labels, drawn)
        )
        images.append(image)
        labels.append(np.full_like(label, NULL_LABEL) if rng.random() < config.dropped else label)
        edges.append(edge)
    return (
        np.stack(images),
        np.stack(labels),
        torch.from_numpy(np.stack(edges)[:, None]) if config.nuclei else None,
    )


def fit(
    data: Path | Source,
    out: Path,
    config: DiffusionConfig,
    running: Running = USUAL,
    *,
    facts: DataFacts | None = None,
) -> Path:
    """Train, and return the checkpoint.

    Parameters
    ----------
    data
        Images and labels, see `safron.training.data`; or what `open_data` has opened.
    out
        Folder of the run: ``checkpoint.pt``, ``log.jsonl``, ``sheet-NNNNNN.png``.
    config
        All settings.
    running
        How it begins and ends.
    facts
        What is known of the data.

    Raises
    ------
    BadInput
        `out` holds a run that is not to be continued, or the data cannot be used.
    """
    trainer = begin_run(Trainer, out, config, KIND, running)
    source = open_data(data, config, facts or DataFacts()) if isinstance(data, Path) else data
    trained, held_out = split(source, config.held_out)
    return take_steps(
        trainer, lambda: trainer.step(trained), out, KIND, running,
        sheet=lambda path: write_sheet(path, trainer.average, held_out, config),
    )  # fmt: skip


def write_sheet(path: Path, network: nn.Module, held_out: Source, config: DiffusionConfig) -> None:
    """Write a sample sheet: masks of held-out crops, the real tissue, and what is sampled from the masks."""
    rng = np.random.default_rng([config.seed, 1])
    crops = [
        held_out.read(index, held_out.place(rng, index, config.crop), config.crop)
        for index in rng.choice(len(held_out), min(6, len(held_out)), replace=False).tolist()
    ]
    labels = np.stack([crop.labels for crop in crops])
    colors = np.array([label.color for label in config.labels], np.uint8)
    drawn = [crop.edges for crop in crops if crop.edges is not None]
    edges = np.stack(drawn)[:, None] if drawn else None
    made = [
        sample(network, labels, config, steps=SHEET_STEPS, guidance=guidance, seed=config.seed, edges=edges)
        for guidance in (0.0, 1.5)
    ]
    rows = [colors[labels], np.stack([crop.image for crop in crops]), *made]
    write_rows(path, rows)
