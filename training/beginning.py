"""How does a run begin: which styles does it know, and with whose weights does it start?

A run may start with those of another run of the same network, whose discriminator it leaves behind; or with the weights of
an exported `safron-seamless` of the same widths. Its generator then draws what that one
draws, as far as the two networks agree; what that one did not read (guides, further cues, a style) begins without effect. A
style's effect on colours is fitted to images in the reference stain and as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safron.io.errors import BadInput, one_line
from safron.training.checkpoint import load_checkpoint
from safron.training.config import TrainConfig
from safron.training.data import Source
from safron.training.data.ebhi import balance_white, normalize_stain, stained
from safron.training.data.looks import named_styles, sample_styles
from safron.training.data.source import Floats
from safron.training.networks import SeamlessGenerator, StyleNetwork, turn
from torch import Tensor, nn

FIT_STEPS, FIT_RATE = 600, 1e-2
"""Steps of the fit of colours, and its learning rate."""

FIT_IMAGES, FIT_PIXELS = 300, 256
"""Windows that it looks at, and pixels of each."""


def begin(
    generator: nn.Module, average: nn.Module, config: TrainConfig, source: Source, start: Path | None
) -> None:
    """Prepare a run that has not begun: styles of the data, and weights of another generator, if there is one.

    Raises
    ------
    BadInput
        The other generator, a checkpoint or an exported file, cannot be read, or its layers are not those of this one.
    """
    if start is not None and start.suffix == ".pt":
        other = load_checkpoint(start)
        if other.config.model != config.model:
            raise BadInput(
                f"--start {start}: its model has other settings than this one; begin with the same preset"
            )
        generator.load_state_dict(other.state["average"])
        average.load_state_dict(other.state["average"])
        return
    if isinstance(generator, SeamlessGenerator) and generator.style is not None:
        generator.style.set_range(torch.from_numpy(sample_styles(source, config)))
    if start is not None:
        if not isinstance(generator, SeamlessGenerator):
            raise BadInput(
                f"--start {start}: only seamless networks start with another's weights; leave it out"
            )
        _copy_weights(start, generator, config)
        if generator.style is not None:
            _fit_colors(generator, *_colors(source, config))
    average.load_state_dict(generator.state_dict())


def name_styles(source: Source, config: TrainConfig) -> dict[str, list[float]]:
    """Name some of the training images' styles, for the card; none for a generator that takes none."""
    return named_styles(sample_styles(source, config)) if config.model.style else {}


def _copy_weights(exported: Path, generator: SeamlessGenerator, config: TrainConfig) -> None:
    """Copy initializers by name.

    The stem's further inputs begin at zero. Of the last noise channels, the cues, a gland's two share what its one had.
    """
    try:
        entries = onnx.load(exported).graph.initializer
    except Exception as error:  # what a foreign file raises depends on its first bytes
        raise BadInput(
            f"--start {exported}: cannot be read ({one_line(error)}); give an exported safron-seamless"
        ) from error
    found = {
        entry.name.removeprefix("network."): torch.tensor(numpy_helper.to_array(entry)) for entry in entries
    }
    labels, cues = len(config.model.labels), 3 if len(config.model.noise_scales) == 6 else 2
    first = labels + len(config.model.noise_scales) - cues
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            if name.startswith(("style.", "guide.")):
                continue
            old = found.get(name)
            if name == "stem.weight" and old is not None and old.shape[1] == first + 2:
                weight.zero_()
                weight[:, :first] = old[:, :first]
                weight[:, first : first + cues - 1] = old[:, first : first + 1] / (cues - 1) ** 0.5
                weight[:, first + cues - 1] = old[:, first + 1]
            elif old is not None and old.shape == weight.shape:
                weight.copy_(old)
            else:
                raise BadInput(
                    f"--start {exported}: its layer {name} is {None if old is None else tuple(old.shape)}, not "
                    f"{tuple(weight.shape)}; give an exported safron-seamless of the same widths"
                )
        if generator.guide is not None:
            generator.guide.weight.zero_()


def _colors(source: Source, config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Colours of pixels in the reference stain and as they are, [n, p, 3] in 0..255 each, and styles [n, s]."""
    rng, side = np.random.default_rng(1), config.tile_side + 2 * config.model.context
    found: list[tuple[Floats, Floats, Floats]] = []
    for index in rng.permutation(len(source))[:FIT_IMAGES]:
        sample = source.read(int(index), source.place(rng, int(index), side), side)
        balanced, background = balance_white(sample.image), sample.labels == 0
        if not stained(balanced, background).any():
            continue
        chosen = rng.integers(side * side, size=FIT_PIXELS)
        pair = (normalize_stain(balanced, background), sample.image)
        reference, own = (part.reshape(-1, 3)[chosen].astype(np.float32) for part in pair)
        found.append((reference, own, sample.style))
    first, second, third = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    return first, second, third


def _fit_colors(generator: SeamlessGenerator, reference: Tensor, own: Tensor, styles: Tensor) -> None:
    """Fit the last layers, of pixels by themselves, so that colours of the reference stain become their own."""
    style = generator.style
    assert isinstance(style, StyleNetwork)
    mix = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(mix.weight)
    assert mix.bias is not None
    nn.init.zeros_(mix.bias)
    logits = torch.atanh((reference / 127.5 - 1).clamp(-0.99, 0.99)).movedim(-1, 1)[..., None]
    wanted = (own / 127.5 - 1).movedim(-1, 1)[..., None]
    last = style.heads[-1]
    parts = [module.parameters() for module in (style.hidden, last, style.colors, mix)]
    adam = torch.optim.Adam([weight for part in parts for weight in part], FIT_RATE)
    rng = np.random.default_rng(0)
    for _ in range(FIT_STEPS):
        chosen = torch.from_numpy(rng.integers(len(styles), size=64))
        drawn = torch.tanh(style.colors(turn(mix(logits[chosen]), style(styles[chosen])[-1])))
        loss = (drawn - wanted[chosen]).abs().mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    with torch.no_grad():
        matrix, full2 = mix.weight[:, :, 0, 0], generator.full2
        assert full2.bias is not None
        full2.weight.copy_(torch.einsum("ij,jkyx->ikyx", matrix, full2.weight))
        full2.bias.copy_(matrix @ full2.bias + mix.bias)
