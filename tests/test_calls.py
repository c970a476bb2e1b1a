"""Patches of a batch are run by whoever asks and whoever is free."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safron.engine.calls import SharedCalls


def test_every_item_is_called_once_whoever_asks() -> None:
    calls, lock = SharedCalls(3), threading.Lock()
    seen: list[int] = []

    def call(item: int) -> None:
        with lock:
            seen.append(item)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda start: calls.run(call, range(start, start + 50)), range(0, 1000, 50)))
    assert sorted(seen) == list(range(1000))


def test_one_who_asks_alone_gets_help_and_many_get_none() -> None:
    calls, guard = SharedCalls(2), threading.Lock()
    by: dict[int, set[str]] = {0: set(), 1: set()}
    together = threading.Barrier(2)

    def call(item: int) -> None:
        time.sleep(0.002)
        with guard:
            by[0].add(threading.current_thread().name)

    calls.run(call, range(20))
    assert len(by[0]) == 2, "the thread that asks, and one more"

    def ask(name: int) -> None:
        def call(item: int) -> None:
            if item == 0:
                together.wait(5)  # both are at work: there is no place for others
            time.sleep(0.002)
            with guard:
                by[1].add(threading.current_thread().name)

        calls.run(call, range(10))

    with ThreadPoolExecutor(2, "asks") as threads:
        list(threads.map(ask, range(2)))
    assert {name for name in by[1] if name.startswith("asks")} == {"asks_0", "asks_1"}


def test_no_more_run_at_a_time_than_there_are_places() -> None:
    calls, lock = SharedCalls(2), threading.Lock()
    running, most = 0, 0

    def call(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda _: calls.run(call, range(10)), range(5)))
    assert most == 2


@pytest.mark.parametrize("bad", [0, 5, 19])
def test_what_a_call_raises_reaches_the_one_who_asked(bad: int) -> None:
    calls = SharedCalls(3)
    ended: list[int] = []

    def call(item: int) -> None:
        if item == bad:
            raise ValueError(f"item {item}")
        time.sleep(0.002)
        ended.append(item)

    with pytest.raises(ValueError, match=f"item {bad}"):
        calls.run(call, range(20))
    count = len(ended)
    time.sleep(0.02)
    assert len(ended) == count, "nothing goes on for nobody"
    calls.run(ended.append, range(3))  # and the next one finds all places free
    assert len(ended) == count + 3
