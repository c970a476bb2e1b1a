"""Threads run the same tasks as the serial reference, a bounded number at a time, and failures cost little."""

from __future__ import annotations

import errno
import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from masks import blobs
from models import RampModel
from plans import plan_for
from safron.engine import RenderOptions, render
from safron.engine.execution import dask_pool
from safron.engine.execution.dask_pool import quiet_asyncio
from safron.engine.execution.local import local_runner
from safron.engine.execution.scheduling import HOPELESS, TRIES, GivenUp, Task
from safron.engine.preparation import placement
from safron.engine.preparation.budget import DASK_BYTES
from safron.engine.preparation.placement import takes_dask
from safron.engine.preparation.prepare import prepare
from safron.io.errors import BadInput, Failed

log: list[str] = []
lock = threading.Lock()
both = pytest.mark.parametrize("workers", [1, 2])


def work(job: Any, name: str) -> str:
    with lock:
        log.append(name)
    if job is not None:
        job(name, Counter(log)[name])
    return name.upper()


def tasks(count: int, started: list[int], job: Any = None) -> Iterator[Task]:
    """Boundaries and blocks; a block needs its own boundary and the one before."""
    for number in range(count):
        started.append(number)
        yield Task(f"boundary-{number}", work, job, f"boundary-{number}")
        after = tuple(f"boundary-{other}" for other in (number - 1, number) if other >= 0)
        yield Task(f"block-{number}", work, job, f"block-{number}", after)


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    log.clear()


def test_serial_keeps_the_order() -> None:
    with local_runner(1) as runner:
        assert [key for key, _ in runner(tasks(3, []))] == log
    assert len(log) == 6


def test_threads_run_each_task_once_after_its_needs_and_reads_the_stream_slowly() -> None:
    started: list[int] = []
    with local_runner(3) as runner:
        results: dict[str, Any] = {}
        for key, value in runner(tasks(40, started)):
            results[key] = value
            assert len(started) - len(results) / 2 < 12, "the stream was read far ahead of its results"
    assert results == {name: name.upper() for name in log}
    assert len(log) == 80
    place = {name: number for number, name in enumerate(log)}
    for number in range(40):
        assert place[f"boundary-{number}"] < place[f"block-{number}"]
        assert number == 0 or place[f"boundary-{number - 1}"] < place[f"block-{number}"]


