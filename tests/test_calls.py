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


def names_of(calls: SharedCalls, count: int, *, at_a_time: int) -> set[str]:
    """Which threads run calls that this one asks for; each call waits until so many run."""
    guard, names, together = threading.Lock(), set(), threading.Barrier(at_a_time)

    def call(item: int) -> None:
        together.wait(10)
        with guard:
            names.add(threading.current_thread().name)

    calls.run(call, range(count))
    return names


def test_one_who_asks_alone_gets_help_and_two_get_none() -> None:
    calls, me = SharedCalls(2), threading.current_thread().name
    assert len(names_of(calls, 20, at_a_time=2)) == 2, "the thread that asks, and one more"
    begun, end = threading.Event(), threading.Event()

    def hold(item: int) -> None:
        begun.set()
        end.wait(10)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(calls.run, hold, [0])
        assert begun.wait(10)
        assert names_of(calls, 20, at_a_time=1) == {me}, "both places are taken"
        end.set()
        other.result()
    assert len(names_of(calls, 20, at_a_time=2)) == 2


def test_as_many_run_at_a_time_as_there_are_places() -> None:
    calls, lock, both = SharedCalls(2), threading.Lock(), threading.Barrier(2)
    begun, running, most = 0, 0, 0

    def call(item: int) -> None:
        nonlocal begun, running, most
        with lock:
            begun += 1
            number = begun
            running += 1
            most = max(most, running)
        if number <= 2:
            both.wait(10)
        time.sleep(0.001)  # a call's work: while it lasts, others would begin if they could
        with lock:
            running -= 1

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda _: calls.run(call, range(10)), range(5)))
    assert most == 2


@pytest.mark.parametrize("bad", [0, 5, 19])
def test_what_a_call_raises_reaches_the_one_who_asked(bad: int) -> None:
    calls, failing = SharedCalls(3), threading.Event()
    begun: list[int] = []
    ended: list[int] = []

    def call(item: int) -> None:
        begun.append(item)
        if item == bad:
            failing.set()
            raise ValueError(f"item {item}")
        if item > bad:  # side by side with the one that fails
            assert failing.wait(10)
            time.sleep(0.005)  # work that goes on after that
        ended.append(item)

    with pytest.raises(ValueError, match=f"item {bad}"):
        calls.run(call, range(20))
    assert sorted([*ended, bad]) == sorted(begun), "nothing goes on for nobody"
    before = list(begun)
    calls.run(ended.append, range(3))  # and the next one finds all places free
    assert begun == before
    assert len(ended) == len(before) + 2
