"""How is nothing made twice, although many threads ask for it, and how much of it is kept?

A key is made by the first thread that asks for it; all others that ask meanwhile wait and get the same value. Kept are the
most recently used values, up to a number of bytes. A thread that makes a key may ask for keys below it (a coarse tile asks
for finer ones), never for one above or beside it, so that no two threads wait for each other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")
Key = tuple[int, int, int]
"""(level, row, column)."""


@dataclass
class _Pending(Generic[V]):
    """A value in the making.

    Attributes
    ----------
    age
        Value of `Cache._age` when it was begun.
    done
        It was made, or could not be.
    value
        None where it could not.
    """

    age: int
    done: threading.Event = field(default_factory=threading.Event)
    value: V | None = None


class Cache(Generic[V]):
    """The most recently used values, each made once at a time.

    Parameters
    ----------
    max_bytes
        bytes that are kept.
    size
        bytes of a value.
    changed
        Called with a key and 1 where its value is kept from now on, -1 where it is no longer; it may not use the cache.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int], changed: Callable[[Key, int], None]) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._size, self._changed = size, changed
        self._kept: OrderedDict[Key, V] = OrderedDict()
        self._pending: dict[Key, _Pending[V]] = {}
        self._guard = threading.Lock()
        self._age = 0

    def get(self, key: Key) -> V | None:
        """Return a value if it is kept, without waiting for one that is being made."""
        with self._guard:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def many(
        self, keys: Iterable[Key], make: Callable[[Sequence[Key]], Iterable[tuple[Key, V]]]
    ) -> dict[Key, V]:
        """Return values, and make those that nobody has made or is making.

        Parameters
        ----------
        keys
            Which; all of one level.
        make
            Yields each of some keys with its value.

        Returns
        -------
        dict[Key, V]
            A value for each key.
        """
        found: dict[Key, V] = {}
        missing = list(keys)
        while missing:
            mine, theirs = self._claim(missing, found)
            try:
                for key, value in make(list(mine)) if mine else ():
                    found[key] = value
                    self._finish(key, mine.pop(key), value)
            finally:
                for key, pending in mine.items():
                    self._finish(key, pending, None)
            missing = []
            for key, pending in theirs.items():
                pending.done.wait()
                if pending.value is None:  # the other thread failed; this one may not
                    missing.append(key)
                else:
                    found[key] = pending.value
        return found

    def drop(self, wanted: Callable[[Key], bool]) -> None:
        """Forget the values of some keys; what is being made now is not kept either."""
        with self._guard:
            self._age += 1
            for key in [key for key in self._kept if wanted(key)]:
                self._evict(key)

    def _claim(
        self, keys: Sequence[Key], found: dict[Key, V]
    ) -> tuple[dict[Key, _Pending[V]], dict[Key, _Pending[V]]]:
        """Take what is kept; return what this thread shall make, and what others are making."""
        mine: dict[Key, _Pending[V]] = {}
        theirs: dict[Key, _Pending[V]] = {}
        with self._guard:
            for key in keys:
                pending = self._pending.get(key)
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
                elif pending is not None and pending.age == self._age:
                    theirs[key] = pending
                else:
                    mine[key] = self._pending[key] = _Pending(self._age)
        return mine, theirs

    def _finish(self, key: Key, pending: _Pending[V], value: V | None) -> None:
        """Hand a value to those who wait for it, and keep it; None where it could not be made."""
        with self._guard:
            if self._pending.get(key) is pending:
                del self._pending[key]
            if value is not None and pending.age == self._age:
                self._kept[key] = value
                self.nbytes += self._size(value)
                self._changed(key, 1)
                while self.nbytes > self.max_bytes and len(self._kept) > 1:
                    self._evict(next(iter(self._kept)))
        pending.value = value
        pending.done.set()

    def _evict(self, key: Key) -> None:
        self.nbytes -= self._size(self._kept.pop(key))
        self._changed(key, -1)
