"""Memory that was reserved is there, and is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_arrays_come_from_what_was_reserved() -> None:
    script = """
        import numpy as np
        from safron.engine.system.memory import keep_one_heap, reserve_memory
        from safron.engine.system.memory import resident_bytes

        before = resident_bytes()
        reserve_memory(64 << 20, 0)
        assert resident_bytes() - before < 8 << 20, "not in somebody else's process"
        keep_one_heap()
        reserve_memory(64 << 20, 0)
        reserved = resident_bytes()
        assert reserved - before > 60 << 20, (before, reserved)
        for _ in range(20):
            arrays = [np.ones(9 << 20, np.uint8) for _ in range(6)]
            del arrays
        assert resident_bytes() - reserved < 4 << 20, (reserved, resident_bytes())
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_render_has_one_heap_for_all_threads(tmp_path: Path) -> None:
    """glibc looks once, when a thread first allocates, at how many heaps it may have; others grew by 50 MiB in long renders."""
    script = """
        import ctypes, sys, threading
        import numpy as np
        from safron.engine import cli

        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p

        def render(args):
            threads = [threading.Thread(target=np.ones, args=(1 << 20,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            file = ctypes.c_void_p(libc.fopen(args[0].encode(), b"w"))
            libc.malloc_info(0, file)
            libc.fclose(file)

        cli.main = render
        cli.main_of_process(sys.argv[1:])
    """
    told = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", dedent(script), str(told)], check=True)
    assert told.read_text().count("<heap nr=") == 1
