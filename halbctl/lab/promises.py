"""What must hold in each event, and the table that shows whether it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from halbctl.lab.measure import Measured
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
    "gateway-drained": "gateway drained",
}
"""Events as people read them."""
STAYS = ("return", "restart", "gateway", "reload", "gateway-added", "gateway-drained")
"""Events in which the primary stays."""
MOVES = ("crash", "promote", "hang", "kill", "partition", "upgrade")
"""Events in which another device becomes primary."""


@dataclass(frozen=True)
class Broken:
    """A promise that was not kept."""

    event: str
    promise: str
    measured: str

    def __str__(self) -> str:
        return f"{TITLES[self.event]}: promised {self.promise}, measured {self.measured}"


def broken(measured: Measured) -> list[Broken]:
    """The promises that one event broke.

    Times are judged after what the instruments themselves were late by.
    """
    m = measured
    promised: list[tuple[bool, str, str]] = [
        (
            m.survivors >= m.wanted - m.doomed,
            f"{m.wanted - m.doomed} of {m.wanted} connections live on",
            f"{m.survivors} of {m.connections} that were open ({_how(m)})",
        ),
        (m.two_owners_ms == 0, "0 ms with two owners", f"{m.two_owners_ms:g} ms"),
    ]
    if m.event in ("crash", "kill", "partition", "hang"):
        promised.append(_at_most(m.outage_ms, OUTAGE_MS, m.late_ms, "without service"))
    if m.event == "promote":
        promised.append(_at_most(m.stall_ms, STALL_MS, m.late_ms, "stall"))
    if m.event in STAYS:
        promised.append((m.before == m.after, f"{m.before} stays primary", f"{m.after}"))
    if m.event in MOVES:
        promised.append((m.before != m.after, f"{m.before} is relieved", f"{m.after}"))
    return [Broken(m.event, promise, was) for kept, promise, was in promised if not kept]


def _how(m: Measured) -> str:
    """``22 ECONNRESET, 3 silent``: how connections were lost."""
    return ", ".join(f"{number} {how}" for how, number in m.lost.items()) or "none lost"


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
