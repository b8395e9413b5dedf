"""How well the connections to one peer deliver, judged by sequence numbers (pure).

Each urgent frame comes on two connections. Which numbers exist is known from
the newest one; a copy that came later than its twin by :data:`LATE` is as good
as lost, for TCP delivers late what a network lost.
"""

from __future__ import annotations

LATE = 0.1
"""Seconds behind its twin from which on a copy counts as lost."""
WINDOW = 10.0
"""Seconds; the figures are of the present and the last one."""
ENOUGH = 20
"""Frames without which nothing is said."""
MEMORY = 512
"""Frames whose time of arrival is remembered; a gap beyond that is a new beginning."""
LOSSY, CLEAN = 50, 30
"""Lost of 1000: from the one on a connection is lossy, up to the other it is so no more."""
CONNECTIONS = 2


class Quality:
    """The urgent connections of one peer."""

    def __init__(self) -> None:
        self.lossy = False
        self._incarnation = -1
        self._newest = -1
        self._first: dict[int, float] = {}
        self._began = 0.0
        self._expected, self._came = 0, [0] * CONNECTIONS
        self._before: tuple[int, list[int]] = (0, [0] * CONNECTIONS)

    def note(self, connection: int, incarnation: int, sequence: int, now: float) -> None:
        """A frame, or its copy, came on ``connection``."""
        if incarnation != self._incarnation or sequence - self._newest > MEMORY:
            self._incarnation, self._newest = incarnation, sequence - 1
            self._first = {}
        if now - self._began > WINDOW:
            self._turn(now)
        if sequence > self._newest:
            self._expected += sequence - self._newest
            self._newest = sequence
        first = self._first.setdefault(sequence, now)
        if now - first <= LATE and sequence > self._newest - MEMORY:
            self._came[connection] += 1
        if len(self._first) > 2 * MEMORY:
            self._first = {s: t for s, t in self._first.items() if s > self._newest - MEMORY}

    def _turn(self, now: float) -> None:
        stale = now - self._began > 2 * WINDOW
        self._before = (0, [0] * CONNECTIONS) if stale else (self._expected, self._came)
        self._expected, self._came = 0, [0] * CONNECTIONS
        self._began = now
        known = [each for each in self.loss() if each is not None]
        if known:
            self.lossy = max(known) > (CLEAN if self.lossy else LOSSY)

    def loss(self) -> tuple[int | None, ...]:
        """Lost of 1000, per connection; None where too little came to tell."""
        expected = self._expected + self._before[0]
        if expected < ENOUGH:
            return (None,) * CONNECTIONS
        came = (a + b for a, b in zip(self._came, self._before[1], strict=True))
        return tuple(max(0, expected - each) * 1000 // expected for each in came)
