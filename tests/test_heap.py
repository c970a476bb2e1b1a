"""Memory that was reserved is there, and is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from safron.engine.system.large_arrays import kept, zeros


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
        reserve_memory(70 << 20, 0)
        reserved = resident_bytes()
        assert reserved - before > 68 << 20, (before, reserved)
        for _ in range(20):
            arrays = [np.ones(9 << 20, np.uint8) for _ in range(6)]
            del arrays
        assert resident_bytes() - reserved < 4 << 20, (reserved, resident_bytes())
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages here")
def test_memory_of_a_block_has_large_pages() -> None:
    """What a thread keeps is written from end to end; sums of which little is written would take more."""
    for array, large in ((kept("test", (16 << 20,), np.uint8), True), (zeros(16 << 20, np.uint8), False)):
        assert ("hg" in flags_of(array.ctypes.data + (8 << 20))) == large


def flags_of(address: int) -> list[str]:
    """What Linux says of the mapping at an address; see proc(5)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(hex(address))


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
