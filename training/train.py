"""How is a generator trained, from the first step to the last?

`fit` reads from top to bottom. Each step draws a batch that depends only on the seed and the step's number,
lets the judges see the generated tile beside the real one, and then lets the generator answer. The moving
average of the generator's weights is what is drawn on the sheets and exported.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safron.io.errors import BadInput, Failed
from safron.training.augment import apply_changes, draw_changes
from safron.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from safron.training.config import TrainConfig
from safron.training.data import Batch, Source, draw_batch, split
from safron.training.distributed import Team
from safron.training.journal import Journal, own_folder
from safron.training.losses import (
    AdversarialLoss,
    AnchorLoss,
    ClassLoss,
    FeatureLoss,
    HingeLoss,
    LogLoss,
    PixelLoss,
    class_weights,
)
from safron.training.networks import SpectralConv, make_generator, make_judges
from safron.training.sheet import draw_sheet, one_hot_labels
from safron.training.sources import open_source
from safron.training.stitch import TileGenerator, cut
from torch import Tensor, nn

SLOWEST = 0.05
"""Share of its first value that a learning rate falls to."""

AHEAD = 8
"""Batches that are prepared while a GPU works."""


@dataclass(frozen=True)
class Schedule:
    """When to stop, and how often to write; steps and minutes."""

    steps: int
    minutes: float | None = None
    log_every: int = 50
    save_every: int = 500


class Trainer:
    """Both networks, their optimizers and the moving average; one call of `step` is one step of training.

    Parameters
    ----------
    config
        All settings.
    device
        PyTorch device.
    team
        The processes that train together.
    counts
        Pixels of each label in the data, which a class-wise judge weighs by; all alike unless given.
    compiled
        Let PyTorch compile the generator, and the judge if it has no spectral norm; takes minutes, pays on a GPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: str = "cpu",
        *,
        team: Team | None = None,
        counts: Tensor | None = None,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.done = config, choose_device(device), 0
        self.team = team or Team()
        # The fastest algorithm is not always the same one, nor does it add up in the same order twice.
        torch.backends.cudnn.deterministic = True
        self.generator = self._place(make_generator(config.model))
        self.average = self.generator
        if config.ema:
            self.average = self._place(make_generator(config.model))
            self.average.load_state_dict(self.generator.state_dict())
        self.judges = self._place(make_judges(config))
        tiles: nn.Module = TileGenerator(self.generator, config)
        if compiled:
            tiles.compile()
            # A compiled spectral norm would begin its backward pass from the buffer that the next image's forward pass
            # has changed; the judges that have one stay as they are.
            if not any(isinstance(module, SpectralConv) for module in self.judges.modules()):
                self.judges.compile()
        self.tiles = self.team.wrap(tiles, self.device)
        self.shared_judges = self.team.wrap(self.judges, self.device)
        self.generator_adam = torch.optim.Adam(
            self.generator.parameters(), config.generator_rate, betas=config.betas
        )
        self.judges_adam = torch.optim.Adam(
            self.judges.parameters(), config.discriminator_rate, betas=config.betas
        )
        self.half = choose_half(config, self.device)
        # Gradients of float16 vanish below 6e-8; scaling the loss keeps them. With other types it does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self.adversarial = _make_adversarial(config, counts)
        self.features, self.anchor, self.pixel = FeatureLoss(), AnchorLoss(config.anchor_cell), PixelLoss()

    def _place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def step(self, batch: Batch) -> dict[str, float]:
        """Train both networks on one batch and return the losses by name.

        Raises
        ------
        Failed
            A loss is no longer finite; neither network was changed by it.
        """
        config, share = self.config, self.done / self.config.steps
        self._prepare_step(share)
        one_hot, noise, real = self._tensors(batch)
        begin = [config.model.context + start for start in batch.phase]
        seen = _window(one_hot, begin, config.tile_side)
        with self._autocast():
            canvas, patches = self.tiles(one_hot, noise)
            fake = _window(canvas.float(), list(batch.phase), config.tile_side)
            shown = patches.float() if config.judged == "patch" else fake
            judged_labels, judged_real = self._shown(seen), self._shown(real)
            self.judges.train()
            real_logits, real_features = self.shared_judges(*self._changed(judged_labels, judged_real))
            labels, image = self._changed(judged_labels, shown.detach())
            fake_logits, _ = self.shared_judges(labels, image)
            judged = self.adversarial.discriminator(real_logits, fake_logits, labels)
        self._descend(judged, self.judges_adam, "judges")

        # The judges only pass gradients on here: their own would be thrown away.
        self.judges.eval().requires_grad_(False)
        with self._autocast():
            labels, image = self._changed(judged_labels, shown)
            fake_logits, fake_features = self.judges(labels, image)
        losses = {"adversarial": self.adversarial.generator(fake_logits, labels)}
        total = losses["adversarial"]
        for name, pair, loss, pictures in (
            ("feature", config.feature_weight, self.features, (real_features, fake_features)),
            ("anchor", config.anchor_weight, self.anchor, (real, fake)),
            ("pixel", config.pixel_weight, self.pixel, (real, fake)),
        ):
            if any(pair):
                losses[name] = loss(*pictures)
                total = total + _weight(pair, share / config.settle) * losses[name]
        self._descend(total, self.generator_adam, "generator")
        self.scaler.update()
        self.judges.requires_grad_(True)
        self._follow()
        self.done += 1
        return {"judges": judged.item(), **{name: value.item() for name, value in losses.items()}}

    def _prepare_step(self, share: float) -> None:
        """Set rates and norms for this part of the run, and what dropout will draw."""
        config = self.config
        rate = min(1.0, max(SLOWEST, (1.0 - share) / config.cooldown)) if config.cooldown else 1.0
        for adam, base in (
            (self.generator_adam, config.generator_rate),
            (self.judges_adam, config.discriminator_rate),
        ):
            adam.param_groups[0]["lr"] = base * rate
        self.generator.train()
        if share >= config.freeze_norms:
            for module in self.generator.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        words = np.random.SeedSequence([config.seed, self.done, 3, self.team.rank]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)

    def _shown(self, tile: Tensor) -> Tensor:
        """What the judge sees of a tile of labels or real tissue: all of it, or its patches."""
        if self.config.judged == "tile":
            return tile
        return cut(tile, self.config.model.tile, self.config.stride)

    def _changed(self, labels: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Change what the judge sees, real and generated images of a step alike."""
        config = self.config
        if not config.diffaugment:
            return labels, image
        changes = draw_changes(config, self.done).take(self.team.share(config.batch))
        return apply_changes(labels, image, changes, config.diffaugment)

    def _descend(self, loss: Tensor, adam: torch.optim.Optimizer, name: str) -> None:
        if not math.isfinite(loss.item()):
            raise Failed(
                f"the loss of the {name} became {loss.item()} at step {self.done + 1}; the last checkpoint is kept: go on "
                "from it with lower rates, or with bfloat16 and float16 off"
            )
        adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(adam)

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        one_hot = one_hot_labels(torch.from_numpy(batch.labels), len(self.config.model.labels))
        return (
            one_hot.to(self.device, memory_format=torch.channels_last),
            torch.from_numpy(batch.noise).to(self.device, memory_format=torch.channels_last),
            torch.from_numpy(batch.images).to(self.device, memory_format=torch.channels_last),
        )

    def _follow(self) -> None:
        if self.average is self.generator:
            return
        decay = min(self.config.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
            # Running statistics are averages already.
            for kept, current in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                kept.copy_(current)

    def checkpoint(self, metadata: dict[str, Any]) -> Checkpoint:
        """Return the run as it stands.

        Raises
        ------
        Failed
            A weight is not finite: the last step went wrong, and keeping it would cost the run.
        """
        if not all(
            bool(p.isfinite().all()) for p in (*self.generator.parameters(), *self.judges.parameters())
        ):
            raise Failed(
                f"a weight is no longer finite at step {self.done}; the last checkpoint is kept: go on from it with lower "
                "rates, or with bfloat16 and float16 off"
            )
        state = {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "judges": self.judges.state_dict(),
            "generator_adam": self.generator_adam.state_dict(),
            "judges_adam": self.judges_adam.state_dict(),
            "scaler": self.scaler.state_dict(),
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
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.done = checkpoint.step


def _window(x: Tensor, start: list[int], side: int) -> Tensor:
    return x[..., start[0] : start[0] + side, start[1] : start[1] + side]


def _weight(pair: tuple[float, float], share: float) -> float:
    start, end = pair
    return start + (end - start) * min(1.0, share)


def _make_adversarial(config: TrainConfig, counts: Tensor | None) -> AdversarialLoss:
    if config.judge == "classes":
        return ClassLoss(class_weights(torch.ones(len(config.model.labels)) if counts is None else counts))
    return HingeLoss() if config.adversarial == "hinge" else LogLoss()


def name_device(name: str) -> str:
    """Return what "auto" stands for, a GPU if there is one; other names as they are. Nothing is put there yet."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


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


def choose_half(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, or None for float32 alone."""
    if config.float16:
        return torch.float16
    if not config.bfloat16:
        return None
    # GPUs before Ampere have float16 alone.
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16


Report = Callable[[int, dict[str, float]], None]
"""Told of each step: steps done, and its losses."""


def fit(
    folder: Path,
    out: Path,
    config: TrainConfig,
    schedule: Schedule,
    *,
    resume: bool = False,
    device: str = "cpu",
    cache: Path | None = None,
    team: Team | None = None,
    compiled: bool = False,
    report: Report | None = None,
) -> Path:
    """Train on the data in `folder`, write checkpoints, a log and sample sheets to `out`.

    Parameters
    ----------
    folder
        Images and masks; see `sources.open_source`.
    out
        Gets ``checkpoint.pt`` and ``.json``, ``log.jsonl``, ``tensorboard/`` and ``sheet-NNNNNN.png``.
    resume
        Continue from ``out/checkpoint.pt``; the result is the same as without a break.
    device
        PyTorch device.
    cache
        Folder for prepared frames; ``out`` unless given.
    team
        The processes that train together, each calling `fit` alike.
    compiled
        See `Trainer`.
    report
        Told of each step by the first process, if given.

    Returns
    -------
    Path
        The last checkpoint.

    Raises
    ------
    BadInput
        The data, the settings or the folder cannot be used, or another process trains into it.
    Failed
        A loss is no longer finite, or the disk is full; the last checkpoint is kept.
    KeyboardInterrupt
        Asked to stop by a signal; the step in hand was finished and saved.
    """
    team = team or Team()
    path = out / "checkpoint.pt"
    if path.exists() and not resume:
        raise BadInput(f"{path} exists; add --resume to go on from it, or choose another folder")
    part = team.share(config.batch)
    source = _open_in_turn(folder, config, cache or out, team)
    training, held_out = split(source, config.held_out)
    if config.epochs:
        schedule = dataclasses.replace(schedule, steps=max(1, config.epochs * len(training) // config.batch))
        config = dataclasses.replace(config, steps=schedule.steps)
    out.mkdir(parents=True, exist_ok=True)
    with own_folder(out) if team.leads else nullcontext():
        counts = torch.from_numpy(training.counts(len(config.model.labels)))
        trainer = Trainer(config, device, team=team, counts=counts, compiled=compiled)
        if resume:
            trainer.restore(load_same(path, config, describe_data(training)))
        steps = range(trainer.done, schedule.steps)
        batches = _batches(training, config, steps, part, ahead=trainer.device.type != "cpu")
        journal = Journal(out, trainer.done) if team.leads else None
        try:
            _loop(trainer, batches, schedule, path, journal, _describe(training, trainer), held_out, report)
        finally:
            if journal is not None:
                journal.close()
        team.wait()
    return path


def describe_data(training: Source) -> dict[str, Any]:
    """What a checkpoint says of the data."""
    return {"images": len(training), "slides": len(set(training.slides)), "data": training.name}


def _describe(training: Source, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint says of its making, beside its settings."""
    return describe_data(training) | {
        "torch": torch.__version__,
        "device": trainer.device.type,
        "precision": str(trainer.half or torch.float32).removeprefix("torch."),
        "processes": trainer.team.size,
    }


def _loop(
    trainer: Trainer,
    batches: Iterator[Batch],
    schedule: Schedule,
    path: Path,
    journal: Journal | None,
    metadata: dict[str, Any],
    held_out: Source,
    report: Report | None,
) -> None:
    """Train until the schedule ends or somebody asks to stop; only the process with a journal writes."""
    began = time.monotonic()
    with _stop_requests() as asked:
        for batch in batches:
            losses = trainer.step(batch)
            minutes = (time.monotonic() - began) / 60
            over = bool(asked) or (schedule.minutes is not None and minutes >= schedule.minutes)
            last = trainer.done >= schedule.steps or trainer.team.agree(over, trainer.device)
            if journal is not None:
                if report is not None:
                    report(trainer.done, losses)
                if trainer.done % schedule.log_every == 0 or last:
                    journal.losses(trainer.done, minutes, losses)
                if trainer.done % schedule.save_every == 0 or last:
                    save_checkpoint(path, trainer.checkpoint(metadata))
                    journal.sheet(trainer.done, draw_sheet(trainer.average, held_out, trainer.config))
            if last:
                break
    if asked:
        raise KeyboardInterrupt


def _open_in_turn(folder: Path, config: TrainConfig, cache: Path, team: Team) -> Source:
    """Let the first process prepare the data; the others then find it in the cache."""
    if not team.leads:
        team.wait()
    source = open_source(folder, config, cache)
    if team.leads:
        team.wait()
    return source


def load_same(path: Path, config: TrainConfig, data: dict[str, Any]) -> Checkpoint:
    """Load a run to go on with. Only its length may change: other settings or other data would make it another run.

    Parameters
    ----------
    data
        `describe_data` of what is trained on; held against what the checkpoint says, where it says it.

    Raises
    ------
    BadInput
        There is no such run, or its settings or its data differ.
    """
    kept = load_checkpoint(path)
    then, now = (
        ", ".join(f"{name} {about[name]}" for name in data if kept.metadata.get(name))
        for about in (kept.metadata, data)
    )
    if then != now:
        raise BadInput(
            f"{path} was trained on other data ({then}) than that given ({now}); give the same, or choose another folder"
        )
    wanted = dataclasses.replace(config, steps=kept.config.steps, epochs=kept.config.epochs).to_json()
    had = kept.config.to_json()
    wanted |= {f"model.{name}": value for name, value in wanted.pop("model").items()}
    had |= {f"model.{name}": value for name, value in had.pop("model").items()}
    different = [name for name in had if had[name] != wanted[name]]
    if different:
        raise BadInput(
            f"{path} was made with other settings than those asked for ({', '.join(different)}); leave them out to go on as it "
            "was, or choose another folder"
        )
    return kept


def _batches(
    source: Source, config: TrainConfig, steps: range, part: slice, *, ahead: bool
) -> Iterator[Batch]:
    """Draw the batches of `steps`; `ahead` draws the next ones in threads while a GPU works."""
    if not ahead:
        for step in steps:
            yield draw_batch(source, config, step, part)
        return
    with ThreadPoolExecutor(AHEAD // 2) as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in steps:
                further = range(step + len(waiting), min(step + AHEAD, steps.stop))
                waiting += [pool.submit(draw_batch, source, config, number, part) for number in further]
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while a step is in hand; the second one stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
