"""Who runs the patches of a batch? The thread that asks for it, and others while cores are idle.

A thread that handed its patches to others and waited would wake, and be woken, once a patch, and leave its core idle
meanwhile. So it works itself, and calls for help only as long as fewer threads than cores run patches.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor


class SharedCalls:
    """Calls of many threads, of which at most so many run at a time.

    Parameters
    ----------
    threads : calls at a time, whoever asks for them.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "safron-model")
        self._places = threading.Semaphore(threads)
        self._guard = threading.Lock()
        self._at_work = 0

    def run(self, call: Callable[[int], None], items: Iterable[int]) -> None:
        """Call a function with each item, in any order; return when all calls have.

        Raises
        ------
        Exception
            What a call raised; calls that had not begun are left out.
        """
        waiting, helpers, ended = deque(items), deque[Future[None]](), []
        with self._guard:
            self._at_work += 1
        try:
            self._work(call, waiting, helpers)
        finally:
            while helpers:
                ended.append(helpers.popleft())
                ended[-1].exception()  # waits; what it was comes below
        for helper in ended:
            helper.result()

    def _work(self, call: Callable[[int], None], waiting: deque[int], helpers: deque[Future[None]]) -> None:
        """Take one item after the other; whoever called counted this thread in."""
        try:
            while waiting:
                if len(waiting) > 1:
                    self._call_for_help(call, waiting, helpers)
                with self._places:
                    try:
                        item = waiting.popleft()
                    except IndexError:
                        return
                    call(item)
        except BaseException:
            waiting.clear()
            raise
        finally:
            with self._guard:
                self._at_work -= 1

    def _call_for_help(
        self, call: Callable[[int], None], waiting: deque[int], helpers: deque[Future[None]]
    ) -> None:
        with self._guard:
            if self._at_work >= self._threads:
                return
            self._at_work += 1
        helpers.append(self._pool.submit(self._work, call, waiting, helpers))
