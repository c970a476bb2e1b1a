"""Dask runs the same tasks as the serial reference, a bounded number at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from safron.engine.execute import Task, local_runner, run_serial

log: list[str] = []
lock = threading.Lock()


def work(name: str) -> str:
    with lock:
        log.append(name)
    if name == "broken":
        raise ZeroDivisionError(name)
    return name.upper()


def tasks(count: int, started: list[int]) -> Iterator[Task]:
    for number in range(count):
        started.append(number)
        yield Task(f"seam-{number}", work, (f"seam-{number}",))
        after = tuple(f"seam-{other}" for other in (number - 1, number) if other >= 0)
        yield Task(f"block-{number}", work, (f"block-{number}",), after)


def test_serial_keeps_the_order() -> None:
    log.clear()
    assert [key for key, _ in run_serial(tasks(3, []))] == log


def test_dask_runs_each_task_once_after_its_needs_and_reads_the_stream_slowly() -> None:
    log.clear()
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
        assert place[f"seam-{number}"] < place[f"block-{number}"]
        assert number == 0 or place[f"seam-{number - 1}"] < place[f"block-{number}"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_comes_through(workers: int) -> None:
    with local_runner(workers) as runner, pytest.raises(ZeroDivisionError, match="broken"):
        list(runner(iter([Task("a", work, ("a",)), Task("broken", work, ("broken",))])))
