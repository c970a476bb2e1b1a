"""What do runs of diffusion models share, whatever they learn: steps, checkpoints, log and sheets?

Everything random in a step follows from the seed and its number, so a run that continues does what it would have done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safron.io.errors import BadInput, Failed
from safron.io.fields import convert
from safron.io.files import replacing, what_is_there
from safron.training.config.averaging import follow
from safron.training.config.exported import check_run_folder, own_name
from safron.training.config.stopping import own_folder, stop_requests
from torch import Tensor, nn

from .process import linear_alphas
from .settings import RunSettings

FORMAT = 1

Network = TypeVar("Network", bound=nn.Module)
AnyLearner = TypeVar("AnyLearner", bound="Learner[Any]")
AnySettings = TypeVar("AnySettings", bound=RunSettings)


@dataclass(frozen=True)
class Kind(Generic[AnySettings]):
    """A kind of model, by which its checkpoints are told from others.

    Attributes
    ----------
    name
        Stands in the checkpoints.
    settings
        Class of its settings.
    words
        Say what is needed if a file is another, for messages.
    """

    name: str
    settings: type[AnySettings]
    words: str

    def load(self, path: Path) -> tuple[AnySettings, int, dict[str, Any]]:
        """Read a checkpoint: settings, steps done, and state.

        Raises
        ------
        BadInput
            It is missing, or of another kind.
        """
        if not path.is_file():  # a pipe is never opened
            raise BadInput(f"{path} ({what_is_there(path)}) is not a checkpoint of {self.words}")
        about: dict[str, Any] = {}
        with suppress(Exception):  # what a foreign file raises depends on its first bytes
            kept = torch.load(path, map_location="cpu", weights_only=True)
            about = json.loads(kept["about"])
        if (about.get("kind"), about.get("format")) != (self.name, FORMAT):
            raise BadInput(f"{path} is not a checkpoint of {self.words}")
        return convert(about["config"], self.settings, str(path), loose=True), about["step"], kept["state"]


@dataclass(frozen=True)
class Running:
    """How a run is begun, saved and ended.

    Attributes
    ----------
    minutes
        Stop after so long.
    save_every
        Steps from one checkpoint to the next, and a fifth of those from one sheet to the next.
    resume
        Continue from the folder's checkpoint.
    tell
        Takes a line now and then.
    """

    minutes: float | None = None
    save_every: int = 200
    resume: bool = False
    tell: Callable[[str], None] = lambda line: None


USUAL = Running()


class Learner(Generic[Network]):
    """Network, optimizer and moving average.

    Parameters
    ----------
    settings
        Of the run.
    make
        Makes the network.
    warm_up
        Steps in which the learning rate rises.
    """

    def __init__(self, settings: RunSettings, make: Callable[[], Network], warm_up: int) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.warm_up, self.done = settings, warm_up, 0
        self.network, self.average = make(), make()
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.rate)
        self.alphas = torch.from_numpy(linear_alphas()).float()

    def random(self) -> np.random.Generator:
        """Return the random numbers of the next step."""
        return np.random.default_rng([self.settings.seed, 7, self.done])

    def learn(self, loss: Tensor) -> float:
        """Take a step down the loss, and return it."""
        late = self.done >= 0.8 * self.settings.steps
        for group in self.optimizer.param_groups:
            group["lr"] = (
                self.settings.rate * min(1.0, (self.done + 1) / self.warm_up) * (0.2 if late else 1.0)
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        follow(self.average, self.network, self.settings.ema, self.done)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps."""
        return {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}

    def load(self, state: dict[str, Any], step: int) -> None:
        """Go on from a checkpoint."""
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.done = step


