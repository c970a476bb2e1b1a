"""Is the mask still what it was when the render began?"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from safron.io.masks.mask import LabelMask

log = logging.getLogger("safron")


def pause(seconds: float) -> float:
    """Seconds without a look after one that took `seconds`.

    Looks take a hundredth of the time; a mask of so many files that this would leave more than ten seconds between them
    is looked at every ten seconds, at most for 3 % of the time.
    """
    return max(30 * seconds, min(100 * seconds, 10.0))


@dataclass
class MaskGuard:
    """Finds out whether the mask changes while it is rendered.

    Files are stamped by names, sizes and times (on object stores ETags), which are compared and never
    ordered, so that no clock matters.
    """

    mask: LabelMask
    _stamp: str | None = field(init=False)
    _next: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._stamp = None if self.mask.in_memory else self._look()
        # The first look loads what looking needs, and says little of how long the next one takes.
        self._next = 0.0
        if self._stamp == "gone":  # it was opened just now, so this storage does not list files
            self._stamp = None
        if self._stamp is None and not self.mask.in_memory:
            log.warning(
                "mask %s: its storage does not say when files change; leave it as it is until the slide is done",
                self.mask.source,
            )

    def _look(self) -> str | None:
        """Stamp the mask; None where its storage does not say, which is no change."""
        begun = time.monotonic()
        try:
            return self.mask.change_token()
        except FileNotFoundError:
            return "gone"
        except Exception:  # a store that cannot list its files: the labels themselves are compared on resume
            return None
        finally:
            now = time.monotonic()
            self._next = now + pause(now - begun)

    def due(self) -> bool:
        """Whether it is time to look again, or looking costs nothing."""
        return self._stamp is None or time.monotonic() >= self._next

    def changed(self) -> bool | None:
        """Look again, where there is anything to see; None where nothing is learnt."""
        if self._stamp is None:
            return False
        seen = self._look()
        return None if seen is None else seen != self._stamp
