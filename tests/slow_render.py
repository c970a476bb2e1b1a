"""``safron-render`` with a generator that takes its time: python slow_render.py COUNT SECONDS ARGUMENTS...

The identity generator sleeps SECONDS for each call, which is a patch with --batch 1, and adds a byte to the file COUNT. If
STUCK_AFTER is set in the environment, a call after so many takes a minute and first makes the file ``stuck``. Finished blocks
are made durable at once, so that a test need not wait for it. Worker processes import this file as well, and so have the
same generator.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from safron.engine.__main__ import main
from safron.engine.generator.model import IdentityModel
from safron.engine.scratch import mask_watch as guard
from safron.engine.scratch import render_state as state

count, seconds = Path(sys.argv[1]).absolute(), float(sys.argv[2])
stuck_after = float(os.environ.get("STUCK_AFTER", "inf"))
paint = IdentityModel.__call__


def slow(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
    """Sleep, count, paint."""
    made = count.stat().st_size if count.exists() else 0
    if made >= stuck_after:
        Path("stuck").touch()
        time.sleep(60)
    time.sleep(seconds)
    with count.open("ab") as file:
        file.write(bytes(1))
    return paint(self, labels, noise)


IdentityModel.__call__ = slow  # type: ignore[method-assign]
state.SYNC_SECONDS = 0.0
guard.pause = lambda seconds: 0.0

if __name__ == "__main__":
    # Where tests run in the background, the shell may have told children to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[3:])
