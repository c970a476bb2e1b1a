"""Whatever is killed, and whenever: the same command again makes the slide of an undisturbed run.

The seed decides when a run is killed. Killed is the driver, of threads or of worker processes, or one of the workers.
Drivers are forked from a process that has loaded everything, so that a run takes a second.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import tifffile
from cases import write_mask
from slow_renders import Nursery, SlowRender

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")

HEIGHT, WIDTH, PATCHES = 340, 470, 88
MOST = 6  # patches of one task
WORKERS = 2
ARGS = (
    "mask.zarr out.tiff --model identity --tile 64 --block 128 --tiff-tile 64 --level-count 3 --mpp 0.5 "
    f"--device cpu --threads 1 --batch 1 --quiet --workers {WORKERS} --report report.json "
)
PROCESSES = ARGS + "--executor processes"
# At most 2 x workers + 2 tasks are in flight; any of them may be done and not yet in the journal.
IN_FLIGHT = 2 * WORKERS + 2


def start(nursery: Nursery, folder: Path, args: str, *, sync: float = 0.0) -> SlowRender:
    """Start a render that works in `folder` and brings its work to disk every so many seconds."""
    forked = PROCESSES in args
    return SlowRender(
        nursery, args, seconds=0.012, folder=folder, sync=sync, count=folder / "count", forked=forked
    )


@dataclass(frozen=True)
class Undisturbed:
    """The digest of a run that nothing disturbs, and the pixels of all levels, as another library reads them."""

    digest: str
    levels: list[npt.NDArray[np.uint8]]


def levels_of(slide: Path) -> list[npt.NDArray[np.uint8]]:
    """Pixels of all levels: uint8 [y, x, 3]."""
    with tifffile.TiffFile(slide) as tiff:
        return [np.asarray(level.asarray()) for level in tiff.series[0].levels]


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_mask(folder / "mask.zarr", HEIGHT, WIDTH)
    assert start(nursery, folder, ARGS).wait(60) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["patches"] == PATCHES
    levels = levels_of(folder / "out.tiff")
    assert [level.shape for level in levels] == [(340, 470, 3), (170, 235, 3), (85, 117, 3)]
    return Undisturbed(report["digest"], levels)


def check(folder: Path, undisturbed: Undisturbed, *, made: int, crashes: int, at_once: bool = True) -> None:
    """Hold the finished slide to what is promised, and the work that it took, if all came to disk at once."""
    report = json.loads((folder / "report.json").read_text())
    assert report["digest"] == undisturbed.digest
    for level, wanted in zip(levels_of(folder / "out.tiff"), undisturbed.levels, strict=True):
        np.testing.assert_array_equal(level, wanted)
    assert report["run"] + report["painted"] == PATCHES
    again = made - PATCHES
    assert 0 <= again <= crashes * (IN_FLIGHT * MOST if at_once else PATCHES), (
        f"{again} patches were made again"
    )
    left = {path.name for path in folder.iterdir()} - {"out.tiff.safron.lock"}
    assert left == {"mask.zarr", "out.tiff", "report.json", "count"}


# Seeds of each kind: 18 + 6 + 6 + 6 runs.
@pytest.mark.parametrize("seed", range(18))
def test_a_driver_of_threads_is_killed(
    seed: int, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    kill_drivers(ARGS, random.Random(seed), nursery, undisturbed, tmp_path)


@pytest.mark.parametrize("seed", range(18, 24))
def test_a_driver_of_processes_is_killed(
    seed: int, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    kill_drivers(PROCESSES, random.Random(seed), nursery, undisturbed, tmp_path)


@pytest.mark.parametrize("seed", range(30, 36))
def test_a_driver_whose_boundary_sums_are_in_memory_is_killed(
    seed: int, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Some sums are on disk then, some were never written, and some that were needed are lost."""
    kill_drivers(ARGS, random.Random(seed), nursery, undisturbed, tmp_path, seconds=0.1)


def kill_drivers(
    args: str,
    chance: random.Random,
    nursery: Nursery,
    undisturbed: Undisturbed,
    folder: Path,
    *,
    seconds: float = 0.0,
) -> None:
    """Kill once or twice, then let it finish with threads."""
    write_mask(folder / "mask.zarr", HEIGHT, WIDTH)
    trials = crashes = 0
    for _ in range(chance.choice([1, 1, 2])):
        render = start(nursery, folder, args, sync=seconds)
        trials += 1
        goal = render.made + chance.randrange(1, PATCHES if crashes else PATCHES - IN_FLIGHT)
        status = None
        while status is None and render.made < goal:
            status = render.wait(0.002)
        if status is not None:  # it was nearly done before, and is now
            assert status == 0
            break
        time.sleep(chance.random() * 0.02)
        workers = render.children()
        render.send(signal.SIGKILL)
        status = render.wait(60)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive, "a worker outlived its driver"
        if status == 0:
            break
        crashes += 1
    else:
        assert start(nursery, folder, ARGS).wait(60) == 0
        trials += 1
    assert crashes, "nothing was killed"
    made = (folder / "count").stat().st_size
    check(folder, undisturbed, made=made - trials, crashes=crashes, at_once=not seconds)


@pytest.mark.parametrize("seed", range(24, 30))
def test_a_worker_is_killed(seed: int, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The driver goes on: Dask starts another worker, and the block in work is made there."""
    chance = random.Random(seed)
    write_mask(tmp_path / "mask.zarr", HEIGHT, WIDTH)
    render = start(nursery, tmp_path, PROCESSES)
    goal = chance.randrange(2, PATCHES // 2)
    while render.made < goal:
        assert render.wait(0.002) is None
    victim = chance.choice(render.forked())
    victim.kill()
    assert render.wait(60) == 0
    made = (tmp_path / "count").stat().st_size
    check(tmp_path, undisturbed, made=made - 1, crashes=1)
