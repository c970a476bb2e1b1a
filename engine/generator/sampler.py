"""What does one step of a sampler do to a pixel?

A diffusion model predicts what has to be taken out of a noisy picture. Its picture is made in steps, each of them one pass
over the whole canvas: patches predict, predictions are averaged where patches overlap, then every pixel takes one step.
Averaging pictures after a random step instead would shrink their variance where patches overlap.

The step is DDIM (Song et al., Denoising Diffusion Implicit Models, 2021, equation 12), in float32 and in a fixed order of
operations, so that it gives the same bits wherever a pixel is computed. All numbers of the schedule stand in the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, structs
from safron.engine.plan.fixed_point import PREDICTION_LIMIT
from safron.engine.plan.planes import PlaneSpec
from safron.io.errors import BadInput, counted
from safron.io.fields import Byte, Count, Finite, NotNegativeNumber

Float32 = npt.NDArray[np.float32]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]

# Odd, so that the seeds of all steps differ.
_APART = 0x9E3779B97F4A7C15


class Sampler(Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture is made of a generator's predictions; the field ``sampler`` of a card.

    Attributes
    ----------
    kind
        "ddim".
    prediction
        What the generator predicts: "epsilon" (the noise), "x0" (the clean picture) or "v" (Salimans and Ho, 2022).
    times
        What its input ``t`` is told in each step.
    alphas
        Share of the picture in the variance before each step, the cumulative product of a schedule; rising.
    last_alpha
        The same after the last step.
    eta
        Share of fresh noise: 0 draws none after the first, 1 as much as DDPM.
    guidance
        Strength of classifier-free guidance; 0 for none.
    null_label
        Label that tells the generator nothing; needed for guidance.
    range
        Values of black and of full colour.
    clip
        Whether the predicted picture is clipped to `range` in each step.
    channels
        Of the running picture.
    steps
        How many of its steps are taken if no number is given; None for all.
    """

    kind: Literal["ddim"]
    prediction: Literal["epsilon", "x0", "v"]
    times: tuple[Finite, ...]
    alphas: tuple[Share, ...]
    last_alpha: Share = 1.0
    eta: NotNegativeNumber = 0.0
    guidance: NotNegativeNumber = 0.0
    null_label: Byte | None = None
    range: tuple[Finite, Finite] = (-1.0, 1.0)
    clip: bool = True
    channels: Count = 3
    steps: Count | None = None

    def __post_init__(self) -> None:
        if not self.times or len(self.times) != len(self.alphas):
            raise ValueError(
                f"times and alphas must be one or more, and as many, not {len(self.times)} and {len(self.alphas)}"
            )
        rising = (*self.alphas, self.last_alpha)
        if any(first >= second for first, second in pairwise(rising)):
            raise ValueError("alphas must rise from step to step, and last_alpha must be the largest")
        if self.prediction == "epsilon" and not self.alphas[0]:
            raise ValueError(
                "alphas begin with 0, of which noise alone predicts no picture; predict v or x0, or begin above 0"
            )
        if self.guidance and self.null_label is None:
            raise ValueError(f"guidance {self.guidance:g} needs a null_label")
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range [{self.range[0]:g}, {self.range[1]:g}] must rise, as [-1, 1]")
        if self.channels != 3:
            raise ValueError(f"channels {self.channels} must be 3, since the picture becomes RGB")
        if self.steps is not None and self.steps > len(self.times):
            raise ValueError(f"steps {self.steps} must be at most {len(self.times)}, the number of times")

    @property
    def specs(self) -> tuple[PlaneSpec, PlaneSpec]:
        """Describe the inputs "xt" and "t"."""
        t = PlaneSpec("t", 0, spatial=False, low=min(self.times), high=max(self.times))
        return PlaneSpec("xt", self.channels, low=-3.0, high=3.0), t

    def with_steps(self, count: int | None, guidance: float | None = None) -> Sampler:
        """Take fewer of its steps, evenly spread from the first one on, or another guidance.

        Raises
        ------
        BadInput
            It has fewer steps, or cannot be guided.
        """
        have = len(self.times)
        count = (self.steps or have) if count is None else count
        if not 0 < count <= have:
            raise BadInput(
                f"--steps {count}: the generator's card has {counted(have, 'step')}; give 1 to {have}"
            )
        guidance = self.guidance if guidance is None else guidance
        if guidance and self.null_label is None:
            raise BadInput(
                f"--guidance {guidance:g}: the generator's card has no null_label, so it cannot be guided; leave the option out"
            )
        chosen = [step * have // count for step in range(count)]
        return structs.replace(
            self,
            times=tuple(self.times[step] for step in chosen),
            alphas=tuple(self.alphas[step] for step in chosen),
            guidance=guidance,
            steps=None,
        )

    def step(self, number: int) -> Step:
        """Return the numbers of one step, 0 the first."""
        alpha = self.alphas[number]
        after = self.alphas[number + 1] if number + 1 < len(self.alphas) else self.last_alpha
        variance = (1 - after) / (1 - alpha) * (1 - alpha / after)
        sigma = min(self.eta * sqrt(max(0.0, variance)), sqrt(1 - after))
        low, high = (np.float32(end) for end in self.range)
        return Step(
            self.prediction,
            np.float32(sqrt(alpha)),
            np.float32(sqrt(1 - alpha)),
            np.float32(sqrt(after)),
            np.float32(sqrt(max(0.0, 1 - after - sigma**2))),
            np.float32(sigma),
            low,
            high,
            clip=self.clip,
        )


@dataclass(frozen=True)
class Step:
    """The numbers of one step, all float32.

    Attributes
    ----------
    prediction
        See `Sampler`.
    signal, noise
        Amplitudes of picture and noise before the step.
    signal_after, noise_after
        The same after it; of the predicted noise.
    sigma
        Amplitude of fresh noise.
    low, high
        Values of black and of full colour.
    clip
        See `Sampler`.
    """

    prediction: str
    signal: np.float32
    noise: np.float32
    signal_after: np.float32
    noise_after: np.float32
    sigma: np.float32
    low: np.float32
    high: np.float32
    clip: bool

    def advance(self, x: Float32, prediction: Float32, fresh: Float32 | None) -> Float32:
        """Take the step.

        Parameters
        ----------
        x
            Running picture, float32 of any shape.
        prediction
            Averaged predictions, of the same shape.
        fresh
            Standard normal noise of the same shape; None where `sigma` is 0.

        Returns
        -------
        npt.NDArray[np.float32]
            The picture after the step.
        """
        picture: Float32
        noise: Float32
        if self.prediction == "epsilon":
            picture, noise = np.divide(x - self.noise * prediction, self.signal), prediction
        elif self.prediction == "v":
            picture = self.signal * x - self.noise * prediction
            noise = self.signal * prediction + self.noise * x
        else:
            picture, noise = prediction, np.divide(x - self.signal * prediction, self.noise)
        if self.clip:
            picture = np.clip(picture, self.low, self.high)
        after = self.signal_after * picture + self.noise_after * noise
        return after if fresh is None else after + self.sigma * fresh

    def towards(self, picture: Float32, x: Float32) -> Float32:
        """Return the prediction of which this picture would come: float32, of the same shape as both arguments."""
        if self.prediction == "x0":
            return picture
        noise = (x - self.signal * picture) / self.noise
        made = noise if self.prediction == "epsilon" else self.signal * noise - self.noise * picture
        # Beside tissue the running picture may be far from background.
        most = np.float32(PREDICTION_LIMIT)
        return np.clip(made, -most, most)

    def values_of(self, colors: npt.NDArray[np.uint8]) -> Float32:
        """Turn RGB 0..255 into values of the picture: float32, of the same shape."""
        return colors * np.float32((self.high - self.low) / 255) + self.low

    def colors_of(self, picture: Float32) -> npt.NDArray[np.uint8]:
        """Turn values of the picture into RGB: uint8 of the same shape, rounded half to even and clipped."""
        levels: Float32 = picture - self.low
        levels *= np.float32(255 / (self.high - self.low))
        np.clip(np.rint(levels, out=levels), 0, 255, out=levels)
        return levels.astype(np.uint8)


def noise_seed(seed: int, step: int) -> int:
    """Return the seed of the noise that a step adds; step -1 is the noise that sampling begins with."""
    return (seed + (step + 2) * _APART) % (1 << 64)


def guided(model: Any, sampler: Sampler | None, is_fill: npt.NDArray[np.bool_]) -> Any:
    """Return a generator whose predictions are guided, or `model` where nothing guides it.

    What it predicts with the labels is moved away from what it predicts without: p + guidance (p - p0), as Ho and
    Salimans (Classifier-free diffusion guidance, 2022, equation 6) with w = guidance. Background is no condition to be
    guided by, so its label stays.

    Parameters
    ----------
    model
        See `safron.engine.generator.model.PatchModel`.
    sampler
        Of its card.
    is_fill
        Which labels are background: bool [256].
    """
    if sampler is None or not sampler.guidance:
        return model
    strength, null = np.float32(sampler.guidance), sampler.null_label or 0

    def call(
        labels: npt.NDArray[np.uint8], noise: Float32 | None = None, **planes: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        with_labels = model(labels, noise, **planes)
        without = model(np.where(is_fill[labels], labels, np.uint8(null)), noise, **planes)
        # Its range may grow by the guidance; predictions are summed within theirs.
        most = np.float32(PREDICTION_LIMIT)
        made: npt.NDArray[Any] = np.clip(with_labels + strength * (with_labels - without), -most, most)
        return made

    return call
