"""Where are the workers of a render, and how are they reached?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Placement:
    """Workers in other processes.

    Attributes
    ----------
    workers
        Processes to start on this machine; ignored if `scheduler` or `cluster` is given.
    device
        Device that a process renders on: "auto", "cpu", "cuda" or "cuda:N".
    scheduler
        Address or file of a running Dask scheduler.
    cluster
        YAML file that says how to get workers from a batch system.
    security
        YAML file with the TLS certificates of scheduler, workers and driver.
    dashboard
        Address of the Dask dashboard, as "127.0.0.1:8787".
    """

    workers: int
    device: str = "auto"
    scheduler: str | None = None
    cluster: Path | None = None
    security: Path | None = None
    dashboard: str | None = None
