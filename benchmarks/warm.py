"""How do many forked processes begin quickly? What each would do at its first render is done once, before the first fork.

That is what Python and libraries keep: modules, patterns, parsers, types of settings, caches of arithmetic. Nothing of a file is kept.
"""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Iterable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import psutil
import zarr
from safron.engine.cli import main
from zarr.core.sync import cleanup_resources

PATIENCE_SECONDS = 20


def warm_up(folder: Path, commands: Iterable[str]) -> None:
    """Write ``mask.zarr`` into a folder, and run commands of safron-render there, in this process.

    Afterwards no thread is left that was not there, since what it holds when a process is forked stays held there, and signals
    do what they did.
    """
    threads = psutil.Process().num_threads()
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    zarr.create_array(folder / "mask.zarr", shape=(200, 200), chunks=(128, 128), dtype="uint8")[:] = 1
    codes = []
    with chdir(folder), redirect_stdout(io.StringIO()):
        for command in commands:
            try:
                main(command.split()[1:])
            except SystemExit as ended:
                codes.append(ended.code)
    assert not any(codes), codes
    cleanup_resources()
    for number, handler in signals.items():
        signal.signal(number, handler)
    end = time.monotonic() + PATIENCE_SECONDS
    while psutil.Process().num_threads() > threads:
        assert time.monotonic() < end, "a thread does not end"
        time.sleep(0.001)
