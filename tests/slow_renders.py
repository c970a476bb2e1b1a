"""Renders in processes of their own that tests watch, signal and kill: forked by `nursery`, with the generator of `slow_render`."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).parent


class Nursery:
    """A process that forks renders, one after the other: it has loaded all that they need.

    Parameters
    ----------
    folder
        Where what they print is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid: int | None = None
        self.process = subprocess.Popen(
            [sys.executable, TESTS / "nursery.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        )  # fmt: skip

    def ask(self, wanted: dict[str, Any]) -> int:
        """Fork a render, and end one that a test has left; its process id."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.status(60)
        assert self.process.stdin is not None
        print(json.dumps(wanted), file=self.process.stdin, flush=True)
        self.pid = self._number(60)
        assert self.pid is not None
        return self.pid

    def status(self, seconds: float) -> int | None:
        """The exit status of the render, or None if it still runs after this time."""
        number = self._number(seconds)
        if number is not None:
            self.pid = None
        return number

    def _number(self, seconds: float) -> int | None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


class SlowRender:
    """A render at work.

    Parameters
    ----------
    nursery
        What forks it.
    args
        Arguments of safron-render, separated by blanks.
    seconds
        How long a call of the generator takes, which is a patch with --batch 1.
    stuck_after
        The number of patches after which a call takes a minute.
    folder
        Where it works; the current folder if None.
    sync
        Seconds after which what is finished is brought to disk.
    count
        The file that gets a byte for each patch; a new one if None.
    forked
        Whether its worker processes are forked; else they start as those of users do.
    """

    def __init__(
        self,
        nursery: Nursery,
        args: str,
        *,
        seconds: float = 0.02,
        stuck_after: float = math.inf,
        folder: Path | None = None,
        sync: float = 0.0,
        count: Path | None = None,
        forked: bool = False,
    ) -> None:
        self.nursery = nursery
        self.returncode: int | None = None
        self.printed = nursery.folder / "out", nursery.folder / "err"
        self.count = count or nursery.folder / "count"
        if count is None:
            self.count.unlink(missing_ok=True)
        environment = {
            "SLOW_COUNT": str(self.count), "SLOW_SECONDS": str(seconds), "STUCK_AFTER": str(stuck_after)
        }  # fmt: skip
        self.pid = nursery.ask({
            "folder": str(folder or Path.cwd()), "args": args.split(), "environment": environment, "seconds": sync,
            "forked": forked, "printed": [str(path) for path in self.printed],
        })  # fmt: skip

    def __enter__(self) -> SlowRender:
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)
        self.wait(60)

    @property
    def made(self) -> int:
        """Patches made so far; the first is the warm-up."""
        return self.count.stat().st_size if self.count.exists() else 0

    def wait(self, seconds: float) -> int | None:
        """Its exit status, or None if it still runs after this time."""
        if self.returncode is None:
            self.returncode = self.nursery.status(seconds)
        return self.returncode

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Wait for something that happens while it runs."""
        while not done():
            assert self.wait(0.01) is None, self.ended()

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send a signal, or send it to its whole group, as a terminal does."""
        if self.wait(0) is None:
            (os.killpg if to_all else os.kill)(self.pid, number)

    def ended(self, *, within: float = 60) -> tuple[int, str, str]:
        """Its exit status, stdout and stderr when it has ended; if it does not end, where its threads are."""
        late = self.wait(within) is None
        if late:
            self.send(signal.SIGABRT)
            self.wait(60)
        out, err = (path.read_text() for path in self.printed)
        assert not late, f"does not end: {err}"
        assert self.returncode is not None
        return self.returncode, out, err

    def children(self) -> list[psutil.Process]:
        """Processes below it: its workers, and the server that they are forked from."""
        below = psutil.Process(self.pid).children(recursive=True)
        return [child for child in below if "resource_tracker" not in " ".join(child.cmdline())]

    def forked(self) -> list[psutil.Process]:
        """Its worker processes that are forked; the server is below the render itself."""
        return [child for child in self.children() if child.ppid() != self.pid]

    def spawned(self) -> list[psutil.Process]:
        """Its worker processes that start as those of users do."""
        return [child for child in self.children() if "spawn_main" in " ".join(child.cmdline())]
