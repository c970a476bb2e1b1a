"""``safron-render`` with a generator that takes its time: python slow_render.py ARGUMENTS...

The identity generator sleeps SLOW_SECONDS for each call, which is a patch with --batch 1, and adds a byte to the file
SLOW_COUNT; both stand in the environment. If STUCK_AFTER stands there, too, a call after so many takes a minute and first
makes the file ``stuck``. Worker processes import this file as well, and so have the same generator.
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

paint = IdentityModel.__call__


def slow(self: IdentityModel, labels: Any, noise: Any = None) -> Any:
    """Sleep, count, paint."""
    count = Path(os.environ["SLOW_COUNT"])
    made = count.stat().st_size if count.exists() else 0
    if made >= float(os.environ.get("STUCK_AFTER", "inf")):
        Path("stuck").touch()
        time.sleep(60)
    time.sleep(float(os.environ["SLOW_SECONDS"]))
    with count.open("ab") as file:
        file.write(bytes(1))
    return paint(self, labels, noise)


IdentityModel.__call__ = slow  # type: ignore[method-assign]
guard.pause = lambda seconds: 0.0

if __name__ == "__main__":
    # Where tests run in the background, the shell may have told children to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1:])
