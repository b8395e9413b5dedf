"""Why each connection of :mod:`lives` was lost: for a documented reason, or for none."""

from __future__ import annotations

from collections.abc import Iterator

from tests.soak.holder import Lost
from tests.soak.journal import Entry, Journal

YOUNG_S = {"snat": 1.0, "routed": 1.0, "dsr": 3.0}
"""Secondaries are perhaps not yet told of what began so lately, as docs/data-plane.md says."""
YOUNG_UDP_S = 4.0
MOVES = ("weight", "add", "drain", "undrain", "backup", "remove", "replace", "balance", "sticky",
         "limit", "slow_start", "room", "port", "ports", "dies", "unreached", "ill", "recovers",
         "quiet", "forward")  # fmt: skip
"""By these slots move, or flows begin to be remembered, or no longer are."""


class Fates:
    """Judges by what was done until then."""

    def __init__(self, journal: Journal, mode: str) -> None:
        self._journal, self._mode = journal, mode

    def why(self, kind: str, lost: Lost) -> str:
        """The documented reason; empty if there is none."""
        ended = lost.last if lost.reason == "silent" else lost.at
        reasons = (
            self._of_gateway(lost),
            self._of_udp(kind, lost),
            self._of_failure(kind, lost, ended),
            self._of_flush(kind, lost, ended),
        )
        return next(filter(None, reasons), "")

    def _acts(self, *names: str, until: float, since: float = 0.0) -> Iterator[Entry]:
        for entry in list(self._journal.entries):
            if entry.kind == "act" and entry.what in names and since <= entry.at <= until:
                yield entry

    def _forwarding(self, until: float) -> str:
        changed = list(self._acts("forward", until=until))
        return changed[-1].subject if changed else self._mode.partition("-")[0]

    def _of_gateway(self, lost: Lost) -> str:
        begun = 0.0
        for entry in self._acts("dies", "unreached", "ill", "recovers", "quiet", until=lost.at):
            if entry.what == "dies" and entry.subject == lost.gateway:
                begun = entry.at
            elif begun and (entry.what == "quiet" or entry.subject == lost.gateway):
                if entry.at >= lost.born - 2.0:
                    return "its gateway died"
                begun = 0.0
        if begun:
            return "its gateway died"
        for entry in self._acts("remove", "replace", until=lost.at, since=lost.born - 2.0):
            if entry.subject.split()[0] == lost.gateway:
                forced = entry.what == "remove"
                if forced or self._forwarding(lost.at) != "snat":
                    return "its gateway was removed"
        return ""

    def _of_udp(self, kind: str, lost: Lost) -> str:
        forgets = self._mode == "routed-memoryless" or self._forwarding(lost.at) != "snat"
        if kind == "udp" and forgets and any(True for _ in self._acts(*MOVES, until=lost.at)):
            return "datagrams follow their slots"
        return ""

    def _of_failure(self, kind: str, lost: Lost, ended: float) -> str:
        young = YOUNG_UDP_S if kind == "udp" else YOUNG_S[self._forwarding(ended)]
        for entry in self._acts("failure", until=ended + 2.0, since=lost.born - 1.0):
            if entry.at - lost.born < young:
                return "it was young when a device failed"
            if entry.detail.endswith("in step: "):
                return "no other device was in step when one failed"
        return ""

    def _of_flush(self, kind: str, lost: Lost, ended: float) -> str:
        flushed = any(True for _ in self._acts("flush", until=ended + 3.0, since=ended - 3.0))
        if flushed and kind == "push" and self._forwarding(ended) == "routed":
            return "a device had lost its rules, and the client saw its gateway"
        return ""
