"""Patches of a batch are run by whoever asks and whoever is free."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safron.engine.generator.patch_threads import SharedCalls


def test_every_item_is_called_once_whoever_asks() -> None:
    calls, lock = SharedCalls(3), threading.Lock()
    seen: list[int] = []

    def call(item: int) -> None:
        with lock:
            seen.append(item)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda start: calls.run(call, range(start, start + 50)), range(0, 1000, 50)))
    assert sorted(seen) == list(range(1000))


def names_of(calls: SharedCalls, count: int) -> set[str]:
    """Which threads run calls that this one asks for."""
    guard, names = threading.Lock(), set()

    def call(item: int) -> None:
        time.sleep(0.002)
        with guard:
            names.add(threading.current_thread().name)

    calls.run(call, range(count))
    return names


def test_one_who_asks_alone_gets_help_and_two_get_none() -> None:
    calls, me = SharedCalls(2), threading.current_thread().name
    assert len(names_of(calls, 20)) == 2, "the thread that asks, and one more"
    begun, end = threading.Event(), threading.Event()

    def hold(item: int) -> None:
        begun.set()
        end.wait(10)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(calls.run, hold, [0])
        assert begun.wait(10)
        assert names_of(calls, 20) == {me}, "both places are taken"
        end.set()
        other.result()
    assert len(names_of(calls, 20)) == 2


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
