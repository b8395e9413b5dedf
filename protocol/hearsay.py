"""Messages between neighbours: asking, comparing, parting, passing configuration on."""

from __future__ import annotations

import msgspec

from protocol.ids import DeviceId, Revision
from protocol.objects import Record


class ProbeFor(msgspec.Struct, frozen=True, tag_field="t", tag="probe-for"):
    """\"Do you hear ``target``?\", from a device that does not. All neighbours beat anyway."""

    number: int
    """Of the sender's probes; echoed."""
    target: DeviceId


class Sync(msgspec.Struct, frozen=True, tag_field="t", tag="sync"):
    """What the sender knows of all devices, in short: differences are told."""

    buckets: bytes
    """Four bytes for each of the buckets that devices fall into."""
    all: bool = False
    """The sender has just started and wants everything."""


class Part(msgspec.Struct, frozen=True, tag_field="t", tag="part"):
    """The sender is no neighbour of the receiver any more, or does not become one."""


class Fetch(msgspec.Struct, frozen=True, tag_field="t", tag="fetch"):
    """To a neighbour that is ahead: pass on what was committed after ``has``."""

    has: Revision


class Copy(msgspec.Struct, frozen=True, tag_field="t", tag="copy"):
    """Committed configuration records, from ``base`` to ``to``."""

    base: Revision | None
    """Revision that the records build on; None: they are the whole configuration."""
    to: Revision
    records: tuple[Record, ...]
    epochs: tuple[tuple[int, int], ...]
    floor: Revision
