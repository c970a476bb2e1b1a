"""Which settings does the training of a refiner have?

Defaults are those of Hou et al. (2017) and its later code where the two name one; what differs is said. Losses here are
means over pixels, where that code has sums over patches of 75 x 75 pixels and over the 9 x 9 scores that its discriminator
gives of them; weights are converted accordingly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from safron.io.errors import BadInput

CONTEXT = 20
"""Pixels that the refiner reads around each: ten convolutions of 5 x 5. Its receptive field is 41."""

VALUES = 75 * 75 * 3 / 9**2
"""Values of the paper's patches for each score of its discriminator; its code sums over both, and means are taken here."""

Phase = Literal["refiner", "discriminator", "adversarial", "task", "joint"]
PHASES: tuple[Phase, ...] = ("refiner", "discriminator", "adversarial", "task", "joint")
"""Algorithm 1: the refiner alone, the discriminator alone, both, the task network alone, all three."""


@dataclass(frozen=True)
class RefinerConfig:
    """Settings.

    Attributes
    ----------
    width, task_width
        Channels of the refiner and the discriminator, and of the task network's first level.
    style_size
        Numbers in a style vector.
    patch, reference
        Sides in pixels of what is refined and of the reference's part.
    batch
        Patches a step.
    steps
        Iterations of each of `PHASES`: N_G, N_D, N_GD, N_R and N_GDR of Algorithm 1.
    inner
        Steps of refiner, discriminator and task network in an iteration of several: n_G, n_D, n_R.
    alpha, beta, gamma
        Weights of staying close, of realism and of hard examples; gamma is 0.0001 for sums.
    l1, l2
        Weights of both parts of staying close.
    refiner_rate, discriminator_rate, task_rate
        Learning rates of Adam, where the paper's code has momentum.
    task_average
        Part of the average of the task network's weights that a step keeps; the average is what is scored.
    shrink
        What is trained on has a pixel for so many of the tiles along each axis: 2 for 0.5 um of tiles at 0.25 um. Nuclei are drawn at
        the tiles' own pixel size, which sizes and blurs of the drawing belong to.
    history
        Refined patches that are kept; half of what the discriminator sees comes from them.
    use_style, use_hard, use_weights
        Whether the reference is used, and hard examples, and weights D/(1-D) on the task's loss; off for ablations.
    use_variation
        Whether stain, sharpness and noise of what the task network learns from vary at random; off for an ablation.
    use_pseudo_labels
        Whether the task network also learns from real pictures that it labels itself; off for an ablation.
    seed
        Any whole number.
    """

    width: int = 32
    task_width: int = 16
    style_size: int = 32
    patch: int = 128
    reference: int = 128
    batch: int = 8
    steps: tuple[int, int, int, int, int] = (1000, 1000, 1000, 1000, 10000)
    inner: tuple[int, int, int] = (2, 1, 6)
    alpha: float = 1.0
    beta: float = 0.7
    gamma: float = 0.007
    l1: float = 0.001
    l2: float = 0.01
    refiner_rate: float = 2e-4
    discriminator_rate: float = 2e-4
    task_rate: float = 5e-4
    task_average: float = 0.999
    shrink: int = 1
    history: int = 1024
    use_style: bool = True
    use_hard: bool = True
    use_weights: bool = True
    use_variation: bool = True
    use_pseudo_labels: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patch % 8 or self.patch < 16 or self.reference < 40:
            raise BadInput(
                f"patch {self.patch}, reference {self.reference}: the first must be a multiple of 8, the second at least 40"
            )

    @property
    def interior(self) -> int:
        """Pixels from a nucleus's border from which on it counts as interior."""
        return max(1, 2 // self.shrink)

    @property
    def smallest(self) -> int:
        """Pixels of the smallest nucleus that is kept where nuclei are looked for."""
        return max(1, 30 // self.shrink**2)

    @property
    def total(self) -> int:
        """Iterations of all phases."""
        return sum(self.steps)

    @property
    def task_steps(self) -> int:
        """Steps of the task network in all phases."""
        return self.steps[3] + self.inner[2] * self.steps[4]

    def phase(self, done: int) -> Phase:
        """Return the phase that iteration number `done` belongs to; the last one goes on for ever."""
        for name, count in zip(PHASES, self.steps, strict=True):
            if done < count:
                return name
            done -= count
        return PHASES[-1]

    def with_total(self, total: int) -> RefinerConfig:
        """Return settings with so many iterations, in the same shares."""
        counts = [max(1, total * count // self.total) for count in self.steps[:-1]]
        last = max(1, total - sum(counts))
        return dataclasses.replace(self, steps=(counts[0], counts[1], counts[2], counts[3], last))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return dataclasses.asdict(self)

    def sha256(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


SIZES: dict[str, RefinerConfig] = {
    "full": RefinerConfig(),
    "small": RefinerConfig(
        width=12,
        task_width=8,
        patch=96,
        reference=96,
        batch=4,
        steps=(30, 60, 150, 150, 1000),
        refiner_rate=5e-4,
        discriminator_rate=1e-3,
        task_rate=2e-3,
        task_average=0.995,
        history=256,
    ),
    "tiny": RefinerConfig(
        width=4, task_width=4, style_size=4, patch=16, reference=40, batch=2, steps=(1, 1, 1, 1, 1), history=4
    ),
}
"""Settings by name: full is the paper's, small fits two cores, tiny is for tests."""


def config_of(plain: dict[str, Any]) -> RefinerConfig:
    """Read settings from JSON values; a run that does not name variation or pseudo-labels had none."""
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    return RefinerConfig(**({"use_variation": False, "use_pseudo_labels": False} | lists))