def take_steps(
    learner: Learner[Any],
    step: Callable[[], dict[str, float]],
    out: Path,
    kind: Kind[Any],
    running: Running,
    *,
    sheet: Callable[[Path], None],
) -> Path:
    """Train until the settings' last step, or so many minutes long, and return the checkpoint.

    Parameters
    ----------
    learner
        Learns in `step`.
    step
        Takes one step, and returns the loss and maybe its parts, by name; the log has their means.
    out
        Folder of the run, which exists: ``checkpoint.pt``, ``log.jsonl``, ``sheet-NNNNNN.png``.
    kind
        Of its checkpoints.
    running
        How long, and how often it is saved.
    sheet
        Writes a sample sheet.

    Raises
    ------
    BadInput
        Another process trains into `out`.
    KeyboardInterrupt
        A signal asked to stop; the current step was finished and saved.
    """
    checkpoint, log = out / "checkpoint.pt", out / "log.jsonl"
    start, losses = time.monotonic(), list[dict[str, float]]()
    with own_folder(out), stop_requests() as asked:
        while learner.done < learner.settings.steps and not asked:
            losses.append(step())
            late = running.minutes is not None and time.monotonic() - start > 60 * running.minutes
            if learner.done % 50 == 0:
                means = {
                    name: round(sum(each[name] for each in losses) / len(losses), 5) for name in losses[0]
                }
                entry = {"step": learner.done, **means}
                entry["minutes"] = round((time.monotonic() - start) / 60, 2)
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                running.tell(f"step {learner.done} of {learner.settings.steps}, loss {entry['loss']}")
                losses.clear()
            last = late or learner.done == learner.settings.steps
            if learner.done % running.save_every == 0 or last or asked:
                save_checkpoint(checkpoint, kind, learner)
            if (learner.done % (5 * running.save_every) == 0 or last) and not asked:  # a sheet takes a while
                sheet(out / f"sheet-{learner.done:06d}.png")
            if late:
                break
    if asked:
        raise KeyboardInterrupt
    return checkpoint


def save_checkpoint(path: Path, kind: Kind[Any], learner: Learner[Any]) -> None:
    """Write a checkpoint; it appears whole or not at all."""
    about = {"kind": kind.name, "format": FORMAT, "step": learner.done, "config": learner.settings.to_json()}
    try:
        with replacing(path) as file:
            torch.save({"about": json.dumps(about), "state": learner.state()}, file)
    except (OSError, RuntimeError) as error:
        raise Failed(f"{path}: cannot save step {learner.done} ({error}); make room on its disk") from error


def begin_run(
    learner: Callable[[Any], AnyLearner],
    out: Path,
    config: RunSettings,
    kind: Kind[Any],
    running: Running,
) -> AnyLearner:
    """Make the folder of a run and its learner, which continues from the folder's checkpoint if that is asked for.

    Raises
    ------
    BadInput
        There is a run that is not to be continued, or it differs in more than the number of steps.
    """
    checkpoint = out / "checkpoint.pt"
    check_run_folder(out, resume=running.resume)
    out.mkdir(parents=True, exist_ok=True)
    made = learner(config)
    if running.resume:
        kept, step, state = kind.load(checkpoint)
        if replace(kept, steps=config.steps) != config:
            raise BadInput(f"{checkpoint} was made with other settings; leave them out to continue as it was")
        made.load(state, step)
    return made


def read_trained(
    checkpoint: Path,
    kind: Kind[Any],
    make: Callable[[Any], Network],
    *,
    name: str | None = None,
    licence: str | None = None,
    trained_on: str | None = None,
) -> tuple[Network, Any, dict[str, Any]]:
    """Read what is exported of a run: the network with its averaged weights, the settings, and provenance for the card."""
    config, step, state = kind.load(checkpoint)
    config = replace(config, name=name or own_name(config.name, checkpoint.resolve().parent.name))
    network = make(config)
    network.load_state_dict(state["average"])
    said = {"licence": licence or "unknown", "trained_on": trained_on or "unknown", "training_steps": step}
    return network, config, said


def write_rows(path: Path, rows: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write rows of pictures, uint8 [n, y, x, 3] each, as one PNG."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    with replacing(path) as file:
        file.write(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
