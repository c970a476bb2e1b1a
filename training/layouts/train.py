"""How is a mask model trained, from the first step to the last?

As `safron.training.diffusion.train` trains on pictures of tissue. Everything random in a step follows from the seed and its
number, so a run that continues does what it would have done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safron.io.errors import BadInput, Failed
from safron.io.files import replacing
from safron.training.diffusion.network import one_hot_of
from safron.training.diffusion.process import (
    TIMES,
    add_noise,
    linear_alphas,
    sampling_times,
    target_of,
    to_picture,
)
from safron.training.diffusion.sample import ddim
from torch import Tensor, nn

from .data import Crops, Layouts, make_planes
from .network import LayoutUNet
from .settings import LayoutConfig, config_from_json

FORMAT = 1
WARM_UP = 100
SHEET_STEPS, SHEET_CROPS = 20, 6


def make_network(config: LayoutConfig) -> LayoutUNet:
    """Make the network of a run."""
    return LayoutUNet(len(config.types), len(config.labels), config.widths, config.blocks)


class Trainer:
    """Network, optimizer and moving average; each call of `step` is one step of training.

    Parameters
    ----------
    config
        All settings.
    """

    def __init__(self, config: LayoutConfig) -> None:
        torch.manual_seed(config.seed)
        self.config, self.done = config, 0
        self.network, self.average = make_network(config), make_network(config)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.rate)
        self.alphas = torch.from_numpy(linear_alphas()).float()

    def step(self, layouts: Layouts) -> float:
        """Take one step, and return the loss."""
        config = self.config
        rng = np.random.default_rng([config.seed, 7, self.done])
        crops = layouts.draw(rng, config.batch)
        picture, times = to_picture(crops.pictures), torch.from_numpy(rng.integers(0, TIMES, config.batch))
        noise = torch.from_numpy(rng.standard_normal(picture.shape, np.float32))
        alpha = self.alphas[times]
        self._set_rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            made = self.network(
                add_noise(picture, noise, alpha), times.float(), *conditions(crops, len(config.labels))
            )
        loss = (made.float() - target_of(config.prediction, picture, noise, alpha)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        self._average()
        return float(loss.detach())

    def _set_rate(self) -> None:
        late = self.done >= 0.8 * self.config.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * min(1.0, (self.done + 1) / WARM_UP) * (0.2 if late else 1.0)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.ema, (1 + self.done) / (10 + self.done))
        for mean, own in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(own, 1 - keep)

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps."""
        return {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}

    def load(self, state: dict[str, Any], step: int) -> None:
        """Go on from a checkpoint."""
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.done = step


def conditions(crops: Crops, labels: int) -> tuple[Tensor, Tensor]:
    """Give types float32 [n, types] and regions float32 [n, labels, y, x], as the network takes them."""
    return torch.from_numpy(crops.types), one_hot_of(torch.from_numpy(crops.regions), labels)


def fit(
    nuclei: Path,
    regions: Path | None,
    out: Path,
    config: LayoutConfig,
    *,
    minutes: float | None = None,
    save_every: int = 200,
    resume: bool = False,
    tell: Callable[[str], None] = lambda line: None,
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
    minutes
        Stop after so long.
    save_every
        Steps from one checkpoint to the next.
    resume
        Continue from the checkpoint.
    tell
        Takes a line now and then.

    Raises
    ------
    BadInput
        `out` holds a run and `resume` was not given, or the data cannot be used.
    """
    checkpoint, planes = out / "checkpoint.pt", out / "planes.npy"
    if checkpoint.exists() and not resume:
        raise BadInput(f"{checkpoint} exists; pass --resume to continue it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    if resume:
        kept, step, state = load_run(checkpoint)
        if replace(kept, steps=config.steps) != config:
            raise BadInput(f"{checkpoint} was made with other settings; leave them out to continue as it was")
        trainer.load(state, step)
    if not planes.exists():
        make_planes(nuclei, regions, config, planes, tell)
    mapped = np.load(planes, mmap_mode="r")
    trained, held_out = (Layouts(mapped, config, held_out=held) for held in (False, True))
    log, start, losses = out / "log.jsonl", time.monotonic(), list[float]()
    while trainer.done < config.steps:
        losses.append(trainer.step(trained))
        late = minutes is not None and time.monotonic() - start > 60 * minutes
        if trainer.done % 50 == 0:
            entry = {"step": trainer.done, "loss": round(sum(losses) / len(losses), 5)}
            entry["minutes"] = round((time.monotonic() - start) / 60, 2)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            tell(f"step {trainer.done} of {config.steps}, loss {entry['loss']}")
            losses.clear()
        last = late or trainer.done == config.steps
        if trainer.done % save_every == 0 or last:
            save_run(checkpoint, trainer)
        if trainer.done % (5 * save_every) == 0 or last:
            write_sheet(out / f"sheet-{trainer.done:06d}.png", trainer.average, held_out, config)
        if late:
            break
    return checkpoint


def save_run(path: Path, trainer: Trainer) -> None:
    """Write a checkpoint; it appears whole or not at all."""
    about = {"kind": "layouts", "format": FORMAT, "step": trainer.done, "config": trainer.config.to_json()}
    try:
        with replacing(path) as file:
            torch.save({"about": json.dumps(about), "state": trainer.state()}, file)
    except (OSError, RuntimeError) as error:
        raise Failed(f"{path}: cannot save step {trainer.done} ({error}); make room on its disk") from error


def load_run(path: Path) -> tuple[LayoutConfig, int, dict[str, Any]]:
    """Read a checkpoint: settings, steps done, and state.

    Raises
    ------
    BadInput
        It is missing, or no checkpoint of a mask model.
    """
    with suppress(Exception):  # what a foreign file raises depends on its first bytes
        kept = torch.load(path, map_location="cpu", weights_only=True)
        about = json.loads(kept["about"])
        if about["kind"] == "layouts" and about["format"] == FORMAT:
            return config_from_json(about["config"], str(path)), about["step"], kept["state"]
    raise BadInput(f"{path} is not a checkpoint of a mask model; give a .pt file of safron-train masks")


@torch.no_grad()
def sample(
    network: nn.Module, crops: Crops, config: LayoutConfig, *, steps: int, seed: int
) -> npt.NDArray[np.uint8]:
    """Sample pictures of the crops' types and regions by DDIM: uint8 [n, y, x, 3]."""
    known, shape = conditions(crops, len(config.labels)), crops.regions.shape
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((shape[0], 3, *shape[1:]), np.float32))
    alphas, times = linear_alphas(), sampling_times(steps)
    for number, now in enumerate(times):
        after = alphas[times[number + 1]] if number + 1 < steps else 1.0
        made = network(x, torch.full((shape[0],), float(now)), *known)
        x = ddim(x, made, config.prediction, float(alphas[now]), float(after))
    levels = ((x + 1) * 127.5).round().clamp(0, 255).byte()
    return np.asarray(levels.permute(0, 2, 3, 1).numpy())


def write_sheet(path: Path, network: nn.Module, held_out: Layouts, config: LayoutConfig) -> None:
    """Write a sample sheet: regions of held-out crops, their real pictures, and what is sampled."""
    crops = held_out.draw(np.random.default_rng([config.seed, 1]), SHEET_CROPS, turn=False)
    colors = np.array([label.color for label in config.labels], np.uint8)
    made = sample(network, crops, config, steps=SHEET_STEPS, seed=config.seed)
    rows = [colors[crops.regions], crops.pictures, made]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    with replacing(path) as file:
        file.write(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
