"""What must hold in each event, and the table that shows whether it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from halbctl.lab.measure import Measured
from halbctl.lab.plan import DSR, MEMORYLESS, SNAT
from halbctl.output import Cell, Paint, table

OUTAGE_MS = 330.0
"""No new connection served for at most this long after a crash, profile ``normal``."""
STALL_MS = 20.0
"""Longest stall of a flow beyond its pace in a planned move."""

TITLES = {
    "crash": "crash of the primary",
    "return": "return of the device",
    "promote": "planned move",
    "gateway": "a gateway dies",
    "hang": "agent hangs 10 s",
    "kill": "agent killed",
    "restart": "agent started again",
    "partition": "primary cut from devices",
    "shatter": "all devices cut apart",
    "upgrade": "agent upgraded",
    "reload": "100 Virtual Servers reloaded",
    "gateway-added": "gateway added",
    "promote-amid": "planned move after that",
    "gateway-drained": "gateway drained",
}
"""Events as people read them."""
STAYS = ("return", "restart", "gateway", "reload", "gateway-added", "gateway-drained")
"""Events in which the primary stays."""
MOVES = ("crash", "promote", "promote-amid", "hang", "kill", "partition", "upgrade")
"""Events in which another device becomes primary."""


@dataclass(frozen=True)
class Exempt:
    """Connections of which not all can live on."""

    modes: tuple[str, ...]
    events: tuple[str, ...]
    kinds: tuple[str, ...]
    why: str


EXEMPT = (
    Exempt(
        modes=(MEMORYLESS, DSR),
        events=("reload", "gateway-added", "gateway-drained"),
        kinds=("udp",),
        why="no datagram says whether it opens anything, so those whose slots moved follow them",
    ),
)
"""Documented in docs/benchmarks.md."""
EXEMPT_SHARE = 0.5
"""Of these connections so many must live on: in no event do the slots of more move."""


@dataclass(frozen=True)
class Broken:
    """A promise that was not kept."""

    event: str
    promise: str
    measured: str
    mode: str = SNAT

    def __str__(self) -> str:
        mode = "" if self.mode == SNAT else f"{self.mode}: "
        return f"{mode}{TITLES[self.event]}: promised {self.promise}, measured {self.measured}"


def broken(measured: Measured) -> list[Broken]:
    """The promises that one event broke.

    Times are judged after what the instruments themselves were late by.
    """
    m = measured
    promised = [
        *_live_on(m),
        (m.two_owners_ms == 0, "0 ms with two owners", f"{m.two_owners_ms:g} ms"),
    ]
    if m.event in ("crash", "kill", "partition", "hang"):
        promised.append(_at_most(m.outage_ms, OUTAGE_MS, m.late_ms, "without service"))
    if m.event in ("promote", "promote-amid"):
        promised.append(_at_most(m.stall_ms, STALL_MS, m.late_ms, "stall"))
    if m.event in STAYS:
        promised.append((m.before == m.after, f"{m.before} stays primary", f"{m.after}"))
    if m.event in MOVES:
        promised.append((m.before != m.after, f"{m.before} is relieved", f"{m.after}"))
    return [Broken(m.event, promise, was, m.mode) for kept, promise, was in promised if not kept]


def why_not_all(mode: str, event: str, kind: str) -> str:
    """Why not all connections of a kind can live on; empty where they must."""
    for each in EXEMPT:
        if mode in each.modes and event in each.events and kind in each.kinds:
            return each.why
    return ""


def _live_on(m: Measured) -> Iterator[tuple[bool, str, str]]:
    """All connections but those that are doomed, and enough of those that are exempt."""
    exempt = {kind: m.kinds[kind] for kind in m.kinds if why_not_all(m.mode, m.event, kind)}
    of_a_kind = m.wanted // max(1, len(m.kinds))
    wanted = m.wanted - of_a_kind * len(exempt)
    survivors = m.survivors - sum(held.survivors for held in exempt.values())
    connections = m.connections - sum(held.connections for held in exempt.values())
    lost = Counter(m.lost)
    for held in exempt.values():
        lost.subtract(held.lost)
    yield (
        survivors >= wanted - m.doomed,
        f"{wanted - m.doomed} of {wanted} connections live on",
        f"{survivors} of {connections} that were open ({_how(+lost)})",
    )
    least = round(of_a_kind * EXEMPT_SHARE)
    for kind, held in exempt.items():
        yield (
            held.survivors >= least,
            f"{least} of {of_a_kind} of kind {kind} live on",
            f"{held.survivors} of {held.connections} that were open ({_how(held.lost)})",
        )


def _how(lost: Mapping[str, int]) -> str:
    """``22 ECONNRESET, 3 silent``: how connections were lost."""
    return ", ".join(f"{number} {how}" for how, number in lost.items()) or "none lost"


def _at_most(value: float, limit: float, late: float, what: str) -> tuple[bool, str, str]:
    was = f"{value:g} ms (instruments late by up to {late:g} ms)"
    return value - late <= limit, f"at most {limit:g} ms {what}", was


def result_table(results: Sequence[Measured], paint: Paint) -> list[str]:
    """The table at the end of the demonstration."""
    titles = (
        "EVENT", "PRIMARY", "SURVIVORS", "LONGEST STALL ms", "WITHOUT SERVICE ms", "TWO OWNERS ms",
        "",
    )  # fmt: skip
    return table(titles, [_row(m) for m in results], paint, "  ")


def _row(m: Measured) -> Sequence[Cell | str | int]:
    bad = broken(m)
    wanted = m.wanted - m.doomed
    return (
        TITLES[m.event],
        m.before if m.before == m.after else f"{m.before} -> {m.after}",
        Cell(f"{m.survivors} of {wanted}", "" if m.survivors >= wanted else "red", True),
        Cell(f"{m.stall_ms:.0f}", "", True),
        Cell(f"{m.outage_ms:.0f}", "", True),
        Cell(f"{m.two_owners_ms:.0f}", "red" if m.two_owners_ms else "", True),
        Cell("BROKEN", "red") if bad else Cell("kept", "green"),
    )


def all_broken(results: Iterable[Measured]) -> list[Broken]:
    """Every promise that was broken."""
    return [entry for result in results for entry in broken(result)]
