"""What one device of a large Site keeps in memory, and what reading all of it takes.

In the simulation all cores share one configuration. Here one device is made
anew from bytes alone, as an agent reads them from its disk and its connections,
so that nothing of it is shared.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from protocol.bundle import Bundle
from protocol.effects import Received
from protocol.ids import DeviceId
from protocol.messages import Message, News
from protocol.node import Node
from protocol.wire import MAX_BULK, config_from_bytes, config_to_bytes, decode, encode
from tests.scale.site import Large


@dataclass(frozen=True)
class Cost:
    """Bytes, and milliseconds of this machine."""

    config_on_wire: int
    config_in_memory: int
    config_decode_ms: float
    core: int
    """The core with all that it knows of the others, its configuration included."""


def cost_of_one(site: Large, device: DeviceId) -> Cost:
    """Make ``device`` again, with all that it has heard, and measure it."""
    known = site.nodes[device]
    data = config_to_bytes(known.configuration.in_force)
    frames = [(sender, encode(message)) for sender, message in _heard(known)]
    began = time.perf_counter()
    config_from_bytes(data)
    took = time.perf_counter() - began
    gc.collect()
    tracemalloc.start()
    try:
        config = config_from_bytes(data)
        of_config = _now()
        node = Node(
            device=device, config=config, committed=config.revision, ballots={},
            now=site.now, random=Random(device), incarnation=1, version="1.0.0",
        )  # fmt: skip
        for sender, frame in frames:
            message = decode(frame, MAX_BULK)
            assert not isinstance(message, Bundle)
            node.step(site.now, [Received(sender, message)])
        of_all = _now()
    finally:
        tracemalloc.stop()
    others = len(node.neighbourhood.membership.members)
    told = sum(m.info is not None for m in node.neighbourhood.membership.members.values())
    assert told >= others - 1, f"{device} was told of {told} of {others} devices"
    return Cost(len(data), of_config, took * 1000, of_all)


def _heard(node: Node) -> Iterator[tuple[DeviceId, Message]]:
    """What neighbours told: of themselves, and of the others."""
    first = next(iter(node.contacts))
    for device, contact in node.contacts.items():
        if contact.info is not None:
            yield device, contact.info
    members = node.neighbourhood.membership.members.values()
    for member in members:
        if member.info is not None:
            yield first, News((member.rumour,))


def _now() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
