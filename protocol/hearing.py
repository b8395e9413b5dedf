"""Who hears whom: each device tells what it hears of its peers; shown only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocol.config import Config
from protocol.contact import Contact
from protocol.ids import DeviceId
from protocol.insight import Matrix, MatrixLink
from protocol.messages import MAX_LINKS, MAX_UNHEARD, LinkReport
from protocol.pace import percentile
from protocol.timing import DEAD_NS, MILLISECOND

Loss = Mapping[DeviceId, tuple[int | None, ...]]
"""Per peer and connection: beats of 1000 that did not come in time; None where unknown."""


def link_reports(
    contacts: Mapping[DeviceId, Contact], loss: Loss, now: int
) -> tuple[LinkReport, ...]:
    """What this device hears of each peer."""
    found = []
    for device, contact in list(contacts.items())[:MAX_LINKS]:
        heard = None if contact.heard is None else max(0, now - contact.heard) // MILLISECOND
        trips = contact.round_trips
        pair = (percentile(trips, 50) // 1000, percentile(trips, 99) // 1000) if trips else None
        found.append(LinkReport(device, heard, loss.get(device, ()), pair))
    return tuple(found)


def unheard(contacts: Mapping[DeviceId, Contact], since: int, now: int) -> tuple[DeviceId, ...]:
    """Peers that this device, which listens since then, does not hear, at most so many.

    One that it has only just met is given time. That matters in a large Site, where neighbours
    come and go: each change of this list is told to all devices.
    """
    silent = (
        device
        for device, contact in contacts.items()
        if now - (max(since, contact.met) if contact.heard is None else contact.heard) >= DEAD_NS
        and not (contact.info is not None and contact.info.stopping)
    )
    return tuple(sorted(silent))[:MAX_UNHEARD]


def matrix(
    config: Config, me: DeviceId, reports: Mapping[DeviceId, tuple[LinkReport, ...]]
) -> Matrix:
    """The reports of all devices that answered, with names."""
    names = {d.id: d.name for d in config.devices.values()}

    def links() -> Iterator[MatrixLink]:
        for device in (d for d in names if d in reports):
            for link in reports[device]:
                if link.peer in names:
                    yield _shown(names[device], names[link.peer], link)

    return Matrix(
        device=names.get(me, me),
        devices=tuple(names.values()),
        silent=tuple(name for device, name in names.items() if device not in reports),
        links=tuple(links()),
    )


def _shown(hears: str, of: str, link: LinkReport) -> MatrixLink:
    median, p99 = link.round_trip_us or (-1000, -1000)
    heard = -1 if link.heard_ms is None else link.heard_ms
    loss = tuple(-1.0 if lost is None else lost / 10 for lost in link.loss)
    return MatrixLink(hears, of, heard, loss, (median / 1000, p99 / 1000))
