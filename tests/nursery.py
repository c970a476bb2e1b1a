"""Forks renders, so that none of them waits for imports: a line of JSON [FOLDER, ARGUMENTS, SECONDS] each, on stdin.

SECONDS pass before what is finished is brought to disk.

Prints the process id, and after the render's end its exit status. The identity generator sleeps a little for each
patch, and adds a byte to the file ``count``; worker processes import this file, too, and so have the same one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import dask
from safron.engine import cli, rendering
from safron.engine import slide_list as batch
from safron.engine.execution import batch_system as jobs
from safron.engine.execution import cluster_start as cluster
from safron.engine.generator.model import IdentityModel
from safron.engine.scratch import mask_watch as guard
from safron.engine.scratch import render_state as state

LOADED = (batch, cluster, jobs, rendering)
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
# Workers fork, too, from a server that has loaded Dask.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


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
            cli.main(args)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
