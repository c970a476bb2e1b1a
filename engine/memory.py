"""How much memory does this process take, and how many cores may it use?"""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Where it is, Linux is asked itself: importing psutil would take 7 ms of every start.
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident memory of this process now."""
    found = _of_status("VmRSS")
    if found is not None:
        return found
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    # Not getrusage: on Linux its maximum includes the process that started this one, from before exec.
    found = _of_status("VmHWM")
    if found is not None:
        return found
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return int(memory.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)


def _of_status(name: str) -> int | None:
    """One line of what Linux tells of this process, in bytes; None where nothing tells it."""
    if not _STATUS.is_file():
        return None
    lines = _STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


def usable_cores() -> int:
    """Cores that this process may use; a batch system often allows fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
