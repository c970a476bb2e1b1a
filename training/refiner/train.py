"""How are a refiner, a discriminator and a task network trained together, without one label?

Algorithm 1 of Hou et al. (2017), phase by phase:

    refiner         G stays close to what it is given
    discriminator   D learns to tell <real, reference> from <refined, reference>
    adversarial     G also learns to pass, D goes on
    task            R learns to segment refined pictures, whose masks are known
    joint           G also makes pictures that are hard for R; R weighs each by how real D finds it
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from safron.training.config.averaging import follow
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from .data import Batch, Tiles, as_bytes, as_tensor
from .networks import make_networks
from .settings import CONTEXT, VALUES, RefinerConfig
from .task_loss import TaskBatch, task_loss

LEAST_WEIGHT, MOST_WEIGHT = 0.2, 2.0
"""Bounds of the weight D/(1-D) of a picture in the task's loss; from the paper's later code."""

RATES = {"refiner": "refiner_rate", "discriminator": "discriminator_rate", "task": "task_rate"}

MEMORY = {"refiner": 0.9, "discriminator": 0.9, "task": 0.999}
"""How much of Adam's mean of squares is kept in a step.

Gradients of the refiner are tiny where the discriminator cannot tell its pictures from real ones. With 0.999 the first large one after that
moves every weight by 16 times the rate, which ended a run (``benchmarks/LOG.md``, 2026-11-30); with 0.9 by 1.6 times.
"""


class History:
    """Refined pictures of earlier steps, with a fixed number of places.

    Parameters
    ----------
    places
        Pictures that are kept.
    side
        Of a picture in pixels.
    """

    def __init__(self, places: int, side: int) -> None:
        self.images = torch.zeros(places, side, side, 3, dtype=torch.uint8)
        self.references: list[Tensor | None] = [None] * places
        self.count = 0

    def mixed(self, fake: Tensor, reference: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Replace half of a batch by earlier pictures, with their references, and keep the rest."""
        half, held = len(fake) // 2, min(self.count, len(self.images))
        kept = torch.from_numpy(as_bytes(fake))
        shown, beside = fake.detach(), reference
        if held >= half > 0:
            chosen = rng.choice(held, half, replace=False).tolist()
            old = as_tensor([self.images[place].numpy() for place in chosen])
            known = [self.references[place] for place in chosen]
            shown = torch.cat([shown[half:], old])
            beside = torch.cat([reference[half:], torch.stack([one for one in known if one is not None])])
        for number in range(len(kept)):
            free = self.count < len(self.images)
            place = self.count if free else int(rng.integers(len(self.images)))
            self.images[place], self.references[place] = kept[number], reference[number].clone()
            self.count += 1
        return shown, beside

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on."""
        held = min(self.count, len(self.images))
        references = [one for one in self.references[:held] if one is not None]
        stacked = torch.stack(references) if references else torch.zeros(0)
        return {"images": self.images[:held], "references": stacked, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        held = len(state["images"])
        self.images[:held] = state["images"]
        self.references[:held] = list(state["references"])
        self.count = int(state["count"])


class RefinerTrainer:
    """All networks and their optimizers; each call of `iterate` is one iteration of Algorithm 1.

    What is scored is `average`, the moving average of the task network's weights: the weights themselves sway from step to step.

    Parameters
    ----------
    config
        Settings.
    tiles
        What is trained on.
    """

    def __init__(self, config: RefinerConfig, tiles: Tiles) -> None:
        self.config, self.tiles, self.done, self.drawn = config, tiles, 0, 0
        self.networks = make_networks(config)
        self.style, self.refiner, self.discriminator, self.task = self.networks.values()
        trained = {
            "refiner": [*self.refiner.parameters(), *self.style.parameters()],
            "discriminator": [*self.discriminator.parameters()],
            "task": [*self.task.parameters()],
        }
        self.optimizers = {
            name: torch.optim.Adam(parameters, getattr(config, RATES[name]), betas=(0.5, MEMORY[name]))
            for name, parameters in trained.items()
        }
        self.history = History(config.history, config.patch)
        self.average, self.task_steps = copy.deepcopy(self.task), 0

    def iterate(self) -> dict[str, float]:
        """Take one iteration of the phase that is due, and return the losses by name."""
        phase = self.config.phase(self.done)
        counts = dict(zip(RATES, self.config.inner, strict=True))
        if phase == "adversarial":
            counts["task"] = 0
        if phase in counts:
            counts = {name: int(name == phase) for name in counts}
        losses: dict[str, float] = {}
        for name, step in (
            ("refiner", self.refine),
            ("discriminator", self.discriminate),
            ("task", self.segment),
        ):
            for _ in range(counts[name]):
                losses |= step(self._next())
        self.done += 1
        return losses

    def _next(self) -> Batch:
        self.drawn += 1
        return self.tiles.batch(self.drawn)

    def styles(self, reference: Tensor) -> Tensor:
        """Return the vectors of references; 0 where style is off."""
        if not self.config.use_style:
            return reference.new_zeros(len(reference), self.config.style_size)
        vector: Tensor = self.style(reference)
        return vector

    def refined(self, batch: Batch) -> Tensor:
        """Refine the initial pictures of a batch."""
        image: Tensor = self.refiner(batch.initial, self.styles(batch.reference))
        return image

    def judged(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the discriminator's logits."""
        logits: Tensor = self.discriminator(image, reference if self.config.use_style else None)
        return logits

    def refine(self, batch: Batch) -> dict[str, float]:
        """Train the refiner: equation 2, with -log D for log(1 - D), whose gradient would vanish where D is sure."""
        config, phase = self.config, self.config.phase(self.done)
        image = self.refined(batch)
        change = image - batch.initial[:, :, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
        losses = {
            "close": config.alpha
            * VALUES
            * (config.l1 * change.abs().mean() + config.l2 * change.square().mean())
        }
        with _Fixed(self.discriminator), _Fixed(self.task):
            if phase != "refiner":
                losses["realism"] = config.beta * softplus(-self.judged(image, batch.reference)).mean()
            if phase == "joint" and config.use_hard:
                losses["hard"] = -config.gamma * binary_cross_entropy_with_logits(
                    self.task(image), batch.targets
                )
            self._descend("refiner", torch.stack([*losses.values()]).sum())
        return {name: loss.item() for name, loss in losses.items()}

    def discriminate(self, batch: Batch) -> dict[str, float]:
        """Train the discriminator: equation 5, half of the refined pictures from the history."""
        with torch.no_grad():
            image = self.refined(batch)
        rng = np.random.default_rng([self.config.seed, self.drawn, 2])
        fake, beside = self.history.mixed(image, batch.reference, rng)
        real_logits, fake_logits = self.judged(batch.real, batch.reference), self.judged(fake, beside)
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        self._descend("discriminator", loss)
        right = (real_logits > 0).float().mean() / 2 + (fake_logits < 0).float().mean() / 2
        return {"discriminator": loss.item(), "accuracy": right.item()}

    def segment(self, batch: Batch) -> dict[str, float]:
        """Train the task network on refined pictures, and on real ones that it labels itself."""
        with torch.no_grad():
            image = self.refined(batch)
            weights: Tensor | None = None
            if self.config.use_weights and self.config.phase(self.done) == "joint":
                # D / (1 - D) is the exponential of the logit.
                weights = (
                    self.judged(image, batch.reference)
                    .mean(dim=(1, 2, 3))
                    .exp()
                    .clamp(LEAST_WEIGHT, MOST_WEIGHT)
                )
        shown = TaskBatch(image, batch.targets, batch.real, weights)
        loss = task_loss(self.task, self.average, shown, self.config, self.task_steps)
        self._descend("task", loss)
        follow(self.average, self.task, self.config.task_average, self.task_steps)
        self.task_steps += 1
        return {"task": loss.item()}

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [one for group in self.optimizers[name].param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 50.0)
        self.optimizers[name].step()

    def mean_style(self) -> tuple[float, ...]:
        """Style of all tiles on average."""
        with torch.no_grad():
            each = [
                self.styles(self.tiles.reference(tile)).mean(dim=0) for tile in range(len(self.tiles.images))
            ]
        return tuple(torch.stack(each).mean(dim=0).tolist())

    def state_dict(self) -> dict[str, Any]:
        """Return the run as it stands."""
        state: dict[str, Any] = {"done": self.done, "drawn": self.drawn, "history": self.history.state_dict()}
        state["networks"] = {name: network.state_dict() for name, network in self.networks.items()}
        state["optimizers"] = {name: one.state_dict() for name, one in self.optimizers.items()}
        return state | {"average": self.average.state_dict(), "task_steps": self.task_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.done, self.drawn = int(state["done"]), int(state["drawn"])
        self.history.load_state_dict(state["history"])
        self.average.load_state_dict(state["average"])
        self.task_steps = int(state["task_steps"])
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, one in self.optimizers.items():
            one.load_state_dict(state["optimizers"][name])


class _Fixed:
    """Hand gradients through a network without giving it any."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.network.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        self.network.requires_grad_(True)
