"""How does a run begin with the weights of another generator?

`warm_start` writes a checkpoint at step 0 whose generator draws what an exported `safron-seamless` draws, as far as the two
networks agree; what that one did not read (guides, further cues, a style) begins without effect. A style's effect on colours
is then fitted to pairs of an image in the reference stain and the same image as it is. `safron-train fit --resume` goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from safron.training.checkpoint import save_checkpoint
from safron.training.config import TrainConfig
from safron.training.networks import SeamlessGenerator, StyleNetwork, turn
from safron.training.train import Trainer
from torch import Tensor

Floats = npt.NDArray[np.float32]


def warm_start(
    exported: Path, folder: Path, config: TrainConfig, pairs: tuple[Floats, Floats, Floats] | None
) -> Path:
    """Write `folder`/checkpoint.pt at step 0.

    Parameters
    ----------
    exported
        ONNX file of `safron-seamless` whose widths are those of `config`.
    folder
        Of the run that begins.
    config
        Settings of the run.
    pairs
        For a generator with a style: colours in the reference stain and as they are, [n, p, 3] in 0..255 each, and the
        styles [n, 9].
    """
    trainer = Trainer(config)
    generator = trainer.generator
    assert isinstance(generator, SeamlessGenerator)
    _copy_weights(onnx.load(exported), generator, len(config.model.labels))
    if pairs is not None and generator.style is not None:
        _fit_colors(generator, *map(torch.from_numpy, pairs))
    trainer.average.load_state_dict(generator.state_dict())
    path = folder / "checkpoint.pt"
    save_checkpoint(path, trainer.checkpoint({}))
    return path


def _copy_weights(graph: onnx.ModelProto, generator: SeamlessGenerator, labels: int) -> None:
    """Copy the initializers by name; the stem's further inputs begin at zero, and cues of glands share that of the old one."""
    found = {entry.name: numpy_helper.to_array(entry) for entry in graph.graph.initializer}
    found = {name.removeprefix("network."): torch.tensor(array) for name, array in found.items()}
    own = dict(generator.named_parameters())
    with torch.no_grad():
        for name, weight in own.items():
            if name.startswith(("style.", "guide.")):
                continue
            if name == "stem.weight":
                weight.zero_()
                old = found[name]
                weight[:, : labels + 3] = old[:, : labels + 3]
                # Old cues: gland, stroma; new ones: middle, epithelium, stroma.
                weight[:, labels + 3] = weight[:, labels + 4] = old[:, labels + 3] / 2**0.5
                weight[:, labels + 5] = old[:, labels + 4]
            else:
                weight.copy_(found[name])
        if generator.guide is not None:
            generator.guide.weight.mul_(0.1)


def _fit_colors(generator: SeamlessGenerator, reference: Tensor, real: Tensor, styles: Tensor) -> None:
    """Fit the last layers of a style so that colours of the reference stain become the real ones."""
    style = generator.style
    assert isinstance(style, StyleNetwork)
    style.set_range(styles)
    mix = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.dirac_(mix.weight)
    torch.nn.init.zeros_(mix.bias)  # type: ignore[arg-type]
    logits = torch.atanh((reference / 127.5 - 1).clamp(-0.99, 0.99)).movedim(-1, 1)[..., None]
    wanted = (real / 127.5 - 1).movedim(-1, 1)[..., None]
    parts = [*style.hidden.parameters(), *style.heads[3].parameters(), *style.colors.parameters()]
    adam = torch.optim.Adam([*parts, *mix.parameters()], 1e-2)
    rng = np.random.default_rng(0)
    for _ in range(600):
        chosen = torch.from_numpy(rng.integers(len(styles), size=64))
        look = style(styles[chosen])[3]
        loss = (torch.tanh(style.colors(turn(mix(logits[chosen]), look))) - wanted[chosen]).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        full2 = generator.full2
        matrix = mix.weight[:, :, 0, 0]
        full2.weight.copy_(torch.einsum("ij,jkyx->ikyx", matrix, full2.weight))
        full2.bias.copy_(matrix @ full2.bias + mix.bias)
