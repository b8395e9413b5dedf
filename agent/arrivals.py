"""Which frames of one peer are worth decoding, judged by their headers alone.

A peer sends each urgent frame on two connections; the second copy is dropped
here, as are frames from an earlier life of its agent, from another Site and
beyond a bounded rate.
"""

from __future__ import annotations

from enum import StrEnum

from agent.rate import Rate
from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN
from protocol.wire import Header

WINDOW = 1024
"""Sequence numbers behind the newest one in which a frame is told from its copy."""
_MASK = (1 << WINDOW) - 1

RATE = 4_000.0
"""Frames per second that one peer may send, its copies included; at rest it sends about 50."""
BURST = 16_000.0
"""Frames that it may send at once: an election of all Virtual Servers is a few thousand."""

BUNDLED = 0.1
"""Frames that a message within a bundle counts for, beside the frame that brought it."""


class Verdict(StrEnum):
    """What becomes of a frame; the value is the name of its counter."""

    FRESH = "received"
    DUPLICATE = "duplicates"
    STALE = "stale"
    """From an earlier life of the agent, or older than :data:`WINDOW` frames."""
    FOREIGN = "foreign"
    """From another Site, or before this device is in one."""
    UNSUPPORTED = "unsupported"
    """In a protocol version that this release does not speak."""


class Window:
    """Tells new sequence numbers from repeated ones, in any order of arrival."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = -1
        self._seen = 0

    def judge(self, sequence: int) -> Verdict:
        ahead = sequence - self._newest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _MASK if ahead < WINDOW else 1
            self._newest = sequence
            return Verdict.FRESH
        if ahead <= -WINDOW:
            return Verdict.STALE
        bit = 1 << -ahead
        if self._seen & bit:
            return Verdict.DUPLICATE
        self._seen |= bit
        return Verdict.FRESH


class Arrivals:
    """The memory of what came from one peer, on all its links."""

    def __init__(self) -> None:
        self._incarnation = -1
        self._windows: dict[bool, Window] = {}
        self.rate = Rate(RATE, BURST)

    def judge(self, header: Header, site: bytes, urgent: bool) -> Verdict:
        """What to do with a frame of the urgent or the bulk channel."""
        if not PROTOCOL_MIN <= header.version <= PROTOCOL_MAX:
            return Verdict.UNSUPPORTED
        if header.site != site or not site:
            return Verdict.FOREIGN
        if header.incarnation < self._incarnation:
            return Verdict.STALE
        if header.incarnation > self._incarnation:
            self._incarnation = header.incarnation
            self._windows = {True: Window(), False: Window()}
        return self._windows[urgent].judge(header.sequence)
