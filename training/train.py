"""How is a generator trained, from the first step to the last?

`fit` reads from top to bottom. Each step draws a batch that depends only on the seed and the step's number,
lets the judges see the generated image beside the real one, and then lets the generator answer. The moving
average of the generator's weights is what is drawn on the sheets and exported.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safron.io.errors import BadInput
from safron.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from safron.training.config import TrainConfig
from safron.training.data import Batch, Pairs, draw_batch, draw_noise, prepare, split
from safron.training.losses import AnchorLoss, FeatureLoss, HingeLoss, PixelLoss
from safron.training.networks import Discriminators, crop, make_generator
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """When to stop, and how often to write; steps and minutes."""

    steps: int
    minutes: float | None = None
    log_every: int = 50
    save_every: int = 500


class Trainer:
    """Both networks, their optimizers and the moving average; one call of `step` is one step of training."""

    def __init__(self, config: TrainConfig, device: str = "cpu") -> None:
        if config.model.network != "seamless":
            raise BadInput(
                f"preset {config.model.name!r} cannot be trained yet; train safron-seamless, "
                "or write random weights with safron-train export-random"
            )
        torch.manual_seed(config.seed)
        self.config, self.device, self.done = config, choose_device(device), 0
        self.generator = self._place(make_generator(config.model))
        self.average = self._place(make_generator(config.model))
        self.average.load_state_dict(self.generator.state_dict())
        self.judges = self._place(Discriminators(len(config.model.labels), config.discriminator_widths))
        self.generator_adam = torch.optim.Adam(
            self.generator.parameters(), config.generator_rate, betas=config.betas
        )
        self.judges_adam = torch.optim.Adam(
            self.judges.parameters(), config.discriminator_rate, betas=config.betas
        )
        self.hinge, self.features = HingeLoss(), FeatureLoss()
        self.anchor, self.pixel = AnchorLoss(config.anchor_cell), PixelLoss()

    def _place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def step(self, batch: Batch) -> dict[str, float]:
        """Train both networks on one batch and return the losses by name."""
        config, share = self.config, self.done / self.config.steps
        rate = min(1.0, max(0.05, (1.0 - share) / config.cooldown))
        for group, base in (
            (self.generator_adam.param_groups[0], config.generator_rate),
            (self.judges_adam.param_groups[0], config.discriminator_rate),
        ):
            group["lr"] = base * rate
        labels, noise, real = self._tensors(batch)
        seen = crop(labels, config.model.context)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            fake = self.generator(labels, noise).float()
            self.judges.train()
            real_logits, real_features = self.judges(seen, real)
            fake_logits, _ = self.judges(seen, fake.detach())
            judged = self.hinge.discriminator(real_logits, fake_logits)
        self.judges_adam.zero_grad(set_to_none=True)
        judged.backward()  # type: ignore[no-untyped-call]
        self.judges_adam.step()

        # The judges only pass gradients on here: their own would be thrown away.
        self.judges.eval().requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            fake_logits, fake_features = self.judges(seen, fake)
        losses = {
            "adversarial": self.hinge.generator(fake_logits),
            "feature": self.features(real_features, fake_features),
            "anchor": self.anchor(real, fake),
            "pixel": self.pixel(real, fake),
        }
        total = losses["adversarial"] + sum(
            _weight(pair, share / config.settle) * losses[name]
            for name, pair in (
                ("feature", config.feature_weight),
                ("anchor", config.anchor_weight),
                ("pixel", config.pixel_weight),
            )
        )
        self.generator_adam.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        self.judges.requires_grad_(True)
        self._follow()
        self.done += 1
        return {"judges": judged.item(), **{name: value.item() for name, value in losses.items()}}

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        one_hot = one_hot_labels(torch.from_numpy(batch.labels), len(self.config.model.labels))
        return (
            one_hot.to(self.device, memory_format=torch.channels_last),
            torch.from_numpy(batch.noise).to(self.device, memory_format=torch.channels_last),
            torch.from_numpy(batch.images).to(self.device, memory_format=torch.channels_last),
        )

    def _follow(self) -> None:
        decay = min(self.config.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)

    def checkpoint(self, metadata: dict[str, Any]) -> Checkpoint:
        """Return the run as it stands."""
        state = {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "judges": self.judges.state_dict(),
            "generator_adam": self.generator_adam.state_dict(),
            "judges_adam": self.judges_adam.state_dict(),
        }
        return Checkpoint(self.config, self.done, metadata, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state = checkpoint.state
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.judges.load_state_dict(state["judges"])
        self.generator_adam.load_state_dict(state["generator_adam"])
        self.judges_adam.load_state_dict(state["judges_adam"])
        self.done = checkpoint.step


def _weight(pair: tuple[float, float], share: float) -> float:
    start, end = pair
    return start + (end - start) * min(1.0, share)


def one_hot_labels(labels: Tensor, count: int) -> Tensor:
    """[n, y, x] uint8 -> [n, count, y, x] float32."""
    return F.one_hot(labels.long(), count).movedim(-1, 1).float()


def fit(
    folder: Path,
    out: Path,
    config: TrainConfig,
    schedule: Schedule,
    *,
    resume: bool = False,
    device: str = "cpu",
    cache: Path | None = None,
) -> Path:
    """Train on the pairs in `folder`, write checkpoints, a log and sample sheets to `out`.

    Parameters
    ----------
    folder
        Images and gland masks; see `data.find_pairs`.
    out
        Gets ``checkpoint.pt`` and ``.json``, ``log.jsonl`` and ``sheet-NNNNNN.png``.
    resume
        Continue from ``out/checkpoint.pt``; the result is the same as without a break.
    cache
        Folder for the prepared pairs; ``out`` unless given.

    Returns
    -------
    Path
        The last checkpoint.
    """
    path = out / "checkpoint.pt"
    if path.exists() and not resume:
        raise BadInput(f"{path} exists; add --resume to go on from it, or choose another folder")
    pairs = prepare(folder, cache or out)
    training, held_out = split(pairs, config.held_out)
    trainer = Trainer(config, device)
    if resume:
        trainer.restore(_load_same(path, config))
    metadata = {"images": len(training), "slides": len(set(training.slides)), "torch": torch.__version__}
    began, log = time.monotonic(), out / "log.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    while trainer.done < schedule.steps:
        losses = trainer.step(draw_batch(training, config, trainer.done))
        minutes = (time.monotonic() - began) / 60
        last = trainer.done >= schedule.steps or (
            schedule.minutes is not None and minutes >= schedule.minutes
        )
        if trainer.done % schedule.log_every == 0 or last:
            _log(log, {"step": trainer.done, "minutes": round(minutes, 3), **losses})
        if trainer.done % schedule.save_every == 0 or last:
            save_checkpoint(path, trainer.checkpoint(metadata))
            save_sheet(out / f"sheet-{trainer.done:06d}.png", trainer.average, held_out, config)
        if last:
            break
    return path


def _load_same(path: Path, config: TrainConfig) -> Checkpoint:
    """Load a run to go on with. Only its length may change: other settings would make it another run."""
    kept = load_checkpoint(path)
    if dataclasses.replace(kept.config, steps=config.steps) != config:
        raise BadInput(
            f"{path} was made with other settings than those asked for; see {path.with_suffix('.json')}"
        )
    return kept


def choose_device(name: str) -> torch.device:
    """Return the device called `name`, once a tensor has been put there.

    Raises
    ------
    BadInput
        This PyTorch has no such device.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device {name!r} is not there for this PyTorch; use cpu, or install a build for it"
        ) from error


