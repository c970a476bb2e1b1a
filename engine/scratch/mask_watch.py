"""Has the mask changed since the render began?"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from safron.io.masks.mask import LabelMask

log = logging.getLogger("safron")


def pause(seconds: float) -> float:
    """Return how long to wait after a check that took `seconds`.

    Checks take a hundredth of the time. If that would leave more than ten seconds between them, because the mask has very
    many files, it is checked every ten seconds, for at most 3 % of the time.
    """
    return max(30 * seconds, min(100 * seconds, 10.0))


@dataclass
class MaskWatch:
    """Detects changes of the mask during a render.

    A fingerprint is made of the names, sizes and times of files (on object stores, of ETags). Times are compared for
    equality only, so clocks do not matter.
    """

    mask: LabelMask
    _fingerprint: str | None = field(init=False)
    _next: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._fingerprint = None if self.mask.in_memory else self._check()
        # The first check also loads code, so its duration says little about the next one.
        self._next = 0.0
        if self._fingerprint == "gone":  # it was opened a moment ago, so this storage does not list files
            self._fingerprint = None
        if self._fingerprint is None and not self.mask.in_memory:
            log.warning(
                "mask %s: its storage does not say when files change; leave it as it is until the slide is done",
                self.mask.source,
            )

    def _check(self) -> str | None:
        """Return the fingerprint of the mask; None if its storage cannot tell."""
        begun = time.monotonic()
        try:
            return self.mask.change_token()
        except FileNotFoundError:
            return "gone"
        except Exception:  # a store that cannot list files; labels are compared on resume
            return None
        finally:
            now = time.monotonic()
            self._next = now + pause(now - begun)

    def due(self) -> bool:
        """Whether it is time for another check, or checks are free."""
        return self._fingerprint is None or time.monotonic() >= self._next

    def changed(self) -> bool | None:
        """Whether the mask has changed; None if its storage cannot tell at the moment."""
        if self._fingerprint is None:
            return False
        seen = self._check()
        return None if seen is None else seen != self._fingerprint
