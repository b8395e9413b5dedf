"""The instrument for flows of UDP: does each stay with its gateway?

``python -m halbctl.lab.datagrams HOST COUNT`` sends 16 numbered bytes per flow
and 100 ms; the answer names the gateway. A flow that another gateway answers is
lost. One datagram that gets no answer is not: that is UDP.
"""

from __future__ import annotations

import selectors
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from halbctl.lab.instrument import Instrument, run
from halbctl.lab.servers import ECHO
from halbctl.lab.survival import ALIVE_WITHIN, PACE, Flow, outcome

_GROUPS = 20
_SIZE = 16
_OPENING_LIMIT = 5.0
_LASTING = 2.5
"""Seconds after which the kernel takes a flow that speaks both ways for a lasting one."""


@dataclass(eq=False, kw_only=True)
class Conversation(Flow):
    """One flow of the instrument."""

    sock: socket.socket
    began: float
    sent: int = 0
    gateway: bytes = b""
    """Who answered first."""


class Datagrams(Instrument):
    """Keeps ``count`` flows to ``host`` going."""

    period = PACE / _GROUPS

    def __init__(self, host: str, count: int) -> None:
        super().__init__()
        self._target = (host, ECHO)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._count = count
        self._flows: list[Conversation] = []
        self._group = 0
        self._began = 0.0

    def tick(self, now: float) -> None:
        for flow in self._flows[self._group :: _GROUPS]:
            if not flow.lost:
                # What is refused or finds no room is a datagram that gets no answer.
                with suppress(OSError):
                    flow.sock.send(flow.sent.to_bytes(_SIZE, "big"))
                flow.sent += 1
        self._group = (self._group + 1) % _GROUPS

    def ready(self, data: object, events: int, now: float) -> None:
        assert isinstance(data, Conversation)
        if data.lost:
            return  # given up earlier in the same round of events
        try:
            gateway, _, number = data.sock.recv(256).partition(b" ")
        except OSError:
            return  # an ICMP message about a datagram
        if len(number) != _SIZE:
            self._lose(data, "corrupt")
        elif int.from_bytes(number, "big") >= data.sent:
            return  # a late answer to an earlier flow from this port
        elif gateway != (data.gateway or gateway):
            self._lose(data, "moved")
        else:
            data.gateway = gateway
            data.heard(now)

    def _lose(self, flow: Conversation, reason: str) -> None:
        flow.lost = reason
        self.selector.unregister(flow.sock)
        flow.sock.close()

    def renew(self, now: float) -> None:
        for flow in self._flows:
            if not flow.lost:
                self._lose(flow, "renewed")

    def begin(self, now: float) -> None:
        for flow in self._flows:
            if not flow.lost and now - flow.last > ALIVE_WITHIN:
                self._lose(flow, "silent")
        self._flows = [flow for flow in self._flows if not flow.lost]
        while len(self._flows) < self._count:
            sock = socket.socket(self._family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(self._target)
            flow = Conversation(sock=sock, began=now)
            self._flows.append(flow)
            self.selector.register(sock, selectors.EVENT_READ, flow)
        self._began = now

    def begun(self, now: float) -> bool:
        """All flows are answered and lasting, or five seconds have passed."""
        lasting = (
            flow.last >= self._began and now - flow.began >= _LASTING for flow in self._flows
        )
        if now - self._began < _OPENING_LIMIT and not all(lasting):
            return False
        for flow in self._flows:
            flow.count(self._began)
        return True

    def end(self, now: float) -> dict[str, object]:
        return outcome(self._flows, now)


if __name__ == "__main__":
    run(Datagrams(sys.argv[1], int(sys.argv[2])))
