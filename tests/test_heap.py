"""Memory that was reserved is there, and is used."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_arrays_come_from_what_was_reserved() -> None:
    script = """
        import numpy as np
        from safron.engine.system.memory import keep_one_heap, reserve_heap
        from safron.engine.system.memory import resident_bytes

        before = resident_bytes()
        reserve_heap(64 << 20)
        assert resident_bytes() - before < 8 << 20, "not in somebody else's process"
        keep_one_heap()
        reserve_heap(64 << 20)
        reserved = resident_bytes()
        assert reserved - before > 60 << 20, (before, reserved)
        for _ in range(20):
            arrays = [np.ones(9 << 20, np.uint8) for _ in range(6)]
            del arrays
        assert resident_bytes() - reserved < 4 << 20, (reserved, resident_bytes())
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
