"""What does a generator read beside labels?

Every input beside labels has a source: a pure function of the canvas position. So patches that overlap see the same
values, on any machine and in any order. The engine reads a source once for all patches that lie side by side, and cuts
what it read into patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from safron.engine.plan.planes import PlaneSpec, noise_spec
from safron.engine.plan.window import Window
from safron.io.masks.edges import borders, find_edges
from safron.io.measures.guides import Guides

from .card import Card
from .guides import read_guides
from .inputs import Labels, read_labels
from .noise import normal_noise
from .pictures import InitialPicture, initial_spec
from .sampler import noise_seed
from .style_field import StyleField, field_spec

Inputs = dict[str, npt.NDArray[Any]]
"""What patches are made of, by the name of the generator's input: "labels" uint8 [n, y, x], "noise" float32 [n, k, y, x], ..."""


class PlaneSource(Protocol):
    """Where the values of one input come from.

    Attributes
    ----------
    spec
        Its name, type and size.
    """

    @property
    def spec(self) -> PlaneSpec:
        """See above."""
        ...

    def read(self, window: Window) -> npt.NDArray[Any]:
        """Read the values of a window, which may reach beyond the canvas.

        Returns
        -------
        npt.NDArray[Any]
            [channels, window.height, window.width], or [channels] where the input is not spatial.
        """
        ...


@dataclass(frozen=True)
class Noise:
    """Standard normal noise; see `safron.engine.generator.noise`."""

    seed: int
    scales: tuple[int, ...]

    @property
    def spec(self) -> PlaneSpec:
        """See `PlaneSource`."""
        return noise_spec(self.scales)[0]

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """See `PlaneSource`."""
        return normal_noise(window, seed=self.seed, scales=self.scales)


EDGES = PlaneSpec("edges", 1, "uint8", low=0, high=1)


@dataclass(frozen=True)
class LabelEdges:
    """Where a label ends: 1 in a pixel one of whose four neighbours has another label.

    Attributes
    ----------
    labels
        Of the canvas.
    outside
        Label beyond the canvas, or None for the nearest canvas label.
    """

    labels: Labels
    outside: int | None
    spec = EDGES

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """See `PlaneSource`."""
        around = read_labels(self.labels, window.expand(1), outside=self.outside)
        return borders([around])[None]


@dataclass(frozen=True)
class NucleusEdges:
    """Where a nucleus ends: 1 in a pixel one of whose four neighbours belongs to another; see `safron.io.masks.edges`.

    Attributes
    ----------
    labels
        Of the canvas.
    instances
        Numbers of nuclei; None where there are none.
    nuclei
        Labels of nuclei.
    outside
        Label beyond the canvas, where there are no nuclei; None for the nearest label and number of the canvas.
    """

    labels: Labels
    instances: Labels | None
    nuclei: tuple[int, ...]
    outside: int | None
    spec = EDGES

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """See `PlaneSource`."""
        around = window.expand(1)
        labels, numbers = read_labels(self.labels, around, outside=self.outside), None
        if self.instances is not None:
            beyond = None if self.outside is None else 0
            numbers = read_labels(self.instances, around, outside=beyond)
        return find_edges(labels, self.nuclei, numbers)[None]


@dataclass(frozen=True)
class GivenEdges:
    """Edges that a user gives: 1 where their plane is not 0; beyond the canvas its nearest value."""

    plane: Labels
    spec = EDGES

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """See `PlaneSource`."""
        values = read_labels(self.plane, window, outside=None)
        edges: npt.NDArray[np.uint8] = (values != 0)[None].view(np.uint8)
        return edges


@dataclass(frozen=True)
class LabelGuides:
    """Distances, depths and widths of regions; see `safron.io.measures.guides`.

    Attributes
    ----------
    labels
        Of the canvas.
    outside
        Label beyond the canvas, or None for the nearest canvas label.
    guides
        What is measured.
    """

    labels: Labels
    outside: int | None
    guides: Guides

    @property
    def spec(self) -> PlaneSpec:
        """See `PlaneSource`."""
        return guides_spec(self.guides)

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """See `PlaneSource`."""
        return read_guides(self.labels, window, self.guides, outside=self.outside)


@dataclass(frozen=True)
class OneStyle:
    """The same vector for every patch."""

    vector: tuple[float, ...]

    @property
    def spec(self) -> PlaneSpec:
        """See `PlaneSource`."""
        return style_spec(self.vector)

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """See `PlaneSource`."""
        return np.array(self.vector, np.float32)


def guides_spec(guides: Guides) -> PlaneSpec:
    """Describe the input "guides"."""
    return PlaneSpec("guides", guides.channels, content="version 1")


def style_spec(vector: tuple[float, ...]) -> PlaneSpec:
    """Describe the input "style"."""
    text = " ".join(f"{value:.9g}" for value in vector)
    return PlaneSpec("style", len(vector), spatial=False, low=0.0, content=text)


