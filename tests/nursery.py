"""Forks renders with the generator of `slow_render`, so that none waits for imports: a line of JSON each on stdin.

It names the folder, the ``args``, the ``environment``, the files for what is ``printed``, and how many ``seconds`` pass before
what is finished is brought to disk. Prints the process id, and after the render's end its exit status.

If the worker processes are to be ``forked`` they are so from a server that is itself a fork of the render before its first
thread, and so has loaded all of this; else they start as those of users do.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver, util
from pathlib import Path
from typing import Any, NoReturn

import slow_render
from safron.engine.scratch import render_state as state
from safron.engine.system.versions import deciding_versions

LOADED = ("distributed", "imagecodecs._jpeg8", "multiprocessing.synchronize")
LOADED += tuple(f"safron.engine.{name}" for name in ("plan_lines", "rendering", "slide_list"))
LOADED += tuple(
    f"safron.engine.execution.{name}" for name in ("batch_system", "cluster_start", "dask_worker")
)
"""What renders load on their way. Worker processes that are not forked import this file, and load what they need."""


def serve(code: str, fds: Sequence[int]) -> NoReturn:
    """Be the server of workers; as in one that starts anew, no other file is open."""
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        if number > 2 and number not in fds:
            with suppress(OSError):  # the list's own
                os.close(number)
    try:
        exec(code)
    finally:
        os._exit(0)


def fork(path: str, args: Sequence[str], fds: Sequence[int]) -> int:
    """Fork where multiprocessing would start Python with the arguments ``-c CODE``."""
    return os.fork() or serve(args[-1], fds)


def start_server() -> None:
    """Start the server that workers fork from."""
    import dask
    from safron.engine.execution.cluster_start import _quiet_tracker

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    _quiet_tracker()
    forkserver.set_forkserver_preload([])
    util.spawnv_passfds, spawn = fork, util.spawnv_passfds
    forkserver.ensure_running()
    util.spawnv_passfds = spawn


def render(wanted: dict[str, Any]) -> NoReturn:
    """Be a render."""
    os.setsid()  # signals to its group come to no other process
    sys.stdin.close()
    os.open(os.devnull, os.O_RDONLY)
    for number, path in enumerate(wanted["printed"], 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(wanted["folder"])
    os.environ |= wanted["environment"]
    state.SYNC_SECONDS = wanted["seconds"]
    if wanted["forked"]:
        start_server()
    slow_render.main(wanted["args"])


def main() -> None:
    """Serve until stdin ends."""
    for name in LOADED:
        import_module(name)
    deciding_versions()  # which are kept
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if not pid:
            render(wanted)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
