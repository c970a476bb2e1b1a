"""On which processes and devices does training run, and in which precision?

`torchrun` starts one process per GPU and tells each its rank in the environment. Each takes its share of every batch,
gradients are averaged (DistributedDataParallel), and only the first process writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from safron.io.errors import BadInput
from safron.training.config import TrainConfig
from safron.training.config.cpu import cpu_has_bfloat16
from torch import nn


@dataclass(frozen=True)
class Team:
    """The processes that train together: this one's `rank` among `size`, and its rank on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return this process's part of a batch, or raise `BadInput` if it cannot be shared evenly."""
        if batch % self.size:
            text = f"cannot be shared by {self.size} processes; give a multiple, as --batch {self.size}"
            raise BadInput(f"a batch of {batch} {text}")
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Average gradients over the team; with one process, return `network` itself."""
        if self.size == 1:
            return network
        # Spectral norms change their buffers in each forward pass, alike in each process; broadcasting them would change
        # them before the backward pass.
        devices = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)

    def agree(self, answer: bool, device: torch.device) -> bool:
        """Return the first process's answer in all of them."""
        if self.size == 1:
            return answer
        told = torch.tensor([answer], dtype=torch.uint8, device=device)
        dist.broadcast(told, src=0)
        return bool(told.item())

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Let the first process do something alone before the others do it."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


@contextmanager
def join_team(device: str) -> Iterator[tuple[Team, str]]:
    """Join the processes that `torchrun` started; yield the team and this process's device.

    Parameters
    ----------
    device
        ``"cpu"`` (gloo) or ``"cuda"`` (NCCL; each process takes the GPU of its local rank).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(), device
        return
    team = Team(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{team.local_rank}"
        torch.cuda.set_device(team.local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield team, device
    finally:
        dist.destroy_process_group()


def name_device(name: str) -> str:
    """Return the device that "auto" stands for, a GPU if there is one, and other names unchanged."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(name: str) -> torch.device:
    """Return the device called `name`, after placing a tensor on it.

    Raises
    ------
    BadInput
        This PyTorch has no such device.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"this PyTorch has no device {name!r}; use cpu, or install a build for it") from error


def choose_half(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, or None for float32 only."""
    if config.float16:
        return torch.float16
    if not config.bfloat16 or (device.type == "cpu" and not cpu_has_bfloat16()):
        return None
    # GPUs before Ampere have float16 only.
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16