def card_specs(card: Card, content: str = "") -> tuple[PlaneSpec, ...]:
    """Describe the inputs beside labels that a card names, in the order of `card_sources`; then a sampler's xt and t.

    Parameters
    ----------
    card
        Of the generator.
    content
        What decides the edges beside the labels, see `PlaneSpec`.
    """
    specs = [*noise_spec(card.noise_scales), *([replace(EDGES, content=content)] if card.edges else [])]
    specs += [guides_spec(card.guides)] if card.guides else []
    if card.style:
        one = style_spec(card.style.default)
        specs.append(field_spec(one.channels, card.style.content or one.content) if card.style.field else one)
    specs += [initial_spec(card.initial.content)] if card.initial else []
    return (*specs, *(card.sampler.specs if card.sampler else ()))


@dataclass(frozen=True)
class FirstNoise:
    """The noise that a sampler begins with, its input "xt" in the first step.

    Attributes
    ----------
    spec
        See `PlaneSource`.
    seed
        Of the render.
    """

    spec: PlaneSpec
    seed: int

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """See `PlaneSource`."""
        return normal_noise(window, seed=noise_seed(self.seed, -1), scales=(1,) * self.spec.channels)


@dataclass(frozen=True)
class Time:
    """What a sampler's input "t" is told in a step.

    Attributes
    ----------
    spec
        See `PlaneSource`.
    time
        The number.
    """

    spec: PlaneSpec
    time: float

    def read(self, window: Window) -> npt.NDArray[np.float32]:
        """See `PlaneSource`: float32 []."""
        return np.array(self.time, np.float32)


def first_step(card: Card, *, seed: int) -> tuple[PlaneSource, ...]:
    """Give the sources of "xt" and "t" in a sampler's first step; none of another generator."""
    if card.sampler is None:
        return ()
    xt, t = card.sampler.specs
    return FirstNoise(xt, seed), Time(t, card.sampler.times[0])


def card_sources(
    card: Card, labels: Labels, *, seed: int, beside: Mapping[str, Labels] | None = None
) -> tuple[PlaneSource, ...]:
    """Give the sources of all inputs that the mask and the seed decide; those of a sampler's step are not among them.

    Parameters
    ----------
    card
        Of the generator.
    labels
        Of the canvas.
    seed
        Of the noise.
    beside
        Further planes of the canvas: "instances" are numbers of nuclei, "edges" takes the place of computed ones.
    """
    given = beside or {}
    sources: list[PlaneSource] = []
    if card.noise_scales:
        sources.append(Noise(seed, card.noise_scales))
    if card.edges and "edges" in given:
        sources.append(GivenEdges(given["edges"]))
    elif card.edges and card.edges.of == "instances":
        sources.append(NucleusEdges(labels, given.get("instances"), card.edges.labels, card.outside))
    elif card.edges:
        sources.append(LabelEdges(labels, card.outside))
    if card.guides:
        sources.append(LabelGuides(labels, card.outside, card.guides))
    if card.style:
        style, one = card.style, OneStyle(card.style.default)
        content = style.content or one.spec.content
        field = StyleField(style.source, style.default, labels.shape, content)
        sources.append(field if style.field else one)
    if card.initial:
        sources.append(InitialPicture(card.initial.source, card.initial.content))
    return tuple(sources)


def patch_windows(source: PlaneSource, first: Window, count: int, stride: int) -> npt.NDArray[Any]:
    """Read a source under patches that lie side by side, once where they overlap.

    Parameters
    ----------
    source
        What to read.
    first
        Read window of the first patch.
    count
        Number of patches.
    stride
        Pixels from one patch to the next.

    Returns
    -------
    npt.NDArray[Any]
        A view [count, channels, height, width], or [count, channels] where the input is not spatial.
    """
    values = source.read(Window(first.y, first.x, first.height, first.width + (count - 1) * stride))
    if not source.spec.spatial:
        return np.broadcast_to(values, (count, *values.shape))
    return sliding_window_view(values, first.width, axis=2)[:, :, ::stride].transpose(2, 0, 1, 3)


def one_patch(sources: tuple[PlaneSource, ...], labels: npt.NDArray[np.uint8], window: Window) -> Inputs:
    """Give the inputs of one patch, of whose read window the labels [y, x] are given."""
    return {"labels": labels[None]} | {
        source.spec.name: patch_windows(source, window, 1, 1) for source in sources
    }


def further(inputs: Mapping[str, npt.NDArray[Any]]) -> Inputs:
    """Give the inputs beside labels and noise, which every `PatchModel` takes."""
    return {name: values for name, values in inputs.items() if name not in ("labels", "noise")}


def call_with(
    model: Callable[..., npt.NDArray[Any]], inputs: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """Call a generator, or what stands for it, with all inputs of some patches."""
    return model(inputs["labels"], inputs.get("noise"), **further(inputs))


def each(inputs: Mapping[str, npt.NDArray[Any]], part: Any) -> Inputs:
    """Give some patches of every input, by a slice or by their numbers."""
    return {name: values[part] for name, values in inputs.items()}
