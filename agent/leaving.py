"""Whether a device may leave its Site, asked before it hands anything over (pure)."""

from __future__ import annotations

from protocol.changes import RemoveDevice, foreseen
from protocol.config import Config
from protocol.ids import DeviceId
from protocol.plight import no_coordinator
from protocol.view import NodeView, PeerState


def refuse_stranding(config: Config, view: NodeView, device: DeviceId, unix_s: int) -> None:
    """Raise what the Site would refuse the removal of ``device`` with, this one.

    Whoever hands over first and is refused then has taken a VIP off the air, or moved it, for
    nothing: one of two devices is where it is all that clients have.
    """
    foreseen(config, RemoveDevice(config.devices[device].name), unix_s, lambda: "")
    heard = {device} | {p.device for p in view.peers if p.state is PeerState.ALIVE}
    if view.coordinator not in heard:
        raise no_coordinator(config, heard.__contains__)
