"""Keeps a Virtual Server from going to and fro.

More than three hand-overs within a minute, and it stays where it is for two
minutes; if that happens again soon, for four, eight and so on. This holds back
moves that devices make on their own. An operator's move is carried out at once,
but counts; an election after a failure is neither held back nor counted.

Every voter hears of every hand-over, so that a new primary knows of the moves
before its own. The memory does not outlive the process, and need not: who
restarts is primary no longer, and its successor remembers.
"""

from __future__ import annotations

from collections import deque

from protocol.timing import SECOND

WINDOW_NS = 60 * SECOND
MOST = 3
"""Hand-overs within a window that are nobody's concern."""
FIRST_HOLD_NS = 120 * SECOND
MAX_DOUBLINGS = 5
"""The longest hold is 64 minutes."""
FORGIVEN_NS = 3600 * SECOND
"""After this long without a new hold the next one is short again."""


class Damping:
    """The hand-overs of one group, as one device heard of them. Own clock, nanoseconds."""

    __slots__ = ("_doublings", "_recent", "until")

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=MOST + 1)
        self._doublings = 0
        self.until = 0
        """No device moves the group on its own before this."""

    def note(self, now: int) -> None:
        """A hand-over begins."""
        self._recent.append(now)
        crowded = len(self._recent) > MOST and now - self._recent[0] <= WINDOW_NS
        if not crowded or now < self.until:
            return
        again = self.until > 0 and now - self.until < FORGIVEN_NS
        self._doublings = min(self._doublings + 1, MAX_DOUBLINGS) if again else 0
        self.until = now + (FIRST_HOLD_NS << self._doublings)
        self._recent.clear()

    def left(self, now: int) -> int:
        """Nanoseconds for which the group still stays where it is."""
        return max(0, self.until - now)
