"""How is a generator trained, from the first step to the last?

`fit` reads from top to bottom: open the data, build the networks, draw a batch, take a step, write down how it went.
`Trainer.step` is one step of the method: the discriminator sees a stitched generated tile beside the real one and learns to
tell them apart; then the generator learns to pass. Everything random in a step follows from the seed and its number.
"""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safron.training.beginning import begin, name_styles
from safron.training.checkpoint import Checkpoint, load_same
from safron.training.config import TrainConfig
from safron.training.config.averaging import follow
from safron.training.config.data_sets import DataFacts
from safron.training.config.stopping import Diverged, own_folder, stop_requests, tell_what_is_kept
from safron.training.data import Batch, draw_batches
from safron.training.discriminators import SpectralConv, make_discriminator
from safron.training.distributed import Team, choose_device, choose_half
from safron.training.losses import AnchorLoss, FeatureLoss, HingeLoss, LogLoss, PixelLoss
from safron.training.networks import crop, join_conditions, make_generator, one_hot_labels
from safron.training.notes import Notes, Schedule
from safron.training.run_data import Run, check_beginning, open_run
from safron.training.stitch import TileGenerator, cut
from torch import Tensor, nn

SLOWEST = 0.05
"""Share of its first value that a learning rate falls to."""


class Trainer:
    """Both networks, their optimizers and the moving average; each call of `step` is one step of training.

    Parameters
    ----------
    config
        All settings.
    device
        PyTorch device.
    team
        The processes that train together.
    compiled
        Compile the generator, and the discriminator if it has no spectral norm; takes minutes, pays off on a GPU.
    """

    def __init__(
        self, config: TrainConfig, device: str = "cpu", *, team: Team | None = None, compiled: bool = False
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.done = config, choose_device(device), 0
        self.team = team or Team()
        self.half = choose_half(config, self.device)
        # In float32 a CPU gains nothing from colours beside each other, and the gradient of the paper's convolution of
        # 41 x 41 labels takes 30 times as long.
        beside = self.device.type != "cpu" or self.half is not None
        self.layout = torch.channels_last if beside else torch.contiguous_format
        # The fastest algorithm is not the same one each time, nor does it add up in the same order.
        torch.backends.cudnn.deterministic = True
        self.generator = self._place(make_generator(config.model))
        self.average = self.generator
        if config.ema:
            self.average = self._place(make_generator(config.model))
            self.average.load_state_dict(self.generator.state_dict())
        self.discriminator = self._place(make_discriminator(config))
        self.learning = [weight for weight in self.discriminator.parameters() if weight.requires_grad]
        tiles: nn.Module = TileGenerator(self.generator, config)
        if compiled:
            tiles.compile()
            # A compiled spectral norm would begin its backward pass from a buffer that the next image's forward pass has
            # changed; discriminators that have one stay as they are.
            if not any(isinstance(module, SpectralConv) for module in self.discriminator.modules()):
                self.discriminator.compile()
        self.tiles = self.team.wrap(tiles, self.device)
        self.shared_discriminator = self.team.wrap(self.discriminator, self.device)
        self.generator_adam = torch.optim.Adam(
            self.generator.parameters(), config.generator_rate, betas=config.betas
        )
        self.discriminator_adam = torch.optim.Adam(
            self.learning, config.discriminator_rate, betas=config.betas
        )
        # Gradients of float16 vanish below 6e-8; scaling the loss keeps them. With other types this does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        self.adversarial = HingeLoss() if config.adversarial == "hinge" else LogLoss()
        self.feature, self.anchor, self.pixel = FeatureLoss(), AnchorLoss(config.anchor_cell), PixelLoss()

    def _place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload,no-any-return]

    def step(self, batch: Batch) -> dict[str, float]:
        """Train both networks on one batch and return the losses by name (equation 3 of the paper).

        Raises
        ------
        Failed
            A loss is no longer finite; the network that it belongs to was not changed.
        """
        config, share = self.config, self.done / self.config.steps
        self._prepare_step(share)
        # [n, labels, y+2c, x+2c], [n, k, y+2c, x+2c] and [n, 3, y, x]
        one_hot, noise, real = self._tensors(batch)
        further = self._further(batch)

        # The generator makes patches, and stitches them to a tile.
        with self._autocast():
            tile, patches = self.tiles(one_hot, noise, **further)
        fake = tile.float()
        read = torch.cat([one_hot, further["guides"]], dim=1) if "guides" in further else one_hot
        labels, shown_real, shown_fake = crop(read, config.model.context), real, fake
        if config.discriminator_input == "patch":
            labels, shown_real = (cut(part, config.model.tile, config.stride) for part in (labels, real))
            shown_fake = patches.float()

        # The discriminator learns to tell them apart.
        self.discriminator.train()
        with self._autocast():
            real_logits, _ = self.shared_discriminator(labels, shown_real)
            fake_logits, _ = self.shared_discriminator(labels, shown_fake.detach())
            discriminator_loss = self.adversarial.discriminator(real_logits, fake_logits)
        self._descend(discriminator_loss, self.discriminator_adam, "discriminator")

        if self.done < config.generator_delay:
            self.scaler.update()
            self.done += 1
            return {"discriminator": discriminator_loss.item()}

        # The generator learns to pass. The discriminator only hands gradients on: its own would be thrown away.
        self.discriminator.eval().requires_grad_(False)
        with self._autocast():
            fake_logits, fake_features = self.discriminator(labels, shown_fake)
        losses = {"adversarial": self.adversarial.generator(fake_logits)}
        if any(config.feature_weight):
            # Computed again: features from before the discriminator's step differ even for equal images.
            with torch.no_grad(), self._autocast():
                _, real_features = self.discriminator(labels, shown_real)
            losses["feature"] = self.feature(real_features, fake_features)
        if any(config.anchor_weight):
            losses["anchor"] = self.anchor(real, fake)
        if any(config.pixel_weight):
            losses["pixel"] = self.pixel(real, fake)
        total = losses["adversarial"]
        for name, loss in losses.items():
            if name != "adversarial":
                start, end = getattr(config, f"{name}_weight")
                total = total + (start + (end - start) * min(1.0, share / config.settle)) * loss
        self._descend(total, self.generator_adam, "generator")
        self.scaler.update()
        for weight in self.learning:
            weight.requires_grad_(True)
        if self.average is not self.generator:
            follow(self.average, self.generator, self.config.ema, self.done)
        self.done += 1
        return {name: loss.item() for name, loss in {"discriminator": discriminator_loss, **losses}.items()}

    def _prepare_step(self, share: float) -> None:
        """Set rates and norms for this part of the run, and the seed of dropout."""
        config = self.config
        rate = min(1.0, max(SLOWEST, (1.0 - share) / config.cooldown)) if config.cooldown else 1.0
        self.generator_adam.param_groups[0]["lr"] = config.generator_rate * rate
        self.discriminator_adam.param_groups[0]["lr"] = config.discriminator_rate * rate
        self.generator.train()
        if share >= config.freeze_norms:
            # From here on the generator is trained as it renders.
            frozen = (nn.BatchNorm2d, nn.Dropout) if config.freeze_dropout else nn.BatchNorm2d
            for module in self.generator.modules():
                if isinstance(module, frozen):
                    module.eval()
        words = np.random.SeedSequence([config.seed, self.done, 3, self.team.rank]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Bring a batch to the device; labels go as bytes and become one-hot there."""
        labels, noise, images = (
            torch.from_numpy(array).to(self.device) for array in (batch.labels, batch.noise, batch.images)
        )
        edges = None if batch.edges is None else torch.from_numpy(batch.edges).to(self.device)
        one_hot = one_hot_labels(labels, len(self.config.model.labels))
        initial = None if batch.initial is None else torch.from_numpy(batch.initial).to(self.device)
        one_hot = join_conditions(one_hot, edges, self.config.model, initial)
        one_hot, noise, images = (
            part.contiguous(memory_format=self.layout) for part in (one_hot, noise, images)
        )
        return one_hot, noise, images

    def _further(self, batch: Batch) -> dict[str, Tensor]:
        """Bring what only some generators read to the device."""
        parts = {"guides": batch.guides if batch.guides.shape[1] else None}
        parts |= {"style": batch.style if batch.style.shape[1] else None}
        return {
            name: torch.from_numpy(part).to(self.device) for name, part in parts.items() if part is not None
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)

    def _descend(self, loss: Tensor, adam: torch.optim.Optimizer, name: str) -> None:
        """Take one step of Adam down a loss."""
        if not math.isfinite(loss.item()):
            raise Diverged(f"the loss of the {name} became {loss.item()} at step {self.done + 1}")
        adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(adam)

    def _parts(self) -> dict[str, Any]:
        """Everything that has a state, under its name in a checkpoint."""
        names = ("generator", "average", "discriminator", "generator_adam", "discriminator_adam", "scaler")
        return {name: getattr(self, name) for name in names}

    def checkpoint(self, metadata: dict[str, Any]) -> Checkpoint:
        """Return the run as it stands.

        Raises
        ------
        Failed
            A weight is not finite: the last step went wrong, and saving it would cost the run.
        """
        weights = (*self.generator.parameters(), *self.discriminator.parameters())
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise Diverged(f"a weight is no longer finite at step {self.done}")
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return Checkpoint(self.config, self.done, metadata, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        for name, part in self._parts().items():
            part.load_state_dict(checkpoint.state[name])
        self.done = checkpoint.step


@dataclass(frozen=True)
class Hardware:
    """What a training runs on.

    Attributes
    ----------
    device
        PyTorch device.
    team
        The processes that train together, each of which calls `fit` alike.
    compiled
        See `Trainer`.
    """

    device: str = "cpu"
    team: Team = field(default_factory=Team)
    compiled: bool = False


def fit(
    folder: Path | Run,
    out: Path,
    config: TrainConfig,
    schedule: Schedule,
    *,
    facts: DataFacts | None = None,
    resume: bool = False,
    start: Path | None = None,
    hardware: Hardware | None = None,
    cache: Path | None = None,
) -> Path:
    """Train on the data in `folder`; write checkpoints, a log and sample sheets to `out`.

    Parameters
    ----------
    folder
        Images and masks, see `data.open_source`; or a run that is not resumed and whose data `run_data.open_run` has opened.
    out
        Gets ``checkpoint.pt`` and ``.json``, ``log.jsonl``, ``tensorboard/`` and ``sheet-NNNNNN.png``.
    schedule
        When to stop, and how often to write.
    facts
        What the user says of the data; more may stand in their ``dataset.json``.
    resume
        Continue from ``out/checkpoint.pt``; the result is the same as without a break.
    start
        An exported safron-seamless with whose weights a run begins that does not resume.
    hardware
        What the training runs on; the CPU by default.
    cache
        Folder for prepared frames; ``out`` by default.

    Returns
    -------
    Path
        The last checkpoint.

    Raises
    ------
    BadInput
        The data, the settings or the folder cannot be used, or another process trains into the folder.
    Failed
        A loss is no longer finite, or the disk is full; the last checkpoint is kept.
    KeyboardInterrupt
        A signal asked to stop; the current step was finished and saved.
    """
    hardware = hardware or Hardware()
    team, path = hardware.team, out / "checkpoint.pt"
    part = team.share(config.batch)
    if isinstance(folder, Run):
        run = folder
    else:
        check_beginning(out, resume=resume, start=start)
        kept = load_same(path, config) if resume else None
        run = open_run(folder, config, facts, kept, path, cache or out, team)
    config = run.config
    if config.epochs:
        schedule = dataclasses.replace(schedule, steps=config.steps)

    out.mkdir(parents=True, exist_ok=True)
    with own_folder(out) if team.leads else nullcontext(), stop_requests() as asked, tell_what_is_kept(path):
        trainer = Trainer(config, hardware.device, team=team, compiled=hardware.compiled)
        _begin_or_restore(trainer, run, start)
        numbers, ahead = range(trainer.done, schedule.steps), trainer.device.type != "cpu"
        batches = draw_batches(run.training, config, numbers, part, ahead=ahead)
        with Notes(trainer, run, path, schedule) if team.leads else nullcontext() as notes:
            began = time.monotonic()
            for batch in batches:
                losses = trainer.step(batch)
                minutes = (time.monotonic() - began) / 60
                over = bool(asked) or (schedule.minutes is not None and minutes >= schedule.minutes)
                last = trainer.done >= schedule.steps or team.agree(over, trainer.device)
                if notes is not None:
                    notes.write(losses, minutes, last=last)
                if last:
                    break
        team.wait()
    if asked:
        raise KeyboardInterrupt
    return path


def _begin_or_restore(trainer: Trainer, run: Run, start: Path | None) -> None:
    """Give the networks their first weights or those of the checkpoint, and complete what is told of the run."""
    if run.kept is None:
        begin(trainer.generator, trainer.average, run.config, run.training, start)
    named = None if run.kept is None else run.kept.metadata.get("styles")
    run.about["styles"] = name_styles(run.training, run.config) if named is None else named
    if run.kept is not None:
        trainer.restore(run.kept)
    precision = str(trainer.half or torch.float32).removeprefix("torch.")
    run.about.update(torch=torch.__version__, device=trainer.device.type, precision=precision)
    run.about["processes"] = trainer.team.size
