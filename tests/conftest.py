"""Helpers in this folder are imported by their own names (oracle, models, cases)."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
HEARD = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]
TRAINS = (
    *("benchmarks", "dice", "discriminators", "encoder", "export", "fid", "gpu_bench", "learned_variance"),
    *("multiscale", "pix2pix", "refiner_training", "segmenters", "training"),
)
"""How the names of files begin whose tests train, or load what training needs."""
LONG = "bioformats", "chaos", "cluster", "fuzz", "interrupts", "seams", "viewers"
"""The same of files with other long tests: one that began last would leave the other processes without work."""
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
IN_MEMORY = Path("/dev/shm")
"""A disk in memory. Thousands of tests make small files and bring them to disk: on one with a journal that takes a quarter of the time."""
LEAST_MEMORY = 4 << 30
HANG_SECONDS = 600
"""After so long in one test, it is printed where all threads are."""
# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C and a closed terminal: where tests run in the background, the shell may have told them to ignore both.

    Tests, and the processes that they start, compute on one thread each unless they ask for more: several test at a time,
    and threads of PyTorch or BLAS that wait for one another on small arrays keep cores busy that others need.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Else each of some hundred processes would compile the modules of an editable install anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if "TMPDIR" not in os.environ and _is_roomy(IN_MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
    _keep_memory()
    _hear()
    config.stash[WATCH] = Watch(os.dup(2))


@dataclass
class Watch:
    """The timer that tells of a test that does not end.

    pytest's own is a new thread for each test, which takes a fifth of a millisecond. This one serves all that begin in a minute.
    """

    stderr: int
    since: float = -math.inf

    def look(self) -> None:
        """Set the timer, if that was not done just now."""
        now = time.monotonic()
        if now > self.since + 60:
            self.since = now
            faulthandler.dump_traceback_later(HANG_SECONDS + 60, file=self.stderr)


WATCH = pytest.StashKey[Watch]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[WATCH].look()


def pytest_unconfigure() -> None:
    faulthandler.cancel_dump_traceback_later()


def _is_roomy(folder: Path) -> bool:
    """Whether files of tests have room there, and may be run; in a container it may have 64 MiB, and refuse to run files."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    disk = os.statvfs(folder)
    free = min(disk.f_bavail * disk.f_frsize, psutil.virtual_memory().available)
    return free >= LEAST_MEMORY and not disk.f_flag & os.ST_NOEXEC


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests in an order in which each of three processes, which begin with a third each, has its part.

    What trains comes first, in one process as far as that goes: PyTorch loads for a second more with the first optimizer, and
    fixtures that train are made once. Other long tests begin the second third.
    """
    parts: list[list[pytest.Item]] = [[], [], []]
    for item in items:
        name = item.path.stem.removeprefix("test_")
        parts[0 if name.startswith(TRAINS) else 1 if name.startswith(LONG) else 2].append(item)
    trains, long, others = parts
    before = max(0, len(items) // 3 - len(trains))
    items[:] = [*trains, *others[:before], *long, *others[before:]]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collection, and leave what is there then out of it: a pass through that takes a quarter of a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _keep_memory() -> None:
    """Let glibc keep memory that arrays gave back, which it would request page by page for the next: a tenth of the time of NumPy's tests."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None)
            for name, size in (
                (M_MMAP_THRESHOLD, 32 << 20),
                (M_TRIM_THRESHOLD, 256 << 20),
                (M_TOP_PAD, 16 << 20),
            ):
                libc.mallopt(name, size)


def _hear() -> None:
    for number in HEARD:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give signals back to pytest; our programs take them, also those that run in fixtures of a module or session."""
    _hear()
    yield
    _hear()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def masked(here: Path) -> Path:
    """A folder with the mask of `small_renders`, to work in."""
    from small_renders import write_small_mask

    write_small_mask("mask.zarr")
    return here


@pytest.fixture
def digest(masked: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The digest of that mask's slide where nothing goes wrong."""
    from small_renders import undisturbed_digest

    return undisturbed_digest(capfd)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What forks slow renders."""
    from slow_renders import Nursery

    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    started = Nursery(tmp_path_factory.mktemp("nursery"))
    yield started
    started.close()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers fork from a server that has loaded what they need, which saves a second each; others start as those of users do."""
    import dask
    from distributed.utils import get_mp_context

    name = "distributed.worker.multiprocessing-method"
    # Of programs that the test starts, too.
    monkeypatch.setenv(f"DASK_{name.replace('.', '__').replace('-', '_').upper()}", "forkserver")
    with dask.config.set({name: "forkserver"}):
        # The first call sets a list of its own.
        get_mp_context().set_forkserver_preload(
            ["distributed", "numpy.random", "safron.engine.execution.dask_worker"]
        )
        yield


@pytest.fixture
def load_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a module of benchmarks/ by its name; such names are too common to stay among the imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCHMARKS):
            del sys.modules[name]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here; on Debian: apt install chromium")
    with sync_api.sync_playwright() as started:
        try:
            opened = started.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
        except sync_api.Error as error:
            pytest.skip(f"{chromium} does not start: {error.message.splitlines()[0]}")
        yield opened
        opened.close()