def _log(path: Path, entry: dict[str, float]) -> None:
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in entry.items()}
    with path.open("a") as file:
        file.write(json.dumps(rounded) + "\n")


def generate(
    generator: nn.Module, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32], config: TrainConfig
) -> npt.NDArray[np.uint8]:
    """Render labels uint8 [y, x] and noise [k, y, x], context included, to RGB uint8 [y-40, x-40, 3]."""
    device = next(generator.parameters()).device
    with torch.no_grad():
        one_hot = one_hot_labels(torch.from_numpy(labels)[None], len(config.model.labels)).to(device)
        image = generator(one_hot, torch.from_numpy(noise)[None].to(device))[0]
    rgb = ((image.float() + 1) * 127.5).clamp(0, 255).round().byte()
    return np.asarray(rgb.movedim(0, -1).cpu().numpy())


def stitch(
    generator: nn.Module, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32], config: TrainConfig
) -> npt.NDArray[np.uint8]:
    """Render a canvas patch by patch at the default tile; each patch overwrites the 20 pixels that it shares.

    Labels beyond the canvas repeat its edge; noise covers the canvas with its context.
    """
    tile, context = config.model.tile, config.model.context
    step = tile - 20
    height, width = labels.shape
    rows, columns = -(-max(height - 20, 1) // step), -(-max(width - 20, 1) // step)
    below, right = rows * step + 20 - height + context, columns * step + 20 - width + context
    wide = np.pad(labels, ((context, below), (context, right)), mode="edge")
    # Past the canvas any noise will do: what it makes there is cut off.
    noise = np.pad(noise, ((0, 0), (0, wide.shape[0] - noise.shape[1]), (0, wide.shape[1] - noise.shape[2])))
    out = np.zeros((rows * step + 20, columns * step + 20, 3), np.uint8)
    for y in range(0, rows * step, step):
        for x in range(0, columns * step, step):
            read = np.s_[y : y + tile + 2 * context, x : x + tile + 2 * context]
            out[y : y + tile, x : x + tile] = generate(generator, wide[read], noise[:, *read], config)
    return out[:height, :width]


def save_sheet(path: Path, generator: nn.Module, held_out: Pairs, config: TrainConfig) -> None:
    """Draw held-out slides: masks, real tissue, generated tissue, and below them one stitched canvas."""
    rng = np.random.default_rng([config.seed, 1])
    colors = np.array([label.color for label in config.model.labels], np.uint8)
    context, chosen = (
        config.model.context,
        rng.choice(len(held_out), size=min(4, len(held_out)), replace=False),
    )
    strips = []
    for index in chosen:
        labels = held_out.labels[index]
        wide = np.pad(labels, context, mode="edge")[: 224 + 2 * context, : 296 + 2 * context]
        noise = draw_noise(rng, wide.shape[0], wide.shape[1], config.model.noise_scales)
        image = generate(generator, wide, noise, config)
        strips.append(np.vstack([colors[labels[:, :296]], held_out.images[index][:, :296], image]))
    canvas = mosaic(held_out.labels[rng.choice(len(held_out), size=8)], 2, 4)[:, : 296 * len(strips)]
    noise = draw_noise(
        rng, canvas.shape[0] + 2 * context, canvas.shape[1] + 2 * context, config.model.noise_scales
    )
    sheet = np.vstack([np.hstack(strips), stitch(generator, canvas, noise, config)])
    part = path.with_name(path.stem + ".part.png")
    cv2.imwrite(str(part), sheet[..., ::-1])
    part.replace(path)


def mosaic(labels: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Lay masks [n, y, x] out as one canvas, every second one mirrored."""
    lines = []
    for row in range(rows):
        cells = [labels[(row * columns + column) % len(labels)] for column in range(columns)]
        line = np.hstack([cell[:, ::-1] if column % 2 else cell for column, cell in enumerate(cells)])
        lines.append(line[::-1] if row % 2 else line)
    return np.vstack(lines)