def test_without_a_dashboard_no_port_is_open_and_dask_is_not_imported() -> None:
    """Dask would take a second of every render."""
    code = (
        "import sys, psutil\nfrom safron.engine.execution.local import local_runner\n"
        "from safron.engine.execution.scheduling import Task\n"
        "with local_runner(2) as runner: assert dict(runner([Task('a', max, 1, 2)])) == {'a': 2}\n"
        "assert not [c for c in psutil.Process().net_connections() if c.status == 'LISTEN']\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dask_in_this_process_loads_no_dashboard_and_hardly_wakes() -> None:
    """The code of dashboards took 19 MiB, and timing its event loops 2 % of a core."""
    code = (
        "import gc, sys, psutil\nfrom distributed import Scheduler, Worker\n"
        "from safron.engine.execution.local import local_runner\n"
        "from safron.engine.execution.scheduling import Task\n"
        "with local_runner(2, dask=True) as runner:\n"
        "    assert dict(runner([Task('a', max, 1, 2)])) == {'a': 2}\n"
        "    ports = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == 'LISTEN']\n"
        "    assert {*ports} <= {'127.0.0.1'}, ports\n"
        "    servers = [found for found in gc.get_objects() if isinstance(found, (Scheduler, Worker))]\n"
        "    assert len(servers) == 2\n"
        "    for server in servers: assert server.periodic_callbacks['tick'].callback_time == 1000\n"
        "assert 'bokeh' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_running_tasks_are_waited_for_when_the_stream_breaks_off() -> None:
    """And queued tasks never run."""
    stop = threading.Event()

    def fail(name: str, number: int) -> None:
        if name == "boundary-1":
            raise BadInput("no")
        stop.wait(0.2)

    with local_runner(2) as runner, pytest.raises(BadInput):
        list(runner(tasks(20, [], fail)))
    count = len(log)
    stop.wait(0.5)
    assert len(log) == count <= 4


@both
def test_a_task_that_fails_twice_succeeds(workers: int) -> None:
    def fail(name: str, number: int) -> None:
        if name == "boundary-2" and number < TRIES:
            raise ZeroDivisionError(name)

    with local_runner(workers) as runner:
        results = dict(runner(tasks(5, [], fail)))
    assert results == {name: name.upper() for name in log}
    assert Counter(log)["boundary-2"] == TRIES
    assert len(log) == 10 + TRIES - 1


@both
def test_failures_do_not_keep_their_images(workers: int) -> None:
    """A failure is kept to the end of a render, and its frames would each keep a block's image."""
    held = []

    class Image:
        pass

    def fail(name: str, number: int) -> None:
        image = Image()
        held.append(weakref.ref(image))
        try:
            raise ValueError("deep inside")
        except ValueError as error:
            raise Failed("no such chunk") from error

    with local_runner(workers) as runner:
        kept = list(runner(tasks(4, [], fail)))
    gc.collect()
    assert len(kept) == 8
    assert held
    assert not any(image() for image in held)


@both
def test_a_task_that_fails_each_time_is_given_up_and_the_others_finish(workers: int) -> None:
    def fail(name: str, number: int) -> None:
        if name == "boundary-2":
            raise Failed("no such chunk")

    with local_runner(workers) as runner:
        results = dict(runner(tasks(6, [], fail)))
    lost = {key: result for key, result in results.items() if isinstance(result, GivenUp)}
    assert {key: str(item.error) for key, item in lost.items()} == {
        "boundary-2": "no such chunk",
        "block-2": "None",
        "block-3": "None",
    }
    assert Counter(log)["boundary-2"] == TRIES
    assert set(log) == set(results) - {"block-2", "block-3"}


@both
@pytest.mark.parametrize(
    "error",
    [
        BadInput("an unknown label"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
    ids=repr,
)
def test_a_failure_that_no_retry_can_mend_ends_it_at_once(workers: int, error: Exception) -> None:
    def fail(name: str, number: int) -> None:
        if name == "boundary-2":
            raise error

    with local_runner(workers) as runner, pytest.raises(type(error), match=str(error.args[-1])):
        list(runner(tasks(50, [], fail)))
    assert Counter(log)["boundary-2"] == 1
    assert len(log) < 30


def test_when_nothing_succeeds_any_more_it_ends() -> None:
    def fail(name: str, number: int) -> None:
        if int(name.split("-")[1]) >= 3:
            raise Failed("the GPU fell off the bus")

    given_up = []
    with local_runner(1) as runner, pytest.raises(Failed, match="fell off"):
        given_up += [key for key, result in runner(tasks(1000, [], fail)) if isinstance(result, GivenUp)]
    assert len([key for key in given_up if key.startswith("boundary")]) < HOPELESS


def test_exceptions_that_dask_leaves_behind_are_not_printed(caplog: pytest.LogCaptureFixture) -> None:
    quiet_asyncio()
    quiet_asyncio()
    logger = logging.getLogger("asyncio")
    assert logger.filters.count(dask_pool._is_news) == 1
    logger.error("Future exception was never retrieved\nfuture: <Future finished exception=TimeoutError()>")
    logger.error("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_dask_schedules_threads_and_opens_no_port_to_others() -> None:
    import psutil

    with local_runner(2, dask=True) as runner:
        assert dict(runner([Task(str(number), work, None, str(number)) for number in range(9)])) == {
            str(number): str(number) for number in range(9)
        }
        open_to = {c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"}
    assert open_to <= {"127.0.0.1"}


@pytest.mark.parametrize(
    ("executor", "seconds", "dask"),
    [("auto", 20.0, False), ("auto", 60.0, True), ("threads", 1e6, False), ("dask", 0.0, True)],
)
def test_dask_is_taken_where_it_costs_next_to_nothing(executor: Any, seconds: float, dask: bool) -> None:
    plan = plan_for(4096, 4096)
    assert takes_dask(RenderOptions(executor=executor), plan, seconds) is dask


def test_what_else_runs_does_not_choose_the_executor(tmp_path: Path) -> None:
    """A patch that waits for a core, as on a busy machine, takes longer by the clock and not by CPU time."""

    class Waiting(RampModel):
        def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
            time.sleep(0.5)
            return super().__call__(labels, noise, **planes)

    options = RenderOptions(model=Waiting(), tile=64, block=128, tiff_tile=64)
    prepared = prepare(blobs(1200, 1200), tmp_path / "a.tiff", options)
    assert prepared.seconds is not None
    assert takes_dask(options, prepared.plan, prepared.seconds), "by the clock"
    assert not prepared.dask


def test_a_render_scheduled_by_dask_has_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, options = blobs(300, 280), {"tile": 64, "block": 128, "tiff_tile": 64}
    plain = render(mask, tmp_path / "a.tiff", model=RampModel(), **options)
    monkeypatch.setattr(placement, "DASK_SHARE", 1e9)
    prepared = prepare(mask, tmp_path / "b.tiff", RenderOptions(model=RampModel(), **options))
    assert prepared.dask
    assert prepared.seconds is not None
    assert prepared.seconds > 0
    assert render(mask, tmp_path / "b.tiff", model=RampModel(), **options).digest == plain.digest


def test_dask_has_its_place_in_the_memory_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, plain threads do, unless it was asked for."""
    monkeypatch.setattr(placement, "DASK_SHARE", 1e9)
    mask, out = blobs(300, 280), tmp_path / "a.tiff"
    options = RenderOptions(model=RampModel(), tile=64, block=128, tiff_tile=64)
    total = prepare(mask, out, options).budget.total
    short = replace(options, memory=total - DASK_BYTES // 4)
    without = prepare(mask, out, short)
    assert not without.dask
    assert without.budget.total <= total - DASK_BYTES // 2
    asked = prepare(mask, out, replace(short, executor="dask"))
    assert asked.dask
    with pytest.raises(BadInput, match="projected peak memory"):
        asked.check_budget()
