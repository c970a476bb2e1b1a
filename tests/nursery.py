"""Forks renders, so that none of them waits for imports: a line of JSON [FOLDER, ARGUMENTS, SECONDS] each, on stdin.

SECONDS pass before what is finished is brought to disk.

Prints the process id, and after the render's end its exit status. The identity generator sleeps a little for each
patch, and adds a byte to the file ``count``. Worker processes have the same one: they are forked, too, from a server that
is itself a fork of the render before its first thread, and so has loaded all of this.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn

import dask
import distributed
from safron.engine import cli, rendering
from safron.engine import slide_list as batch
from safron.engine.execution import batch_system as jobs
from safron.engine.execution import cluster_start as cluster
from safron.engine.execution import dask_worker
from safron.engine.generator.model import IdentityModel
from safron.engine.scratch import mask_watch as guard
from safron.engine.scratch import render_state as state

LOADED = (batch, cluster, dask_worker, distributed, jobs, rendering)
SECONDS = 0.012
paint = IdentityModel.__call__


def slow(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
    """Sleep, count, paint."""
    time.sleep(SECONDS)
    with Path("count").open("ab") as file:
        file.write(bytes(1))
    return paint(self, labels, noise)


IdentityModel.__call__ = slow  # type: ignore[method-assign]
guard.pause = lambda seconds: 0.0
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


def serve(code: str, fds: Sequence[int]) -> NoReturn:
    """Be the server of workers; as in one that starts anew, no other file is open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in fds:
            with suppress(OSError):
                os.close(int(name))
    try:
        exec(code)
    finally:
        os._exit(0)


def fork(path: str, args: Sequence[str], fds: Sequence[int]) -> int:
    """Fork where multiprocessing would start Python with the arguments ``-c CODE``."""
    return os.fork() or serve(args[-1], fds)


def start_server() -> None:
    """Start the server that workers fork from."""
    resource_tracker.ensure_running()
    forkserver.set_forkserver_preload([])
    util.spawnv_passfds, spawn = fork, util.spawnv_passfds
    forkserver.ensure_running()
    util.spawnv_passfds = spawn


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        folder, args, seconds = json.loads(line)
        pid = os.fork()
        if not pid:
            state.SYNC_SECONDS = seconds
            os.chdir(folder)
            sys.stdin.close()
            os.dup2(2, 1)  # only we talk to the test
            if "processes" in args:
                start_server()
            cli.main(args)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
